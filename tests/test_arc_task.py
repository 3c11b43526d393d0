"""The ARC task: text, pictures, and what the contract of a task means where there are no rules to check."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trm import rng
from trm.config import GeneratorConfig
from trm.errors import UserError
from trm.puzzles.arc.canvas import to_canvas
from trm.puzzles.arc.config import ArcConfig
from trm.puzzles.arc.family import PALETTE, Arc, picture

SIDE = 5
TASK = Arc(ArcConfig(side=SIDE))
GRID = np.array([[0, 1, 2], [3, 4, 9]], np.uint8)

sides = st.integers(1, SIDE)
grids = st.tuples(sides, sides).flatmap(
    lambda shape: st.lists(
        st.lists(st.integers(0, 9), min_size=shape[1], max_size=shape[1]),
        min_size=shape[0],
        max_size=shape[0],
    ).map(lambda rows: np.array(rows, np.uint8))
)


def test_the_task_is_built_by_its_name():
    built = ArcConfig(side=7).build()
    assert isinstance(built, Arc)
    assert (built.side, built.length, built.vocab_size) == (7, 49, 12)
    assert Arc(ArcConfig()).length == 900


def test_text_by_hand():
    tokens = TASK.parse("012/349")
    assert tokens.dtype == np.uint8
    expected = [
        *(2, 3, 4, 1, 0),
        *(5, 6, 11, 1, 0),
        *(1, 1, 1, 0, 0),
        *(0, 0, 0, 0, 0),
        *(0, 0, 0, 0, 0),
    ]
    assert tokens.tolist() == expected
    assert TASK.text(tokens) == "012/349"
    np.testing.assert_array_equal(TASK.grid(tokens), GRID)


@given(grids)
def test_text_and_back(grid):
    tokens = to_canvas(grid, SIDE)
    line = TASK.text(tokens)
    assert "\n" not in line
    np.testing.assert_array_equal(TASK.parse(line), tokens)
    np.testing.assert_array_equal(TASK.grid(tokens), grid)
    assert TASK.cells(line) == grid.size


@pytest.mark.parametrize("text", ["012/349", " 012/349\n", "012\n349", "012 349", "012\r\n349\r\n"])
def test_rows_may_be_separated_by_other_means(text):
    assert TASK.text(TASK.parse(text)) == "012/349"
    assert TASK.cells(text) == 6


@pytest.mark.parametrize("text", ["", " ", "/", "01/2", "01/a2", "0.1/222", "-1", "01/2²"])
def test_what_is_no_grid_is_refused(text):
    with pytest.raises(UserError, match="rows of as many digits each, separated by /"):
        TASK.parse(text)


@pytest.mark.parametrize("text", ["012345", "/".join("123456")])
def test_a_grid_larger_than_the_canvas_is_refused(text):
    with pytest.raises(UserError, match="not inside a canvas of side 5"):
        TASK.parse(text)


def test_a_canvas_without_a_grid_has_no_text():
    empty = np.zeros(SIDE**2, np.uint8)
    assert TASK.text(empty) == ""
    assert TASK.grid(empty).size == 0
    assert TASK.render(empty, empty).plain == "(empty)"


def test_a_picture_shows_every_cell_in_its_colour():
    drawn = picture(GRID)
    assert drawn.plain == "0 1 2 \n3 4 9 "
    assert len(drawn.spans) == GRID.size
    for span, colour in zip(drawn.spans, GRID.ravel(), strict=True):
        assert drawn.plain[span.start : span.end] == f"{colour} "
        assert str(span.style).endswith(f" on {PALETTE[colour]}")
    assert len(set(PALETTE)) == 10


def test_ink_is_told_from_its_colour():
    """Relative luminance after WCAG 2; its least contrast for large print is 3."""

    def luminance(red: int, green: int, blue: int) -> float:
        channels = [
            c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4
            for c in (red, green, blue)
        ]
        return float(np.dot((0.2126, 0.7152, 0.0722), channels))

    for colour in range(10):
        (span,) = picture(np.array([[colour]], np.uint8)).spans
        ink = 1.0 if str(span.style).startswith("white") else 0.0
        paper = luminance(*bytes.fromhex(PALETTE[colour][1:]))
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 3


def test_a_picture_of_an_answer_is_that_of_its_grid():
    tokens, answer = TASK.parse("11"), TASK.parse("012/349")
    assert TASK.render(tokens, answer) == picture(GRID)
    assert TASK.render(tokens, answer, tokens) == picture(GRID)


def test_the_symmetry_is_the_identity():
    key_B = rng.fold(rng.stream("test"), torch.arange(20))
    tokens_BL = torch.from_numpy(np.random.default_rng(0).integers(0, 12, (20, SIDE**2)))
    symmetry = TASK.symmetry(key_B)
    assert torch.equal(symmetry.apply(tokens_BL), tokens_BL)
    assert torch.equal(symmetry.inverse().apply(tokens_BL), tokens_BL)
    assert symmetry.cells_BL.shape == (20, SIDE**2)
    assert symmetry.symbols_BV.shape == (20, 12)


def test_canonical_forms_are_equal_only_for_the_same_grid():
    one, other = TASK.parse("12/30"), TASK.parse("12/31")
    assert TASK.canonical(one) == TASK.canonical(one.astype(np.int64))
    assert TASK.canonical(one) != TASK.canonical(other)
    assert TASK.canonical(one) != TASK.canonical(TASK.parse("13/20")), "a transpose is another question"


def test_there_are_no_rules_to_check():
    tokens = TASK.parse("12/30")
    TASK.check(tokens)
    assert TASK.verify(tokens, tokens) is None
    assert TASK.verify(tokens, np.zeros_like(tokens)) is None
    assert TASK.grade(tokens, tokens) == {}
    assert TASK.solve_exactly(tokens) is None
    assert TASK.config.model_dump() == {
        "name": "arc",
        "side": 5,
        "variants": 1000,
        "ids": "variant",
        "translate": True,
    }


def test_tasks_are_not_generated():
    with pytest.raises(UserError, match=r"not generated: give data\.train"):
        TASK.generate(GeneratorConfig(train=2), 0, (), lambda found: None)
