"""The tutorial, run from its first command to its last; and the same in Python, and what it refuses."""

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import trm
from trm import cli
from trm.errors import UserError
from trm.recipe import load_config

DOCS = Path(__file__).parent.parent / "docs"
TEXT = (DOCS / "TUTORIAL.md").read_text()
ROWS = ["12/21,21/12", "1./.1,12/21", ".2/2.,12/21", "2./..,21/12", "../21,12/21", "1./..,12/21"]


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    return [text for kind, text in fenced if kind == language]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A copy of the tutorial's folder after all of its commands, with what they printed."""
    folder = tmp_path_factory.mktemp("tutorial")
    shutil.copy(DOCS / "tutorial" / "latin.py", folder)
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        for line in "".join(blocks("bash")).splitlines():
            program, *arguments = shlex.split(line)
            if program == "trm":  # here, where torch is loaded already
                assert cli.main(arguments) == 0, line
            else:
                command = [sys.executable if program == "python" else program, *arguments]
                printed.write(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    (folder / "printed").write_text(printed.getvalue())
    return folder


def test_unseen_puzzles_are_solved(folder):
    printed = (folder / "printed").read_text()
    assert "n = 200" in printed
    (ema,) = re.findall(r"exact, stopping early\s+│\s+([\d.]+) %", printed)
    assert float(ema) > 90


def test_the_tutorial_shows_what_is_printed(folder):
    printed = (folder / "printed").read_text()
    for shown in blocks(""):
        for line in shown.splitlines():
            # Tables of figures depend on the machine; all else must be there.
            if line and not re.search(r"[┃┏┡│└]|n = ", line):
                assert line in printed


def test_answers_say_that_nobody_checked_them(folder):
    answer = json.loads((folder / "printed").read_text().splitlines()[-1])
    assert answer["verified"] is None
    assert answer["rollouts"] == 8


def test_the_python_example_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (example,) = blocks("python")
    exec(compile(example.replace("200", "3"), "TUTORIAL.md", "exec"), {})  # our own text, in few steps
    assert len(capsys.readouterr().out.strip().split("/")) == 4


def test_fit_takes_arrays_and_keeps_the_run(tmp_path):
    rng = np.random.default_rng(0)
    questions = rng.integers(0, 3, (40, 2, 3))
    changes = {"train": {"steps": 2, "batch": 4}, "model": {"width": 16}}
    solver = trm.fit((questions, 2 - questions), "tiny", tmp_path / "own", changes=changes)
    assert solver.family.length == 6
    assert len(solver.solve("012/210")) == 1
    assert {path.name for path in (tmp_path / "own").iterdir()} == {"puzzles", "run"}
    with pytest.raises(UserError, match="exists; choose another folder"):
        trm.fit((questions, 2 - questions), "tiny", tmp_path / "own", changes=changes)
    with pytest.raises(UserError, match="'trian', which is not a section"):
        trm.fit((questions, 2 - questions), "tiny", changes={"trian": {"steps": 2}})
    with pytest.raises(UserError, match=r"unknown option 'train\.stpes'"):
        trm.fit((questions, 2 - questions), "tiny", changes={"train": {"stpes": 2}})


def own(folder: Path, *rows: str) -> Path:
    path = folder / "own.csv"
    path.write_text("\n".join(["question,answer", *rows]) + "\n")
    return path


def test_data_grid_writes_splits_and_a_recipe(tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["data", "grid", str(own(tmp_path, *ROWS)), "--out", str(out), "--permute", "12"]) == 0
    assert "6 puzzles of up to 2x2: . 1 2" in capsys.readouterr().out
    config = load_config(out / "recipe.yaml")
    assert config.family.model_dump()["permute"] == ("1", "2")
    assert config.data.augment
    assert config.data.train == str(out / "train.csv")
    assert cli.main(["data", "grid", str(own(tmp_path, *ROWS)), "--out", str(out)]) == 2
    assert "exists; choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["12/2,12/21"], "line 2, question: row 2 has 1 cells, but row 1 has 2"),
        ([*ROWS, "12/21,21/1"], "line 8, answer: row 2 has 1 cells"),
        ([*ROWS, "12/21,211/112"], "line 8: the question has 2x2 cells and the answer 2x3"),
        ([*ROWS, "1./..,21/12"], "line 8: the same question as in"),
        (["12/21,21/12"], "leave none for"),
    ],
)
def test_data_grid_names_the_line(tmp_path, capsys, rows, message):
    assert cli.main(["data", "grid", str(own(tmp_path, *rows)), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_data_grid_refuses_a_symbol_that_is_not_there(tmp_path, capsys):
    arguments = ["data", "grid", str(own(tmp_path, *ROWS)), "--out", str(tmp_path / "out"), "--permute", "13"]
    assert cli.main(arguments) == 2
    assert "permute names '3', which no puzzle uses" in capsys.readouterr().err


def test_a_test_file_of_its_own(tmp_path, capsys):
    (tmp_path / "test.csv").write_text("question,answer,puzzle\n.1/1.,21/12,other\n")
    rows = [f"{row},one" for row in ROWS]
    path = tmp_path / "own.csv"
    path.write_text("\n".join(["question,answer,puzzle", *rows]) + "\n")
    grid = ["data", "grid", str(path), "--test-file", str(tmp_path / "test.csv")]
    assert cli.main([*grid, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "7 puzzles" in printed
    assert "puzzle id 1: one" in printed
    assert "puzzle id 2: other" in printed
    config = load_config(tmp_path / "out" / "recipe.yaml")
    assert config.model.puzzle_width == config.model.width
    assert (tmp_path / "out" / "test.csv").read_text().splitlines()[1].endswith(",2")
    # Under renamed symbols it is a training puzzle.
    assert cli.main([*grid, "--permute", "12", "--out", str(tmp_path / "two")]) == 2
    assert "test.csv, line 2 (test): equivalent to the puzzle of" in capsys.readouterr().err
    assert cli.main([*grid, "--test", "1", "--out", str(tmp_path / "two")]) == 2


def test_a_function_of_ones_own_verifies(tmp_path):
    """It is asked of every given answer first, and `select="verify"` keeps what it accepts."""
    asked = []

    def different(question, answer):
        asked.append(question)
        return answer[0] != answer[1]

    solver = trm.fit(own(tmp_path, *ROWS), "tiny", verify=different, changes={"train": {"steps": 2}})
    assert len(asked) == len(ROWS)
    kept = []
    for answer in solver.solve(["1./..", "2./.."], trm.Effort(rollouts=4, select="verify")):
        grid = answer.answer.split("/")
        kept.append(answer.answer)
        assert answer.verified is ("?" not in answer.answer and grid[0] != grid[1])
    assert len(kept) == 2 and len(asked) > len(ROWS)
    with pytest.raises(UserError, match="line 2: verify does not accept this answer"):
        trm.fit(own(tmp_path, *ROWS), "tiny", verify=lambda question, answer: False)


def test_a_height_that_does_nothing_is_refused(tmp_path, capsys):
    arguments = ["data", "grid", str(own(tmp_path, *ROWS)), "--out", str(tmp_path / "out"), "--height", "2"]
    assert cli.main(arguments) == 2
    assert "height 2 would do nothing" in capsys.readouterr().err
    grids = np.array([[["1", "."], [".", "1"]]] * 9)
    with pytest.raises(UserError, match="height 2 would do nothing"):
        trm.fit((grids, grids), "tiny", height=2)
