"""Grids of one's own: text, canonical forms and symmetries, against plain loops written down here."""

import itertools
import json
from collections import Counter
from io import StringIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console

from trm import rng
from trm.config import GeneratorConfig, ModelConfig, parse
from trm.errors import UserError
from trm.models import build
from trm.puzzles.grid.config import GridConfig, GridRules
from trm.puzzles.grid.family import Grid, check_symbol
from trm.puzzles.grid.readers import Row, infer
from trm.puzzles.sudoku.config import SudokuConfig
from trm.puzzles.sudoku.family import Sudoku

NARROW = (".", "1", "2", "?", ",", '"', "é")
WIDE = (".", "1", "10", "🙂", "red")


def task_of(height: int, width: int, symbols=".123", **options) -> Grid:
    return Grid(GridConfig(height=height, width=width, symbols=tuple(symbols), **options))


def keys(count: int) -> torch.Tensor:
    return rng.fold(rng.stream("test"), torch.arange(count))


def plain(picture) -> str:
    Console(file=(out := StringIO()), width=80).print(picture)
    return out.getvalue()


@st.composite
def padded(draw, height: int, width: int, symbols: int):
    """Tokens of a puzzle at the top left of a canvas."""
    h, w = draw(st.integers(1, height)), draw(st.integers(1, width))
    cells = draw(st.lists(st.integers(1, symbols), min_size=h * w, max_size=h * w))
    tokens_HW = np.zeros((height, width), dtype=np.uint8)
    tokens_HW[:h, :w] = np.reshape(cells, (h, w))
    return tokens_HW.ravel()


# --- text


@pytest.mark.parametrize("symbols", [NARROW, WIDE])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (2, 3), (3, 3)])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_text_round_trip(symbols, shape, data):
    task = task_of(*shape, symbols)
    tokens_L = data.draw(padded(*shape, len(symbols)))
    text = task.text(tokens_L)
    assert text.splitlines() == [text]
    read_L = task.parse(text)
    assert read_L.dtype == np.uint8
    assert read_L.tolist() == tokens_L.tolist()
    assert task.cells(text) == np.count_nonzero(tokens_L)


@pytest.mark.parametrize(
    "text",
    [
        "12/3.",
        "1 2/3 .",
        "12\n3.",
        "12\r\n3.\r\n",
        "\n 1 2 \n\n 3\t. \n",
        "12/\n3.",
        "1 2 3 .",
        "123.",
        "12 / 3.",
    ],
)
def test_one_puzzle_in_many_writings(text):
    task = task_of(2, 2)
    assert task.parse(text).tolist() == [2, 3, 4, 1]
    assert task.text(task.parse(text)) == "12/3."
    assert task.cells(text) == 4


def test_hand_worked_tokens():
    task = task_of(2, 3, WIDE)
    assert (task.length, task.vocab_size) == (6, 6)
    tokens_L = task.parse("10 .\nred 1")
    assert tokens_L.tolist() == [3, 1, 0, 5, 2, 0]
    assert task.text(tokens_L) == "10 ./red 1"


def test_without_spaces_a_row_of_long_symbols_is_one_cell():
    assert task_of(2, 1, ("1", "0", "10")).parse("10/0").tolist() == [3, 2]


def test_only_a_whole_canvas_is_read_without_row_separators():
    assert task_of(2, 4).parse("123").tolist() == [2, 3, 4, 0, 0, 0, 0, 0]
    assert task_of(2, 2).parse("1/2").tolist() == [2, 0, 3, 0]


