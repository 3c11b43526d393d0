"""Shortest paths in mazes: the label, the check of an answer, the generator.

A maze is a grid of tokens: 0 pad, 1 wall `#`, 2 free ` `, 3 start `S`, 4 goal `G`; it has one S and one G.
Its answer is the same grid with the free cells of one shortest path from S to G turned into 5 `o`.
A step goes to one of the four neighbours inside the grid; walls and pads are closed.

Lengths are counted in cells, S and G included. Inside this file a grid is a flat array with a border of
one closed cell, so that no step can leave it and a neighbour is a fixed offset.

Shape legend: N mazes, H height, W width, P = (H + 2) * (W + 2) cells with the border.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from trm.errors import UserError
from trm.jit import njit

PAD, WALL, FREE, START, GOAL, PATH = range(6)

_CLOSED, _UNSEEN = -1, 0  # of a distance grid; a cell that was reached holds 1, 2, 3, ...

_STARTS_PER_MAP = 20
_CELLS_PER_CALL = 20_000_000  # about half a second, so that Ctrl-C gets through between two calls
_CELLS_WITHOUT_A_FIND = 1_000_000_000  # 5 to 20 seconds, then `generate` gives up


class PathCheck(NamedTuple):
    """What `check_path` says of an answer; `shortest` implies `valid`."""

    valid: bool
    shortest: bool


def shortest_path(maze_HW: np.ndarray) -> np.ndarray | None:
    """The answer of a maze by the label rule of the public Maze-Hard data set.

    Many shortest paths tie. The label is the one of a breadth-first search from S with a FIFO queue and
    neighbours in the order down, left, right, up, where the first parent of a cell wins.

    Args:
        maze_HW: tokens 0..4 with one S and one G, any integer type.

    Returns:
        The answer, uint8 [H, W], or None where no path joins S and G.

    Raises:
        UserError: the maze is malformed.
    """
    maze_HW = _well_formed(maze_HW)
    start, goal, distance_P, parent_P = _flood_from_start(maze_HW)
    if distance_P[goal] == _UNSEEN:
        return None
    answer = np.pad(maze_HW, 1)
    cell = parent_P[goal]
    while cell != start:
        answer.flat[cell] = PATH
        cell = parent_P[cell]
    return answer[1:-1, 1:-1].copy()


def path_length(maze_HW: np.ndarray) -> int:
    """Cells of a shortest path, S and G included; 0 where no path joins them.

    Args:
        maze_HW: tokens 0..4 with one S and one G, any integer type.

    Raises:
        UserError: the maze is malformed.
    """
    return _length(_well_formed(maze_HW))


def check_path(maze_HW: np.ndarray, answer_HW: np.ndarray) -> PathCheck:
    """Whether an answer is a path from S to G, and whether it is a shortest one.

    Valid: the answer is the maze with free cells turned into `o` and nothing else, and its `o` cells with
    S and G are one simple path whose cells touch only their predecessor and successor. A path that runs
    beside itself is refused: as a set of cells it has no one order, and to ask whether some order exists
    is the Hamiltonian path problem. A shortest path never runs beside itself, for it could take the
    short cut; so `shortest` is exact.

    Args:
        maze_HW: tokens 0..4 with one S and one G, any integer type.
        answer_HW: anything of any shape and type; what is not a path is not valid.

    Raises:
        UserError: the maze (never the answer) is malformed.
    """
    maze_HW, answer_HW = _well_formed(maze_HW), np.asarray(answer_HW)
    if answer_HW.shape != maze_HW.shape:
        return PathCheck(False, False)
    marked_HW = (maze_HW == FREE) & (answer_HW == PATH)
    if not np.all(marked_HW | (answer_HW == maze_HW)):
        return PathCheck(False, False)
    # Wall off all but the marked cells. A shortest path has no short cuts: if the one that is left uses
    # every marked cell, then the marked cells are a path without branch, loop, touch or stray.
    corridor_HW = np.where((maze_HW == FREE) & ~marked_HW, np.uint8(WALL), maze_HW)
    length = int(marked_HW.sum()) + 2
    valid = _length(corridor_HW) == length
    return PathCheck(valid, valid and _length(maze_HW) == length)


def generate(
    height: int,
    width: int,
    count: int,
    seed: int,
    *,
    min_path: int,
    wall_probability: tuple[float, float] = (0.3, 0.5),
    progress: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random mazes whose shortest path is long, with their answers; no two are equal.

    The distribution is that of Maze-Hard: draw p ~ U(wall_probability), make each cell a wall with
    probability p, draw S and G from the free cells, keep the pair if its path has `min_path` cells. A
    random pair is kept once in 48,000 at 30 x 30 and 110 cells; one breadth-first search tests a start
    against all goals at once, and keeps it with the probability that a random goal would have been far
    enough. At most one maze comes from a map: where finds are rare, as there, this is the distribution
    above; where they are not, maps that are rich in long paths turn up less often than in it.

    Args:
        height: rows.
        width: columns.
        count: number of mazes N.
        seed: any integer; equal arguments give equal mazes on every machine, and a larger `count` only
            appends.
        min_path: least number of cells of a shortest path, S and G included; 2 or more.
        wall_probability: least and greatest p.
        progress: called after each maze with the number of mazes found so far.

    Returns:
        mazes uint8 [N, H, W], answers uint8 [N, H, W] as of `shortest_path`, lengths int32 [N] in cells.

    Raises:
        UserError: an argument is out of range, or no new maze turned up in a long row of random maps.
    """
    _check_arguments(height, width, count, min_path, wall_probability)
    low, high = map(float, wall_probability)
    mazes_NHW = np.empty((count, height, width), np.uint8)
    answers_NHW = np.empty_like(mazes_NHW)
    lengths_N = np.empty(count, np.int32)
    seen: set[bytes] = set()
    next_map = last_find = 0
    while len(seen) < count:
        if (next_map - last_find) * height * width > _CELLS_WITHOUT_A_FIND:
            raise UserError(
                f"{next_map - last_find:,} random maps of {height} x {width} in a row held no new maze with"
                f" a shortest path of {min_path} cells or more ({len(seen)} of {count} found before):"
                " lower min_path, enlarge the maze, or ask for fewer"
            )
        maze_HW = mazes_NHW[len(seen)]
        stop = next_map + _CELLS_PER_CALL // (height * width) + 1
        found, next_map = _search(np.uint64(seed % 2**64), next_map, stop, low, high, min_path, maze_HW)
        if not found or maze_HW.tobytes() in seen:
            continue
        answer_HW = shortest_path(maze_HW)
        assert answer_HW is not None  # the search has found its goal
        answers_NHW[len(seen)] = answer_HW
        lengths_N[len(seen)] = path_length(maze_HW)
        seen.add(maze_HW.tobytes())
        last_find = next_map
        if progress is not None:
            progress(len(seen))
    return mazes_NHW, answers_NHW, lengths_N


