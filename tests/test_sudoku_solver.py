"""The solver against a brute force written here, known puzzles, and boards worked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm.errors import UserError
from trm.puzzles.sudoku.solver import conflict, guesses, is_solution, layout, search

# Puzzle and solution: Wikipedia's example, then three of Arto Inkala's and one of Gordon Royle's 17 clues.
KNOWN = {
    "530070000600195000098000060800060003400803001700020006060000280000419005000080079": (
        "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
    ),
    "800000000003600000070090200050007000000045700000100030001000068008500010090000400": (
        "812753649943682175675491283154237896369845721287169534521974368438526917796318452"
    ),
    "005300000800000020070010500400005300010070006003200080060500009004000030000009700": (
        "145327698839654127672918543496185372218473956753296481367542819984761235521839764"
    ),
    "100007090030020008009600500005300900010080002600004000300000010040000007007000300": (
        "162857493534129678789643521475312986913586742628794135356478219241935867897261354"
    ),
    "000000010400000000020000000000050407008000300001090000300400200050100000000806000": (
        "693784512487512936125963874932651487568247391741398625319475268856129743274836159"
    ),
}

VALID_4 = np.array([1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 1], np.uint8)
VALID_6 = np.array([(3 * (r % 2) + r // 2 + c) % 6 + 1 for r in range(6) for c in range(6)], np.uint8)


def board(text: str) -> np.ndarray:
    return np.array([int(c) for c in text], np.uint8)


def brute_force(cells: list[int], box_rows: int, box_cols: int, limit: int) -> list[list[int]]:
    """Every solution, by trying the digits of the first blank cell; clues that clash have none."""
    n = box_rows * box_cols

    def clash(a: int, b: int) -> bool:
        (row_a, col_a), (row_b, col_b) = divmod(a, n), divmod(b, n)
        box_a = row_a // box_rows, col_a // box_cols
        return row_a == row_b or col_a == col_b or box_a == (row_b // box_rows, col_b // box_cols)

    peers = [[b for b in range(n * n) if b != a and clash(a, b)] for a in range(n * n)]
    if any(cells[a] and cells[a] == cells[b] for a in range(n * n) for b in peers[a]):
        return []
    solutions: list[list[int]] = []

    def fill(cells: list[int]) -> None:
        if len(solutions) == limit:
            return
        if 0 not in cells:
            solutions.append(cells)
            return
        cell = cells.index(0)
        for digit in set(range(1, n + 1)) - {cells[peer] for peer in peers[cell]}:
            fill([*cells[:cell], digit, *cells[cell + 1 :]])

    fill(cells)
    return solutions


@pytest.mark.parametrize(
    ("solution", "box_rows", "box_cols", "fewest"), [(VALID_4, 2, 2, 0), (VALID_6, 2, 3, 8)]
)
def test_equals_brute_force(solution, box_rows, box_cols, fewest):
    rng = np.random.default_rng(0)
    limit, counts = 40, []
    for _ in range(120):
        puzzle = solution.copy()
        puzzle[rng.permutation(len(puzzle))[rng.integers(fewest, len(puzzle)) :]] = 0
        if rng.random() < 0.4:  # a wrong clue: often no solution is left
            puzzle[rng.integers(len(puzzle))] = rng.integers(1, box_rows * box_cols + 1)
        expected = brute_force(puzzle.tolist(), box_rows, box_cols, limit)
        found = search(puzzle, box_rows, box_cols, limit)
        assert found.complete
        assert len(found.solutions) == len(expected)
        assert len(np.unique(found.solutions, axis=0)) == len(expected)
        assert all(is_solution(puzzle, answer, box_rows, box_cols) for answer in found.solutions)
        if len(expected) < limit:
            assert sorted(found.solutions.tolist()) == sorted(expected)
        counts.append(len(expected))
    assert min(counts) == 0
    assert 1 in counts
    assert max(counts) == limit


def test_counts_all_4x4_grids():
    blank = np.zeros(16, np.uint8)
    assert len(search(blank, 2, 2, limit=1_000).solutions) == 288
    assert len(search(blank, 2, 2, limit=7).solutions) == 7
    assert len(search(blank, 2, 2, limit=0).solutions) == 0


@pytest.mark.parametrize(("puzzle", "solution"), KNOWN.items())
def test_known_puzzles(puzzle, solution):
    found = search(board(puzzle), 3, 3)
    assert found.complete
    assert found.solutions.tolist() == [board(solution).tolist()]
    assert found.solutions.dtype == np.uint8


@pytest.mark.parametrize(("box_rows", "box_cols"), [(1, 4), (2, 2), (3, 2), (2, 4), (3, 4), (4, 4), (5, 5)])
def test_solves_every_shape_from_a_blank_board(box_rows, box_cols):
    blank = np.zeros((box_rows * box_cols) ** 2, np.uint8)
    rng = np.random.default_rng(0)
    one, other = (search(blank, box_rows, box_cols, 1, rng=rng).solutions[0] for _ in range(2))
    assert is_solution(blank, one, box_rows, box_cols)
    assert (one != other).any()


def test_guesses_worked_by_hand():
    puzzle = VALID_4.copy()
    puzzle[5] = 0
    assert guesses(puzzle, 2, 2) == 0  # a naked single
    # Rows 1 and 2 and one cell of row 3 leave two grids: one guess tells them apart.
    puzzle = np.where(np.arange(16) < 9, VALID_4, 0).astype(np.uint8)
    assert guesses(puzzle, 2, 2) == 1
    inkala = board(list(KNOWN)[1])
    assert 0 < guesses(inkala, 3, 3) == search(inkala, 3, 3, 1).guesses < search(inkala, 3, 3).guesses


def test_budget_of_guesses():
    inkala = board(list(KNOWN)[1])
    needed = search(inkala, 3, 3).guesses
    assert search(inkala, 3, 3, max_guesses=needed).complete
    short = search(inkala, 3, 3, max_guesses=needed - 1)
    assert not short.complete
    assert short.guesses == needed - 1
    assert len(search(inkala, 3, 3, max_guesses=0).solutions) == 0
    assert guesses(inkala, 3, 3, max_guesses=3) == 3


def test_contradictions():
    twice = np.zeros(16, np.uint8)
    twice[[0, 3]] = 1
    none = search(twice, 2, 2)
    assert none.solutions.shape == (0, 16)
    assert (none.guesses, none.complete) == (0, True)
    # 1 2 3 . / . . . 4: the last cell of row 1 can hold no digit.
    stuck = np.array([1, 2, 3, 0, 0, 0, 0, 4] + [0] * 8, np.uint8)
    assert conflict(stuck, 2, 2) is None
    assert len(search(stuck, 2, 2).solutions) == 0


def test_conflict_worked_by_hand():
    blank = np.zeros(36, np.uint8)
    assert conflict(blank, 2, 3) is None
    assert conflict(VALID_6, 2, 3) is None
    for a, b in [(0, 5), (4, 34), (0, 8)]:  # a row, a column, a box of 2 rows and 3 columns
        clash = blank.copy()
        clash[[a, b]] = 3
        assert conflict(clash, 2, 3) == (a, b)
    apart = blank.copy()
    apart[[0, 9]] = 3
    assert conflict(apart, 2, 3) is None
    apart[[0, 9, 13]] = 3, 0, 3
    assert conflict(apart, 3, 2) == (0, 13)  # the same cells share a box of 3 rows and 2 columns


@given(st.integers(0, 35), st.integers(0, 255))
@settings(deadline=None)
def test_is_solution_on_a_mutated_answer(cell, value):
    answer = VALID_6.copy()
    answer[cell] = value
    puzzle = np.where(np.arange(36) % 3 == 0, VALID_6, 0).astype(np.uint8)
    assert is_solution(puzzle, answer, 2, 3) == (value == VALID_6[cell])


def test_is_solution_keeps_the_clues():
    other = np.array([0, 2, 1, 3, 4], np.uint8)[VALID_4]
    assert is_solution(np.zeros(16, np.uint8), other, 2, 2)
    assert not is_solution(VALID_4 * (VALID_4 == 1), other, 2, 2)
    assert is_solution(VALID_4 * (VALID_4 == 3), other, 2, 2)


@pytest.mark.parametrize(
    "answer",
    [
        np.zeros(16, np.uint8),
        np.full(16, 255, np.uint8),
        np.arange(16),
        np.full(16, -1),
        np.full(16, np.nan),
        VALID_4 + 0.5,
        VALID_4.astype(np.int64) + 256,
        VALID_4[:15],
        VALID_4.reshape(4, 4),
    ],
)
def test_is_solution_of_garbage_is_false(answer):
    assert not is_solution(np.zeros(16, np.uint8), answer, 2, 2)


def test_user_errors():
    with pytest.raises(UserError, match="81 cells"):
        search(np.zeros(80, np.uint8), 3, 3)
    with pytest.raises(UserError, match="row 2, column 1 holds 5"):
        search(np.array([0, 0, 0, 0, 5] + [0] * 11), 2, 2)
    with pytest.raises(UserError, match="holds -1"):
        conflict(np.full(16, -1), 2, 2)
    with pytest.raises(UserError, match="not supported"):
        layout(6, 6)
    with pytest.raises(UserError, match="not supported"):
        layout(0, 3)