def test_text_of_answers_with_padding_in_them():
    task = task_of(3, 3)
    assert task.text(np.zeros(9, dtype=np.uint8)) == ""
    assert task.text(np.array([0, 0, 0, 0, 2, 0, 0, 0, 3])) == "1?/?2"
    assert task.text(np.array([0, 0, 0, 0, 0, 0, 0, 4, 0])) == "3"
    assert task.text(np.array([1, 9, 5, 0, 0, 0, 0, 0, 0])) == ".??"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the puzzle is empty"),
        (" \n ", "the puzzle is empty"),
        ("12/3x", "'x' in row 2, column 2 is not a symbol of this grid; use . 1 2 3"),
        ("1 2/3 12", "'12' in row 2, column 2"),
        ("12345.", "'4' in row 2, column 1"),
        ("12/3", "row 2 has 1 cells, but row 1 has 2"),
        ("12//33", "row 2 has 0 cells"),
        ("12/33/", "row 3 has 0 cells"),
        ("1/2/3", "3 rows of 1 cells, but this grid has at most 2 rows of 3"),
        ("1231", "1 rows of 4 cells"),
    ],
)
def test_malformed_text(text, message):
    with pytest.raises(UserError) as caught:
        task_of(2, 3).parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_messages_of_many_or_long_symbols():
    with pytest.raises(UserError, match=r"0 1 2 .* \.\.\.") as caught:
        task_of(1, 1, [chr(ord("0") + i) for i in range(30)]).parse("z")
    assert len(str(caught.value)) < 120
    with pytest.raises(UserError, match=r"'1red' .* with a space between cells"):
        task_of(1, 2, WIDE).parse("1red")


@pytest.mark.parametrize("symbol", ["", "/", "a/b", " ", "a b", "\t", "\x1b[1m", "\x00", "\u2028", "\ud800"])
def test_symbols_that_text_cannot_hold(symbol):
    with pytest.raises(UserError, match="cannot be a symbol"):
        check_symbol(symbol)
    with pytest.raises(UserError, match="cannot be a symbol"):
        task_of(1, 1, (".", symbol))


# --- rules


def test_rules_are_not_known():
    task = task_of(2, 2)
    tokens_L = task.parse("1./.2")
    task.check(tokens_L)
    assert task.verify(tokens_L, tokens_L) is None
    assert task.grade(tokens_L, tokens_L) == {}
    assert task.solve_exactly(tokens_L) is None
    with pytest.raises(UserError, match="empty"):
        task.check(np.zeros(4, dtype=np.uint8))
    with pytest.raises(UserError, match=r"data\.train"):
        task.generate(GeneratorConfig(train=1), 0, (), print)


def test_the_configuration_goes_through_json():
    config = task_of(2, 3, dihedral=True, permute=("1", "2")).config
    assert GridConfig.model_validate(json.loads(json.dumps(config.model_dump(mode="json")))) == config
    assert config.model_dump()["name"] == "grid"


# --- canonical forms


def images(rows: tuple, square: bool, dihedral: bool) -> set:
    """A puzzle (rows of tokens) under the rotations and reflections of its canvas."""
    found = {rows}
    if dihedral:
        for _ in range(8):
            found |= {tuple(each[::-1] for each in rows) for rows in found}
            found |= {rows[::-1] for rows in found}
            if square:
                found |= {tuple(zip(*rows, strict=True)) for rows in found}
    return found


def orbit(rows: tuple, square: bool, dihedral: bool, permute: list[int]) -> set:
    """All that the symmetries of a grid make of a puzzle."""
    found = set()
    for names in itertools.permutations(permute):
        new = dict(zip(permute, names, strict=True))
        found |= {
            tuple(tuple(new.get(token, token) for token in row) for row in image)
            for image in images(rows, square, dihedral)
        }
    return found


CASES = [
    (shape, dihedral, permute)
    for shape in [(2, 2), (2, 3), (3, 2), (3, 3)]
    for dihedral in (False, True)
    for permute in ("", "12")
]


@pytest.mark.parametrize(("shape", "dihedral", "permute"), CASES)
def test_canonical_forms_are_shared_within_an_orbit_and_only_there(shape, dihedral, permute):
    """All puzzles of all sizes on a small canvas: canonical forms and orbits make the same partition."""
    task = task_of(*shape, ".12" if max(shape) == 2 else "12", dihedral=dihedral, permute=tuple(permute))
    renamed = [task.config.symbols.index(symbol) + 1 for symbol in permute]
    form_of, members = {}, {}
    for h, w in itertools.product(range(1, shape[0] + 1), range(1, shape[1] + 1)):
        for cells in itertools.product(range(1, task.vocab_size), repeat=h * w):
            rows = tuple(cells[r * w : r * w + w] for r in range(h))
            tokens_HW = np.zeros(shape, dtype=np.uint8)
            tokens_HW[:h, :w] = rows
            form_of[rows] = task.canonical(tokens_HW.ravel())
            members.setdefault(form_of[rows], set()).add(rows)
    assert len(form_of) > 90
    for rows, form in form_of.items():
        assert members[form] == orbit(rows, shape[0] == shape[1], dihedral, renamed) & set(form_of)


