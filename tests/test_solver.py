"""The solver: order, agreement of its two ways, what it promises to the importer."""

import json
import pydoc
import subprocess
import sys

import numpy as np
import pytest
import tiny
import torch
from tiny import ANSWER, PUZZLES, TASK

import trm
from trm.config import ComputeConfig, Effort, ModelConfig
from trm.device import pick
from trm.errors import UserError
from trm.inference.solver import Solver, chunk_size, gpu_rows, texts
from trm.models import Problem, build
from trm.puzzles.grid.config import GridConfig
from trm.puzzles.grid.family import Grid
from trm.puzzles.maze.config import MazeConfig
from trm.puzzles.maze.family import Maze
from trm.puzzles.sudoku.config import SudokuConfig
from trm.puzzles.sudoku.family import Sudoku


def python(code: str) -> str:
    """Run code in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_answers_come_in_order_over_chunks():
    whole, parts = tiny.solver(), tiny.solver()
    parts.chunk = 3
    answers = parts.solve(PUZZLES)
    assert [answer.puzzle for answer in answers] == list(PUZZLES)
    for a, b in zip(answers, whole.solve(PUZZLES), strict=True):
        assert (a.answer, a.steps, a.verified) == (b.answer, b.steps, b.verified)
        assert a.halt_probability == pytest.approx(b.halt_probability)
    assert len({answer.answer for answer in answers}) > 1


def test_one_text_any_iterable_and_none():
    made = tiny.solver()
    assert made.solve(PUZZLES[0])[0].puzzle == PUZZLES[0]
    assert [answer.puzzle for answer in made.solve(iter(PUZZLES[:2]))] == list(PUZZLES[:2])
    assert made.solve([]) == []


@pytest.mark.parametrize(
    "options", [{}, {"steps": 2}, {"steps": 9}, {"early_stop": False}, {"select": "verify"}, {"budget": 3}]
)
def test_steps_end_in_the_answer_of_solve(options):
    made = tiny.solver()
    effort = Effort(**options)
    for puzzle, answer in zip(PUZZLES, made.solve(PUZZLES, effort), strict=True):
        refinements = list(made.steps(puzzle, effort))
        assert [r.step for r in refinements] == list(range(1, answer.steps + 1))
        assert [r.done for r in refinements] == [False] * (answer.steps - 1) + [True]
        last = refinements[-1]
        assert (TASK.text(last.answer), last.step) == (answer.answer, answer.steps)
        assert last.halt_probability == pytest.approx(answer.halt_probability)
        assert 0 <= last.halt_probability <= 1


def test_steps_are_limited_and_all_taken_when_asked():
    made = tiny.solver(steps=6)
    assert {answer.steps for answer in made.solve(PUZZLES, Effort(early_stop=False))} == {6}
    assert {answer.steps for answer in made.solve(PUZZLES, Effort(steps=3, early_stop=False))} == {3}
    assert max(answer.steps for answer in made.solve(PUZZLES, Effort(steps=3))) <= 3


def test_verified_says_whether_the_rules_hold():
    made = tiny.solver()
    answer = made.solve(PUZZLES[0])[0]
    assert answer.verified is TASK.verify(TASK.parse(PUZZLES[0]), np.array([0])) is False
    (searched,) = made.solve(PUZZLES[0], Effort(exact=True, rollouts=2))
    assert searched.as_dict() == {
        "puzzle": PUZZLES[0],
        "answer": ANSWER,
        "verified": True,
        "steps": searched.steps,
        "halt_probability": searched.halt_probability,
        "rollouts": 2,
        "decisions": 0,
        "take_backs": 0,
        "by": "exact",
    }
    assert json.loads(json.dumps(searched.as_dict())) == searched.as_dict()
    assert answer.by == "model"


def test_a_malformed_puzzle_is_a_user_error():
    with pytest.raises(UserError, match="has 3 cells"):
        tiny.solver().solve([PUZZLES[0], "123"])


def test_load_a_folder(tmp_path):
    loaded = trm.load(tiny.save(tmp_path / "model", steps=3), device="cpu", dtype="float64")
    assert isinstance(loaded, Solver)
    assert not loaded.model.training
    assert loaded.training_steps == 3
    assert loaded.solve(PUZZLES) == tiny.solver(3).solve(PUZZLES)


def test_pick_device():
    assert pick(ComputeConfig(device="cpu")) == (ComputeConfig(device="cpu"), [])
    assert pick(ComputeConfig())[0].device in ("cpu", "cuda", "mps")
    gone = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(UserError, match=rf"no device '{gone}' here: choose one of auto, .*cpu"):
        pick(ComputeConfig(device=gone))
    assert pick(ComputeConfig(device=gone), fall_back=True)[1] == [f"on cpu, as there is no {gone} here"]


def test_import_is_quick_and_without_torch():
    code = "import sys, time; t = time.perf_counter(); import trm; print(time.perf_counter()-t, *sys.modules)"
    seconds, *modules = python(code).split()
    assert "torch" not in modules
    assert float(seconds) < 0.5


def test_public_names():
    for name in trm.__all__:
        assert getattr(trm, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'trm' has no attribute 'slove'"):
        _ = trm.slove


def grid_solver(puzzle_width: int = 0, puzzles: int = 1) -> Solver:
    """An untrained model for grids of up to 3 x 3 over `a` and `b`: it writes whatever it likes."""
    task = Grid(GridConfig(height=3, width=3, symbols=("a", "b"), dihedral=True))
    torch.manual_seed(0)
    values = tiny.MODEL.model_dump() | {"prefix": 1 if puzzle_width else 0, "puzzle_width": puzzle_width}
    made = build(ModelConfig(**values), Problem(task.vocab_size, task.length, puzzles))
    if made.embed.puzzle is not None:
        torch.nn.init.normal_(made.embed.puzzle.weight, std=9)
        torch.nn.init.normal_(made.halting_head.weight)
    return Solver(made, task, 3)


@pytest.mark.parametrize("options", [{}, {"rollouts": 6, "select": "vote"}])
def test_the_answer_to_a_smaller_grid_has_its_size(options):
    for puzzle in ("ab/ba", "a", "aab", "aab/bab/bba"):
        for answer in grid_solver().solve([puzzle], Effort(**options)):
            outside_L = grid_solver().family.parse(puzzle) == 0
            assert not answer.answer_L[outside_L].any()
            assert len(answer.answer) <= len(puzzle)


def test_the_puzzle_id_is_heard():
    solver = grid_solver(puzzle_width=16, puzzles=4)
    found = {solver.solve("aab/bab/bba", puzzle_id=k)[0].halt_probability for k in range(4)}
    assert len(found) > 1
    assert next(solver.steps("aab/bab/bba", puzzle_id=2)).step == 1
    for call in (lambda: solver.solve("a", puzzle_id=4), lambda: list(solver.steps("a", puzzle_id=-1))):
        with pytest.raises(UserError, match="the model knows puzzle ids below 4"):
            call()
    with pytest.raises(UserError, match="ids below 1, not 1"):
        tiny.solver().solve(PUZZLES[0], puzzle_id=1)


# Elements of the state and of the widest activation: positions, width, and twice the inner width of a unit.
SUDOKU_MIXER = (97 * 512, 512 * 2 * 512)
SUDOKU_ATTENTION = (97 * 512, 97 * 2 * 1536)
MAZE = (916 * 512, 916 * 2 * 1536)


def test_rows_on_a_gpu_follow_from_the_model():
    assert gpu_rows(1, 1) == gpu_rows(16 * 64, 16 * 512) == 1024
    assert 512 < gpu_rows(*SUDOKU_ATTENTION) <= gpu_rows(*SUDOKU_MIXER) * 1.01 <= 1024
    # What a row of a maze at paper size holds while noise is drawn, by hand: 6 states of 4 bytes; for y and
    # for z a normal of 2 uniforms of 3 integers of 8 bytes.
    assert gpu_rows(*MAZE) == 2**32 // (916 * 512 * (6 * 4 + 2 * 2 * 3 * 8)) == 76
    assert gpu_rows(2**40, 2**40) == 1
    assert gpu_rows(1000, 2**24) == 2**32 // (24 * 1000 + 8 * 2**24)  # wide units outweigh the noise


@pytest.mark.parametrize(
    ("options", "task", "size"),
    [
        ({"mixing": "mixer", "positions": "none", "prefix": 16, "puzzle_width": 512}, (11, 81), SUDOKU_MIXER),
        ({"mixing": "attention", "prefix": 16, "puzzle_width": 512}, (11, 81), SUDOKU_ATTENTION),
        ({"mixing": "attention", "prefix": 16, "puzzle_width": 512}, (6, 900), MAZE),
    ],
)
def test_chunks_of_the_papers_models_on_an_accelerator(options: dict, task: tuple, size: tuple):
    with torch.device("meta"):
        model = build(ModelConfig(**options), Problem(*task))
    assert chunk_size(model) == gpu_rows(*size)
    assert chunk_size(tiny.model()) == 64


# --- what is convenient from Python


def cells(text: str, side: int) -> list[list[int]]:
    return [
        [int(char.replace(".", "0"), 36) for char in text[i : i + side]] for i in range(0, len(text), side)
    ]


def test_a_puzzle_may_be_an_array_or_nested_lists():
    made, (first, second) = tiny.solver(), PUZZLES[:2]
    rows = [cells(first, 4), cells(second, 4)]
    for one in (
        rows[0],
        np.array(rows[0]),
        np.array(rows[0], float),
        np.array(rows[0]).ravel(),
        torch.tensor(rows[0]),
    ):
        assert [answer.puzzle for answer in made.solve(one)] == [first]
    for two in (rows, np.array(rows), np.array(rows).reshape(2, 16), [np.array(rows[0]), second]):
        assert [answer.puzzle for answer in made.solve(two)] == [first, second]
    assert [each.step for each in made.steps(rows[0])] == [each.step for each in made.steps(first)]
    assert made.solve(np.zeros((0, 4, 4), int)) == []
    for wrong in ([[[[1]]]], [[1, 2], 3], np.ones((3, 3), int)):
        with pytest.raises(UserError):
            made.solve(wrong)
    with pytest.raises(UserError, match="steps are those of one puzzle"):
        next(made.steps(rows))


def test_cells_of_more_than_one_character():
    sixteen = Sudoku(SudokuConfig(box_rows=4, box_cols=4))
    text = "." * 240 + "123456789ABCDEFG"
    assert texts(cells(text, 16), sixteen) == [
        "\n".join(text[i : i + 16].replace(".", "0") for i in range(0, 256, 16))
    ]
    assert sixteen.text(sixteen.parse(texts(cells(text, 16), sixteen)[0])) == text
    words = Grid(GridConfig(height=2, width=2, symbols=("1", "10", "-")))
    assert words.text(words.parse(texts([[1, 10], ["-", 1]], words)[0])) == "1 10/- 1"
    assert words.text(words.parse(texts([[1, 1], [1, 1]], words)[0])) == "1 1/1 1"
    maze = Maze(MazeConfig(height=2, width=3))
    assert maze.text(maze.parse(texts(np.array([["S", " ", "#"], [" ", " ", "G"]]), maze)[0])) == "S #  G"


def test_a_solver_saves_what_it_was_loaded_from(tmp_path):
    tiny.save(tmp_path / "model", origin="here")
    made = trm.load(tmp_path / "model")
    made.save(tmp_path / "copy")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()
    path = tiny.solver().save(str(tmp_path / "copy"))  # a model may be replaced
    assert trm.load(path).solve(PUZZLES)[0].answer == tiny.solver().solve(PUZZLES)[0].answer
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="holds something other than a model"):
        made.save(tmp_path)
    assert (tmp_path / "letter.txt").exists()


def test_names_and_options_are_found_by_those_who_look_for_them():
    assert set(trm.__all__) <= set(dir(trm)) and "importlib" not in dir(trm)
    assert python("import trm; dir(trm); import sys; print('torch' in sys.modules)") == "False"
    shown = pydoc.render_doc(Effort, renderer=pydoc.plaintext)
    for name, field in Effort.model_fields.items():
        assert f"{name}: {field.description.split()[0]}" in shown
    assert "(default: 'halt')" in shown


@pytest.mark.parametrize("options", [{"select": "vote"}, {"noise": 0.5}, {"start": "random", "budget": 300}])
def test_no_more_rows_than_a_chunk_run_together(options):
    made, rows = tiny.solver(), []
    step = made.model.step
    made.model.step = lambda state, x: (rows.append(len(x)), step(state, x))[1]
    made.chunk = 8
    effort = Effort(rollouts=100, **options)
    answers = made.solve(PUZZLES[:3], effort)
    assert max(rows) == 8 and all(answer.rollouts == 100 for answer in answers)
    if "budget" not in options:
        made.chunk = 1000
        assert [a.answer for a in made.solve(PUZZLES[:3], effort)] == [a.answer for a in answers]


def test_puzzles_are_asked_for_as_they_are_needed():
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield PUZZLES[0]

    found = tiny.solver().answers(endless())
    next(found)
    assert len(asked) == 1
    for _ in range(6):
        next(found)
    assert len(asked) == 7


def test_an_effort_that_does_nothing_or_cannot_be_is_refused():
    made = grid_solver()
    for effort, message in (
        (Effort(exact=True), "no exact solver"),
        (Effort(select="verify"), "nothing can be checked"),
        (Effort(noise=1), "noise 1.0 would do nothing for one rollout"),
    ):
        with pytest.raises(UserError, match=message):
            made.solve("ab/ba", effort)
