"""Mazes against a plain-Python search, all simple paths of small mazes, and mutated answers."""

import csv
import itertools
import os
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm.errors import UserError
from trm.puzzles.maze import paths as maze_paths
from trm.puzzles.maze.paths import PathCheck, check_path, generate, path_length, shortest_path

CHARACTERS = "_# SGo"
WRONG = PathCheck(valid=False, shortest=False)
DETOUR = PathCheck(valid=True, shortest=False)
RIGHT = PathCheck(valid=True, shortest=True)


def grid(*rows: str) -> np.ndarray:
    return np.array([[CHARACTERS.index(c) for c in row] for row in rows], np.uint8)


def text(cells: np.ndarray) -> list[str]:
    return ["".join(CHARACTERS[token] for token in row) for row in cells]


def neighbours(rows: list[str], cell: tuple[int, int]) -> list[tuple[int, int]]:
    """Open neighbours of a cell: down, left, right, up."""
    y, x = cell
    around = [(y + 1, x), (y, x - 1), (y, x + 1), (y - 1, x)]
    inside = [(y, x) for y, x in around if 0 <= y < len(rows) and 0 <= x < len(rows[0])]
    return [(y, x) for y, x in inside if rows[y][x] in " SG"]


def find(rows: list[str], character: str) -> tuple[int, int]:
    return next((y, row.index(character)) for y, row in enumerate(rows) if character in row)


def plain_shortest_path(rows: list[str]) -> list[tuple[int, int]] | None:
    """The label rule once more, with a deque and dictionaries: cells from G back to S."""
    start, goal = find(rows, "S"), find(rows, "G")
    parent = {start: start}
    queue = deque([start])
    while queue:
        cell = queue.popleft()
        for other in neighbours(rows, cell):
            if other not in parent:
                parent[other] = cell
                queue.append(other)
    if goal not in parent:
        return None
    path = [goal]
    while path[-1] != start:
        path.append(parent[path[-1]])
    return path


def plain_answer(rows: list[str]) -> list[str] | None:
    path = plain_shortest_path(rows)
    if path is None:
        return None
    drawn = [list(row) for row in rows]
    for y, x in path[1:-1]:
        drawn[y][x] = "o"
    return ["".join(row) for row in drawn]


def paths_that_do_not_touch(rows: list[str]) -> set[frozenset[tuple[int, int]]]:
    """Cells of every path from S to G whose cells touch only their predecessor and successor."""
    goal, found = find(rows, "G"), set()

    def extend(path: list[tuple[int, int]]) -> None:
        if path[-1] == goal:
            found.add(frozenset(path))
            return
        for cell in neighbours(rows, path[-1]):
            if cell not in path and not set(neighbours(rows, cell)) & set(path[:-1]):
                extend([*path, cell])

    extend([find(rows, "S")])
    return found