def test_canonical_knows_the_shape_and_not_the_place():
    task = task_of(3, 3, dihedral=True)
    wide, tall = task.parse("123/..."), task.parse("1./2./3.")
    assert task.canonical(wide) == task.canonical(tall)
    assert task.canonical(task.parse("11")) == task.canonical(task.parse("1/1"))
    assert task.canonical(task.parse("11/11/11")) != task.canonical(task.parse("111/111/111"))
    moved_L = np.roll(task.parse("12/3."), 4)
    assert task.canonical(moved_L) == task.canonical(task.parse("12/3."))
    oblong = task_of(2, 3, dihedral=True)
    assert oblong.canonical(oblong.parse("11")) != oblong.canonical(oblong.parse("1/1"))
    assert task.canonical(np.zeros(9, dtype=np.uint8)) != task.canonical(task.parse("."))


# --- symmetries


@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (1, 5)])
@pytest.mark.parametrize("dihedral", [False, True])
@pytest.mark.parametrize("permute", ["", "13", ".123"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_symmetries_are_undone_and_keep_the_canonical_form(shape, dihedral, permute, data):
    task = task_of(*shape, dihedral=dihedral, permute=tuple(permute))
    tokens_L = data.draw(padded(*shape, 4))
    tokens_BL = torch.from_numpy(tokens_L).long().expand(20, -1)
    symmetry = task.symmetry(keys(20))
    images_BL = symmetry.apply(tokens_BL)
    assert torch.equal(symmetry.inverse().apply(images_BL), tokens_BL)
    assert {task.canonical(image.numpy()) for image in images_BL} == {task.canonical(tokens_L)}
    assert ((images_BL == 0).sum(1) == (tokens_L == 0).sum()).all()


@pytest.mark.parametrize(
    ("shape", "dihedral", "permute", "moves", "names"),
    [
        ((3, 3), True, "123", 8, 6),
        ((2, 3), True, "13", 4, 2),
        ((2, 2), False, ".123", 1, 24),
        ((2, 2), True, "", 8, 1),
    ],
)
def test_symmetries_are_drawn_evenly(shape, dihedral, permute, moves, names):
    task = task_of(*shape, dihedral=dihedral, permute=tuple(permute))
    count = 200 * moves * names
    symmetry = task.symmetry(keys(count))
    assert symmetry.cells_BL.shape == (count, task.length)
    assert symmetry.symbols_BV.shape == (count, task.vocab_size)
    seen = Counter(
        zip(map(tuple, symmetry.cells_BL.tolist()), map(tuple, symmetry.symbols_BV.tolist()), strict=True)
    )
    kinds = moves * names
    assert len(seen) == kinds
    chi_squared = sum((times - 200) ** 2 / 200 for times in seen.values())
    assert chi_squared - (kinds - 1) <= 4 * (2 * (kinds - 1)) ** 0.5
    kept = [0, *(token for token, symbol in enumerate(".123", 1) if symbol not in permute)]
    assert (symmetry.symbols_BV[:, kept] == torch.tensor(kept)).all()


def test_a_symmetry_depends_on_its_key_alone():
    task = task_of(3, 3, dihedral=True, permute=("1", "2", "3"))
    whole, part = task.symmetry(keys(9)), task.symmetry(keys(9)[4:6])
    assert torch.equal(whole.cells_BL[4:6], part.cells_BL)
    assert torch.equal(whole.symbols_BV[4:6], part.symbols_BV)


# --- pictures


@pytest.mark.parametrize("symbols", [NARROW, WIDE])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_picture_can_be_read_back(symbols, data):
    task = task_of(3, 4, symbols)
    tokens_L = data.draw(padded(3, 4, len(symbols)))
    assert task.parse(plain(task.render(tokens_L, tokens_L))).tolist() == tokens_L.tolist()


def styles(picture) -> list[tuple[str, str]]:
    return [(picture.plain[span.start : span.end], span.style) for span in picture.spans]


def test_styles_of_clues_guesses_and_changes():
    task = task_of(2, 3)
    question, previous, answer = map(task.parse, ("1./..", "12/1.", "12/3."))
    assert styles(task.render(question, answer)) == [
        ("1", "bold"),
        ("2", "cyan"),
        ("3", "cyan"),
        (".", "bold"),
    ]
    assert [style for _, style in styles(task.render(question, answer, previous))] == [
        "bold",
        "cyan",
        "black on yellow",
        "bold",
    ]


def test_a_picture_shows_what_the_model_put_where_it_should_not():
    task = task_of(2, 3)
    question, answer = task.parse("1./.."), np.array([2, 0, 3, 1, 3, 0])
    assert plain(task.render(question, answer)) == "1 ? 2\n. 2  \n"


def test_columns_of_a_picture_line_up():
    task = task_of(2, 2, WIDE)
    tokens_L = task.parse("10 red/1 🙂")
    assert plain(task.render(tokens_L, tokens_L)) == " 10 red\n  1  🙂\n"


# --- rules

ALL = "all_different"
SUDOKU = GridRules(rows=ALL, columns=ALL, boxes=(2, 3))
SUDOKU_ANSWER = "123456/456123/231564/564231/312645/645312"


def ruled(rules: GridRules, height: int = 6, width: int = 6, symbols: str = "123456") -> Grid:
    return task_of(height, width, "." + symbols, permute=tuple(symbols), rules=rules)


def test_rules_of_a_sudoku_relate_what_a_sudoku_relates():
    ours, theirs = ruled(SUDOKU), Sudoku(SudokuConfig(box_rows=2, box_cols=3))
    assert ours.relations.shape == theirs.relations.shape
    assert ours.relations.members == theirs.relations.members
    assert ours.problem().relations.symbols == 6


def test_an_answer_is_verified_by_rules_and_clues():
    task = ruled(SUDOKU)
    answer_L = task.parse(SUDOKU_ANSWER)
    for cell in range(36):
        question_L = np.where(np.arange(36) == cell, answer_L, task.parse("./" * 0 + "." * 36))
        assert task.verify(question_L, answer_L) is True
        wrong_L = answer_L.copy()
        wrong_L[cell] = 2 + (answer_L[cell] - 1) % 6
        assert task.verify(question_L, wrong_L) is False
    assert task.verify(task.parse("2" + "." * 35), answer_L) is False, "a clue is overwritten"
    assert task.verify(task.parse("." * 36), task.parse("." * 36)) is False
    assert task_of(6, 6, ".123456").verify(answer_L, answer_L) is None, "without rules nobody knows"


@pytest.mark.parametrize(
    ("rules", "verified"),
    [
        (GridRules(rows=ALL), {"123/123": True, "122/123": False}),
        (GridRules(boxes=(1, 3)), {"123/123": True, "123/122": False}),
    ],
)
def test_only_what_is_said_is_a_rule(rules, verified):
    task = ruled(rules, 2, 3, "123")
    for text, expected in verified.items():
        assert task.verify(task.parse("......"), task.parse(text)) is expected


@pytest.mark.parametrize(
    ("puzzle", "message"),
    [
        ("5.5.../" + "....../" * 4 + "......", "5 stands in row 1, column 1 and in row 1, column 3"),
        ("....../..2.../" * 2 + "....../......", "2 stands in row 2, column 3 and in row 4, column 3"),
        ("1...../.1..../" + "....../" * 3 + "......", "1 stands in row 1, column 1 and in row 2, column 2"),
    ],
)
def test_contradictory_clues_are_named(puzzle, message):
    task = ruled(SUDOKU)
    with pytest.raises(UserError, match=message):
        task.check(task.parse(puzzle))
    task.check(task.parse(SUDOKU_ANSWER))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rules": {"rows": ALL}}, "name them in permute"),
        ({"permute": "123", "rules": {"rows": ALL}}, "rows of 4 cells cannot hold 3 symbols"),
        ({"permute": "123", "rules": {"columns": ALL}}, "columns of 4 cells cannot hold 3 symbols"),
        ({"permute": "1234", "rules": {"boxes": (2, 3)}}, "boxes of 2x3 cells cannot hold 4 symbols"),
        ({"permute": "123", "rules": {"boxes": (1, 3)}}, "boxes of 1x3 do not fill a grid of 4x4"),
        ({"permute": "1234", "rules": {"rows": ALL}, "dihedral": True}, "a quarter turn"),
        ({"permute": "1234", "rules": {"boxes": (1, 4)}, "dihedral": True}, "a quarter turn"),
    ],
)
def test_rules_that_cannot_hold_are_refused(values, message):
    grid = {"height": 4, "width": 4, "symbols": tuple(".1234")}
    if "permute" in values:
        values = values | {"permute": tuple(values["permute"])}
    with pytest.raises(UserError, match=message):
        parse(GridConfig, grid | values, "test")


