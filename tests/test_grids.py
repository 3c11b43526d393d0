"""Reading, inferring and splitting somebody's own puzzles: what comes through, and what is refused where."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from trm.errors import UserError
from trm.puzzles.grid import readers as grids
from trm.puzzles.grid.config import GridConfig
from trm.puzzles.grid.family import Grid
from trm.puzzles.grid.readers import (
    Row,
    check_answers,
    check_splits,
    from_arrays,
    infer,
    puzzle_ids,
    read_rows,
    split,
    to_puzzles,
)
from trm.puzzles.table import Puzzles, read_puzzles, write_csv

LATIN = Path(__file__).parents[1] / "docs" / "tutorial" / "latin.py"


@pytest.fixture
def file(tmp_path):
    """Write a file with the given lines."""

    def write(name: str, *lines: str) -> Path:
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path / name

    return write


def row(question: str, answer: str, where: str = "here", puzzle: str | None = None) -> Row:
    return Row(where, question, answer, puzzle)


def refusal(function, *args, **options) -> str:
    """The message of a UserError, which is one line."""
    with pytest.raises(UserError) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- reading


def test_csv_columns_in_any_order(file):
    path = file("a.csv", "rating, answer,puzzle,question", "9,12/21,x,1./..", "", ",123/456/789,,.........")
    assert read_rows(path) == [
        Row(f"{path}, line 2", "1 ./. .", "1 2/2 1", "x"),
        Row(f"{path}, line 4", ". . ./. . ./. . .", "1 2 3/4 5 6/7 8 9", None),
    ]


def test_csv_fields_may_hold_line_breaks_quotes_and_commas(file):
    path = file("a.csv", "question,answer", '"1.\n..","12\n21"', '"a,""","b,b"', "1,2,3")
    message = refusal(read_rows, path)
    assert f"{path}, line 6: 3 fields where the first line has 2" in message
    path = file("a.csv", "question,answer", '"1.\n..","12\n21"', '"a,""","b,b"')
    assert [(r.where[-6:], r.question, r.answer) for r in read_rows(path)] == [
        ("line 2", "1 ./. .", "1 2/2 1"),
        ("line 5", 'a , "', "b , b"),
    ]


def test_json_lines_in_every_form(file):
    values = [
        {"question": "1./..", "answer": ["12", "21"], "puzzle": 7, "note": [1]},
        {"question": [[1, "."], [".", "."]], "answer": [[1, 2], [2, 1]], "puzzle": "x"},
        {"question": [1, 0, 0, 0], "answer": ["1 2", "2 1"], "puzzle": None},
        {"question": [["red", 10]], "answer": "10 red"},
        {"question": ["1..."], "answer": ["1234"]},
    ]
    path = file("a.jsonl", *itertools.chain(*((json.dumps(value), "") for value in values)))
    assert [tuple(r) for r in read_rows(path)] == [
        (f"{path}, line 1", "1 ./. .", "1 2/2 1", "7"),
        (f"{path}, line 3", "1 ./. .", "1 2/2 1", "x"),
        (f"{path}, line 5", "1 0/0 0", "1 2/2 1", None),
        (f"{path}, line 7", "red 10", "10 red", None),
        (f"{path}, line 9", "1 . . .", "1 2 3 4", None),
    ]


