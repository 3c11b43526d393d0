"""Sudoku puzzles by the thousand, none of them a disguise of another.

Relabelling digits, permuting bands, stacks, the rows of a band or the columns of a stack, and (square boxes)
transposing turn a puzzle into one that looks new and is not. Train and test puzzles must differ by more than
that, so every board gets a canonical form: equal for two boards exactly when a symmetry maps one to the
other.

The form is the least image of the board over a search tree. Colours of rows, columns and digits are refined
from one another (a row's colour takes in the colours of the columns and digits that its clues touch) until
no class splits; where rows or columns still look alike, each member of one class is singled out in turn. A
leaf, where all lines differ, orders the board. Colours are 64-bit hashes that no symmetry can change; should
two of them collide, the tree grows, but a leaf remains a true image of the board. Two equal leaves reveal an
automorphism, and what it maps to searched ground is skipped.
(The method: McKay and Piperno, "Practical graph isomorphism, II", 2014.)

Shapes: N = box_rows * box_cols symbols, L = N * N cells in row-major order, n = puzzles, C = clues,
M = 2 * N lines (rows, then columns), V = 3 * N coloured things (lines, then digits), T = M + 1 tree levels.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from trm.errors import UserError
from trm.jit import njit
from trm.puzzles.deal import Different, cut
from trm.puzzles.sudoku.solver import checked, guesses, is_solution, layout, search, search_domains

PATIENCE = 5_000  # tries in a row without a new puzzle before a generator gives up
_SETTLED = 20_000  # guesses within which it must be settled whether another puzzle has one solution
_LEAST = 0.6  # of the rating of a given puzzle, that puzzles like it have at least
_TRIES = 12  # for another puzzle like one of them, before it is the next one's turn
_GO_ON = 0.8  # probability that a walk goes on from where it is


class Generated(NamedTuple):
    """Puzzles of one split."""

    puzzles: np.ndarray  # uint8 [n, L]
    solutions: np.ndarray  # uint8 [n, L]
    ratings: np.ndarray  # int32 [n]: guesses to the first solution


def random_solution(box_rows: int, box_cols: int, rng: np.random.Generator) -> np.ndarray:
    """A random full grid, uint8 [L]; grids are not all equally likely.

    The search starts afresh when an early guess was unlucky: its budget is a few guesses per cell.
    """
    cells = (box_rows * box_cols) ** 2
    blank_L = np.zeros(cells, np.uint8)
    while True:
        found = search(blank_L, box_rows, box_cols, limit=1, max_guesses=4 * cells, rng=rng)
        if len(found.solutions):
            return found.solutions[0]


def minimal_puzzle(
    solution: np.ndarray,
    box_rows: int,
    box_cols: int,
    rng: np.random.Generator,
    max_guesses: int = 5_000,
) -> np.ndarray:
    """Remove clues in random order while the solution stays unique; uint8 [L].

    A clue may go when no solution has another digit in its cell. Where that is not settled within
    `max_guesses`, the clue stays: large boards may keep clues that they could do without.

    Raises:
        UserError: `solution` is not a full, valid grid.
    """
    if not is_solution(solution, solution, box_rows, box_cols):
        raise UserError("a puzzle can only be made from a full, valid grid: solve the board first")
    return _thinned(solution, box_rows, box_cols, rng, max_guesses)


def other_puzzle(
    puzzle_L: np.ndarray, solution_L: np.ndarray, box_rows: int, box_cols: int, rng: np.random.Generator
) -> np.ndarray:
    """A minimal puzzle with the same solution, a few clues away from a given one; uint8 [L].

    One to four clues are taken away, others given until the solution is the only one again, and then all
    that the puzzle can do without removed. It may be the same puzzle that comes back.
    """
    puzzle_L = puzzle_L.copy()
    clues_C = np.flatnonzero(puzzle_L)
    puzzle_L[rng.choice(clues_C, min(rng.integers(1, 5), len(clues_C)), replace=False)] = 0
    while True:
        found = search(puzzle_L, box_rows, box_cols, limit=2, max_guesses=_SETTLED)
        others = [other_L for other_L in found.solutions if (other_L != solution_L).any()]
        if found.complete and not others:
            return _thinned(puzzle_L, box_rows, box_cols, rng, _SETTLED)
        # Where it is not settled whether there is another solution, any further clue helps.
        open_L = others[0] != solution_L if others else puzzle_L == 0
        cell = rng.choice(np.flatnonzero(open_L))
        puzzle_L[cell] = solution_L[cell]


def generate(
    box_rows: int,
    box_cols: int,
    counts: Mapping[str, int],
    seed: int,
    *,
    extra_clues: int = 0,
    guesses: tuple[int, int] | None = None,
    avoid: Iterable[np.ndarray] = (),
    progress: Callable[[int], None] | None = None,
) -> dict[str, Generated]:
    """Essentially different puzzles with one solution each, dealt at random into splits.

    No two puzzles, of one split or of two, are images of each other under a Sudoku symmetry.

    Args:
        box_rows: Rows of a box.
        box_cols: Columns of a box.
        counts: Number of puzzles by name of the split.
        seed: Equal seeds give equal puzzles.
        extra_clues: Random clues put back on each minimal puzzle, for easier and more puzzles.
        guesses: Wanted range of ratings, both ends included.
        avoid: Boards, uint8 [L], to which no puzzle may be equivalent.
        progress: Called with the number of puzzles found so far.

    Raises:
        UserError: 5,000 tries in a row gave no new puzzle of the wanted kind, or the wish makes no sense
            (clues for all cells).
    """
    least, most = guesses or (0, 1_000_000)
    if extra_clues < 0 or least > most or min(counts.values(), default=0) < 0:
        raise UserError(
            f"cannot generate {dict(counts)} puzzles with {extra_clues} extra clues and {least} to {most} "
            "guesses: give counts and extra_clues of at least 0 and a range in ascending order"
        )
    rng = np.random.default_rng(seed)
    total = sum(counts.values())
    different = Different(canonical(board_L, box_rows, box_cols) for board_L in avoid)
    found: list[tuple[np.ndarray, np.ndarray, int]] = []
    misses = 0
    while len(found) < total:
        solution_L = random_solution(box_rows, box_cols, rng)
        puzzle_L = minimal_puzzle(solution_L, box_rows, box_cols, rng)
        puzzle_L = _with_clues(puzzle_L, solution_L, extra_clues, rng)
        if puzzle_L.all():
            raise UserError(
                f"extra_clues {extra_clues} fills a whole board, with nothing to solve: give fewer"
            )
        first = search(puzzle_L, box_rows, box_cols, limit=1, max_guesses=most)
        wanted = first.complete and first.guesses >= least
        if wanted and different.add(canonical(puzzle_L, box_rows, box_cols)):
            found.append((puzzle_L, solution_L, first.guesses))
            misses = 0
            if progress:
                progress(len(found))
        elif (misses := misses + 1) == PATIENCE:
            raise UserError(
                f"only {len(found)} of {total} essentially different puzzles were found before "
                f"{PATIENCE} tries in a row gave nothing new: "
                "ask for fewer puzzles, more or fewer extra_clues, or a wider range of guesses"
            )
    return _deal(found, counts, (box_rows * box_cols) ** 2, rng)


def more_like(
    puzzles_nL: np.ndarray,
    solutions_nL: np.ndarray,
    box_rows: int,
    box_cols: int,
    count: int,
    seed: int,
    *,
    avoid: Iterable[np.ndarray] = (),
    progress: Callable[[int], None] | None = None,
) -> Generated:
    """Other puzzles with the solutions of given ones, about as many of each.

    All are minimal, and no two equivalent, nor one to a given one. A walk leads from puzzle to puzzle
    (`other_puzzle`), never to one with less than 60 % of the rating of the given one, and is begun anew now
    and then.

    Args:
        puzzles_nL: Puzzles, uint8.
        solutions_nL: The solution of each.
        box_rows: Rows of a box.
        box_cols: Columns of a box.
        count: Number of new puzzles.
        seed: Equal seeds give equal puzzles.
        avoid: Boards, uint8 [L], to which no puzzle may be equivalent.
        progress: Called with the number of puzzles found so far.

    Raises:
        UserError: 5,000 tries in a row gave no new puzzle.
    """
    rng = np.random.default_rng(seed)
    box = (box_rows, box_cols)
    different = Different(canonical(board_L, *box) for board_L in (*puzzles_nL, *avoid))
    least = [_LEAST * guesses(puzzle_L, *box, _SETTLED) for puzzle_L in puzzles_nL]
    here = list(puzzles_nL)
    found: list[tuple[np.ndarray, np.ndarray, int]] = []
    misses = 0
    number = tried = 0  # a hard puzzle gets more tries, so that there are about as many of each
    while len(found) < count:
        start_L = here[number] if rng.random() < _GO_ON else puzzles_nL[number]
        puzzle_L = other_puzzle(start_L, solutions_nL[number], *box, rng)
        rating = guesses(puzzle_L, *box, _SETTLED)
        tried, misses = tried + 1, misses + 1
        if rating >= least[number] and different.add(canonical(puzzle_L, *box)):
            here[number] = puzzle_L
            found.append((puzzle_L, solutions_nL[number], rating))
            tried = misses = 0
            if progress:
                progress(len(found))
        elif misses == PATIENCE:
            raise UserError(
                f"only {len(found)} of {count} other puzzles were found before {PATIENCE} tries in a row "
                "gave nothing new: ask for fewer"
            )
        if tried in (0, _TRIES):
            number, tried = (number + 1) % len(here), 0
    return _gathered(found, (box_rows * box_cols) ** 2)


def canonical(board_L: np.ndarray, box_rows: int, box_cols: int) -> bytes:
    """The canonical form of a puzzle or full grid: an image of it, L bytes.

    Two boards have equal forms if and only if a symmetry of the Sudoku maps one to the other.

    Raises:
        UserError: the board has another length or holds a digit above N.
    """
    board_L = checked(board_L, box_rows, box_cols)
    n = box_rows * box_cols
    here, best = _node(n), _node(n)
    _least_image(board_L, box_rows, box_cols, here, best, False)
    if box_rows == box_cols:
        turned_L = np.ascontiguousarray(board_L.reshape(n, n).T).reshape(-1)
        _least_image(turned_L, box_rows, box_cols, here, best, True)
    return best.image_L.tobytes()


def _thinned(
    board_L: np.ndarray, box_rows: int, box_cols: int, rng: np.random.Generator, max_guesses: int
) -> np.ndarray:
    """Remove clues of a board with one solution, in random order, while it stays the only one."""
    puzzle_L = board_L.copy()
    every = (1 << box_rows * box_cols) - 1
    domains_L = np.where(board_L, np.int32(1) << (board_L.astype(np.int32) - 1).clip(0), every).astype(
        np.int32
    )
    tables = layout(box_rows, box_cols)
    for cell in rng.permutation(len(board_L)):
        if not board_L[cell]:
            continue
        own = domains_L[cell]
        domains_L[cell] = every ^ own
        other = search_domains(domains_L, tables, 1, max_guesses)
        if other.complete and not len(other.solutions):
            domains_L[cell] = every
            puzzle_L[cell] = 0
        else:
            domains_L[cell] = own
    return puzzle_L


def _with_clues(
    puzzle_L: np.ndarray, solution_L: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Put back `count` random clues, or as many as there are blanks."""
    puzzle_L = puzzle_L.copy()
    cells = rng.permutation(np.flatnonzero(puzzle_L == 0))[:count]
    puzzle_L[cells] = solution_L[cells]
    return puzzle_L


