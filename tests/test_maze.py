"""Mazes as a task: text, rules, symmetries, generated splits. The rules themselves are in test_maze_paths."""

import random

import numpy as np
import pytest
import torch

from trm import rng
from trm.errors import UserError
from trm.puzzles.maze import family
from trm.puzzles.maze.config import MazeConfig, MazeGeneratorConfig
from trm.puzzles.maze.family import Maze
from trm.puzzles.symmetry import dihedral_cells

TASK = Maze(MazeConfig(height=3, width=4))
ROWS = ("S  #", " #  ", "  #G")
MAZE = TASK.parse("".join(ROWS))
RIGHT = TASK.parse("Soo#" " #oo" "  #G")  # fmt: skip
GENERATED = {"train": 30, "validation": 10, "test": 5, "min_path": 8}


def generate(task=None, **changes):
    task = task or Maze(MazeConfig(height=6, width=6))
    return task.generate(MazeGeneratorConfig(**GENERATED | changes), 3, (), lambda found: None)


def test_a_configuration_builds_its_family_makes_mazes():
    task = MazeConfig().build()
    assert isinstance(task, Maze)
    assert (task.length, task.vocab_size) == (900, 6)


def test_text_and_tokens():
    assert TASK.text(MAZE) == "".join(ROWS)
    assert list(MAZE[:5]) == [3, 2, 2, 1, 2]
    assert TASK.text(RIGHT) == "Soo# #oo  #G"
    assert np.array_equal(TASK.parse("\n".join(ROWS) + "\n"), MAZE)
    assert np.array_equal(TASK.parse("S..#\n.#\n..#G"), TASK.parse("S  # #    #G"))  # cut and dotted rows
    assert TASK.text(np.array([0, 5, 9], np.uint8)) == "?o?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("S  #", "4 cells, but 3 rows of 4 are 12"),
        ("S  #\n #  ", "2 rows"),
        ("S  #.\n #  \n  #G", "up to 5 cells"),
        ("S  # x    #G", "'x' in row 2, column 2"),
    ],
)
def test_malformed_text(text, message):
    with pytest.raises(UserError, match=message):
        TASK.parse(text)


def test_check_names_what_is_wrong():
    TASK.check(MAZE)
    with pytest.raises(UserError, match="no path joins S and G"):
        TASK.check(TASK.parse("S#  ##    #G"))
    with pytest.raises(UserError, match="one S and one G"):
        TASK.check(TASK.parse("S    #    # "))


def test_exact_search_gives_a_verified_shortest_path():
    answer = TASK.solve_exactly(MAZE)
    assert np.array_equal(answer, RIGHT)
    assert TASK.verify(MAZE, answer)
    assert TASK.grade(MAZE, answer) == {"valid": True, "shortest": True}
    assert TASK.solve_exactly(TASK.parse("S#  ##    #G")) is None
    assert TASK.solve_exactly(TASK.parse("            ")) is None


def test_a_detour_is_valid_and_no_answer():
    task = Maze(MazeConfig(height=3, width=3))
    maze = task.parse("S G" "   " "   ")  # fmt: skip
    detour = task.parse("S G" "o o" "ooo")  # fmt: skip
    assert task.grade(maze, detour) == {"valid": True, "shortest": False}
    assert task.verify(maze, detour) is False


def test_an_answer_to_a_malformed_maze_is_wrong_and_does_not_raise():
    empty = TASK.parse(" " * 12)
    assert TASK.verify(empty, empty) is False


def broken(answer_L, draw):
    """The answer with one to three cells changed."""
    other_L = answer_L.copy()
    for cell in draw.sample(range(len(answer_L)), draw.randint(1, 3)):
        other_L[cell] = draw.choice([t for t in range(6) if t != answer_L[cell]])
    return other_L


def walk(task, maze_L):
    """Lengths of ALL simple paths from S to G, by brute force, as sets of cells."""
    height, width = task.shape
    goal, paths = int(np.argmax(maze_L == 4)), set()
    stack = [(int(np.argmax(maze_L == 3)), frozenset())]
    while stack:
        cell, seen = stack.pop()
        if cell == goal:
            paths.add(seen)
            continue
        row, col = divmod(cell, width)
        for r, c in ((row + 1, col), (row - 1, col), (row, col + 1), (row, col - 1)):
            near = r * width + c
            if 0 <= r < height and 0 <= c < width and maze_L[near] in (2, 4) and near not in seen:
                stack.append((near, seen | {near} - {goal}))
    return paths


def test_verify_calls_no_wrong_answer_right():
    """10,000 random and mutated answers, against a search through all simple paths."""
    task, draw = Maze(MazeConfig(height=4, width=4)), random.Random(5)
    mazes, answers, _ = generate(task, train=50, min_path=4)["train"]
    paths = [walk(task, maze_L) for maze_L in mazes]
    right = 0
    for i in range(10_000):
        maze_L, answer_L = mazes[i % 50], answers[i % 50]
        share = draw.random()
        random_L = [5 if t == 2 and draw.random() < share else t for t in maze_L]
        asked_L = broken(answer_L, draw) if i % 2 else np.array(random_L, np.uint8)
        marked = frozenset(np.flatnonzero(asked_L == 5).tolist())
        fair = np.array_equal(np.where(asked_L == 5, 2, asked_L), maze_L) and marked in paths[i % 50]
        truth = fair and len(marked) == min(map(len, paths[i % 50]))
        right += truth
        assert task.verify(maze_L, asked_L) is truth
    assert right > 20  # the trap is baited