@pytest.mark.parametrize("name", ["a.csv", "a.JSONL"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, name):
    text = "question,answer\n1,2\n" if name == "a.csv" else '{"question": "1", "answer": "2"}\n'
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert [r[1:3] for r in read_rows(tmp_path / name)] == [("1", "2")]


@pytest.mark.parametrize(
    ("text", "height", "read"),
    [
        ("1", None, "1"),
        ("12", None, "1 2"),
        ("1234", None, "1 2/3 4"),
        ("1 2 30 4", None, "1 2/30 4"),
        ("12345", None, "1 2 3 4 5"),
        ("123456789", None, "1 2 3/4 5 6/7 8 9"),
        ("1234", 1, "1 2 3 4"),
        ("1234", 4, "1/2/3/4"),
        ("123456", 2, "1 2 3/4 5 6"),
    ],
)
def test_the_rule_for_cells_without_rows_is_one(file, text, height, read):
    path = file("a.csv", "question,answer", f"{text},{text}")
    assert read_rows(path, height)[0].question == read
    path = file("a.jsonl", json.dumps({"question": text, "answer": text}))
    assert read_rows(path, height)[0].answer == read
    if "/" not in text:
        cells = np.array([text.split() if " " in text else list(text)])
        assert from_arrays(cells, cells, height=height)[0].question == read


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], ", line 1: no column 'question' (an empty file)"),
        (["question,rating", "1,2"], ", line 1: no column 'answer' (question, rating); name the columns"),
        (["question|answer", "1|2"], ", line 1: no column 'question' (question|answer)"),
        (["question,answer"], " holds no puzzles"),
        (["question,answer", "1,2", "1"], ", line 3: 1 fields where the first line has 2"),
        (["question,answer", "1,2", '"1,2', "3"], ", line 3: a quote that opens here is never closed"),
        (["question,answer", "1,2", ",2"], ", line 3, question: row 1 has no cells"),
        (["question,answer", "1,2", "12/3,12/34"], ", line 3, question: row 2 has 1 cells, but row 1 has 2"),
        (["question,answer", "1,2", "12/34,12//34"], ", line 3, answer: row 2 has no cells"),
        (
            ["question,answer", "1,2", "12/34,123/456"],
            ", line 3: the question has 2x2 cells and the answer 2x3",
        ),
        (["question,answer", "1,2", "1\x1b,22"], ", line 3, question: '\\x1b' cannot be a symbol"),
    ],
)
def test_faults_of_csv_name_the_line(file, lines, message):
    path = file("a.csv", *lines)
    assert refusal(read_rows, path).startswith(f"{path}{message}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2, column 2: not JSON: Expecting property name"),
        ("[" * 100_000, "line 2: not JSON: "),
        ('{"question": ' + "1" * 5000 + "}", "line 2: not JSON: "),
        ("[1]", "line 2: not a JSON object"),
        ("{}", "line 2: no key 'question' (no key at all)"),
        ('{"question": "1", "rating": "2"}', "line 2: no key 'answer' (question, rating)"),
        ('{"question": 1, "answer": "1"}', "line 2, question: '1' is not a grid"),
        ('{"question": null, "answer": "1"}', "line 2, question: 'None' is not a grid"),
        ('{"question": [], "answer": "1"}', "line 2, question: '[]' is not a grid"),
        ('{"question": [[]], "answer": "1"}', "line 2, question: row 1 has no cells"),
        ('{"question": ["12", [1]], "answer": "1"}', "is not a grid"),
        ('{"question": ["12", "", "12"], "answer": "1"}', "line 2, question: row 2 has no cells"),
        ('{"question": [[1, 2.5]], "answer": "12"}', "line 2, question: the cell 2.5 is neither"),
        ('{"question": [[1, true]], "answer": "12"}', "line 2, question: the cell True is neither"),
        ('{"question": [["a b"]], "answer": "1"}', "line 2, question: 'a b' cannot be a symbol"),
        ('{"question": [[""]], "answer": "1"}', "line 2, question: '' cannot be a symbol"),
        ('{"question": "\\ud800", "answer": "1"}', "line 2, question: '\\ud800' cannot be a symbol"),
        ('{"question": "1", "answer": "1", "puzzle": 1.5}', "line 2: the name in puzzle is 1.5"),
    ],
)
def test_faults_of_json_name_the_line(file, line, message):
    path = file("a.jsonl", '{"question": "1", "answer": "2"}', line)
    assert message in refusal(read_rows, path)
    assert refusal(read_rows, path).startswith(str(path))


def test_heights_that_do_not_divide(file):
    path = file("a.csv", "question,answer", "123456,123456")
    for height in (4, 0, -2):
        assert f"line 2, question: 6 cells do not make {height} rows" in refusal(read_rows, path, height)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_files_that_cannot_be_read(tmp_path, name):
    assert f"cannot read {tmp_path / name}: No such file" in refusal(read_rows, tmp_path / name)
    (tmp_path / name).write_bytes(b"\xff\xfe\x00question")
    assert "not a UTF-8 text file" in refusal(read_rows, tmp_path / name)


# --- arrays


def test_integer_and_text_arrays():
    questions_NHW = np.array([[[0, 10, 2]], [[1, 2, 3]]])
    rows = from_arrays(questions_NHW, questions_NHW + 1, puzzles=[5, 5])
    assert rows == [
        Row("puzzles[0]", "0 10 2", "1 11 3", "5"),
        Row("puzzles[1]", "1 2 3", "2 3 4", "5"),
    ]
    assert from_arrays(questions_NHW.astype(str), (questions_NHW + 1).astype(str), ["5", "5"]) == rows
    assert from_arrays(questions_NHW.tolist(), list(questions_NHW + 1), np.array([5, 5])) == rows


def test_grids_of_mixed_sizes():
    questions = [np.array([[1, 2], [3, 4]], dtype=np.uint8), [[np.int64(5), "x"]], ("ab", "cd"), "e.../...."]
    rows = from_arrays(questions, questions)
    assert [r.question for r in rows] == ["1 2/3 4", "5 x", "a b/c d", "e . . ./. . . ."]


