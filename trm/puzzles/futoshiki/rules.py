"""The rules of Futoshiki: exact search, and puzzles with one solution.

A board is a Latin square of N digits in which some neighbours are known to be smaller or larger. Every cell
keeps a bitmask of its candidates. Digits that have one place, cells that have one digit, and the bounds that
inequalities set are propagated until nothing changes; then one candidate is guessed: it holds, or it is
struck out.

Shapes: L = N * N cells in row-major order (0 = blank, 1..N = digits), K inequalities, k solutions found.
"""

from typing import NamedTuple

import numpy as np

from trm.jit import njit


class Search(NamedTuple):
    """What a search found: all solutions, or as many as were asked for."""

    solutions: np.ndarray  # uint8 [k, L]
    guesses: int  # candidates tried without proof


class Board(NamedTuple):
    """Clues of a puzzle."""

    digits_L: np.ndarray  # uint8, 0 where there is none
    less_K2: np.ndarray  # int64: a smaller cell and its larger neighbour


def neighbours(side: int) -> np.ndarray:
    """All pairs of neighbours, the left or upper one first, int64 [2 N (N - 1), 2]."""
    cell_NN = np.arange(side * side).reshape(side, side)
    across = np.stack((cell_NN[:, :-1].ravel(), cell_NN[:, 1:].ravel()), 1)
    down = np.stack((cell_NN[:-1].ravel(), cell_NN[1:].ravel()), 1)
    return np.concatenate((across, down))


def search(board: Board, side: int, limit: int, rng: np.random.Generator | None = None) -> Search:
    """Up to `limit` solutions; with `rng`, guesses are tried in random order, so that the first is random."""
    every = (1 << side) - 1
    domains_L = np.where(board.digits_L, 1 << (board.digits_L.astype(np.int64) - 1).clip(0), every)
    digits_N = np.arange(side) if rng is None else rng.permutation(side)
    solutions, guesses = _search(domains_L, board.less_K2, side, digits_N, limit)
    return Search(solutions, guesses)


def holds(grid_L: np.ndarray, board: Board, side: int) -> bool:
    """Whether a grid solves a puzzle: a Latin square that keeps all clues."""
    digits_L = np.asarray(grid_L)
    if digits_L.min() < 1 or digits_L.max() > side:
        return False
    square_NN = digits_L.reshape(side, side)
    lines = (*square_NN, *square_NN.T)
    smaller, larger = board.less_K2.T
    return (
        all(len(set(line.tolist())) == side for line in lines)
        and bool(np.all((board.digits_L == 0) | (board.digits_L == digits_L)))
        and bool(np.all(digits_L[smaller] < digits_L[larger]))
    )


def generate(side: int, seed: int, number: int, extra_clues: int = 0) -> tuple[Board, np.ndarray, int]:
    """A minimal puzzle, with clues put back, its solution, and the guesses that the search needs for it.

    A pure function of the seed and the number of the puzzle.
    """
    rng = np.random.default_rng((seed, number))
    nothing = Board(np.zeros(side * side, np.uint8), np.zeros((0, 2), np.int64))
    (answer_L,), _ = search(nothing, side, 1, rng)
    # The guesses prefer early lines and one order of digits: shuffling makes up for both.
    square_NN = rng.permutation(side)[answer_L - 1].reshape(side, side) + 1
    answer_L = square_NN[rng.permutation(side)][:, rng.permutation(side)].ravel().astype(np.uint8)
    pair_K2 = neighbours(side)
    first, second = pair_K2.T
    less_K2 = np.where((answer_L[first] < answer_L[second])[:, None], pair_K2, pair_K2[:, ::-1])
    # Some puzzles live by their digits and others by their signs: what goes last stays most.
    kept = np.ones(side * side + len(less_K2), bool)
    signs = np.arange(len(kept)) >= side * side
    for clue in np.argsort(rng.random(len(kept)) + rng.random() * signs):
        kept[clue] = False
        if len(search(_clues(answer_L, less_K2, kept), side, 2).solutions) > 1:
            kept[clue] = True
    kept[rng.permutation(np.flatnonzero(~kept))[:extra_clues]] = True
    board = _clues(answer_L, less_K2, kept)
    return board, answer_L, search(board, side, 2).guesses


def _clues(answer_L: np.ndarray, less_K2: np.ndarray, kept: np.ndarray) -> Board:
    cells = len(answer_L)
    return Board(np.where(kept[:cells], answer_L, 0).astype(np.uint8), less_K2[kept[cells:]])


@njit
def _search(domains_L, less_K2, side, digits_N, limit):
    """Depth-first search; returns (solutions [k, L], guesses)."""
    cells = len(domains_L)
    stack = np.empty((cells + 1, cells), np.int64)  # candidates at each depth
    for i in range(cells):  # an assignment of whole rows would take a second to compile
        stack[0, i] = domains_L[i]
    solutions = np.empty((limit, cells), np.uint8)
    depth = found = guesses = 0
    while depth >= 0 and found < limit:
        if _propagate(stack[depth], less_K2, side):
            cell = _choose(stack[depth])
            if cell >= 0:
                guesses += 1
                bit = 0
                for digit in digits_N:
                    if stack[depth, cell] >> digit & 1:
                        bit = 1 << digit
                        break
                for i in range(cells):
                    stack[depth + 1, i] = stack[depth, i]
                stack[depth, cell] ^= bit  # what is left to search when the guess has failed
                depth += 1
                stack[depth, cell] = bit
                continue
            for cell in range(cells):
                solutions[found, cell] = _lowest(stack[depth, cell]) + 1
            found += 1
        depth -= 1
    return solutions[:found], guesses


@njit
def _propagate(candidates_L, less_K2, side):
    """Strike out what cannot be until nothing changes; False at a contradiction."""
    changed = True
    while changed:
        changed = False
        for k in range(len(less_K2)):
            small, large = less_K2[k, 0], less_K2[k, 1]
            if candidates_L[small] == 0 or candidates_L[large] == 0:
                return False
            below = candidates_L[small] & ((1 << _highest(candidates_L[large])) - 1)
            above = candidates_L[large] & ~((2 << _lowest(candidates_L[small])) - 1)
            changed |= below != candidates_L[small] or above != candidates_L[large]
            candidates_L[small], candidates_L[large] = below, above
        for line in range(2 * side):
            start, step = (line * side, 1) if line < side else (line - side, side)
            for i in range(side):
                mask = candidates_L[start + i * step]
                if mask == 0:
                    return False
                if mask & (mask - 1):
                    continue
                for j in range(side):
                    if j != i and candidates_L[start + j * step] & mask:
                        candidates_L[start + j * step] ^= mask
                        changed = True
            for digit in range(side):
                place, places = 0, 0
                for i in range(side):
                    if candidates_L[start + i * step] >> digit & 1:
                        place, places = start + i * step, places + 1
                if places == 0:
                    return False
                if places == 1 and candidates_L[place] != 1 << digit:
                    candidates_L[place] = 1 << digit
                    changed = True
    return True


@njit
def _choose(candidates_L):
    """The cell with the fewest alternatives, -1 when every cell is solved."""
    best, fewest = -1, 99
    for cell in range(len(candidates_L)):
        mask, size = candidates_L[cell], 0
        while mask:
            mask &= mask - 1
            size += 1
        if 1 < size < fewest:
            best, fewest = cell, size
    return best


@njit
def _lowest(mask):
    digit = 0
    while not mask >> digit & 1:
        digit += 1
    return digit


@njit
def _highest(mask):
    digit = 0
    while mask >> (digit + 1):
        digit += 1
    return digit
