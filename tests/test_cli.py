"""The command: what it prints, what it returns, and one line on stderr for all that a user can put right."""

import functools
import gzip
import io
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from tiny import ANSWER, PUZZLES, TASK

import trm
from trm import cli, pretrained, terminal
from trm.commands import data, evaluate, hub, info, runs, solve, train
from trm.commands import original as original_commands
from trm.config import Effort, ModelConfig, option_names
from trm.errors import UserError
from trm.inference.solver import Solver
from trm.models import Problem, build
from trm.original import folders as original
from trm.puzzles import config_classes, records
from trm.puzzles.family import Family
from trm.puzzles.grid.config import GridConfig
from trm.puzzles.grid.family import Grid
from trm.puzzles.sudoku.config import SudokuConfig
from trm.puzzles.sudoku.family import Sudoku
from trm.puzzles.table import read_puzzles
from trm.recipe import RunConfig, about_recipe, load_recipe, recipe_names

COMMANDS = {
    "solve": solve.solve,
    "train": train.command(load_recipe("mini")),
    "eval": evaluate.evaluate,
    "data sudoku": data.commands()["sudoku"],
    "data maze": data.commands()["maze"],
    "data original": original_commands.data,
    "runs": runs.runs,
    "plot": runs.plot,
    "import": original_commands.take_over,
    "original export": original_commands.export,
    "push": hub.push,
    "pull": hub.pull,
    "info": info.info,
}
SMALL = [
    "--data.generate.train=8",
    "--data.generate.validation=3",
    "--data.generate.test=3",
    "--data.generate.extra-clues=3",
]
BOARD = ["--box-rows=2", "--box-cols=2", "--extra-clues=2", "--train=4", "--validation=0", "--test=2"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Work in an empty folder that holds the model `model`, and files that tests refer to by name."""
    monkeypatch.chdir(tmp_path)
    tiny.save(tmp_path / "model")
    rows = [f"me,{puzzle},{ANSWER},1" for puzzle in PUZZLES]
    files = {
        "good.csv": "\n".join(["source,question,answer,rating", *rows]) + "\n",
        "columns.csv": f"number,difficulty\n{PUZZLES[0]},{ANSWER}\n",
        "broken.csv": f'question,answer\n"{PUZZLES[0]},{ANSWER}\n',
        "short.csv": f"question\n{PUZZLES[0][:-1]}\n",
        "wrong.csv": f"question,answer\n{PUZZLES[0]},{ANSWER}\n{PUZZLES[0]},{ANSWER[:-1]}2\n",
        "empty.txt": "\n \n",
        "lines.txt": f"{PUZZLES[0]}\n\n{PUZZLES[1]}\n{PUZZLES[2]}\n",
        "bad.txt": f"{PUZZLES[0]}\n\n11..............\n",
        "list.yaml": "- 1\n",
        "broken.yaml": "a: [1\n",
        "typo.yaml": "model: {widht: 3}\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").touch()
    return tmp_path


@pytest.fixture
def believe(monkeypatch):
    """Let the rules confirm every answer, as the model of these tests never solves anything."""
    monkeypatch.setattr(Sudoku, "verify", lambda *args: True)


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    try:
        code = cli.main(list(arguments))
    except SystemExit as stop:
        code = stop.code or 0
    return code, *capsys.readouterr()


def process(*arguments: str, **options) -> subprocess.CompletedProcess:
    """The command in a process of its own."""
    command = [sys.executable, "-c", "from trm.cli import main; raise SystemExit(main())", *arguments]
    return subprocess.run(command, capture_output=True, text=True, **options)


def answers(*puzzles: str) -> str:
    """What `--brief` prints for puzzles, none of which the model solves."""
    return "".join(answer.answer + "  # breaks the rules\n" for answer in tiny.solver().solve(puzzles))


# --- what a user can put right

SOLVE = ["solve", "--model", "model"]
BAD = [
    (["slove"], "slove"),
    (["solve"], "give a puzzle"),
    (["solve", "--bogus"], "--bogus"),
    ([*SOLVE, PUZZLES[0], PUZZLES[1]], PUZZLES[1]),
    ([*SOLVE, "123"], "the puzzle has 3 cells, but a 4x4 Sudoku has 16"),
    ([*SOLVE, PUZZLES[0][:-1] + "x"], "'x' in row 4, column 4 is not a digit of a 4x4 Sudoku"),
    ([*SOLVE, "11.............."], "contradictory clues: 1 stands in row 1, column 1 and in row 1, column 2"),
    ([*SOLVE, "123........4...."], "no solution"),
    ([*SOLVE, "." * 16], "several solutions"),
    ([*SOLVE, "--brief", "." * 16], "several solutions"),
    ([*SOLVE, PUZZLES[0], "--file", "lines.txt"], "a puzzle or --file, not both"),
    ([*SOLVE, "--file", "nothing.txt"], "cannot read nothing.txt: No such file"),
    ([*SOLVE, "--file", "full"], "cannot read full"),
    ([*SOLVE, "--file", "binary"], "binary is not a UTF-8 text file"),
    ([*SOLVE, "--file", "empty.txt"], "empty.txt holds no puzzles"),
    ([*SOLVE, "--file", "columns.csv"], "columns.csv"),
    ([*SOLVE, "--file", "broken.csv"], "broken.csv, line 2: a quote that opens here is never closed"),
    ([*SOLVE, PUZZLES[0], "--json", "--brief"], "--json or --brief, not both"),
    ([*SOLVE, PUZZLES[0], "--skip-bad"], "--skip-bad is for puzzles of a file"),
    ([*SOLVE, PUZZLES[0], "--noise", "0.3"], "noise 0.3 would do nothing for one rollout"),
    ([*SOLVE, PUZZLES[0], "--start", "random"], "start random would do nothing for one rollout"),
    ([*SOLVE, PUZZLES[0], "--select", "vote"], "select vote would do nothing for one rollout"),
    ([*SOLVE, PUZZLES[0], "--no-symmetries"], "symmetries False would do nothing for one rollout"),
    (
        [*SOLVE, PUZZLES[0], "--rollouts", "1000001"],
        "give at most 1000000",
    ),
    (["solve", "lines.txt"], "lines.txt is a file: to read puzzles from it, write --file lines.txt"),
    (["solve", "nothing.csv"], "there is no file nothing.csv"),
    (["solve", "." * 35], "the puzzle has 35 cells, but a 6x6 Sudoku has 36"),
    (["solve", "\n".join(["." * 9] * 8 + ["." * 8])], "80 cells, but a 9x9 Sudoku has 81 (row 9 has 8)"),
    (["solve", "###\n#S#\n###"], "the maze has no G"),
    (["solve", "--file", "short.csv"], "short.csv, first puzzle: the puzzle has 15 cells, but a 4x4 Sudoku"),
    ([*SOLVE, PUZZLES[0], "--steps", "two"], "--steps"),
    ([*SOLVE, PUZZLES[0], "--steps", "0"], "steps"),
    ([*SOLVE, PUZZLES[0], "--steps", "-1"], "steps"),
    ([*SOLVE, PUZZLES[0], "--device", "abacus"], "--device"),
    (["solve", PUZZLES[0], "--model", "nope"], "no model 'nope'"),
    (["solve", PUZZLES[0], "--model", "full"], "full holds no model"),
    (["solve", "." * 7], "the puzzle has 7 cells, but a 4x4 Sudoku has 16"),
    (["eval"], "give a model and data"),
    (["eval", "model"], "give a model and data"),
    (["eval", "nope", "--data", "good.csv"], "no model 'nope'"),
    (["eval", "model", "--data", "nothing.csv"], "cannot read nothing.csv: No such file"),
    (["eval", "model", "--data", "columns.csv"], "columns.csv, line 1: no column 'question'"),
    (["eval", "model", "--data", "wrong.csv"], "wrong.csv, line 3: the answer does not solve the question"),
    (["eval", "model", "--data", "binary"], "binary"),
    (["eval", "model", "--data", "hub:nope"], "unknown hub file 'hub:nope'"),
    (["eval", "model", "--data", "good.csv", "--weights", "ema"], "no ema weights, only raw"),
    (["eval", "model", "--data", "good.csv", "--weights", "best"], "--weights"),
    (["eval", "model", "--data", "good.csv", "--limit", "0"], "limit"),
    (["eval", "model", "--data", "good.csv", "--search", "9"], "--search is not measured here"),
    (["eval", "model", "--data", "good.csv", "--noise", "1"], "noise 1.0 would do nothing for one rollout"),
    (["train", "tiny", "--train.batch", "100000000"], "give at most 100000"),
    (["train", "tiny", "--model.heads", "2", "--out", "new"], "--model.heads is for mixing attention"),
    (["data", "arc", "--variants", "100000000", "--train", "x"], "give at most 100000"),
    (["data", "sudoku", "--out", "new", "--train", "9" * 20], "give at most 10000000"),
    (["eval", "model", "--data", "good.csv", "--steps", "-1"], "steps"),
    (["train", "minii"], "unknown recipe 'minii'; did you mean 'mini'?"),
    (["train", "nothing.yaml"], "cannot read nothing.yaml"),
    (["train", "list.yaml"], "list.yaml"),
    (["train", "broken.yaml"], "broken.yaml is not valid YAML"),
    (["train", "binary.yaml"], "binary.yaml"),
    (["train", "typo.yaml"], "unknown option 'model.widht'; did you mean 'model.width'?"),
    (["train", "tiny", "--model.widht", "3"], "did you mean --model.width?"),
    (["train", "tiny", "--model.width", "abc"], "--model.width"),
    (
        ["train", "tiny", "--model.mixing", "attention", "--model.width", "12"],
        "width 12 is not a multiple of heads 8",
    ),
    (["train", "tiny", "--train.steps", "0"], "steps"),
    (["train", "tiny", "--optimizer.name", "sgd"], "--optimizer.name"),
    (["train", "tiny", "--out", "full"], "full is not empty and holds no run"),
    (["train", "tiny", "--out", "good.csv"], "good.csv"),
    (["train", "tiny", "--data.train", "nothing.csv", "--out", "new"], "cannot read nothing.csv"),
    (["train", "tiny", "--data.train", "good.csv", "--out", "new"], "data.hold_out is 0 of 8 puzzles"),
    (["train", "--resume", "nothing"], "nothing holds no run"),
    (["train", "--resume", "full", "--out", "new"], "--resume takes the run as it is"),
    (["train", "--resume", "full", "--model.width", "8"], "--resume takes the run as it is"),
    (["train", "--out", "new", "tiny", *SMALL, "--train.steps", "1"], "first"),
    (["data", "sudoku"], "--out"),
    (["data", "chess", "--out", "new"], "chess"),
    (["data", "sudoku", "--out", "new", "--box-rows", "9"], "--box-rows is 9: give at most 5"),
    (["data", "sudoku", "--out", "new", "--train", "-1"], "train"),
    (["data", "sudoku", "--out", "new", "--seed", "-1"], "seed"),
    (["data", "maze", "--out", "new", "--seed", str(2**64)], "seed"),
    (["eval", "model", "--data", "good.csv", "--curve-depths", "4"], "need a folder: --curve"),
    (
        ["data", "sudoku", "--out", "new", "--box-rows", "2", "--box-cols", "2", "--train", "99", "--quiet"],
        "ask for fewer puzzles",
    ),
    (["info", "nope"], "no model 'nope'"),
    (["info", "full"], "full"),
    (["train", "broken.yaml"], "broken.yaml is not valid YAML: line 2, column 1: expected ',' or ']'"),
    (["train", "tiny", "--model.width", "abc"], "--model.width is 'abc': give a whole number"),
    (["train", "tiny", "--optimizer.lr", "x"], "--optimizer.lr is 'x': give a number"),
    (["train", "tiny", "--optimizer.lr", "nan"], "--optimizer.lr is nan: give a finite number"),
    (["train", "tiny", "--seed", "1.5"], "--seed is '1.5': give a whole number"),
    (["train", "tiny", "--train.steps=0"], "--train.steps is 0: give more than 0"),
    (["train", "tiny", "--ema.decay", "1.5"], "--ema.decay is 1.5: give less than 1.0"),
    (["train", "tiny", "--optimizer.name", "sgd"], "--optimizer.name is 'sgd': choose one of adam_atan2"),
    (["train", "tiny", "--data.hold-out", "3"], "error: data: validation and hold_out need a training file"),
    (["train", "tiny", "--train", "5"], "--train is a group of options, such as --train.start-from"),
    (["train", "tiny", "--seed"], "--seed needs a value"),
    ([*SOLVE, PUZZLES[0], "--rollouts=-1"], "--rollouts is -1: give more than 0"),
    (["train", "sudoku-fast", "--out", "new"], "--data.train hub:sudoku-extreme/train, or make puzzles with"),
    (
        ["data", "maze", "--out", "new", "--height", "5", "--width", "5"],
        "longer than 21 cells: give",
    ),
    (["data", "sudoku", "--out", "new", *BOARD, "--extra-clues", "99"], "extra_clues 99 fills a whole board"),
    (
        ["data", "sudoku", "--out", "new", *BOARD, "--like", "good.csv", "--extra-clues", "1"],
        "--extra-clues would do nothing with --like",
    ),
    (["data", "sudoku", "--out", "new", "--like", "good.csv", "--train", "0"], "give --train"),
    (["trian", "mini"], "no command 'trian'; did you mean train?"),
    (["info", "--quiet", "--verbose"], "give --quiet or --verbose, not both"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), BAD, ids=[" ".join(arguments)[:60] for arguments, _ in BAD]
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("trm: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not any(mark in err for mark in ("Traceback", "│", "__tyro", "\x1b", "  ", "---", "──"))


def test_a_device_that_is_not_there_is_bad_input(capsys):
    import torch

    device = "mps" if torch.cuda.is_available() else "cuda"
    for arguments in (
        [*SOLVE, PUZZLES[0]],
        ["eval", "model", "--data", "good.csv"],
        ["train", "tiny", "--out", "new", *SMALL],
    ):
        code, _, err = run(capsys, *arguments, "--device", device)
        assert (code, err.count("\n")) == (2, 1)
        assert device in err


def test_a_folder_that_cannot_be_made_is_bad_input(capsys):
    code, _, err = run(capsys, "data", "sudoku", "--out", "good.csv/new", *BOARD)
    assert (code, err.count("\n")) == (2, 1)


def test_hints_name_options_of_the_same_command(capsys):
    assert "did you mean --json?" in run(capsys, *SOLVE, PUZZLES[0], "--jsn")[2]


def test_options_that_every_command_has(capsys, monkeypatch):
    assert run(capsys, "--version") == (0, f"trm {trm.__version__}\n", "")
    arguments = ("solve", PUZZLES[0], "--model", "nope")
    plain, chatty = run(capsys, *arguments)[2], run(capsys, "--verbose", *arguments)[2]
    assert chatty.endswith(plain) and "Traceback" in chatty and f"trm: {trm.__version__}; python: " in chatty
    sizes = ["--train=40", "--validation=0", "--test=0", "--box-rows=2", "--box-cols=2", "--extra-clues=3"]
    monkeypatch.setattr(terminal, "pause", lambda seconds: 0)
    loud = run(capsys, "data", "sudoku", "--out", "loud", *sizes)
    quiet = run(capsys, "data", "sudoku", "--out", "quiet", *sizes, "--quiet")
    assert "generating 40/40" in loud[2]
    assert quiet == (0, "quiet/train.csv: 40 puzzles\n", "")
    assert all(f"{code}" in cli._DESCRIPTION for code in (0, 1, 2, 130, 143, 141))


def test_an_interruption_is_one_line_wherever_it_comes(capsys, monkeypatch):
    def compiled(*_):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise SystemError("returned a result with an exception set") from error

    def plain(*_):
        raise KeyboardInterrupt

    for stop in (compiled, plain):
        monkeypatch.setattr("trm.data.sources.generate", stop)
        assert run(capsys, "data", "sudoku", "--out", "new", *BOARD) == (130, "", "trm: interrupted\n")
        assert not Path("new").exists()


def test_a_field_of_any_length_is_the_familys_to_refuse(capsys):
    Path("long.csv").write_text(f"question,answer\n{'1' * 200_000},1\n")
    for arguments in (["eval", "model", "--data", "long.csv"], [*SOLVE, "--file", "long.csv"]):
        code, _, err = run(capsys, *arguments)
        assert (code, err.count("\n")) == (2, 1) and "the puzzle has 200000 cells" in err
    Path("long.txt").write_text("1" * 1_000_000)
    code, _, err = run(capsys, "solve", "--file", "long.txt")
    assert (code, err.count("\n")) == (2, 1) and len(err) < 1000


def test_standard_input_is_named_when_it_is_empty(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert "standard input holds no puzzles" in run(capsys, *SOLVE, "-")[2]


# --- solve


def test_a_large_sudoku_as_numbers_in_json(capsys):
    rows = [[(4 * (r % 3) + r // 3 + c) % 12 + 1 for c in range(12)] for r in range(12)]
    Path("numbers.json").write_text(json.dumps([[0, *rows[0][1:]], *rows[1:]]))
    code, out, err = run(capsys, "solve", "--file", "numbers.json", "--brief")
    assert (code, out, err) == (0, "".join("123456789ABC"[n - 1] for row in rows for n in row) + "\n", "")


def test_solve_json(capsys):
    code, out, err = run(capsys, *SOLVE, "--json", "--file", "lines.txt")
    lines = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (1, "")
    for line, answer in zip(lines, tiny.solver().solve(PUZZLES[:3]), strict=True):
        names = ["puzzle", "answer", "verified", "steps", "halt_probability", "rollouts"]
        assert list(line) == [*names, "decisions", "take_backs", "by"]
        assert (line["puzzle"], line["answer"], line["steps"]) == (answer.puzzle, answer.answer, answer.steps)
        assert line["verified"] is False
        assert line["halt_probability"] == pytest.approx(answer.halt_probability)


@pytest.mark.parametrize("mode", [[], ["--brief"], ["--json"]])
def test_exit_code_says_whether_the_rules_confirm(capsys, mode, believe):
    assert run(capsys, *SOLVE, PUZZLES[0], *mode)[0] == 0


@pytest.mark.parametrize("mode", [[], ["--brief"], ["--json"]])
def test_exit_code_of_an_unverified_answer(capsys, mode):
    assert run(capsys, *SOLVE, PUZZLES[0], *mode)[0] == 1


@pytest.mark.parametrize(
    "extra", [[], ["--steps", "3"], ["--no-early-stop"], ["--no-early-stop", "--steps", "9"]]
)
def test_solve_shows_every_step_and_the_verdict(capsys, extra):
    _, out, _ = run(capsys, *SOLVE, PUZZLES[0], "--json", *extra)
    expected = json.loads(out)
    code, out, _ = run(capsys, *SOLVE, PUZZLES[0], *extra)
    assert code == 1
    titles = [word for word in out.replace("─", " ").split() if word in ("puzzle", "step")]
    assert titles == ["puzzle"] + ["step"] * expected["steps"]
    assert f"not solved: the answer breaks the rules; {expected['steps']} steps" in out
    assert out.splitlines()[-1] == expected["answer"]


def test_all_steps_runs_them_all(capsys):
    for steps, extra in ((6, []), (9, ["--steps", "9"])):
        out = run(capsys, *SOLVE, PUZZLES[0], "--json", "--no-early-stop", *extra)[1]
        assert json.loads(out)["steps"] == steps


def texts(text: str, family: Family) -> list[str]:
    """The puzzles that are read from a text."""
    lines = records.Lines(text.splitlines(keepends=True), "x")
    return [question.text for question in records.questions(lines, family)]


ROWS = "".join(f"{puzzle},{ANSWER}\n" for puzzle in PUZZLES[:3])
GRIDS = {
    "the columns of Kaggle": "quizzes,solutions\n" + ROWS,
    "other columns, with the number of clues": "id,puzzle,solution,clues\n"
    + "".join(f"1,{puzzle},{ANSWER},9\n" for puzzle in PUZZLES[:3]),
    "capitals": "Question,Answer\n" + ROWS,
    "tabs": ("question,answer\n" + ROWS).replace(",", "\t"),
    "semicolons": ("Quiz;Answer\n" + ROWS).replace(",", ";"),
    "remarks": "# from somewhere\n#\n" + "\n".join(PUZZLES[:3]) + "\n# the end\n",
    "remarks in a table": "# mine\n\nquestion,answer\n# easy ones\n" + ROWS,
    "JSON lines": "".join(json.dumps({"puzzle": puzzle}) + "\n" for puzzle in PUZZLES[:3]),
    "a JSON array": json.dumps([{"Question": puzzle, "answer": ANSWER} for puzzle in PUZZLES[:3]], indent=1),
    "a JSON array of texts": json.dumps(PUZZLES[:3]),
    "a JSON array of grids": json.dumps(
        [[[int(c) if c != "." else 0 for c in p[i : i + 4]] for i in (0, 4, 8, 12)] for p in PUZZLES[:3]]
    ),
    "JSON under a name": json.dumps({"data": [{"quiz": puzzle} for puzzle in PUZZLES[:3]]}),
    "lines": "\n".join(PUZZLES[:3]),
    "lines between blank lines": "\n\n".join(PUZZLES[:3]) + "\n\n",
    "grids": "\n\n".join("\n".join(puzzle[i : i + 4] for i in range(0, 16, 4)) for puzzle in PUZZLES[:3]),
    "csv": "answer,question\r\n" + "".join(f"{ANSWER},{puzzle}\r\n" for puzzle in PUZZLES[:3]),
    "quoted csv": '"question","answer"\n' + "".join(f'"{puzzle}","{ANSWER}"\n' for puzzle in PUZZLES[:3]),
    "csv with a blank line": "question\n" + "\n".join(PUZZLES[:3]) + "\n\n",
    "csv with a byte order mark": "\ufeffquestion\n" + "\n".join(PUZZLES[:3]) + "\n",
    "a byte order mark": "\ufeff" + "\n".join(PUZZLES[:3]) + "\n",
    "drawn": "\n\n".join(
        "\n".join(f"{row[:2]}|{row[2:]}" for row in (puzzle[i : i + 4] for i in range(0, 16, 4)))
        for puzzle in PUZZLES[:3]
    ),
    "framed": "\n\n".join(
        "+-------+-------+\n"
        + "".join(f"| {a} {b} | {c} {d} |\n" for a, b, c, d in (puzzle[i : i + 4] for i in range(0, 16, 4)))
        + "+-------+-------+"
        for puzzle in PUZZLES[:3]
    ),
}


@pytest.mark.parametrize("name", GRIDS)
def test_puzzles_of_a_file_in_any_layout(capsys, here, name):
    (here / "in.txt").write_text(GRIDS[name], encoding="utf-8", newline="")
    code, out, err = run(capsys, *SOLVE, "--brief", "--file", "in.txt")
    assert (code, out) == (1, answers(*PUZZLES[:3]))
    assert err == "0 of 3 verified; try --rollouts 8 --select verify, or --exact\n"


def test_a_packed_file(capsys, here):
    (here / "in.gz").write_bytes(gzip.compress(GRIDS["csv"].encode()))
    assert run(capsys, *SOLVE, "--brief", "--file", "in.gz")[1] == answers(*PUZZLES[:3])
    (here / "in.gz").write_bytes(gzip.compress(GRIDS["csv"].encode())[:-9])
    assert "in.gz: damaged gzip file" in run(capsys, *SOLVE, "--brief", "--file", "in.gz")[2]


def test_rows_of_one_grid_in_json():
    assert [text.split() for text in texts(json.dumps(["12..", "....", "..1.", "...."]), TASK)] == [
        ["12..", "....", "..1.", "...."]
    ]


def test_what_was_asked_before_a_fault_is_answered(capsys):
    code, out, err = run(capsys, *SOLVE, "--brief", "--file", "bad.txt")
    assert (code, out) == (2, answers(PUZZLES[0]))
    assert "bad.txt, line 3: contradictory clues" in err
    assert "; answered before it: 1; --skip-bad leaves bad ones out" in err
    code, _, err = run(capsys, *SOLVE, PUZZLES[0], "--steps", "1")
    assert "0 of 1 verified; try --rollouts 8 --select verify, or --exact" in err


def test_bad_puzzles_are_skipped_and_named(capsys, here):
    rows = [PUZZLES[0], "11..............", PUZZLES[1][:-1], f"{PUZZLES[2]},{ANSWER}", PUZZLES[1]]
    (here / "bad.csv").write_text("question\n" + "\n".join(rows) + "\n")
    for mode in ("--brief", "--json"):
        code, out, err = run(capsys, *SOLVE, mode, "--file", "bad.csv", "--skip-bad")
        assert code == 1 and len(out.splitlines()) == 2
        assert "skipped 3 of 5 puzzles" in err
        for fault in ("line 3: contradictory", "line 4: the puzzle has 15 cells", "line 5: 2 fields where"):
            assert f"bad.csv, {fault}" in err


def test_skipping_alone_is_not_success(capsys, believe):
    assert run(capsys, *SOLVE, "--brief", "--file", "lines.txt")[0] == 0
    code, out, err = run(capsys, *SOLVE, "--brief", "--file", "bad.txt", "--skip-bad")
    assert code == 1 and "#" not in out and "skipped 1 of 2 puzzles" in err


def test_the_first_answer_comes_before_the_last_puzzle_is_looked_at(monkeypatch):
    looked = []
    check = Sudoku.check
    monkeypatch.setattr(Sudoku, "check", lambda self, tokens_L: (looked.append(1), check(self, tokens_L)))
    lines = records.Lines(iter([f"{puzzle}\n" for puzzle in PUZZLES * 100]), "x")
    asked = solve._Asked("", lines, TASK, False)
    found = tiny.solver().answers(asked)
    next(found)
    assert len(looked) == 1
    assert len(list(found)) == len(looked) - 1 == 8 * 100 - 1


def test_the_steps_of_the_chosen_rollout_are_shown(capsys):
    effort = Effort(rollouts=6, noise=0.5)
    answer = next(
        found for puzzle in PUZZLES for found in tiny.solver().solve(puzzle, effort) if found.rollout > 0
    )
    steps = list(tiny.solver().replay(answer, effort))
    assert len(steps) == answer.steps
    assert TASK.text(steps[-1].answer) == answer.answer
    assert steps[-1].halt_probability == pytest.approx(answer.halt_probability, abs=1e-6)
    _, out, _ = run(capsys, *SOLVE, answer.puzzle, "--rollouts", "6", "--noise", "0.5")
    assert out.count("step ") == answer.steps and out.count("halt ") == answer.steps
    assert f"rollout {answer.rollout + 1} of 6" in out


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    ],
)
def test_no_memory_left_is_one_line_that_names_the_option(capsys, monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(Solver, "_decided", fail)
    for command in ([*SOLVE, PUZZLES[0]], ["eval", "model", "--data", "good.csv"]):
        code, _, err = run(capsys, *command, "--rollouts", "9")
        assert (code, err.count("out of memory: lower --rollouts")) == (2, 1)
    monkeypatch.setattr("trm.training.loop.train", fail)
    code, _, err = run(capsys, "train", "tiny", "--out", "new", *SMALL)
    assert (code, err.count("out of memory: lower --train.batch")) == (2, 1)


def test_another_failure_is_no_lack_of_memory(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("something else")

    monkeypatch.setattr(Solver, "_decided", fail)
    with pytest.raises(RuntimeError, match="something else"):
        cli.main([*SOLVE, PUZZLES[0]])


def test_rows_of_a_16x16_grid_are_one_puzzle():
    rows = "\n".join(["." * 16] * 16)
    task = Sudoku(SudokuConfig(box_rows=4, box_cols=4))
    assert [text.split() for text in texts(rows, task)] == [["." * 16] * 16]


def test_rows_of_a_drawn_9x9_grid_are_one_puzzle():
    band = "5 3 . | . 7 . | . . .\n" * 3
    grid = "------+-------+------\n".join([band] * 3)
    (text,) = texts(grid, Sudoku(SudokuConfig()))
    assert "".join(char for char in text if char in "53.7") == ("53..7...." * 9)


@pytest.mark.parametrize("how", [["-"], ["--file", "-"]])
def test_standard_input(capsys, monkeypatch, how):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(PUZZLES[:2])))
    assert run(capsys, *SOLVE, "--brief", *how)[1] == answers(*PUZZLES[:2])


def test_a_puzzle_may_be_drawn(capsys):
    drawn = "12|34\n34|12\n--+--\n21|43\n43|2."
    assert run(capsys, *SOLVE, "--brief", drawn)[1] == answers(PUZZLES[0])


# --- eval, data, info, train


def test_eval_reads_an_original_folder(capsys):
    code, _, err = run(capsys, "eval", "model", "--data", "good.csv", "--json")
    assert (code, err) == (0, "")
    original.write(Path("folder"), {"test": read_puzzles(Path("good.csv"), tiny.TASK)}, tiny.TASK)
    code, out, err = run(capsys, "eval", "model", "--data", "folder/test", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["n"] == 8


def test_weights_are_called_averages_only_where_they_are(capsys):
    """Training puzzle embeddings alone leaves nothing to average."""
    Path("few.yaml").write_text(
        "task: {name: sudoku, box_rows: 2, box_cols: 2}\n"
        "data: {train: good.csv, hold_out: 1}\n"
        "model: {width: 16, T: 1, n: 1, layers: 1, mixing: mixer, positions: none,\n"
        "  prefix: 1, puzzle_width: 8}\n"
        "ema: {decay: 0.9}\n"
        "train: {batch: 4, steps: 2}\n"
    )
    for option, names in (
        ("--optimizer.only-puzzles", ["raw"]),
        ("--optimizer.no-only-puzzles", ["ema", "raw"]),
    ):
        folder = f"run{len(names)}"
        assert run(capsys, "train", "few.yaml", "--out", folder, option)[0] == 0
        code, _, err = run(capsys, "eval", folder, "--data", "good.csv")
        assert code == 2
        # One is held out, and another is equivalent.
        assert "6 of 8 puzzles are equivalent to puzzles that the weights were trained on" in err
        code, out, err = run(capsys, "eval", folder, "--data", "good.csv", "--json", "--allow-leaks")
        assert (code, err) == (0, "")
        assert list(json.loads(out)["weights"]) == names
        turned = [
            ["".join(text[i::4] for i in range(4)).translate(str.maketrans("1234", "4321")) for text in row]
            for row in ((puzzle, ANSWER) for puzzle in PUZZLES)
        ]
        Path("turned.csv").write_text("question,answer\n" + "".join(f"{q},{a}\n" for q, a in turned))
        assert "6 of 8 puzzles" in run(capsys, "eval", folder, "--data", "turned.csv")[2]
        trm.load(folder).save("copy")  # what is shared knows it too
        assert run(capsys, "eval", "copy", "--data", "good.csv")[0] == 2


def test_a_maze_is_made_trained_on_measured_and_solved(capsys):
    """All of a task but the learning: the grades, the drawing, the file of grids, the exact solver."""
    size = ["--height", "4", "--width", "4", "--min-path", "5"]
    code, out, _ = run(capsys, "data", "maze", *size, "--train=30", "--validation=8", "--test=4", "--out=mz")
    assert code == 0
    assert "mz/test.csv: 4 puzzles" in out
    Path("maze.yaml").write_text(
        "task: {name: maze, height: 4, width: 4}\n"
        "data: {train: mz/train.csv, validation: mz/validation.csv, augment: false}\n"
        "model: {width: 16, T: 1, n: 1, layers: 1, mixing: mixer, positions: none}\n"
        "supervision: {steps: 2}\n"
        "train: {batch: 4, steps: 2, eval_every: 2}\n"
    )
    assert run(capsys, "train", "maze.yaml", "--out", "run")[0] == 0
    figures = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert {"valid", "shortest"} <= figures[-1].keys()
    code, out, _ = run(capsys, "eval", "run", "--data", "mz/test.csv", "--all-steps")
    assert code == 0
    assert all(
        f"{grade}, {way}" in out for grade in ("valid", "shortest") for way in ("stopping early", "all steps")
    )
    code, out, _ = run(capsys, "eval", "run", "--data", "mz/test.csv", "--json", "--rollouts", "2")
    report = json.loads(out)["weights"]["ema"]
    assert set(report["early_stop"]["grades"]) == set(report["effort"]["grades"]) == {"valid", "shortest"}
    assert run(capsys, "eval", "run", "--data", "mz/test.csv", "--curve", "curve", "--curve-depths=1")[0] == 0
    assert "| exact [95 %] | valid | shortest | steps |" in Path("curve/curve.md").read_text()
    grid = "S..#\n.#..\n.#.#\n...G\n"
    Path("grids.txt").write_text(f"{grid}\n{grid}")
    code, out, _ = run(capsys, "solve", "--file", "grids.txt", "--model", "run", "--exact", "--json")
    answers = [json.loads(line) for line in out.splitlines()]
    assert (code, len(answers)) == (0, 2)
    assert all(answer["verified"] for answer in answers)
    assert answers[0]["answer"].count("o") == 5
    code, out, _ = run(capsys, "solve", grid, "--model", "run", "--exact")
    assert code == 0
    assert "██" in out
    code, _, err = run(capsys, "solve", "S..#\n.##.\n.#.#\n.#.G", "--model", "run")
    assert code == 2
    assert "no path joins S and G" in err


def test_eval_json(capsys):
    code, out, err = run(capsys, "eval", "model", "--data", "good.csv", "--json", "--all-steps")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert list(report) == ["model", "data", "n", "weights"]
    assert (report["model"], report["data"], report["n"]) == ("model", "good.csv", 8)
    (figures,) = report["weights"].values()
    assert list(report["weights"]) == ["raw"]
    assert set(figures) == {"n", "early_stop", "all_steps", "per_step", "calibration"}
    assert len(figures["per_step"]) == 6
    for way in ("early_stop", "all_steps"):
        assert set(figures[way]) == {"exact", "cells", "mean_steps", "puzzles_per_second", "grades"}
        assert set(figures[way]["exact"]) == {"value", "low", "high"}
    assert figures["early_stop"]["mean_steps"] == sum(a.steps for a in tiny.solver().solve(PUZZLES)) / 8


def test_eval_limit_and_steps(capsys):
    out = run(capsys, "eval", "model", "--data", "good.csv", "--json", "--limit", "2", "--steps", "3")[1]
    report = json.loads(out)
    assert report["n"] == 2
    assert len(report["weights"]["raw"]["per_step"]) == 3
    assert report["weights"]["raw"]["all_steps"] is None


def test_eval_table(capsys):
    code, out, _ = run(capsys, "eval", "model", "--data", "good.csv")
    assert code == 0
    assert "model on good.csv, n = 8" in out
    for row in ("exact, stopping early", "cells", "mean steps", "exact after step 4", "exact after step 6"):
        assert row in out
    assert "0.00 % [0.00, 32.44]" in out  # Wilson's interval for 0 of 8
    assert "all steps" not in out
    assert "exact, all steps" in run(capsys, "eval", "model", "--data", "good.csv", "--all-steps")[1]


def test_data_writes_files_once(capsys, here):
    arguments = ["data", "sudoku", *BOARD]
    code, out, _ = run(capsys, *arguments, "--out", "new/data")
    assert code == 0
    assert out == "new/data/train.csv: 4 puzzles\nnew/data/test.csv: 2 puzzles\n"
    assert {path.name for path in (here / "new/data").iterdir()} == {"train.csv", "test.csv"}
    assert len(read_puzzles(here / "new/data/train.csv", tiny.TASK)) == 4
    before = (here / "new/data/train.csv").read_bytes()
    code, out, err = run(capsys, *arguments, "--out", "new/data", "--seed", "1")
    assert (code, out) == (2, "")
    assert err == "trm: error: new/data/train.csv exists; choose another folder with --out\n"
    assert (here / "new/data/train.csv").read_bytes() == before


def test_data_like_others(capsys, here):
    box = ["--box-rows", "2", "--box-cols", "2"]
    like = ["data", "sudoku", *box, "--like", "good.csv", "--train", "5"]
    assert run(capsys, *like, "--out", "a")[:2] == (0, "a/train.csv: 5 puzzles\n")
    given, made = (read_puzzles(Path(name), tiny.TASK) for name in ("good.csv", "a/train.csv"))
    assert {each.tobytes() for each in made.answers_NL} <= {each.tobytes() for each in given.answers_NL}
    avoid = ["--avoid", "good.csv, a/train.csv"]
    assert run(capsys, *like, *avoid, "--out", "b")[0] == 0
    forms = [
        {tiny.TASK.canonical(tokens_L) for tokens_L in read_puzzles(Path(name), tiny.TASK).tokens_NL}
        for name in ("good.csv", "a/train.csv", "b/train.csv")
    ]
    assert [len(each) for each in forms[1:]] == [5, 5] and not (forms[0] | forms[1]) & forms[2]
    maze = ["data", "maze", "--height", "9", "--width", "9", "--train", "2"]
    path = ["--min-path", "5", "--validation", "0", "--test", "0"]
    assert run(capsys, *maze, *path, "--out", "maze")[0] == 0
    maze[-1] = "20"
    assert run(capsys, *maze, "--like", "maze/train.csv", "--out", "c")[:2] == (
        0,
        "c/train.csv: 20 puzzles\n",
    )
    futoshiki = ["data", "futoshiki", "--side", "4", "--train", "2"]
    assert run(capsys, *futoshiki, "--validation", "0", "--test", "0", "--out", "signs")[0] == 0
    code, _, errors = run(capsys, *futoshiki, "--like", "signs/train.csv", "--out", "d")
    assert code == 2 and "of the family futoshiki are not made like others: leave --like out" in errors


def test_data_grid_says_what_went_to_each_split(capsys):
    puzzles = [format(number, "04b") for number in range(16)]
    lines = [f"{each[:2]}/{each[2:]},{each[:2]}/{each[2:]}" for each in puzzles]
    Path("own.csv").write_text("question,answer\n" + "\n".join(lines) + "\n")
    code, out, _ = run(capsys, "data", "grid", "own.csv", "--out", "own", "--validation=3", "--test=2")
    assert code == 0
    for name, count in (("train", 11), ("validation", 3), ("test", 2)):
        assert f"own/{name}.csv: {count} puzzles\n" in out
    assert "own/recipe.yaml" in out


def test_data_depends_on_the_seed(capsys, here):
    arguments = ["data", "sudoku", *BOARD]
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert run(capsys, *arguments, "--out", name, "--seed", seed)[0] == 0
    a, b, c = ((here / name / "train.csv").read_bytes() for name in "abc")
    assert a == b != c


def test_info_lists_what_there_is(capsys):
    code, out, _ = run(capsys, "info")
    assert code == 0
    for name in recipe_names():
        about = about_recipe(name)
        assert about.what and about.cost, f"{name} says neither what it is nor what it costs"
        assert f"{about.what}; {about.cost}" in " ".join(out.split())
    found = json.loads(run(capsys, "info", "--json")[1])
    assert set(found) == {"recipes", "models", "machine"}
    assert found["recipes"]["mini"] == {"what": about_recipe("mini").what, "cost": about_recipe("mini").cost}
    assert set(found["models"]) == set(pretrained.bundled_names())
    assert {"trm", "python", "torch", "devices"} <= set(found["machine"])


def test_info_of_a_recipe_a_model_a_run_and_a_file(capsys):
    out = run(capsys, "info", "tiny")[1]
    assert "box_rows 2" in out and "trm train tiny" in out and len(out.splitlines()) < 20
    assert "box_rows: 2" in run(capsys, "info", "tiny", "--full")[1]
    model = json.loads(run(capsys, "info", "model", "--json")[1])["model"]
    assert model["parameters"] == sum(weight.numel() for weight in tiny.model().parameters())
    assert "mixing: mixer" in run(capsys, "info", "model", "--full")[1]
    assert set(json.loads(run(capsys, "info", "mini", "--json")[1])) == {"recipe", "model"}
    puzzles = json.loads(run(capsys, "info", "good.csv", "--json")[1])["puzzles"]
    assert (puzzles["puzzles"], puzzles["characters of a question"], puzzles["rating"]) == (8, 16, "1 to 1")
    assert puzzles["bundled weights that fit"] == "sudoku-9x9, sudoku-16x16"
    rows = [[int(cell) for cell in ANSWER[at : at + 4]] for at in range(0, 16, 4)]
    Path("rows.json").write_text(json.dumps([{"question": rows}]))
    assert "sudoku-9x9" in run(capsys, "info", "rows.json")[1]
    plain = json.loads(run(capsys, "info", "lines.txt", "--json")[1])["puzzles"]
    assert (plain["format"], plain["puzzles"], plain["first"]) == ("puzzles alone", 3, PUZZLES[0])
    Path("torn.csv").write_text(Path("good.csv").read_text() + "1,2,3,4,5,6,7\n")
    code, _, errors = run(capsys, "info", "torn.csv")
    assert code == 2 and "torn.csv, line 10: 7 fields" in errors
    Path("own.yaml").write_text("name: own\ndata: {generate: {train: 9, validation: 3}}\n")
    assert "generated: 9 train, 3 validation" in run(capsys, "info", "own.yaml")[1]
    original.write(Path("folder"), {"test": read_puzzles(Path("good.csv"), tiny.TASK)}, tiny.TASK)
    assert "splits  test" in run(capsys, "info", "folder")[1]
    assert "split test of" in run(capsys, "info", "folder/test")[1]
    for arguments in (("info", "--full"), ("info", "tiny", "--full", "--json")):
        assert run(capsys, *arguments)[0] == 2


def test_info_of_arc_tasks(capsys):
    task = {"train": [{"input": [[1]], "output": [[2]]}] * 2, "test": [{"input": [[1]]}]}
    Path("task.json").write_text(json.dumps(task))
    found = json.loads(run(capsys, "info", "task.json", "--json")[1])["puzzles"]
    assert (found["format"], found["tasks"], found["pairs"]) == (
        "ARC",
        1,
        "2 to learn from, 1 to be predicted",
    )


def test_a_run_from_train_to_eval(capsys, here):
    code, out, err = run(
        capsys, "train", "tiny", "--out", "run", "--train.steps=2", "--train.batch=8", *SMALL
    )
    assert (code, err) == (0, "")
    assert "finished 2 steps" in out
    report = json.loads(run(capsys, "eval", "run", "--data", "run/data/test.csv", "--json")[1])
    assert list(report["weights"]) == ["ema", "raw"]
    assert report["weights"]["ema"]["early_stop"]["cells"] != report["weights"]["raw"]["early_stop"]["cells"]
    one = json.loads(
        run(capsys, "eval", "run", "--data", "run/data/test.csv", "--json", "--weights", "raw")[1]
    )
    assert one["weights"]["raw"]["per_step"] == report["weights"]["raw"]["per_step"]
    assert list(one["weights"]) == ["raw"]
    about = json.loads(run(capsys, "info", "run", "--json")[1])
    assert (about["run"]["steps"], about["run"]["steps done"]) == (2, 2)
    assert about["run"]["make it longer"] == "trm train --resume run --train.steps 4"
    assert about["model"]["folder"] == "run/best"
    assert "steps: 2" in run(capsys, "info", "run", "--full")[1]
    for arguments in (["--resume", "run"], ["--resume", "run", "--train.steps", "3"]):
        code, out, err = run(capsys, "train", *arguments)
        assert (code, err) == (0, "")
        assert "--train.steps" in out  # nothing was learned yet, so both say how to make it longer
    assert "2 steps are now 3" in out and "that is low" in out
    code, out, err = run(capsys, "train", "--resume", "run", "--quiet", "--train.steps", "4")
    assert (code, err) == (0, "") and "step " not in out and "finished 4 steps" in out
    code, _, err = run(capsys, "train", "tiny", "--out", "run")
    assert (code, err.count("\n")) == (2, 1)
    assert "run holds another run; resume it with `trm train --resume run`" in err


def test_stop_before_the_first_step_can_be_resumed(capsys):
    small = ["--train.steps", "1", "--train.batch", "4", *SMALL]
    code, _, _ = run(capsys, "train", "tiny", "--out", "run", "--stop-after", "0", *small)
    if code == 0:  # said to be saved; refusing is as good
        assert run(capsys, "train", "--resume", "run")[0] == 0


# --- help, and processes of its own


def test_no_arguments_is_help(capsys):
    code, out, _ = run(capsys)
    assert code == 0
    assert all(command.split()[0] in out for command in COMMANDS)
    code, out, _ = run(capsys, "data")
    assert code == 0
    assert all(command.split()[1] in out for command in COMMANDS if command.startswith("data "))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_the_examples(capsys, command):
    code, out, err = run(capsys, *command.split(), "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: trm {command}")
    docstring = COMMANDS[command].__doc__
    examples = [
        line.strip() for line in docstring.splitlines() if f"trm {command} " in line and "`" not in line
    ]
    assert examples or "For example" not in docstring
    for example in examples:
        assert example in out


def options(text: str) -> set[str]:
    """Names of the options that a help shows."""
    found = re.findall(r"^  --(\S+)", text, re.MULTILINE)
    return {each.replace("[no-]", "").replace("-", "_") for each in found}


def test_help_of_train_is_short_and_the_rest_is_behind_help_all(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    few, everything = (run(capsys, "train", option)[1] for option in ("--help", "--help-all"))
    shown, known = options(everything), set(option_names(load_recipe("mini")))
    assert {each for each in known if not each.startswith("compute.")} <= shown
    assert {"out", "data.train", "train.steps", "optimizer.lr"} <= options(few) < train.COMMON
    more = len(shown) - len(options(few))
    assert f"{more} more options, rarely needed: trm train --help-all" in few
    assert len(few.splitlines()) < 100 and max(map(len, few.splitlines())) <= 110
    real = known | {"out", "resume", "stop_after", "processes", "device", "dtype"}
    for kind in config_classes().values():
        real |= {f"family.{name}" for name in kind.model_fields}
        real |= {f"data.{name}" for name in option_names(kind.data)}
    assert real >= train.COMMON, "no option of that name"


def test_help_of_train_shows_the_values_of_the_recipe(capsys):
    assert "(default: 4000)" in run(capsys, "train", "--help")[1]
    assert "(default: 300)" in run(capsys, "train", "tiny", "--help")[1]


@pytest.mark.parametrize("command", [*COMMANDS, ""])
def test_help_is_quick(command):
    def seconds() -> float:
        """Of CPU time: a busy machine is no slow command."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = process(*command.split(), "--help")
        assert (done.returncode, done.stderr) == (0, "")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert any(seconds() < (1.5 if command else 0.3) for _ in range(3))


def test_the_list_of_commands_says_what_each_says_of_itself():
    for name, line in cli._COMMANDS.items():
        found = cli._command(name, [])
        assert isinstance(found, dict) or line == found.__doc__.splitlines()[0]


def test_help_does_not_import_torch():
    code = (
        "import sys; from trm.cli import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_process_solves_from_a_pipe_without_what_only_training_needs():
    """Both take as long to import as all else together."""
    code = (
        "import sys; from trm.cli import main\n"
        "code = main(); print({'lightning_fabric', 'torch._dynamo'} & set(sys.modules)); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *SOLVE, "-", "--brief"]
    done = subprocess.run(command, input=PUZZLES[0] + "\n", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, answers(PUZZLES[0]) + "set()\n")
    assert done.stderr.count("\n") == 1


def test_process_fails_in_one_line():
    done = process("solve", "--model", "nope", PUZZLES[0])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("trm: error: no model 'nope'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("arguments", "code"), [(["solve", "--bogus"], 2), ([*SOLVE, PUZZLES[0]], 1)])
def test_process_where_output_is_not_unicode(arguments, code):
    done = process(*arguments, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == code
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("trm: error: " if code == 2 else "0 of 1 verified")
    assert "---" not in done.stderr


def test_a_reader_that_leaves_is_no_error():
    """`trm info tiny | true`: the pipe is closed before anything is written."""
    command = [sys.executable, "-c", "from trm.cli import main; raise SystemExit(main())", "info", "tiny"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        child.stdout.close()
        assert child.stderr.read() == ""
    assert child.returncode in (0, 141)


def test_a_slash_separates_rows_and_lines_separate_puzzles():
    task = Grid(GridConfig(height=4, width=4, symbols=("1", "2")))
    assert texts("12/21\n1/2\n", task) == ["12/21", "1/2"]
    assert [text.split() for text in texts("12\n21\n\n1\n2\n", task)] == [
        ["12", "21"],
        ["1", "2"],
    ]


def test_puzzle_ids_that_a_model_does_not_know_are_refused(capsys):
    rows = [f"{PUZZLES[0]},{ANSWER},{number}" for number in (0, 5)]
    Path("ids.csv").write_text("\n".join(["question,answer,puzzle", *rows]) + "\n")
    values = tiny.MODEL.model_dump() | {"prefix": 1, "puzzle_width": 4}
    made = build(ModelConfig(**values), Problem(tiny.TASK.vocab_size, tiny.TASK.length, 2))
    settings = pretrained.PretrainedConfig(family=tiny.CONFIG, model=made.config, puzzles=2, steps=2)
    pretrained.save(Path("two"), settings, made.state_dict())
    code, _, err = run(capsys, "eval", "two", "--data", "ids.csv")
    assert code == 2
    assert "has the puzzle id 5, but the model knows ids below 2" in err
    Path("ids.csv").write_text(f"question,answer,puzzle\n{PUZZLES[0]},{ANSWER},-1\n")
    assert "line 2: the puzzle id -1 is negative" in run(capsys, "eval", "two", "--data", "ids.csv")[2]


def test_validation_as_the_user_says_and_not_as_the_recipe_does(tmp_path, capsys):
    """A recipe that names a validation file, and a user who holds puzzles out, or the other way round."""

    def told(recipe: str, *options: str) -> RunConfig:
        found = cli._parse(["train", recipe, *options])
        assert isinstance(found, functools.partial)
        return found.keywords["config"]

    held = told("sudoku-paper", "--data.train", "x/train", "--data.hold-out", "100").data
    assert (held.train, held.validation, held.hold_out) == ("x/train", "", 100)
    file = told("maze-paper", "--data.train=x.csv", "--data.validation=y.csv").data
    assert (file.validation, file.hold_out) == ("y.csv", 0)
    held = told("arc-mini", "--data.hold_out", "2").data
    assert (held.hold_out, held.model_dump()["hold_out_variants"]) == (2, 0)
    both = ("--data.hold-out", "3", "--data.validation", "y.csv")
    code, _, err = run(capsys, "train", "sudoku-paper", "--data.train", "x.csv", *both)
    assert code == 2 and "not both" in err


# --- weights for boards of every size

ANY_BOARD = {"kind": "candidates", "mixing": "relations", "halting": "every", "width": 8, "inner": 8}


@pytest.fixture
def any_board(tmp_path: Path) -> Path:
    """Untrained weights of candidates, of 6x6 boards."""
    boards = SudokuConfig(box_rows=2, box_cols=3)
    model = ModelConfig(**ANY_BOARD, layers=1, T=1, n=1)
    about = pretrained.PretrainedConfig(family=boards, model=model, steps=2)
    pretrained.save(tmp_path / "any", about, build(model, boards.build().problem()).state_dict())
    return tmp_path / "any"


@pytest.mark.parametrize("side", [4, 6, 8, 9, 16])
def test_weights_for_every_size_solve_a_board_of_any(capsys, any_board: Path, side: int):
    code, out, _ = run(capsys, "solve", "." * (side * side - 1) + "1", "--model", str(any_board), "--json")
    assert (code, out) == (2, ""), "it has several solutions, as its own size would say too"
    family = pretrained.load(
        any_board, boards=pretrained.fitting(pretrained.find(any_board)[1], "." * side**2)
    )
    assert family.family.length == side**2


def test_the_size_of_a_board_is_seen_in_files(capsys, any_board: Path):
    for text in (
        f"{PUZZLES[0]}\n{PUZZLES[1]}\n",
        "\n".join(PUZZLES[0][i : i + 4] for i in (0, 4, 8, 12)) + "\n",
        f"question,answer\n{PUZZLES[0]},{ANSWER}\n",
    ):
        Path("in.txt").write_text(text)
        code, out, err = run(capsys, "solve", "--file", "in.txt", "--model", str(any_board), "--json")
        assert code in (0, 1) and err == ""
        assert len(json.loads(out.splitlines()[0])["answer"]) == 16


def test_bundled_weights_of_just_this_size_come_first(any_board: Path, tmp_path: Path, monkeypatch):
    exact = tiny.save(tmp_path / "zz-exact")
    monkeypatch.setattr(pretrained, "bundled_names", lambda: [str(any_board), str(exact)])
    assert solve._weights("", PUZZLES[0], None) == (str(exact), PUZZLES[0])
    assert solve._weights("", "." * 81, None) == (str(any_board), "." * 81)
    assert solve._weights("", "." * 36, None) == (str(any_board), "." * 36)
    with pytest.raises(UserError, match="49 cells, but a 6x6 Sudoku has 36"):
        solve._weights("", "." * 49, None)


@pytest.mark.parametrize(
    ("cells", "weights"),
    [
        (16, "sudoku-9x9"),
        (36, "mini"),
        (81, "sudoku-9x9"),
        (144, "sudoku-16x16"),
        (256, "sudoku-16x16"),
        (625, "sudoku-16x16"),
    ],
)
def test_of_the_bundled_weights_those_are_taken_that_learned_on_boards_most_like_it(cells: int, weights: str):
    assert solve._weights("", "." * cells, None) == (weights, "." * cells)


@pytest.mark.parametrize(("lines", "size"), [(3, 64), (4, 64), (5, 64), (16, 16)])
def test_lines_are_a_board_only_if_they_are_as_many_as_long(lines: int, size: int):
    text = Path("lines.txt")
    text.write_text(("." * size + "\n") * lines)
    with records.opened(text) as opened:
        weights, first = solve._weights("", "", opened)
    wanted = ("sudoku-16x16", "\n".join(["." * 16] * 16)) if size == 16 else ("sudoku-9x9", "." * 64)
    assert (weights, first) == wanted
    said = info._puzzles(str(text))
    assert (said["puzzles"], said["first"]) == (1 if size == 16 else lines, first[:80])


def test_weights_for_every_size_are_evaluated_on_the_size_of_the_data(capsys, any_board: Path):
    code, out, err = run(capsys, "eval", str(any_board), "--data", "good.csv", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["n"] == len(PUZZLES)