@pytest.mark.parametrize(
    ("questions", "answers", "message"),
    [
        ([[[1]]], [[[1]], [[2]]], "1 questions but 2 answers"),
        ([], [], "there are no puzzles"),
        ([[[1]], [[1, 2], [3]]], [[[1]], [[1, 2], [3, 4]]], "puzzles[1], question: row 2 has 1 cells"),
        ([[[1]]], [[[1, 2]]], "puzzles[0]: the question has 1x1 cells and the answer 1x2"),
        (np.ones((1, 2, 2)), np.ones((1, 2, 2)), "puzzles[0], question: the cell 1.0 is neither"),
        (np.ones((1, 2, 2), bool), np.ones((1, 2, 2), int), "the cell True is neither"),
        (np.ones((1, 2, 2, 2), int), np.ones((1, 2, 2), int), "puzzles[0], question: the cell [1, 1]"),
        (np.ones(3, int), np.ones(3, int), "puzzles[0], question: '1' is not a grid"),
    ],
)
def test_faults_of_arrays_name_the_puzzle(questions, answers, message):
    assert message in refusal(from_arrays, questions, answers)


def test_names_of_puzzles_are_as_many_as_puzzles():
    assert "1 questions but 2 names" in refusal(from_arrays, [[[1]]], [[[1]]], puzzles=["a", "b"])


# --- what all rows have in common


def test_inference():
    rows = [row("b .", "10 b"), row("2/./.", "2/2/2")]
    assert infer(rows, dihedral=True, permute=["b", "2", "b"]) == GridConfig(
        height=3, width=2, symbols=(".", "2", "b", "10"), dihedral=True, permute=("b", "2")
    )


def test_limits_are_those_of_the_configuration():
    many = [row(str(i), str(i), f"line {i}") for i in range(grids.MAX_SYMBOLS)]
    assert len(infer(many).symbols) == grids.MAX_SYMBOLS
    over = [*many, row("x", "y", "line 9000"), row("z", "z", "line 9001")]
    assert "line 9000: more than 254 different symbols" in refusal(infer, over)
    wide, tall = (
        row(" ".join("1" * 100), " ".join("1" * 100), "w"),
        row("/".join("1" * 100), "/".join("1" * 100), "t"),
    )
    assert infer([wide, tall]).height * infer([wide, tall]).width == grids.MAX_CELLS
    taller = row("/".join("1" * 101), "1", "line 5")
    assert "101 rows (line 5) of 100 cells (w) are more than 10,000" in refusal(infer, [tall, wide, taller])


def test_symbols_to_permute_must_be_used():
    message = refusal(infer, [row("1 .", "1 2")], permute=("1", "3", "x"))
    assert "permute names '3', 'x', which no puzzle uses" in message
    assert "no puzzles" in refusal(infer, [])


def test_tokens_and_ids():
    rows = [
        row("1 .", "1 2", puzzle="b"),
        row("2/.", "2/1"),
        row("1", "1", puzzle="a"),
        row("2", "2", puzzle="b"),
    ]
    task = Grid(infer(rows))
    puzzles = to_puzzles(rows, task)
    assert task.config.symbols == (".", "1", "2")
    assert puzzles.tokens_NL.tolist() == [[2, 1, 0, 0], [3, 0, 1, 0], [2, 0, 0, 0], [3, 0, 0, 0]]
    assert puzzles.answers_NL.tolist() == [[2, 3, 0, 0], [3, 0, 2, 0], [2, 0, 0, 0], [3, 0, 0, 0]]
    assert puzzles.puzzle_N.tolist() == [1, 0, 2, 1]
    assert puzzles.rating_N.tolist() == [0] * 4
    assert (puzzles.tokens_NL.dtype, puzzles.puzzle_N.dtype, puzzles.rating_N.dtype) == (
        np.uint8,
        np.int32,
        np.int32,
    )
    common = puzzle_ids(reversed(rows))
    assert common == {"b": 1, "a": 2}
    assert to_puzzles(rows[2:], task, common).puzzle_N.tolist() == [2, 1]
    assert "here: the puzzle 'a' has no id" in refusal(to_puzzles, rows, task, {"b": 1})


def test_rows_that_do_not_fit_the_task_are_named():
    task = Grid(infer([row("1 .", "1 2")]))
    assert "line 8: '3' in row 1, column 2" in refusal(
        to_puzzles, [row("1 .", "1 1"), row("1 .", "1 3", "line 8")], task
    )
    assert "line 8: the puzzle has 2 rows" in refusal(to_puzzles, [row("1/1", "1/1", "line 8")], task)
    assert "no puzzles" in refusal(to_puzzles, [], task)