def test_symmetries_keep_the_shape_and_are_undone():
    key_B = rng.fold(rng.stream("test"), torch.arange(200))
    for height, width, count in ((3, 4, 4), (5, 5, 8)):
        task = Maze(MazeConfig(height=height, width=width))
        cells_GL = dihedral_cells(height, width)
        assert len({tuple(row.tolist()) for row in cells_GL}) == len(cells_GL) == count
        assert torch.equal(cells_GL[0], torch.arange(height * width))
        mazes = np.stack([np.random.default_rng(i).permutation(height * width) % 5 for i in range(200)])
        tokens_BL = torch.from_numpy(mazes)
        symmetry = task.symmetry(key_B)
        moved_BL = symmetry.apply(tokens_BL)
        assert torch.equal(symmetry.inverse().apply(moved_BL), tokens_BL)
        assert len({tuple(row.tolist()) for row in symmetry.cells_BL}) == count
        for before, after in zip(mazes, moved_BL.numpy(), strict=True):
            assert task.canonical(before) == task.canonical(after)


def test_a_shortest_path_stays_one_under_every_symmetry():
    task = Maze(MazeConfig(height=6, width=6))
    mazes, answers, _ = generate(task)["train"]
    symmetry = task.symmetry(rng.fold(rng.stream("test"), torch.arange(len(mazes))))
    turned = [symmetry.apply(torch.from_numpy(each).long()).numpy() for each in (mazes, answers)]
    assert all(task.verify(maze, answer) for maze, answer in zip(*turned, strict=True))


def test_generated_splits_are_essentially_different():
    task = Maze(MazeConfig(height=6, width=6))
    splits = generate(task)
    assert {name: len(arrays[0]) for name, arrays in splits.items()} == {
        "train": 30,
        "validation": 10,
        "test": 5,
    }
    everyone = np.concatenate([arrays[0] for arrays in splits.values()])
    assert len({task.canonical(maze) for maze in everyone}) == 45
    for mazes, answers, lengths in splits.values():
        for maze, answer, length in zip(mazes, answers, lengths, strict=True):
            assert task.verify(maze, answer)
            assert (answer == 5).sum() + 2 == length >= 8
    again = task.generate(MazeGeneratorConfig(**GENERATED), 3, everyone[:20], lambda found: None)
    fresh = np.concatenate([arrays[0] for arrays in again.values()])
    assert not {task.canonical(m) for m in fresh} & {task.canonical(m) for m in everyone[:20]}


def test_small_boards_with_many_images_still_fill_the_splits():
    """On 3x3 most mazes are images of one another, so the generator must look further."""
    task = Maze(MazeConfig(height=3, width=3))
    splits = generate(task, min_path=3)
    assert len(splits["train"][0]) == 30


@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 7)])
def test_mazes_like_others_have_their_walls_and_are_as_long(height, width):
    task = Maze(MazeConfig(height=height, width=width))
    splits = generate(task, train=6, validation=4, min_path=9)
    given, avoid = splits["train"], splits["validation"][0]
    made = task.more_like(*given[:2], 60, 3, avoid, lambda found: None)
    assert [each.dtype for each in made] == [each.dtype for each in given]
    assert made[0].shape == made[1].shape == (60, height * width)
    walls = [(maze == 1).astype(np.uint8) for maze in given[0]]
    allowed = {task.canonical(wall) for wall in walls}
    least = given[2].min()
    for maze, answer, length in zip(*made, strict=True):
        assert task.canonical((maze == 1).astype(np.uint8)) in allowed
        assert np.array_equal(task.solve_exactly(maze), answer) and task.verify(maze, answer)
        assert (answer == 5).sum() + 2 == length >= least
    turned = {(maze == 1).astype(np.uint8).tobytes() for maze in made[0]}
    assert len(turned - {wall.tobytes() for wall in walls}) > 6  # and they are turned
    forms = {task.canonical(maze) for maze in made[0]}
    assert len(forms) == 60 and not forms & {task.canonical(maze) for maze in (*given[0], *avoid)}
    heard: list[int] = []
    again = task.more_like(*given[:2], 20, 3, avoid, heard.append)
    for few, many in zip(again, made, strict=True):
        np.testing.assert_array_equal(few, many[:20])
    assert heard == list(range(1, 21))
    assert not np.array_equal(task.more_like(*given[:2], 20, 4, avoid, heard.append)[0], again[0])


def test_more_mazes_like_others_than_there_are(monkeypatch):
    monkeypatch.setattr(family, "_PATIENCE", 200)
    task = Maze(MazeConfig(height=2, width=3))
    maze_L = task.parse("S  " "##G")[None]  # fmt: skip
    with pytest.raises(UserError, match=r"only \d of 50 other mazes were found before 200 tries"):
        task.more_like(maze_L, maze_L, 50, 0, (), lambda found: None)
    closed_L = task.parse("S# " "##G")[None]  # fmt: skip
    with pytest.raises(UserError, match="no path joins S and G"):
        task.more_like(closed_L, closed_L, 1, 0, (), lambda found: None)


def test_picture_shows_path_change_and_damage():
    picture = TASK.render(MAZE, RIGHT)
    assert picture.plain.splitlines()[0] == "S ● ● ██"
    assert "black on yellow" in {str(span.style) for span in TASK.render(MAZE, RIGHT, MAZE).spans}
    damaged = RIGHT.copy()
    damaged[3] = 5
    assert "bold red" in {str(span.style) for span in TASK.render(MAZE, damaged).spans}


def test_the_size_of_a_maze_is_seen_in_a_text():
    family = MazeConfig(height=4, width=4).build()
    assert family.resized("S  G#    ") == MazeConfig(height=3, width=3)
    assert family.resized("S..\n.#\n  G\n##") == MazeConfig(height=4, width=3)
    for other in ("." * 9, "S1.G.....", "S.G.."):
        assert family.resized(other) is None
