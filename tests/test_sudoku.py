"""The Sudoku task: text, rules, symmetries and pictures, against rules written down once more here."""

import itertools
import string
from collections import Counter
from io import StringIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tiny import PUZZLES

from trm import rng
from trm.errors import UserError
from trm.puzzles.sudoku.config import SudokuConfig, SudokuGeneratorConfig
from trm.puzzles.sudoku.family import BLANK, Sudoku
from trm.puzzles.sudoku.solver import search

BOXES = [(2, 2), (2, 3), (3, 2), (3, 3), (4, 4)]
CHARS = "." + string.digits[1:] + string.ascii_uppercase


def task_of(rows: int, cols: int) -> Sudoku:
    return Sudoku(SudokuConfig(box_rows=rows, box_cols=cols))


def solved(rows: int, cols: int) -> np.ndarray:
    """A right board as tokens: each row is the first one, shifted."""
    n = rows * cols
    return np.array(
        [(cols * (r % rows) + r // rows + c) % n + 2 for r in range(n) for c in range(n)], dtype=np.uint8
    )


def obeys_the_rules(puzzle, answer, rows: int, cols: int) -> bool:
    """Every row, column and box holds each digit once, and the clues are kept."""
    n = rows * cols
    grid = [list(map(int, answer[r * n : r * n + n])) for r in range(n)]
    boxes = [
        [grid[r + i][c + j] for i in range(rows) for j in range(cols)]
        for r in range(0, n, rows)
        for c in range(0, n, cols)
    ]
    units = grid + [list(column) for column in zip(*grid, strict=True)] + boxes
    whole = all(sorted(unit) == list(range(2, n + 2)) for unit in units)
    return whole and all(p in (BLANK, a) for p, a in zip(puzzle, answer, strict=True))


def keys(count: int) -> torch.Tensor:
    return rng.fold(rng.stream("test"), torch.arange(count))


def spread(counts: Counter, kinds: int) -> float:
    """Chi-squared against equal shares, in standard deviations above its mean."""
    expected = counts.total() / kinds
    seen = sum((count - expected) ** 2 / expected for count in counts.values())
    return (seen + (kinds - len(counts)) * expected - (kinds - 1)) / (2 * (kinds - 1)) ** 0.5


def plain(picture) -> str:
    Console(file=(out := StringIO()), width=80).print(picture)
    return out.getvalue()


# --- text


@pytest.mark.parametrize("box", BOXES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_text_round_trip(box, data):
    task = task_of(*box)
    text = data.draw(st.text(CHARS[: task.side + 1], min_size=task.length, max_size=task.length))
    tokens_L = task.parse(text)
    assert tokens_L.dtype == np.uint8
    assert tokens_L.tolist() == [CHARS.index(char) + 1 for char in text]
    assert task.text(tokens_L) == text


@pytest.mark.parametrize(
    "drawn",
    [
        "12|34\n34|12\n--+--\n21|43\n43|2.",
        "+---+---+\n|1 2|3 4|\r\n|3 4|1 2|\n+---+---+\n|2 1|4 3|\n|4 3|2 .|\n+---+---+",
        "┌───┬───┐\n│1 2│3 4│\n│3 4│1 2│\n├───┼───┤\n│2 1│4 3│\n│4 3│2 0│\n└───┴───┘",
        "╔══╦══╗║12║34║║34║12║╠══╬══╣║21║43║║43║2_.║╚══╩══╝",
    ],
)
def test_drawn_boards_are_read(drawn):
    task = task_of(2, 2)
    assert task.text(task.parse(drawn)) == "123434122143432."


@pytest.mark.parametrize("box", BOXES)
def test_a_picture_can_be_read_back(box):
    task = task_of(*box)
    tokens_L = solved(*box)
    assert np.array_equal(task.parse(plain(task.render(tokens_L, tokens_L))), tokens_L)


def test_letters_in_either_case():
    task = task_of(4, 4)
    text = task.text(solved(4, 4))
    assert text.startswith("123456789ABCDEFG")
    assert np.array_equal(task.parse(text), solved(4, 4))
    assert np.array_equal(task.parse(text.lower()), solved(4, 4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has 0 cells, but a 6x6 Sudoku has 36"),
        ("." * 35, "has 35 cells, but a 6x6 Sudoku has 36"),
        ("." * 37, "has 37 cells"),
        ("." * 8 + "7" + "." * 27, "'7' in row 2, column 3 is not a digit of a 6x6 Sudoku; use 1-6"),
        ("." * 35 + "x", "'x' in row 6, column 6"),
        ("¹" + "." * 35, "'¹' in row 1, column 1"),
    ],
)
def test_malformed_text(text, message):
    with pytest.raises(UserError, match=r"cells|digit") as caught:
        task_of(2, 3).parse(text)
    assert message in str(caught.value)


def test_a_configuration_builds_its_family():
    task = SudokuConfig(box_rows=2, box_cols=3).build()
    assert (task.side, task.length, task.vocab_size) == (6, 36, 8)


# --- rules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1..1............", "contradictory clues: 1 stands in row 1, column 1 and in row 1, column 4"),
        ("2...........2...", "contradictory clues: 2 stands in row 1, column 1 and in row 4, column 1"),
        ("..3....3........", "contradictory clues: 3 stands in row 1, column 3 and in row 2, column 4"),
        ("123........4....", "no solution"),
        ("................", "several solutions"),
        ("12343412........", "several solutions"),
    ],
)
def test_check_refuses(text, message):
    task = task_of(2, 2)
    with pytest.raises(UserError) as caught:
        task.check(task.parse(text))
    assert message in str(caught.value)


def test_check_accepts_one_solution():
    task = task_of(2, 2)
    for puzzle in (*PUZZLES, "1234341221......"):
        task.check(task.parse(puzzle))
    wikipedia = "530070000600195000098000060800060003400803001700020006060000280000419005000080079"
    task_of(3, 3).check(task_of(3, 3).parse(wikipedia))


@pytest.mark.parametrize("box", BOXES)
def test_right_answers_are_verified(box):
    task, answer_L = task_of(*box), solved(*box)
    for seed in range(20):
        blank_L = np.random.default_rng(seed).random(task.length) < seed / 19
        assert task.verify(np.where(blank_L, BLANK, answer_L).astype(np.uint8), answer_L)


@pytest.mark.parametrize("box", BOXES)
def test_wrong_answers_are_never_verified(box):
    """Garbage tokens, swapped cells, swapped rows, broken clues: 800 mutations for each size."""
    task, answer_L, random = task_of(*box), solved(*box), np.random.default_rng(0)
    for i in range(800):
        wrong_L, puzzle_L = answer_L.copy(), np.full_like(answer_L, BLANK)
        if i % 4 == 0:
            wrong_L[random.integers(task.length)] = random.integers(256)
        elif i % 4 == 1:
            a, b = random.integers(task.length, size=2)
            wrong_L[[a, b]] = wrong_L[[b, a]]
        elif i % 4 == 2:
            clue = random.integers(task.length)
            puzzle_L[clue] = random.integers(2, task.side + 2)
        else:
            wrong_L = random.integers(256, size=task.length).astype(np.uint8)
        assert task.verify(puzzle_L, wrong_L) is obeys_the_rules(puzzle_L, wrong_L, *box)


def test_verify_refuses_every_single_wrong_token():
    task, answer_L = task_of(2, 3), solved(2, 3)
    puzzle_L = np.full_like(answer_L, BLANK)
    for cell, token in itertools.product(range(task.length), range(256)):
        wrong_L = answer_L.copy()
        wrong_L[cell] = token
        assert task.verify(puzzle_L, wrong_L) == (token == answer_L[cell])


# --- symmetries


@pytest.mark.parametrize("box", BOXES)
def test_symmetries_map_puzzles_with_their_solutions(box):
    task, answer_L = task_of(*box), solved(*box)
    blank_L = np.random.default_rng(0).random(task.length) < 0.6
    puzzle_L = np.where(blank_L, BLANK, answer_L)
    symmetry = task.symmetry(keys(200))
    answers_BL = symmetry.apply(torch.from_numpy(answer_L).long().expand(200, -1)).numpy()
    puzzles_BL = symmetry.apply(torch.from_numpy(puzzle_L).long().expand(200, -1)).numpy()
    assert len(np.unique(answers_BL, axis=0)) > 100
    for puzzle, answer in zip(puzzles_BL, answers_BL, strict=True):
        assert (puzzle == BLANK).sum() == blank_L.sum()
        assert obeys_the_rules(puzzle, answer, *box)


@pytest.mark.parametrize("box", BOXES)
def test_bands_stay_bands_and_only_square_boxes_transpose(box):
    task = task_of(*box)
    cells_BNN = task.symmetry(keys(400)).cells_BL.view(400, task.side, task.side)
    row_BNN, col_BNN = cells_BNN // task.side, cells_BNN % task.side
    upright_B = (row_BNN == row_BNN[:, :, :1]).flatten(1).all(1)
    row_BN = torch.where(upright_B[:, None], row_BNN[:, :, 0], col_BNN[:, :, 0])
    col_BN = torch.where(upright_B[:, None], col_BNN[:, 0], row_BNN[:, 0])
    for line_BN, size in ((row_BN, box[0]), (col_BN, box[1])):
        assert torch.equal(line_BN.sort(1).values, torch.arange(task.side).expand(400, -1))
        group_BGS = (line_BN // size).view(400, -1, size)
        assert (group_BGS == group_BGS[:, :, :1]).all()
    if box[0] == box[1]:
        assert 160 < upright_B.sum() < 240  # 200 expected, standard deviation 10
    else:
        assert upright_B.all()


def test_moves_of_4x4_are_a_group_drawn_evenly():
    moves = Counter(map(tuple, task_of(2, 2).symmetry(keys(6400)).cells_BL.tolist()))
    assert len(moves) == 128  # (2 bands x 2 x 2 rows) x (the same for columns) x transpose
    assert tuple(range(16)) in moves
    for a, b in itertools.product(list(moves)[::8], moves):
        assert tuple(a[cell] for cell in b) in moves
    assert spread(moves, 128) < 4


def test_digits_are_renamed_evenly():
    symbols = task_of(2, 2).symmetry(keys(4800)).symbols_BV
    assert (symbols[:, :2] == torch.tensor([0, BLANK])).all()
    names = Counter(map(tuple, symbols[:, 2:].tolist()))
    assert set(names) == set(itertools.permutations(range(2, 6)))
    assert spread(names, 24) < 4


def test_symmetry_depends_on_its_own_key_only():
    task = task_of(3, 3)
    whole, part = task.symmetry(keys(9)), task.symmetry(keys(9)[4:6])
    assert torch.equal(whole.cells_BL[4:6], part.cells_BL)
    assert torch.equal(whole.symbols_BV[4:6], part.symbols_BV)


# --- pictures


def test_picture_of_4x4():
    task = task_of(2, 2)
    picture = task.render(task.parse("1..............."), task.parse("123434122143432."))
    assert plain(picture) == "1 2 │ 3 4\n3 4 │ 1 2\n────┼────\n2 1 │ 4 3\n4 3 │ 2 .\n"


def test_picture_of_2x3_boxes():
    task = task_of(2, 3)
    bar = "──────┼──────\n"
    expected = (
        "1 2 3 │ 4 5 6\n4 5 6 │ 1 2 3\n" + bar
        + "2 3 4 │ 5 6 1\n5 6 1 │ 2 3 4\n" + bar
        + "3 4 5 │ 6 1 2\n6 1 2 │ 3 4 5\n"
    )  # fmt: skip
    assert plain(task.render(solved(2, 3), solved(2, 3))) == expected


def test_picture_of_3x2_boxes():
    task = task_of(3, 2)
    lines = plain(task.render(solved(3, 2), solved(3, 2))).splitlines()
    assert lines[0] == "1 2 │ 3 4 │ 5 6"
    assert [i for i, line in enumerate(lines) if line == "────┼─────┼────"] == [3]
    assert len(lines) == 7


def test_tokens_that_are_no_digits_are_question_marks():
    task = task_of(2, 2)
    answer_L = solved(2, 2)
    answer_L[:3] = 0, 6, 255
    assert plain(task.render(answer_L, answer_L)).startswith("? ? │ ? 4")
    assert task.text(answer_L).startswith("???4")


def test_colours_say_clue_guess_change_and_broken_clue_on_a_terminal_only():
    task = task_of(2, 2)
    puzzle_L, previous_L = task.parse("12.............."), task.parse("13.4............")
    picture = task.render(puzzle_L, task.parse("133............."), previous_L)
    assert "\x1b" not in plain(picture)
    terminal = Console(file=(out := StringIO()), force_terminal=True, color_system="standard", no_color=False)
    terminal.print(picture)
    first = out.getvalue().splitlines()[0]
    assert "\x1b[1m1\x1b[0m" in first  # a clue that is kept
    assert "\x1b[1;31m3\x1b[0m" in first  # a clue that is broken
    assert "\x1b[30;43m3\x1b[0m" in first  # a guess that has changed
    assert "\x1b[36m.\x1b[0m" in out.getvalue().splitlines()[1]  # a guess as before


def test_generated_puzzles_have_the_wanted_difficulty():
    task = task_of(2, 3)
    for least, most in ((0, 0), (2, 3)):
        config = SudokuGeneratorConfig(test=20, min_guesses=least, max_guesses=most)
        tokens, answers, ratings = task.generate(config, 0, (), lambda found: None)["test"]
        assert ratings.min() >= least and ratings.max() <= most
        for tokens_L, answer_L, rating in zip(tokens, answers, ratings, strict=True):
            assert search(tokens_L - 1, 2, 3, limit=1).guesses == rating
            assert task.verify(tokens_L, answer_L)
            assert (task.solve_exactly(tokens_L) == answer_L).all()
