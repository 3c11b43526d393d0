"""CSV files of puzzles: what is read, and what is refused with the file and the line."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from tiny import ANSWER, PUZZLES, TASK

from trm.errors import UserError
from trm.puzzles.grid.config import GridConfig
from trm.puzzles.grid.family import Grid
from trm.puzzles.sudoku.config import SudokuConfig
from trm.puzzles.sudoku.family import Sudoku
from trm.puzzles.table import Puzzles, from_arrays, read_puzzles, write_csv

OK = f"{PUZZLES[0]},{ANSWER}"


@pytest.fixture
def file(tmp_path):
    """Write a CSV file with the given lines."""

    def write(*lines: str) -> Path:
        path = tmp_path / "puzzles.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


def equal(a: Puzzles, b: Puzzles) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)


def test_columns_in_any_order(file):
    path = file("rating,answer,extra,question", f"7,{ANSWER},x,{PUZZLES[0]}", f",{ANSWER},y,{PUZZLES[1]}")
    puzzles = read_puzzles(path, TASK)
    assert [TASK.text(row) for row in puzzles.tokens_NL] == list(PUZZLES[:2])
    assert [TASK.text(row) for row in puzzles.answers_NL] == [ANSWER] * 2
    assert puzzles.rating_N.tolist() == [7, 0]
    assert puzzles.puzzle_N.tolist() == [0, 0]
    assert puzzles.tokens_NL.dtype == puzzles.answers_NL.dtype == np.uint8


@pytest.mark.parametrize("limit", [1, 3])
def test_limit_reads_the_first(file, limit):
    rows = [f"{puzzle},{ANSWER}" for puzzle in PUZZLES[:3]]
    puzzles = read_puzzles(file("question,answer", *rows, "broken"), TASK, limit)
    assert [TASK.text(row) for row in puzzles.tokens_NL] == list(PUZZLES[:limit])


def test_written_files_are_read_back(tmp_path):
    tokens_NL = np.stack([TASK.parse(puzzle) for puzzle in PUZZLES])
    answers_NL = np.stack([TASK.parse(ANSWER)] * len(PUZZLES))
    puzzles = from_arrays(tokens_NL, answers_NL, np.arange(len(PUZZLES)))
    write_csv(tmp_path / "a.csv", TASK, puzzles, "me, myself")
    assert (tmp_path / "a.csv").read_text().startswith("source,question,answer,rating\n")
    assert equal(read_puzzles(tmp_path / "a.csv", TASK), puzzles)


def test_take():
    puzzles = from_arrays(np.arange(12).reshape(4, 3), np.arange(12).reshape(4, 3) + 1, np.arange(4))
    taken = puzzles.take(np.array([3, 1]))
    assert len(taken) == 2
    assert taken.tokens_NL.tolist() == [[9, 10, 11], [3, 4, 5]]
    assert taken.answers_NL.tolist() == [[10, 11, 12], [4, 5, 6]]
    assert taken.rating_N.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["question,rating", OK], ", line 1: no column 'answer' (question, rating)"),
        (["number,answer", OK], ", line 1: no column 'question'"),
        ([], ", line 1: no column 'question' (an empty file)"),
        (["question,answer"], "puzzles.csv holds no puzzles"),
        (["question,answer", OK, f"{OK},3"], ", line 3: 3 fields where the first line has 2"),
        (["question,answer", PUZZLES[0]], ", line 2: 1 fields where the first line has 2"),
        (["question,answer", OK, OK.replace("1", "5", 1)], ", line 3: '5' in row 1, column 1 is not a digit"),
        (["question,answer", OK[1:]], ", line 2: the puzzle has 15 cells"),
        (["question,answer", f"{OK[:-1]}2"], ", line 2: the answer does not solve the question"),
        (["question,answer", f"{OK[:-1]}."], ", line 2: the answer does not solve the question"),
        (["question,answer,rating", f"{OK},hard"], ", line 2: "),
    ],
)
def test_faults_name_the_file_and_the_line(file, lines, message):
    path = file(*lines)
    with pytest.raises(UserError) as caught:
        read_puzzles(path, TASK)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_an_empty_file(tmp_path):
    (tmp_path / "a.csv").touch()
    with pytest.raises(UserError, match=r"a\.csv, line 1: .*an empty file"):
        read_puzzles(tmp_path / "a.csv", TASK)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00question", b"question,answer\n" + bytes(range(256))])
def test_a_binary_file(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.csv"):
        read_puzzles(tmp_path / "a.csv", TASK)


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nothing\.csv: No such file"):
        read_puzzles(tmp_path / "nothing.csv", TASK)
    with pytest.raises(UserError, match="cannot read"):
        read_puzzles(tmp_path, TASK)


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path):
    (tmp_path / "a.csv").write_text(f"question,answer\n{OK}\n", encoding="utf-8-sig")
    assert len(read_puzzles(tmp_path / "a.csv", TASK)) == 1


def test_blank_lines_at_the_end_are_no_puzzles(file):
    assert len(read_puzzles(file("question,answer", OK, "", ""), TASK)) == 1


def test_grids_in_json_are_written_as_their_family_reads_them(tmp_path):
    rows = [[4 * (r % 3) + r // 3 + c for c in range(12)] for r in range(12)]
    solved = [[number % 12 + 1 for number in row] for row in rows]
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"question": [[0, *row[1:]] for row in solved], "answer": solved}]))
    (answer_L,) = read_puzzles(path, Sudoku(SudokuConfig(box_rows=3, box_cols=4))).answers_NL
    assert (answer_L - 1).reshape(12, 12).tolist() == solved
    small = [[1, 2], [3, 4]]  # of a grid whose text has spaces, as another of its symbols is longer
    path.write_text(json.dumps([{"question": small, "answer": small}]))
    (answer_L,) = read_puzzles(
        path, Grid(GridConfig(height=2, width=2, symbols=["1", "2", "3", "4", "10"]))
    ).answers_NL
    assert answer_L.tolist() == [1, 2, 3, 4]
    path.write_text(json.dumps([{"question": [["1", ""], [3, 4]], "answer": small}]))
    with pytest.raises(UserError, match=r"a\.json, item 1: a cell is empty; write into it what stands for"):
        read_puzzles(path, TASK)


def test_a_rating_that_does_not_fit_is_refused(file):
    with pytest.raises(UserError, match="line 2"):
        read_puzzles(file("question,answer,rating", f"{OK},{10**30}"), TASK)


@pytest.mark.skipif("TRM_DATA" not in os.environ, reason="TRM_DATA names no data folder")
def test_public_schema_is_read_as_it_is():
    path = Path(os.environ["TRM_DATA"]) / "sudoku" / "validation.csv"
    puzzles = read_puzzles(path, Sudoku(SudokuConfig()))
    assert len(puzzles) == len(path.read_text().splitlines()) - 1
    assert puzzles.tokens_NL.shape == puzzles.answers_NL.shape == (len(puzzles), 81)
    assert puzzles.rating_N.max() > 0