def test_a_puzzle_of_a_grid_with_rules_fills_it():
    with pytest.raises(UserError, match="by its rules this grid has 6 rows of 6"):
        ruled(SUDOKU).parse("1./.1")


def test_a_model_of_candidates_knows_the_rules():
    """It treats renamed symbols alike, and its answers are symbols that may be renamed."""
    torch.manual_seed(0)
    model = ModelConfig(kind="candidates", mixing="relations", halting="every", width=8, inner=8, T=1, n=1)
    task = ruled(SUDOKU)
    made = build(model, task.problem())
    tokens_BL = torch.from_numpy(task.parse("1" + "." * 34 + "2"))[None].long()
    _, out = made(tokens_BL, torch.zeros(1, dtype=torch.int64), made.initial_state(1))
    assert (out.logits_BLV.argmax(-1) >= 2).all()
    given, seen, *others = out.logits_BLV[0, 0, 2:].tolist()
    assert len({given, seen, others[0]}) == 3 and others == pytest.approx([others[0]] * 4, abs=1e-6)


# --- what can be known of answers without rules


def filled(**options) -> Grid:
    return Grid(GridConfig(height=2, width=2, symbols=(".", "1", "2"), **options))


def test_blanks_are_noticed_where_answers_keep_all_other_cells():
    rows = [Row("", "1 ./. 2", "1 2/1 2"), Row("", "1 1/. .", "1 1/2 2")]
    assert infer(rows).blanks == (".",)
    assert infer([*rows, Row("", "1 ./. 2", "2 2/1 2")]).blanks == ()  # a clue was changed
    assert infer([*rows, Row("", "1 ./. 2", "1 ./1 2")]).blanks == ()  # an answer leaves a cell open