def _deal(
    rows: list[tuple[np.ndarray, np.ndarray, int]],
    counts: Mapping[str, int],
    cells: int,
    rng: np.random.Generator,
) -> dict[str, Generated]:
    """Deal the rows into splits in random order: rare puzzles are found late, and belong everywhere."""
    parts = cut(rng.permutation(len(rows)), counts)
    return {name: _gathered([rows[at] for at in part], cells) for name, part in parts.items()}


def _gathered(rows: list[tuple[np.ndarray, np.ndarray, int]], cells: int) -> Generated:
    return Generated(
        np.array([row[0] for row in rows], np.uint8).reshape(-1, cells),
        np.array([row[1] for row in rows], np.uint8).reshape(-1, cells),
        np.array([row[2] for row in rows], np.int32),
    )


class _Node(NamedTuple):
    """A node of the search tree; image and places are those of a leaf."""

    path_T: np.ndarray  # int64: the line singled out at each level
    trace_T: np.ndarray  # int64: an invariant of the node at each level
    place_M: np.ndarray  # int64: the line at each place of the image
    image_L: np.ndarray  # uint8: the board in the order of the leaf


def _node(n: int) -> _Node:
    return _Node(
        np.full(2 * n + 1, -1), np.zeros(2 * n + 1, int), np.zeros(2 * n, int), np.zeros(n * n, "u1")
    )