@st.composite
def random_mazes(draw: st.DrawFn, most_cells: int = 144) -> np.ndarray:
    height = draw(st.integers(1, 12))
    width = draw(st.integers(2, max(2, min(12, most_cells // height))))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    walls = rng.random((height, width)) < draw(st.floats(0, 0.5))
    maze = np.where(walls, 1, 2).astype(np.uint8)
    maze[rng.random((height, width)) < 0.03] = 0
    start, goal = rng.choice(height * width, 2, replace=False)
    maze.flat[start], maze.flat[goal] = 3, 4
    return maze


@pytest.fixture(scope="module")
def hard() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return generate(30, 30, 60, seed=7, min_path=110)


@settings(deadline=None, max_examples=300)
@given(random_mazes())
def test_shortest_path_agrees_with_a_plain_search(maze):
    before = maze.copy()
    answer, rows = shortest_path(maze), text(maze)
    assert (None if answer is None else text(answer)) == plain_answer(rows)
    assert path_length(maze) == len(plain_shortest_path(rows) or [])
    np.testing.assert_array_equal(maze, before)
    if answer is not None:
        assert answer.dtype == np.uint8
        assert check_path(maze, answer) == RIGHT


def test_ties_go_down_left_right_up():
    assert text(shortest_path(grid("S  ", "   ", "  G"))) == ["S  ", "o  ", "ooG"]
    assert text(shortest_path(grid("  S", "   ", "G  "))) == ["  S", "  o", "Goo"]
    assert text(shortest_path(grid("G  ", "   ", "  S"))) == ["G  ", "o  ", "ooS"]
    assert text(shortest_path(grid("  G", "   ", "S  "))) == ["  G", "  o", "Soo"]
    assert text(shortest_path(grid(" S ", " # ", " G "))) == ["oS ", "o# ", "oG "]


def test_no_path():
    maze = grid("S#G", " # ")
    assert shortest_path(maze) is None
    assert path_length(maze) == 0
    assert check_path(maze, maze) == WRONG
    assert check_path(maze, grid("SoG", "   ")) == WRONG
    assert path_length(grid("S_G")) == 0  # pads are closed, too


def test_neighbours_need_no_path_cells():
    maze = grid("SG", "  ")
    assert path_length(maze) == 2
    assert check_path(maze, maze) == RIGHT
    assert check_path(maze, grid("SG", "oo")) == WRONG  # S touches G
    assert check_path(maze, grid("SG", "o ")) == WRONG


MAZE = grid(
    "S    #",
    " ### #",
    " #    ",
    "   # G",
    "     #",
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (["S    #", "o### #", "o# ooo", "ooo# G", "  ooo#"], WRONG),  # broken
        (["S    #", "o### #", "o#oooo", "ooo# G", "     #"], DETOUR),
        (["Soooo#", " ###o#", " #  oo", "   # G", "     #"], RIGHT),
        (["Soooo#", "o###o#", "o#oooo", "ooo# G", "     #"], WRONG),  # a loop of two paths
        (["S    #", "o### #", "o#   o", "o  #oG", "ooooo#"], WRONG),  # a stray next to G
        (["S    #", "o### #", "o#    ", "o  #oG", "ooooo#"], DETOUR),
        (["S    #", "o### #", "o#oooo", "o o# G", "ooo  #"], DETOUR),
        (["S    #", "o### #", "o#oooo", "ooo# G", "ooo  #"], WRONG),  # a block
        (["S   o#", "o### #", "o#oooo", "ooo# G", "     #"], WRONG),  # a stray
        (["So   #", "o### #", "o#oooo", "ooo# G", "     #"], WRONG),  # a branch
        (["S    #", "o### #", "o#oooo", "ooo# o", "     #"], WRONG),  # no G
        (["S    #", "oo## #", "o#oooo", "ooo# G", "     #"], WRONG),  # through a wall
        (["S    #", "o### #", "o#oooo", "ooo# G", "    G#"], WRONG),  # two G
        (["S    #", "o### #", "o#oooo", "ooo# G", "    ##"], WRONG),  # a new wall
        (["S    #", "o### #", "o#oooo", "ooo# G", "    _#"], WRONG),  # a pad
        (["S    #", " ### #", " #    ", "   # G", "     #"], WRONG),  # nothing marked
    ],
)
def test_hand_drawn_answers(answer, expected):
    assert check_path(MAZE, grid(*answer)) == expected


def test_a_path_beside_itself_is_refused():
    maze = grid("S   ", "    ", "G   ")
    assert check_path(maze, grid("Sooo", "   o", "Gooo")) == DETOUR
    assert check_path(maze, grid("Soo ", "ooo ", "G   ")) == WRONG


@settings(deadline=None, max_examples=25)
@given(random_mazes(most_cells=12))
def test_every_set_of_cells_of_a_small_maze(maze):
    rows = text(maze)
    right = paths_that_do_not_touch(rows)
    least = min(map(len, right), default=0)
    ends = {find(rows, "S"), find(rows, "G")}
    free = [tuple(cell) for cell in np.argwhere(maze == 2).tolist()][:8]
    for choice in range(2 ** len(free)):
        cells = [cell for bit, cell in enumerate(free) if choice >> bit & 1]
        answer = maze.copy()
        for cell in cells:
            answer[cell] = 5
        valid = frozenset([*cells, *ends]) in right
        assert check_path(maze, answer) == (valid, valid and len(cells) + 2 == least)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_mutated_answers(hard, data):
    number = data.draw(st.integers(0, len(hard[0]) - 1))
    maze, answer = hard[0][number], hard[1][number].copy()
    changes = data.draw(st.sampled_from(["drop an o", "add an o", "any token", "another maze"]))
    if changes == "drop an o":
        answer.flat[data.draw(st.sampled_from(np.flatnonzero(answer == 5).tolist()))] = 2
    elif changes == "add an o":
        answer.flat[data.draw(st.sampled_from(np.flatnonzero(answer == 2).tolist()))] = 5
    elif changes == "any token":
        cell = data.draw(st.integers(0, answer.size - 1))
        tokens = [token for token in range(256) if token != answer.flat[cell]]
        answer.flat[cell] = data.draw(st.sampled_from(tokens))
    else:
        answer = hard[1][number - 1]
    assert check_path(maze, answer) == WRONG


@settings(deadline=None, max_examples=100)
@given(random_mazes(), st.integers(0, 2**32))
def test_noise_is_not_a_path(maze, seed):
    noise = np.random.default_rng(seed).integers(-300, 300, maze.shape)
    noise[0, 0] = 77
    assert check_path(maze, noise) == WRONG


@pytest.mark.parametrize(
    "garbage",
    [
        np.zeros((0, 0)),
        np.full((2, 2), np.nan),
        np.array([["S", "o"], ["o", "G"]]),
        np.array([[None, "x"], [5, {}]]),
        np.full((2, 3), 5),
        np.array([[3, 5 + 256], [2, 4]]),  # would be right if it wrapped to uint8
        np.array([[3, 5.5], [2, 4]]),
        None,
        5,
    ],
)
def test_garbage_is_wrong_and_does_not_crash(garbage):
    assert check_path(grid("S ", " G"), garbage) == WRONG


def test_any_number_type_is_read():
    maze = grid("S ", " G")
    for kind in (np.int64, np.int8, np.float32):
        assert check_path(maze.astype(kind), shortest_path(maze).astype(kind)) == RIGHT


@pytest.mark.parametrize(
    ("maze", "message"),
    [
        (grid("S  "), "1 S and 0 G"),
        (grid("SGG"), "1 S and 2 G"),
        (grid("SoG"), "not its answer"),
        (np.array([[3, 4, 258]]), "tokens"),
        (np.array([3, 4]), "height and width"),
    ],
)
def test_a_malformed_maze_is_named(maze, message):
    for function in (shortest_path, path_length, lambda maze: check_path(maze, maze)):
        with pytest.raises(UserError, match=message):
            function(maze)


def test_generated_mazes_are_what_they_claim(hard):
    mazes, answers, lengths = hard
    assert mazes.shape == answers.shape == (60, 30, 30)
    assert (mazes.dtype, answers.dtype, lengths.dtype) == (np.uint8, np.uint8, np.int32)
    assert len({maze.tobytes() for maze in mazes}) == 60
    assert lengths.min() >= 110
    for maze, answer, length in zip(mazes, answers, lengths, strict=True):
        assert sorted(np.unique(maze)) == [1, 2, 3, 4]
        assert ((maze == 3).sum(), (maze == 4).sum()) == (1, 1)
        assert text(answer) == plain_answer(text(maze))
        assert length == (answer == 5).sum() + 2
        assert check_path(maze, answer) == RIGHT


def test_generated_mazes_look_like_the_public_ones(hard):
    """Maze-Hard, n = 2,000: length 114.8, sd 5.1; walls 334.5, sd 24.1."""
    mazes, _, lengths = hard
    walls = (mazes == 1).sum((1, 2))
    # Four standard errors of a mean of 60.
    assert abs(lengths.mean() - 114.8) < 2.6
    assert abs(walls.mean() - 334.5) < 12.4


def test_the_seed_fixes_the_mazes(hard):
    again = generate(30, 30, 5, seed=7, min_path=110)
    for few, many in zip(again, hard, strict=True):
        np.testing.assert_array_equal(few, many[:5])
    assert not np.array_equal(generate(30, 30, 1, seed=8, min_path=110)[0], again[0][:1])


def test_the_mazes_of_a_seed_are_the_same_on_every_machine():
    mazes, answers, lengths = generate(4, 6, 1, seed=0, min_path=9)
    assert text(mazes[0]) == ["S # # ", " ##G #", "  ##  ", "#     "]
    assert text(answers[0]) == ["S # # ", "o##Go#", "oo##o ", "#oooo "]
    assert lengths.tolist() == [11]


def test_any_integer_is_a_seed_and_progress_counts():
    heard: list[int] = []
    generate(5, 5, 3, seed=-(2**70) - 1, min_path=4, progress=heard.append)
    assert heard == [1, 2, 3]


def test_no_maze_twice_and_an_end_where_all_are_found():
    mazes, *_ = generate(1, 2, 2, seed=0, min_path=2)
    assert sorted(map(tuple, mazes[:, 0].tolist())) == [(3, 4), (4, 3)]


def test_an_impossible_wish_ends_with_advice(monkeypatch):
    monkeypatch.setattr(maze_paths, "_CELLS_WITHOUT_A_FIND", 1_000_000)
    monkeypatch.setattr(maze_paths, "_CELLS_PER_CALL", 300_000)
    with pytest.raises(UserError, match=r"path of 47 cells .*0 of 1 found.*lower min_path"):
        generate(8, 8, 1, seed=0, min_path=47)
    with pytest.raises(UserError, match="2 of 3 found"):  # there are only two
        generate(1, 2, 3, seed=0, min_path=2)
    with pytest.raises(UserError):  # no free cell at all
        generate(3, 3, 1, seed=0, min_path=2, wall_probability=(1, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "no room"),
        ({"height": 1, "width": 1}, "no room"),
        ({"count": -1}, "0 or more"),
        ({"min_path": 1}, "2 or more"),
        ({"wall_probability": (0.5, 0.3)}, "wall_probability"),
        ({"wall_probability": (0.0, 1.5)}, "wall_probability"),
    ],
)
def test_arguments_out_of_range_are_named(change, message):
    arguments = {"height": 4, "width": 4, "count": 1, "seed": 0, "min_path": 3} | change
    with pytest.raises(UserError, match=message):
        generate(**arguments)


def test_nothing_wished_nothing_made():
    mazes, answers, lengths = generate(4, 5, 0, seed=0, min_path=3)
    assert mazes.shape == answers.shape == (0, 4, 5)
    assert lengths.shape == (0,)


@pytest.mark.skipif("TRM_DATA" not in os.environ, reason="TRM_DATA names no data folder")
@pytest.mark.parametrize("split", ["train", "test"])
def test_all_public_answers_are_reproduced(split):
    with (Path(os.environ["TRM_DATA"]) / "maze" / f"{split}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1000
    for row in rows:
        maze, answer = (grid(row[key]).reshape(30, 30) for key in ("question", "answer"))
        np.testing.assert_array_equal(shortest_path(maze), answer)
        assert path_length(maze) == int(row["rating"])
        assert check_path(maze, answer) == RIGHT


def test_paths_that_no_board_holds_are_refused_at_once(monkeypatch):
    monkeypatch.setattr(maze_paths, "_search", None)  # nothing is searched
    with pytest.raises(UserError, match=r"no shortest path in a maze of 5 x 5 is longer than 21 cells"):
        generate(5, 5, 1, seed=0, min_path=110)
    monkeypatch.undo()
    for height, width in ((1, 6), (2, 2), (2, 3), (3, 3)):  # the longest of all small boards
        cells = range(height * width)
        boards = (
            np.array(["S" if c == s else "G" if c == g else "#" if c in walls else " " for c in cells])
            for s, g in itertools.permutations(cells, 2)
            for count in range(height * width - 1)
            for walls in itertools.combinations(set(cells) - {s, g}, count)
        )
        longest = max(path_length(grid(*board.reshape(height, width))) for board in boards)
        assert longest <= maze_paths.longest(height, width)
        if height == 1:
            assert longest == 6