@pytest.mark.parametrize("symbols", [".12", "\",?'", ("red", "10", "é", ".")])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_arrays_come_back_from_rows_and_from_written_files(tmp_path_factory, symbols, data):
    """Arrays -> rows -> tokens -> CSV -> tokens, and arrays -> JSON -> the same rows."""
    shapes = data.draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=4))
    alphabet = np.array(list(symbols))
    index = st.integers(0, len(alphabet) - 1)
    pairs = [
        [alphabet[data.draw(arrays.arrays(np.int8, shape, elements=index))] for _ in "qa"] for shape in shapes
    ]
    rows = from_arrays([question for question, _ in pairs], [answer for _, answer in pairs])
    task = Grid(infer(rows))
    puzzles = to_puzzles(rows, task)
    for tokens, (h, w), (question, _) in zip(puzzles.tokens_NL, shapes, pairs, strict=True):
        corner = tokens.reshape(task.shape)[:h, :w]
        assert (np.array(task.config.symbols)[corner - 1] == question).all()
        assert np.count_nonzero(tokens) == h * w

    folder = tmp_path_factory.mktemp("grids")
    write_csv(folder / "a.csv", task, puzzles, "mine")
    back = read_puzzles(folder / "a.csv", task)
    assert np.array_equal(back.tokens_NL, puzzles.tokens_NL)
    assert np.array_equal(back.answers_NL, puzzles.answers_NL)

    with (folder / "b.jsonl").open("w") as out:
        for question, answer in pairs:
            out.write(json.dumps({"question": question.tolist(), "answer": answer.tolist()}) + "\n")
    assert [r[1:] for r in read_rows(folder / "b.jsonl")] == [r[1:] for r in rows]


# --- honest splits


def numbered(count: int) -> tuple[Grid, Puzzles]:
    """Puzzles that differ by more than a symmetry: the numbers from 0, in binary."""
    rows = [row(" ".join(f"x{i:012b}"), " ".join(f"x{i:012b}")) for i in range(count)]
    task = Grid(infer(rows, permute="01"))
    return task, to_puzzles(rows, task)


def forms(puzzles: Puzzles, task: Grid) -> set[bytes]:
    return {task.canonical(tokens) for tokens in puzzles.tokens_NL}


def test_splits_are_a_partition_of_the_sizes_asked_for():
    task, puzzles = numbered(60)
    parts = split(puzzles, task, validation=10, test=20, seed=3)
    assert {name: len(part) for name, part in parts.items()} == {"train": 30, "validation": 10, "test": 20}
    together = np.concatenate([part.tokens_NL for part in parts.values()])
    assert sorted(map(bytes, together)) == sorted(map(bytes, puzzles.tokens_NL))
    for part in parts.values():
        assert np.array_equal(part.tokens_NL, part.answers_NL)  # questions keep their answers


def test_splits_are_a_function_of_the_seed():
    task, puzzles = numbered(60)
    once, again, other = (split(puzzles, task, 10, 20, seed) for seed in (5, 5, 6))
    for name, part in once.items():
        assert np.array_equal(part.tokens_NL, again[name].tokens_NL)
    assert forms(once["test"], task) != forms(other["test"], task)
    chosen = [split(puzzles, task, 10, 20, seed)["test"].tokens_NL for seed in range(30)]
    assert len(np.unique(np.concatenate(chosen), axis=0)) == 60  # none is never chosen


@settings(max_examples=25, deadline=None)
@given(
    kinds=st.lists(st.integers(0, 5), min_size=12, max_size=40),
    sizes=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    seed=st.integers(0, 2**63 - 1),
)
def test_no_two_splits_share_a_form(kinds, sizes, seed):
    """Each kind is a number of 1s in a row of 0s; its images are the flips and the swap of 0 and 1."""
    random = np.random.default_rng(seed % 2**32)
    rows = []
    for kind in kinds:
        text = "1" * kind + "0" * (11 - kind)
        text = text[::-1] if random.random() < 0.5 else text
        text = text.translate(str.maketrans("01", "10")) if random.random() < 0.5 else text
        rows.append(row(" ".join(text), " ".join(text)))
    task = Grid(GridConfig(height=1, width=11, symbols=("0", "1"), dihedral=True, permute=("0", "1")))
    puzzles = to_puzzles(rows, task)
    assert len(forms(puzzles, task)) == len(set(kinds))
    try:
        parts = split(puzzles, task, *sizes, seed)
    except UserError as error:
        assert "leave none for" in str(error)
        return
    for a, b in itertools.combinations(parts.values(), 2):
        assert not forms(a, task) & forms(b, task)
    assert sum(map(len, parts.values())) == len(kinds)
    assert len(parts["train"]) > 0
    for name, size in zip(("validation", "test"), sizes, strict=True):
        assert min(size, 1) <= len(parts[name]) <= size


