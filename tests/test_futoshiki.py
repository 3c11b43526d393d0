"""Futoshiki, against plain loops over all Latin squares and the rules as a person would check them."""

import itertools
from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console

from trm import rng
from trm.errors import UserError
from trm.puzzles.futoshiki import rules
from trm.puzzles.futoshiki.config import FutoshikiConfig, FutoshikiGeneratorConfig
from trm.puzzles.futoshiki.family import Futoshiki
from trm.recipe import load_recipe

DRAWN = """\
. < . > .   .
^       v
.   . > 1   3

.   .   . < .
v
.   2   .   ."""
TEXT = ".<.>.-./^---v--/.-.>1-3/-------/.-.-.<./v------/.-2-.-."


def family(side: int = 4) -> Futoshiki:
    return FutoshikiConfig(side=side).build()


def made(side: int, count: int, seed: int = 0, **options) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    config = FutoshikiGeneratorConfig(train=count, **options)
    return family(side).generate(config, seed, (), lambda found: None)["train"]


def squares() -> list[np.ndarray]:
    """All 576 Latin squares of four digits."""
    rows = list(itertools.permutations(range(1, 5)))
    return [
        np.array(four).ravel()
        for four in itertools.product(rows, repeat=4)
        if all(len(set(column)) == 4 for column in zip(*four, strict=True))
    ]


def tells_the_truth(grid_L: np.ndarray, text: str) -> bool:
    """Whether a grid keeps the digits and signs of a 4x4 puzzle in one line, character by character."""
    canvas = [list(row) for row in text.split("/")]
    grid = grid_L.reshape(4, 4)
    for r, row in enumerate(canvas):
        for c, char in enumerate(row):
            if char.isdigit() and int(char) != grid[r // 2, c // 2]:
                return False
            left, right = (grid[r // 2, c // 2], grid[r // 2, c // 2 + 1]) if char in "<>" else (0, 0)
            upper, lower = (grid[r // 2, c // 2], grid[r // 2 + 1, c // 2]) if char in "^v" else (0, 0)
            wrong = {"<": left >= right, ">": left <= right, "^": upper >= lower, "v": upper <= lower}
            if wrong.get(char):
                return False
    return True


# --- text


def squeezed(drawn: str) -> str:
    """A drawing without the space between two characters."""
    return "\n".join(line[::2] for line in drawn.splitlines())


def test_a_drawing_and_a_line_are_the_same_puzzle():
    task = family()
    assert task.text(task.parse(squeezed(DRAWN))) == TEXT
    assert np.array_equal(task.parse(TEXT), task.parse(squeezed(DRAWN)))
    assert task.parse(TEXT).dtype == np.uint8 and task.length == 49 == task.cells(TEXT.replace("/", ""))


@pytest.mark.parametrize("side", [4, 5, 6, 7])
def test_text_round_trip(side: int):
    task = family(side)
    for grids_NL in made(side, 5)[:2]:
        for tokens_L in grids_NL:
            assert np.array_equal(task.parse(task.text(tokens_L)), tokens_L)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("....", "1 rows of up to 4 characters, but a Futoshiki of 4 digits has 7 rows of 7"),
        (
            TEXT.replace("2", "5"),
            "'5' in line 7, column 3 of the drawing cannot stand there; use one of . 1 2 3 4",
        ),
        (TEXT.replace(">1", "v1"), "'v' in line 3, column 4 .* use one of - < >"),
        (TEXT.replace("^", "<"), "'<' in line 2, column 1 .* use one of - \\^ v"),
        (TEXT.replace("-------", "-<-----"), "'<' in line 4, column 2 .* use one of -$"),
        (TEXT + "/.", "8 rows"),
    ],
)
def test_malformed_text(text: str, message: str):
    with pytest.raises(UserError, match=message):
        family().parse(text)


# --- rules


def test_search_finds_what_a_plain_loop_finds():
    task = family()
    everyone = squares()
    assert len(everyone) == 576
    for board_L in made(4, 12, seed=5)[0]:
        text = task.text(board_L)
        right = [grid_L for grid_L in everyone if tells_the_truth(grid_L, text)]
        assert len(right) == 1
        found = rules.search(task._board(board_L), 4, 9).solutions
        assert np.array_equal(found, right)
    open_ = ".-.-.-./-------/.-.-.-./-------/.-.-.-.<.".replace(".-.-.-.<.", ".-.-.<.") + "/-------/.-.-.-."
    count = sum(tells_the_truth(grid_L, open_) for grid_L in everyone)
    assert len(rules.search(task._board(task.parse(open_)), 4, 1000).solutions) == count == 288


def test_verify_is_what_a_person_would_check():
    task = family()
    everyone = squares()
    for board_L, answer_L in zip(*made(4, 4, seed=2)[:2], strict=True):
        text = task.text(board_L)
        for grid_L in everyone[::7]:
            drawn_L = answer_L.copy()
            drawn_L[task._cells_L] = grid_L + 6
            assert task.verify(board_L, drawn_L) is tells_the_truth(grid_L, text)
        for place in range(49):
            for token in range(task.vocab_size):
                wrong_L = answer_L.copy()
                wrong_L[place] = token
                assert task.verify(board_L, wrong_L) is bool(token == answer_L[place])
        assert np.array_equal(task.solve_exactly(board_L), answer_L)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".-.-.-./-------/.-.-.-./-------/.-.-.-./-------/.-.-.-.", "several solutions"),
        (".<.<.<./-------/.<.<.<./-------/.-.-.-./-------/.-.-.-.", "no solution"),
        ("1-1-.-./-------/.-.-.-./-------/.-.-.-./-------/.-.-.-.", "no solution"),
    ],
)
def test_check_refuses(text: str, message: str):
    task = family()
    with pytest.raises(UserError, match=message):
        task.check(task.parse(text))
    if message == "no solution":
        assert task.solve_exactly(task.parse(text)) is None