@njit
def _least_image(board_L, box_rows, box_cols, here, best, known):
    """Search the tree of one orientation for the leaf with the least (trace, image) and keep it in `best`.

    With `known`, `best` comes from the other orientation; a leaf equal to it shows that the two trees are
    images of each other, and nothing is left to do. `here` is work space.
    """
    n = box_rows * box_cols
    clues_C3 = _clues(board_L, n)
    colour_TV = np.empty((2 * n + 1, 3 * n), np.int64)
    target_T = np.empty(2 * n + 1, np.int64)  # colour of the class whose members are singled out
    orbit_TM = np.empty((2 * n + 1, 2 * n), np.int64)  # the least line that each is an image of
    for v in range(3 * n):
        colour_TV[0, v] = _mix(v // n + 1)
    own = False  # the best leaf is of this tree
    ahead = not known  # this node is less than the best leaf, whatever follows
    level = 0
    while True:
        leaf, target_T[level] = _refine(clues_C3, colour_TV[level], box_rows, box_cols)
        trace = here.trace_T[level] = _trace(colour_TV[level], leaf)
        ahead = ahead or trace < best.trace_T[level]
        branch = level - 1  # where to go on
        if (ahead or trace == best.trace_T[level]) and not leaf:
            here.path_T[level] = -1
            for v in range(2 * n):
                orbit_TM[level, v] = v
            branch = level
        elif ahead or trace == best.trace_T[level]:
            _arrange(board_L, colour_TV[level], box_rows, box_cols, here.place_M, here.image_L)
            order = -1 if ahead else _compare(here.image_L, best.image_L)
            if order < 0:
                _keep(here, best)
                own, ahead = True, False
            elif order == 0 and own:
                branch = _use_automorphism(here, best, level, orbit_TM)
            elif order == 0:
                return
        line = 2 * n
        while branch >= 0:
            line = _next(here.path_T[branch] + 1, colour_TV[branch], target_T[branch], orbit_TM[branch])
            if line < 2 * n:
                break
            branch -= 1
        if branch < 0:
            return
        here.path_T[branch] = line
        level = branch + 1
        _copy(colour_TV[branch], colour_TV[level])
        colour_TV[level, line] = _mix(colour_TV[level, line] + 1)


@njit
def _next(line, colour_V, target, orbit_M):
    """The next line of the target class that is no image of an earlier one."""
    while line < len(orbit_M) and (colour_V[line] != target or orbit_M[line] != line):
        line += 1
    return line


@njit
def _trace(colour_V, leaf):
    """An invariant of a node, even at a leaf only."""
    total = 0
    for colour in colour_V:
        total += colour
    return total << 1 | (not leaf)


@njit
def _clues(board_L, n):
    """The row, column and digit of each clue, as indices of coloured things."""
    clues_C3 = np.empty((len(board_L), 3), np.int64)
    i = 0
    for cell in range(len(board_L)):
        if board_L[cell]:
            clues_C3[i, 0] = cell // n
            clues_C3[i, 1] = n + cell % n
            clues_C3[i, 2] = 2 * n + board_L[cell] - 1
            i += 1
    return clues_C3[:i]


@njit
def _refine(clues_C3, colour_V, box_rows, box_cols):
    """Refine colours in place until no class splits.

    Returns whether all lines differ, and else the colour of the largest class of alike lines.
    """
    n = box_rows * box_cols
    sum_V = np.empty_like(colour_V)
    classes = 0
    while True:
        sum_V[:] = 0
        for i in range(len(clues_C3)):
            row, col, digit = clues_C3[i]
            clue = _mix(colour_V[row] + colour_V[col] + colour_V[digit])
            sum_V[row] += clue
            sum_V[col] += clue
            sum_V[digit] += clue
        for v in range(3 * n):
            colour_V[v] = _mix(3 * colour_V[v] + sum_V[v])
        _mix_groups(colour_V, 0, n, box_rows)
        _mix_groups(colour_V, n, 2 * n, box_cols)
        before, largest, target = classes, 1, 0
        classes = 0
        for v in range(3 * n):
            size, first = 1, True
            for w in range(3 * n):
                if w != v and colour_V[w] == colour_V[v]:
                    size += 1
                    first = first and v < w
            classes += first
            if size > 1 and v < 2 * n and (size, colour_V[v]) > (largest, target):
                largest, target = size, colour_V[v]
        if classes == before or largest == 1:
            return largest == 1, target


@njit
def _mix_groups(colour_V, start, stop, size):
    """Let each line know the lines of its band or stack."""
    for first in range(start, stop, size):
        total = 0
        for v in range(first, first + size):
            total += colour_V[v]
        for v in range(first, first + size):
            colour_V[v] = _mix(colour_V[v] + 3 * total)


@njit
def _arrange(board_L, colour_V, box_rows, box_cols, place_M, image_L):
    """Write the board with its lines in order of colour, and the lines at each place.

    Digits are numbered as they first appear, so that they need no order of their own.
    """
    n = box_rows * box_cols
    _order(colour_V, 0, n, box_rows, place_M)
    _order(colour_V, n, 2 * n, box_cols, place_M)
    name = np.zeros(256, np.uint8)
    names = 0
    for cell in range(n * n):
        digit = board_L[place_M[cell // n] * n + place_M[n + cell % n] - n]
        if digit and name[digit] == 0:
            names += 1
            name[digit] = names
        image_L[cell] = name[digit]


@njit
def _order(colour_V, start, stop, size, place_M):
    """Sort lines by colour: bands (or stacks) by their least line, then the lines of each."""
    band_M = np.empty(stop, np.int64)
    for v in range(start, stop):
        first = v - (v - start) % size
        band_M[v] = colour_V[first]
        for w in range(first, first + size):
            band_M[v] = min(band_M[v], colour_V[w])
    for v in range(start, stop):
        rank = start
        for w in range(start, stop):
            rank += (band_M[w], colour_V[w]) < (band_M[v], colour_V[v])
        place_M[rank] = v


@njit
def _keep(here, best):
    _copy(here.path_T, best.path_T)
    _copy(here.trace_T, best.trace_T)
    _copy(here.place_M, best.place_M)
    _copy(here.image_L, best.image_L)


@njit
def _copy(a, b):
    """Write `a` into `b` (a slice assignment would take a second to compile)."""
    for i in range(len(a)):
        b[i] = a[i]


@njit
def _compare(a, b):
    """-1, 0 or 1: lexicographic order."""
    for i in range(len(a)):
        if a[i] != b[i]:
            return -1 if a[i] < b[i] else 1
    return 0


@njit
def _use_automorphism(here, best, level, orbit_TM):
    """Merge orbits by the automorphism that maps the best leaf to this equal one; returns where to go on.

    That is the level where the two paths part, if the automorphism maps the one branch to the other.
    """
    image_M = np.empty_like(here.place_M)
    for i in range(len(image_M)):
        image_M[best.place_M[i]] = here.place_M[i]
    parting = 0
    while best.path_T[parting] == here.path_T[parting]:
        if image_M[here.path_T[parting]] != here.path_T[parting]:
            return level - 1  # possible only when colours collide
        parting += 1
    if image_M[best.path_T[parting]] != here.path_T[parting]:
        return level - 1
    for i in range(parting + 1):
        _merge(orbit_TM[i], image_M)
    return parting


@njit
def _merge(orbit_M, image_M):
    """Join the orbit of each line with that of its image; the least line names an orbit."""
    for v in range(len(image_M)):
        a, b = orbit_M[v], orbit_M[image_M[v]]
        for w in range(len(orbit_M)):
            if orbit_M[w] == a or orbit_M[w] == b:
                orbit_M[w] = min(a, b)


@njit
def _mix(x):
    """A bijection of 64-bit integers that spreads every bit (multiply, shift, twice)."""
    x = (x ^ (x >> 31)) * 0x5851F42D4C957F2D
    x = (x ^ (x >> 28)) * 0x2545F4914F6CDD1D
    return x ^ (x >> 32)