def test_too_few_puzzles():
    task, puzzles = numbered(5)
    message = refusal(split, puzzles, task, validation=2, test=3, seed=0)
    assert "5 puzzles (5 essentially different) leave none for train, with 2 for validation and 3" in message
    assert "cannot be negative" in refusal(split, puzzles, task, validation=-1, test=0, seed=0)
    rows = [row("0 1", "0 1"), row("1 0", "1 0")]
    task = Grid(infer(rows, permute="01"))
    message = refusal(split, to_puzzles(rows, task), task, validation=1, test=0, seed=0)
    assert "2 puzzles (1 essentially different) leave none for validation" in message


def test_one_question_with_two_answers_names_both_lines():
    rows = [row("1 .", "1 2", "line 2"), row("2 .", "2 1", "line 3"), row("1 .", "1 2", "line 4")]
    check_answers(rows)
    message = refusal(check_answers, [*rows, row("1 .", "1 1", "line 9")])
    assert message == "line 9: the same question as in line 2, but another answer; remove one of them"
    check_answers([row("1 .", "1 2", puzzle="a"), row("1 .", "1 1", puzzle="b")])  # another rule


def test_one_puzzle_in_two_splits_names_both_lines():
    train = [row("1 .", "1 2", "a.csv, line 2"), row("1 .", "1 2", "a.csv, line 3"), row("1 1", "1 1", "x")]
    test = [row(". .", "1 2", "b.csv, line 2"), row(". 2", "1 2", "b.csv, line 3")]
    plain, symmetric = (
        Grid(infer([*train, *test], dihedral=flag, permute="12" if flag else "")) for flag in (False, True)
    )
    check_splits({"train": train, "test": test}, plain)
    assert refusal(check_splits, {"train": train, "test": test}, symmetric) == (
        "b.csv, line 3 (test): equivalent to the puzzle of a.csv, line 2 (train); keep it in one of them only"
    )
    assert "a.csv, line 3 (b): equivalent" in refusal(check_splits, {"a": train[:1], "b": train[1:2]}, plain)
    other = [row("1 .", "1 1", "c.csv, line 2")]
    assert "c.csv, line 2: the same question as in a.csv, line 2, but" in refusal(
        check_splits, {"train": train, "test": other}, plain
    )


# --- the puzzles of the tutorial


def completions(question: list[str], size: int) -> list[list[str]]:
    """All Latin squares that keep the clues: rows from all permutations, columns checked."""
    found: list[list[str]] = [[]]
    for clues in question:
        fits = [
            "".join(line)
            for line in itertools.permutations("123456789"[:size])
            if all(clue in (".", symbol) for clue, symbol in zip(clues, line, strict=True))
        ]
        found = [
            [*above, line]
            for above in found
            for line in fits
            if all(symbol != other[i] for other in above for i, symbol in enumerate(line))
        ]
    return found


@pytest.mark.parametrize("size", [3, 4])
def test_latin_squares_of_the_tutorial(tmp_path, size):
    def make(seed: int, out: str) -> list[Row]:
        options = ["--count", "12", "--size", str(size), "--seed", str(seed), "--out", tmp_path / out]
        subprocess.run([sys.executable, LATIN, *options], check=True)
        return read_rows(tmp_path / out)

    rows = make(0, "a.csv")
    assert [r[1:] for r in make(0, "b.csv")] == [r[1:] for r in rows]
    assert [r[1:] for r in make(1, "b.csv")] != [r[1:] for r in rows]
    assert len({r.question for r in rows}) == 12
    for r in rows:
        question, answer = (text.replace(" ", "").split("/") for text in (r.question, r.answer))
        assert completions(question, size) == [answer]
        for i, j in itertools.product(range(size), repeat=2):  # no clue can be spared
            if question[i][j] != ".":
                fewer = [
                    line[:j] + "." + line[j + 1 :] if n == i else line for n, line in enumerate(question)
                ]
                assert len(completions(fewer, size)) > 1


def test_the_tutorial_says_when_there_are_no_more_puzzles(tmp_path):
    options = ["--size", "2", "--out", tmp_path / "a.csv"]
    done = subprocess.run([sys.executable, LATIN, *options], capture_output=True, text=True)
    assert done.returncode == 2
    assert "only 8 puzzles of this size" in done.stderr