# --- symmetries


@pytest.mark.parametrize("side", [4, 5])
def test_symmetries_map_puzzles_with_their_answers_and_are_undone(side: int):
    task = family(side)
    boards_NL, answers_NL, _ = made(side, 40)
    key_B = rng.fold(rng.stream("test"), torch.arange(40))
    symmetry = task.symmetry(key_B)
    asked, answered = (symmetry.apply(torch.from_numpy(a).long()) for a in (boards_NL, answers_NL))
    assert torch.equal(symmetry.inverse().apply(asked), torch.from_numpy(boards_NL).long())
    for board_L, image_L, answer_L in zip(boards_NL, asked.numpy(), answered.numpy(), strict=True):
        assert task.verify(image_L, answer_L)
        assert task.canonical(image_L) == task.canonical(board_L)


def test_all_sixteen_symmetries_are_drawn_and_differ():
    task = family()
    board_L = torch.from_numpy(made(4, 1, extra_clues=6)[0][0]).long()
    symmetry = task.symmetry(rng.fold(rng.stream("test"), torch.arange(1600)))
    images = symmetry.apply(board_L.expand(1600, -1))
    found, counts = np.unique(images.numpy(), axis=0, return_counts=True)
    assert len(found) == 16 and counts.min() > 60


# --- generator


@pytest.mark.parametrize("side", [4, 5, 6, 7])
def test_puzzles_are_unique_and_minimal(side: int):
    task = family(side)
    for board_L, answer_L in zip(*made(side, 3, seed=1)[:2], strict=True):
        task.check(board_L)
        assert task.verify(board_L, answer_L)
        for place in np.flatnonzero(board_L > 2):
            fewer_L = board_L.copy()
            fewer_L[place] = 1 if place in task._cells_L else 2
            with pytest.raises(UserError, match="several solutions"):
                task.check(fewer_L)


def test_clues_are_put_back():
    few_NL, more_NL = made(5, 4)[0], made(5, 4, extra_clues=7)[0]
    assert ((more_NL > 2).sum(1) - (few_NL > 2).sum(1)).tolist() == [7] * 4


def test_splits_are_essentially_different_and_a_function_of_the_seed():
    task = family()
    config = FutoshikiGeneratorConfig(train=30, validation=5, test=10)
    splits = task.generate(config, 3, (), lambda found: None)
    again = task.generate(config, 3, (), lambda found: None)
    assert {name: len(tokens) for name, (tokens, _, _) in splits.items()} == config.counts()
    assert all(np.array_equal(splits[name][0], again[name][0]) for name in splits)
    forms = [task.canonical(tokens_L) for tokens, _, _ in splits.values() for tokens_L in tokens]
    assert len(set(forms)) == 45
    avoiding = task.generate(config, 3, splits["train"][0], lambda found: None)
    assert not {task.canonical(each) for each in avoiding["test"][0]} & set(forms[:30])


# --- pictures, and the recipe


def plain(picture) -> str:
    Console(file=(out := StringIO()), width=80).print(picture)
    return out.getvalue()


def test_a_picture_shows_signs_and_digits():
    task = family()
    tokens_L = task.parse(TEXT)
    lines = [line.rstrip() for line in plain(task.render(tokens_L, tokens_L)).splitlines()]
    assert lines == [line.rstrip() for line in DRAWN.splitlines()]
    broken_L = tokens_L.copy()
    broken_L[1] = 4
    picture = task.render(tokens_L, broken_L)
    assert "bold red" in [str(span.style) for span in picture.spans if picture.plain[span.start] == ">"]
    guessed_L = tokens_L.copy()
    guessed_L[0] = 7
    assert str(task.render(tokens_L, guessed_L, tokens_L).spans[0].style) == "black on yellow"


def test_the_recipe_is_of_this_family():
    recipe = load_recipe("futoshiki")
    assert isinstance(recipe.family, FutoshikiConfig)
    assert recipe.data.generator().test == 1000


def test_clues_for_all_cells_are_refused():
    with pytest.raises(UserError, match="extra_clues 99 fills a whole board"):
        made(4, 3, extra_clues=99)