def test_an_answer_that_changes_clues_or_leaves_cells_open_is_wrong():
    grid = filled(blanks=(".",))
    puzzle = grid.parse("1./.2")
    verdicts = {"12/12": None, "22/12": False, "1./12": False}
    assert {text: grid.verify(puzzle, grid.parse(text)) for text in verdicts} == verdicts
    padded = grid.parse("12/12")
    padded[1] = 0
    assert grid.verify(puzzle, padded) is False
    assert filled().verify(puzzle, padded) is False  # padding is no answer, whatever the puzzle
    assert filled().verify(puzzle, grid.parse("22/12")) is None
    assert (grid.verifies, filled().verifies, grid.solves) == (True, False, False)


def test_blanks_are_symbols_of_the_grid():
    with pytest.raises(ValidationError, match="blanks names 'x'"):
        filled(blanks=("x",))


def test_a_function_confirms_answers():
    seen = []

    def confirm(question, answer):
        seen.append((question, answer))
        return answer == [["1", "2"]]

    grid = Grid(filled(blanks=(".",)).config, confirm)
    puzzle = grid.parse("1.")  # smaller than the canvas
    assert grid.verify(puzzle, grid.parse("12")) is True
    assert grid.verify(puzzle, grid.parse("11")) is False
    assert grid.verify(puzzle, grid.parse("22")) is False  # a clue was changed: the function is not asked
    assert seen == [([["1", "."]], [["1", "2"]]), ([["1", "."]], [["1", "1"]])]


def test_remarks_are_read_over_unless_rows_may_look_like_them():
    assert filled().comment == "#"
    assert Grid(GridConfig(height=2, width=2, symbols=("#", "1"))).comment == ""
