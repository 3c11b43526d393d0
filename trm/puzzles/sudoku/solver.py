"""Exact Sudoku solver for boards of any box size, and the checks of clues and answers.

Every cell keeps a bitmask of its candidates. Naked singles (a cell with one candidate) and hidden singles
(a digit with one place in a unit) are propagated until nothing changes; then one candidate is guessed. A
guess is binary: the candidate holds, or it is struck out. So a cell with two candidates and a digit with
two places are branched on by the same code.

Shapes: L = N * N cells in row-major order (0 = blank, 1..N = digits), N = box_rows * box_cols symbols,
U = 3 * N units (rows, columns, boxes), P = peers of a cell, k = solutions found.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from trm.errors import UserError
from trm.jit import njit

MAX_SYMBOLS = 30  # candidates are bits of an int32


class Search(NamedTuple):
    """What a search found: it is proof only when `complete`."""

    solutions: np.ndarray  # uint8 [k, L]
    guesses: int  # candidates tried without proof
    complete: bool  # False when the guess budget ran out before the answer was settled


class Layout(NamedTuple):
    """The cells that constrain one another, and the order in which guesses are tried."""

    units_UN: np.ndarray  # uint16: cells of each row, column and box
    peers_LP: np.ndarray  # uint16: cells that share a unit with a cell
    order_L: np.ndarray  # uint16: cells, the preferred first
    digits_LN: np.ndarray  # uint8: digits - 1 of each cell, the preferred first


@lru_cache
def layout(box_rows: int, box_cols: int) -> Layout:
    """Tables of a board of `box_rows` x `box_cols` boxes; read-only by convention.

    Raises:
        UserError: a box is empty or larger than 30 cells.
    """
    n = box_rows * box_cols
    if min(box_rows, box_cols) < 1 or n > MAX_SYMBOLS:
        raise UserError(
            f"a Sudoku box of {box_rows} x {box_cols} is not supported: "
            f"choose positive sides with a product of at most {MAX_SYMBOLS}"
        )
    cells = np.arange(n * n, dtype=np.uint16)
    row, col = np.divmod(cells, n)
    box = row // box_rows * box_rows + col // box_cols
    units_UN = np.stack([cells[unit == i] for unit in (row, col, box) for i in range(n)])
    shares_LL = ((row[:, None] == row) | (col[:, None] == col) | (box[:, None] == box)) & ~np.eye(
        n * n, dtype=bool
    )
    peers_LP = np.nonzero(shares_LL)[1].astype(np.uint16).reshape(n * n, -1)
    return Layout(units_UN, peers_LP, cells, np.tile(np.arange(n, dtype=np.uint8), (n * n, 1)))


def checked(board_L: np.ndarray, box_rows: int, box_cols: int) -> np.ndarray:
    """A copy of the board, contiguous uint8 [L].

    Raises:
        UserError: the board has another length or holds a digit above N.
    """
    board_L = np.asarray(board_L)
    n = box_rows * box_cols
    if board_L.shape != (n * n,):
        raise UserError(
            f"a {n} x {n} Sudoku has {n * n} cells, but the board has shape {board_L.shape}: "
            "give the cells as one flat row-major array"
        )
    if board_L.min() < 0 or board_L.max() > n:
        cell = int(np.argmax((board_L < 0) | (board_L > n)))
        raise UserError(
            f"row {cell // n + 1}, column {cell % n + 1} holds {board_L[cell]}: "
            f"use 0 for a blank and 1 to {n} for digits"
        )
    # Never the board itself: it may be read-only, and numba would compile all once more for that.
    return np.array(board_L, np.uint8)


def search(
    board_L: np.ndarray,
    box_rows: int,
    box_cols: int,
    limit: int = 2,
    max_guesses: int = 10_000_000,
    rng: np.random.Generator | None = None,
) -> Search:
    """Find up to `limit` solutions of a board.

    Args:
        board_L: uint8, 0 = blank, 1..N = digits.
        box_rows: Rows of a box.
        box_cols: Columns of a box.
        limit: Stop after this many solutions; 2 decides uniqueness.
        max_guesses: Budget of guesses.
        rng: When given, ties between guesses and the order of digits are random.

    Raises:
        UserError: the board has another length or holds a digit above N.
    """
    board_L = checked(board_L, box_rows, box_cols)
    n = box_rows * box_cols
    domains_L = np.where(board_L == 0, (1 << n) - 1, 1 << (board_L.astype(np.int32) - 1) % n)
    tables = layout(box_rows, box_cols)
    if rng is not None:
        tables = tables._replace(
            order_L=rng.permutation(tables.order_L),
            digits_LN=rng.permuted(tables.digits_LN, axis=1),
        )
    return search_domains(domains_L, tables, limit, max_guesses)


def search_domains(domains_L: np.ndarray, tables: Layout, limit: int, max_guesses: int) -> Search:
    """Like `search`, from the allowed digits of each cell (bit d - 1 = digit d)."""
    solutions_kL, guesses, complete = _search(domains_L.astype(np.int32), *tables, limit, max_guesses)
    return Search(solutions_kL, guesses, complete)


def guesses(board_L: np.ndarray, box_rows: int, box_cols: int, max_guesses: int = 10_000_000) -> int:
    """Rating of difficulty: guesses until the first solution is found, and no more.

    It is 0 for puzzles that naked and hidden singles solve, and `max_guesses` when the budget ran out.
    """
    return search(board_L, box_rows, box_cols, 1, max_guesses).guesses


def conflict(board_L: np.ndarray, box_rows: int, box_cols: int) -> tuple[int, int] | None:
    """Two cells (row-major indices) with the same digit in a row, column or box; None if there are none."""
    board_L = checked(board_L, box_rows, box_cols)
    first, second = _conflict(board_L, layout(box_rows, box_cols).units_UN)
    return None if second < 0 else (int(first), int(second))


def is_solution(puzzle_L: np.ndarray, answer_L: np.ndarray, box_rows: int, box_cols: int) -> bool:
    """Whether `answer_L` is a complete, valid grid that keeps every clue of `puzzle_L`.

    An answer may be any array, such as the raw prediction of a model: it is then False.
    """
    puzzle_L, answer_L = np.asarray(puzzle_L), np.asarray(answer_L)
    n = box_rows * box_cols
    if answer_L.shape != (n * n,) or puzzle_L.shape != (n * n,):
        return False
    if not ((answer_L >= 1) & (answer_L <= n)).all():
        return False
    grid_L = answer_L.astype(np.uint8)
    if not ((grid_L == answer_L) & ((puzzle_L == 0) | (puzzle_L == answer_L))).all():
        return False
    return conflict(grid_L, box_rows, box_cols) is None


@njit
def _search(domains_L, units_UN, peers_LP, order_L, digits_LN, limit, max_guesses):
    """Depth-first search; returns (solutions [k, L], guesses, complete)."""
    cells = len(domains_L)
    stack = np.empty((cells + 1, cells), np.int32)  # candidates at each depth
    guessed = np.empty(cells + 1, np.uint16)  # the cell whose candidate was guessed there
    queue_L = np.empty(cells, np.uint16)  # solved cells whose peers do not know it yet
    solutions = np.empty((limit, cells), np.uint8)
    queued = 0
    for cell in range(cells):
        stack[0, cell] = domains_L[cell]
        if _is_single(domains_L[cell]):
            queue_L[queued] = cell
            queued += 1
    depth = found = guesses = 0
    while depth >= 0 and found < limit:
        if _propagate(stack[depth], queue_L, queued, units_UN, peers_LP):
            cell, choices = _choose(stack[depth], units_UN, order_L)
            if choices:
                if guesses == max_guesses:
                    return solutions[:found], guesses, False
                guesses += 1
                bit = _first(choices, digits_LN[cell])
                for i in range(cells):
                    stack[depth + 1, i] = stack[depth, i]
                stack[depth, cell] ^= bit  # what is left to search when the guess has failed
                guessed[depth] = cell
                depth += 1
                stack[depth, cell] = bit
                queue_L[0] = cell
                queued = 1
                continue
            for cell in range(cells):
                solutions[found, cell] = _digit(stack[depth, cell])
            found += 1
        depth -= 1
        queued = 0
        if depth >= 0 and _is_single(stack[depth, guessed[depth]]):
            queue_L[0] = guessed[depth]
            queued = 1
    return solutions[:found], guesses, True


@njit
def _propagate(candidates_L, queue_L, queued, units_UN, peers_LP):
    """Naked and hidden singles until nothing changes; False at a contradiction.

    A cell enters the queue once, when it loses its last alternative.
    """
    every = (1 << units_UN.shape[1]) - 1
    while True:
        while queued:
            queued -= 1
            cell = queue_L[queued]
            bit = candidates_L[cell]
            for i in range(peers_LP.shape[1]):
                peer = peers_LP[cell, i]
                if candidates_L[peer] & bit:
                    rest = candidates_L[peer] ^ bit
                    candidates_L[peer] = rest
                    if rest == 0:
                        return False
                    if _is_single(rest):
                        queue_L[queued] = peer
                        queued += 1
        for u in range(units_UN.shape[0]):
            once = twice = solved = 0
            for i in range(units_UN.shape[1]):
                mask = candidates_L[units_UN[u, i]]
                twice |= once & mask
                once |= mask
                solved |= mask if _is_single(mask) else 0
            if once != every:
                return False
            hidden = once & ~(twice | solved)
            if hidden == 0:
                continue
            for i in range(units_UN.shape[1]):
                cell = units_UN[u, i]
                bit = candidates_L[cell] & hidden
                if bit:
                    if not _is_single(bit):
                        return False  # two digits have no place but this one
                    candidates_L[cell] = bit
                    queue_L[queued] = cell
                    queued += 1
        if queued == 0:
            return True


@njit
def _choose(candidates_L, units_UN, order_L):
    """The cell to guess in and the digits to choose from (a mask; 0 when every cell is solved).

    The first choice has two alternatives: two digits of a cell, or two places of a digit.
    """
    best_cell, best_size = 0, 99
    for i in range(len(order_L)):
        cell = order_L[i]
        size = _size(candidates_L[cell])
        if 1 < size < best_size:
            best_cell, best_size = cell, size
            if size == 2:
                break
    if best_size == 99:
        return 0, 0
    if best_size > 2:
        for u in range(units_UN.shape[0]):
            once = twice = more = 0
            for i in range(units_UN.shape[1]):
                mask = candidates_L[units_UN[u, i]]
                more |= twice & mask
                twice |= once & mask
                once |= mask
            pairs = twice & ~more
            if pairs:
                for i in range(units_UN.shape[1]):
                    cell = units_UN[u, i]
                    if candidates_L[cell] & pairs:
                        return cell, candidates_L[cell] & pairs
    return best_cell, candidates_L[best_cell]


@njit
def _conflict(board_L, units_UN):
    """The first pair of equal digits within a unit, or (-1, -1)."""
    for u in range(units_UN.shape[0]):
        seen = np.full(units_UN.shape[1] + 1, -1)
        for i in range(units_UN.shape[1]):
            cell = units_UN[u, i]
            digit = board_L[cell]
            if digit and seen[digit] >= 0:
                return seen[digit], np.int64(cell)
            seen[digit] = cell
    return np.int64(-1), np.int64(-1)


@njit
def _is_single(mask):
    return mask & (mask - 1) == 0


@njit
def _size(mask):
    size = 0
    while mask:
        mask &= mask - 1
        size += 1
    return size


@njit
def _digit(bit):
    digit = 0
    while bit:
        bit >>= 1
        digit += 1
    return digit


@njit
def _first(choices, digits_N):
    """The bit of the preferred digit among `choices`."""
    for i in range(len(digits_N)):
        bit = 1 << digits_N[i]
        if choices & bit:
            return bit
    return 0