def other_ends(maze_HW: np.ndarray, min_path: int, seed: int, number: int) -> np.ndarray | None:
    """The same walls with another S and G, drawn as `generate` draws them: a maze, uint8 [H, W].

    A pure function of its arguments. None where a few random starts find no goal that is far enough; another
    number may.

    Args:
        maze_HW: tokens 0..4 with one S and one G, any integer type.
        min_path: least number of cells of a shortest path, S and G included; 2 or more.
        seed: any integer.
        number: which draw, 0 or more.

    Raises:
        UserError: the maze is malformed.
    """
    other_HW = _well_formed(maze_HW)
    other_HW[other_HW > FREE] = FREE
    return other_HW if _draw_ends(np.uint64(seed % 2**64), number, min_path, other_HW) else None


def longest(height: int, width: int) -> int:
    """A bound on the cells of a shortest path: of four cells in a square it takes three at most.

    With all four it could be shortened within the square.
    """
    return height * width - (height // 2) * (width // 2)


def _check_arguments(
    height: int, width: int, count: int, min_path: int, wall_probability: tuple[float, float]
) -> None:
    low, high = wall_probability
    if min(height, width) < 1 or height * width < 2:
        raise UserError(f"a maze of {height} x {width} has no room for S and G: enlarge it")
    if count < 0:
        raise UserError(f"cannot make {count} mazes: ask for 0 or more")
    if min_path < 2:
        raise UserError(f"min_path is {min_path}, but a path counts S and G: give 2 or more")
    if min_path > (most := longest(height, width)):
        raise UserError(
            f"min_path is {min_path}, but no shortest path in a maze of {height} x {width} is longer than "
            f"{most} cells: give min_path of {max(2, height + width - 2)}, say, or enlarge the maze"
        )
    if not 0 <= low <= high <= 1:
        raise UserError(f"wall_probability is ({low}, {high}): give 0 <= least <= greatest <= 1")


def _well_formed(maze_HW: np.ndarray) -> np.ndarray:
    """The maze as uint8, or a UserError that says what is wrong with it."""
    maze_HW = np.asarray(maze_HW)
    if maze_HW.ndim != 2:
        raise UserError(f"a maze has height and width, this one has shape {maze_HW.shape}")
    if not np.isin(maze_HW, (PAD, WALL, FREE, START, GOAL)).all():
        raise UserError("a maze holds tokens 0..4 (pad, wall, free, S, G): give the puzzle, not its answer")
    starts, goals = int((maze_HW == START).sum()), int((maze_HW == GOAL).sum())
    if (starts, goals) != (1, 1):
        raise UserError(f"a maze needs one S and one G, this one has {starts} S and {goals} G")
    return maze_HW.astype(np.uint8)


def _length(maze_HW: np.ndarray) -> int:
    _, goal, distance_P, _ = _flood_from_start(maze_HW)
    return int(distance_P[goal])  # an unseen goal holds 0


def _flood_from_start(maze_HW: np.ndarray) -> tuple[int, int, np.ndarray, np.ndarray]:
    """Search all cells from S: (cell of S, cell of G, distance [P], parent [P])."""
    padded_P = np.pad(maze_HW, 1).ravel()
    start, goal = (int(np.argmax(padded_P == token)) for token in (START, GOAL))
    distance_P = np.where(padded_P >= FREE, _UNSEEN, _CLOSED).astype(np.int32)
    parent_P, queue_P = np.zeros_like(distance_P), np.zeros_like(distance_P)
    _flood(distance_P, parent_P, queue_P, start, maze_HW.shape[1] + 2)
    return start, goal, distance_P, parent_P


@njit
def _flood(distance_P, parent_P, queue_P, start, stride):
    """Breadth-first search from `start`; returns the number of cells reached, near to far in `queue_P`.

    The order of the four offsets (down, left, right, up) and of the queue is the label rule.
    """
    distance_P[start] = 1
    queue_P[0] = start
    head, tail = 0, 1
    while head < tail:
        cell = queue_P[head]
        head += 1
        for offset in (stride, -1, 1, -stride):
            neighbour = cell + offset
            if distance_P[neighbour] == _UNSEEN:
                distance_P[neighbour] = distance_P[cell] + 1
                parent_P[neighbour] = cell
                queue_P[tail] = neighbour
                tail += 1
    return tail


@njit
def _mix(word):
    """SplitMix64's finalizer (Steele, Lea and Flood 2014): uint64 to a well-scrambled uint64."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@njit
def _uniform(state):
    """The next number of [0, 1) of a SplitMix64 stream; `state` is uint64 [1]."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    return (_mix(state[0]) >> np.uint64(11)) * 2.0**-53


@njit
def _draw_map(state, wall_probability, height, width, distance_P, free_P):
    """Fill `distance_P` with unseen and closed cells; list the former in `free_P`, return their number."""
    count = 0
    for row in range(1, height + 1):
        for column in range(1, width + 1):
            cell = row * (width + 2) + column
            if _uniform(state) < wall_probability:
                distance_P[cell] = _CLOSED
            else:
                distance_P[cell] = _UNSEEN
                free_P[count] = cell
                count += 1
    return count


@njit
def _draw_pair(state, free_count, stride, min_path, distance_P, free_P, parent_P, queue_P, reach_P):
    """(start, goal) on a fresh map, or (-1, -1) where no start came through.

    `reach_P` bounds from above how far a cell sees. A flood from s that gets as far as f lowers it for
    every cell c that it meets: by the triangle inequality c sees no further than d(c, s) + d(s, f). So the
    first floods of a map rule out most later starts without a flood.
    """
    for cell in range(len(reach_P)):
        reach_P[cell] = free_count
    for _ in range(_STARTS_PER_MAP):
        start = free_P[int(_uniform(state) * free_count)]
        if reach_P[start] < min_path:
            continue
        reached = _flood(distance_P, parent_P, queue_P, start, stride)
        first_far = reached  # the queue is sorted by distance: goals far enough are its tail
        while first_far > 0 and distance_P[queue_P[first_far - 1]] >= min_path:
            first_far -= 1
        pick = int(_uniform(state) * free_count)  # a random free cell, as if far goals came first
        if pick < reached - first_far:
            return start, queue_P[first_far + pick]
        furthest = distance_P[queue_P[reached - 1]]
        for cell in queue_P[:reached]:
            reach_P[cell] = min(reach_P[cell], distance_P[cell] + furthest - 1)  # s counts once
            distance_P[cell] = _UNSEEN
    return -1, -1


@njit
def _search(seed, first_map, stop_map, low, high, min_path, maze_HW):
    """Try the maps first_map, ..., stop_map - 1 of a seed; write the first maze found to `maze_HW`.

    A map is a pure function of (seed, its number). Returns (found, number of the next map to try).
    """
    height, width = maze_HW.shape
    distance_P, free_P, parent_P, queue_P, reach_P = _space(height, width)
    state = np.empty(1, np.uint64)
    for number in range(first_map, stop_map):
        state[0] = _mix(seed + _mix(np.uint64(number + 1)))
        wall_probability = low + (high - low) * _uniform(state)
        free_count = _draw_map(state, wall_probability, height, width, distance_P, free_P)
        if free_count < min_path:
            continue
        start, goal = _draw_pair(
            state, free_count, width + 2, min_path, distance_P, free_P, parent_P, queue_P, reach_P
        )
        if start < 0:
            continue
        for row in range(height):
            for column in range(width):
                open_cell = distance_P[(row + 1) * (width + 2) + column + 1] != _CLOSED
                maze_HW[row, column] = FREE if open_cell else WALL
        _mark(start, goal, maze_HW)
        return True, number + 1
    return False, stop_map


@njit
def _draw_ends(seed, number, min_path, maze_HW):
    """Write S and G to a maze that has neither; whether a pair came through, as in `_draw_pair`."""
    height, width = maze_HW.shape
    distance_P, free_P, parent_P, queue_P, reach_P = _space(height, width)
    free_count = _take_map(maze_HW, distance_P, free_P)
    state = np.empty(1, np.uint64)
    state[0] = _mix(seed + _mix(np.uint64(number + 1)))
    start, goal = _draw_pair(
        state, free_count, width + 2, min_path, distance_P, free_P, parent_P, queue_P, reach_P
    )
    if start < 0:
        return False
    _mark(start, goal, maze_HW)
    return True


@njit
def _take_map(maze_HW, distance_P, free_P):
    """What `_draw_map` does, for the free cells of a maze."""
    count = 0
    for row in range(maze_HW.shape[0]):
        for column in range(maze_HW.shape[1]):
            if maze_HW[row, column] == FREE:
                cell = (row + 1) * (maze_HW.shape[1] + 2) + column + 1
                distance_P[cell] = _UNSEEN
                free_P[count] = cell
                count += 1
    return count


@njit
def _space(height, width):
    """Arrays to search a map in: distances, all closed, and room for free cells, parents, queue and reach."""
    cells = (height + 2) * (width + 2)
    distance_P = np.full(cells, _CLOSED, np.int32)
    free_P, parent_P = np.empty(cells, np.int32), np.empty(cells, np.int32)
    queue_P, reach_P = np.empty(cells, np.int32), np.empty(cells, np.int32)
    return distance_P, free_P, parent_P, queue_P, reach_P


@njit
def _mark(start, goal, maze_HW):
    """Write S and G where these cells of the bordered grid lie."""
    stride = maze_HW.shape[1] + 2
    maze_HW[start // stride - 1, start % stride - 1] = START
    maze_HW[goal // stride - 1, goal % stride - 1] = GOAL
