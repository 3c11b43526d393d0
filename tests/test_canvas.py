"""Canvases against pictures by hand and a brute-force search; drawn rows against the plain numpy path."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trm import rng
from trm.errors import UserError
from trm.puzzles.arc.canvas import VariantDraw, from_canvas, to_canvas
from trm.puzzles.arc.readers import ArcTask, Pair
from trm.puzzles.arc.variants import make, transform


def grid(*rows: str) -> np.ndarray:
    return np.array([list(map(int, row)) for row in rows], np.uint8)


def picture(tokens_L: np.ndarray, side: int) -> list[str]:
    """Rows of a canvas: `_` pad, `|` end, digits for colours."""
    return ["".join("_|0123456789"[token] for token in row) for row in tokens_L.reshape(side, side)]


@pytest.mark.parametrize(
    ("rows", "row", "col", "expected"),
    [
        (["12", "34"], 0, 0, ["12|_", "34|_", "||__", "____"]),
        (["120"], 1, 0, ["____", "120|", "|||_", "____"]),
        (["5"], 1, 2, ["____", "__5|", "__|_", "____"]),
        (["12", "34"], 2, 2, ["____", "____", "__12", "__34"]),
        (["12", "34"], 2, 0, ["____", "____", "12|_", "34|_"]),
        (["12", "34"], 0, 2, ["__12", "__34", "__||", "____"]),
        (["1234"] * 4, 0, 0, ["1234"] * 4),
    ],
)
def test_canvases_by_hand(rows, row, col, expected):
    tokens = to_canvas(grid(*rows), 4, row, col)
    assert (tokens.shape, tokens.dtype) == ((16,), np.uint8)
    assert picture(tokens, 4) == expected


@pytest.mark.parametrize(("row", "col"), [(0, 2), (3, 0), (-1, 0), (0, -1)])
def test_grids_that_do_not_fit_are_refused(row, col):
    with pytest.raises(UserError, match=f"2 x 3 at row {row}, column {col} is not inside a canvas of side 4"):
        to_canvas(grid("123", "456"), 4, row, col)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 30), st.integers(0, 2**32))
def test_grids_come_back(side, seed):
    random = np.random.default_rng(seed)
    x = random.integers(0, 10, random.integers(1, side + 1, 2), dtype=np.uint8)
    tokens = to_canvas(x, side)
    for kind in (np.uint8, np.int64):
        found = from_canvas(tokens.astype(kind), side)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, x)


def largest_rectangle(tokens_SS: np.ndarray) -> np.ndarray:
    """All rectangles of colours in the corner, the largest; among those, the one with fewest rows."""
    side = len(tokens_SS)
    best = np.zeros((0, 0))
    for height, width in itertools.product(range(1, side + 1), repeat=2):
        part = tokens_SS[:height, :width]
        if part.size > best.size and all(2 <= token <= 11 for token in part.flat):
            best = part - 2
    return best


@settings(deadline=None, max_examples=500)
@given(st.integers(1, 7), st.integers(0, 2**32), st.sampled_from([0, 0.05, 0.2, 0.5]))
def test_any_canvas_is_read_as_its_largest_rectangle(side, seed, noise):
    random = np.random.default_rng(seed)
    tokens = random.integers(2, 12, side * side)
    other = random.choice([-1, 0, 1, 12, 300], side * side)
    tokens = np.where(random.random(side * side) < noise, other, tokens)
    found = from_canvas(tokens, side)
    expected = largest_rectangle(tokens.reshape(side, side))
    assert found.shape == expected.shape
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["_5__", "5555", "5555", "5555"], []),
        (["|555", "5555", "5555", "5555"], []),
        (["12__", "34__", "5___", "6___"], [[1, 2], [3, 4]]),  # 2 x 2, and a column of four: the first one
        (["123|", "1___", "____", "____"], [[1, 2, 3]]),
        (["1___", "1___", "1___", "____"], [[1], [1], [1]]),
        (["1111", "11_1", "11_1", "1111"], [[1, 1], [1, 1], [1, 1], [1, 1]]),
    ],
)
def test_rectangles_by_hand(rows, expected):
    tokens = np.array(["_|0123456789".index(char) for row in rows for char in row])
    found = from_canvas(tokens, 4)
    assert found.tolist() == expected
    assert found.shape == (len(expected), len(expected[0]) if expected else 0)


SIDE = 7


def tasks_of(seed: int, count: int = 4, colours: int = 10) -> list[ArcTask]:
    random = np.random.default_rng(seed)

    def some() -> np.ndarray:
        return random.integers(0, colours, random.integers(1, SIDE + 1, 2), dtype=np.uint8)

    return [
        ArcTask(f"t{i}", tuple(Pair(some(), some()) for _ in range(1 + i)), (Pair(some(), None),))
        for i in range(count)
    ]


def rows_of(
    tasks: list[ArcTask], size: int, seed: int
) -> tuple[list[tuple[int, int]], dict[str, torch.Tensor]]:
    """Randomly chosen training pairs (task, pair) and the arguments of `draw` for them."""
    random = np.random.default_rng(seed)
    chosen = [
        (int(task), int(random.integers(0, len(tasks[task].train))))
        for task in random.integers(0, len(tasks), size)
    ]
    pairs = [tasks[t].train[p] for t, p in chosen]
    canvases = [torch.from_numpy(np.stack([to_canvas(pair[i], SIDE) for pair in pairs])) for i in (0, 1)]
    return chosen, {
        "key_B": rng.fold(rng.fold(rng.stream("rows"), seed), torch.arange(size)),
        "tokens_BL": canvases[0],
        "answers_BL": canvases[1],
        "task_B": torch.tensor([t for t, _ in chosen]),
        "pair_B": torch.tensor([p for _, p in chosen]),
        "pairs_B": torch.tensor([len(tasks[t].train) for t, _ in chosen]),
    }


def places(tokens_L: np.ndarray) -> tuple[int, int]:
    """Row and column of the first colour: the top-left corner of the only grid."""
    row, col = np.argwhere(tokens_L.reshape(SIDE, SIDE) >= 2)[0]
    return int(row), int(col)


@pytest.mark.parametrize("seed", range(5))
def test_drawn_rows_are_those_of_the_plain_path(seed):
    """Every drawn row is the plain canvas of the transformed pair, question and answer at one place."""
    tasks = tasks_of(seed)
    variants = make(tasks, 12, seed)
    draw = VariantDraw(variants, SIDE, seed)
    chosen, arguments = rows_of(tasks, 300, seed)
    drawn = draw.draw(**arguments)
    assert drawn.tokens_BL.dtype == drawn.answers_BL.dtype == drawn.puzzle_B.dtype == torch.int64
    assert drawn.tokens_BL.shape == drawn.answers_BL.shape == (300, SIDE * SIDE)
    moved = 0
    for i, (task, pair) in enumerate(chosen):
        puzzle = int(drawn.puzzle_B[i])
        assert puzzle in variants.ids(f"t{task}")
        variant = variants.dihedral_P[puzzle], variants.colours_PC[puzzle]
        images = [transform(each, *variant) for each in tasks[task].train[pair]]
        place = places(drawn.tokens_BL[i].numpy())
        for found_L, image in zip((drawn.tokens_BL[i], drawn.answers_BL[i]), images, strict=True):
            np.testing.assert_array_equal(found_L.numpy(), to_canvas(image, SIDE, *place))
        stays = int(draw.stays(drawn.puzzle_B[i : i + 1], arguments["pairs_B"][i : i + 1]))
        if stays == pair:
            assert place == (0, 0)
        moved += place != (0, 0)
    assert moved > 30


def test_a_single_pair_never_moves():
    tasks = tasks_of(3)
    chosen, arguments = rows_of(tasks, 200, 0)
    drawn = VariantDraw(make(tasks, 12, 0), SIDE, 0).draw(**arguments)
    single = [i for i, (task, _) in enumerate(chosen) if task == 0]
    assert len(single) > 20
    assert {places(drawn.tokens_BL[i].numpy()) for i in single} == {(0, 0)}


def test_without_translation_nothing_moves():
    tasks = tasks_of(0)
    _, arguments = rows_of(tasks, 200, 0)
    variants = make(tasks, 12, 0)
    still = VariantDraw(variants, SIDE, 0, translate=False).draw(**arguments)
    moving = VariantDraw(variants, SIDE, 0).draw(**arguments)
    assert torch.equal(still.puzzle_B, moving.puzzle_B)
    assert {places(row.numpy()) for row in still.tokens_BL} == {(0, 0)}
    assert len({places(row.numpy()) for row in moving.tokens_BL}) > 10


def one_pair(task: ArcTask, pair: int, size: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Arguments of `draw` for many draws of one pair of a lone task."""
    canvases = [torch.from_numpy(to_canvas(each, SIDE)).expand(size, -1) for each in task.train[pair]]
    return {
        "key_B": rng.fold(rng.fold(rng.stream("one pair"), seed), torch.arange(size)),
        "tokens_BL": canvases[0],
        "answers_BL": canvases[1],
        "task_B": torch.zeros(size, dtype=torch.int64),
        "pair_B": torch.full((size,), pair),
        "pairs_B": torch.full((size,), len(task.train)),
    }


def test_places_are_uniform_and_leave_room_for_the_larger_grid():
    x, y = grid("123", "456"), grid("1", "2", "3", "4", "5")  # sides of 3 and 5 at most
    task = ArcTask("t", (Pair(x, y), Pair(x, y)), (Pair(x, None),))
    variants = make([task], 1, 0)  # the task itself
    draw = VariantDraw(variants, SIDE, 0)
    moving = 1 - int(draw.stays(torch.tensor([1]), torch.tensor([2])))
    drawn = draw.draw(**one_pair(task, moving, 3000))
    counts = np.zeros((SIDE, SIDE))
    for row in drawn.tokens_BL:
        counts[places(row.numpy())] += 1
    # Rows 0..7-5, columns 0..7-3.
    assert (counts[:3, :5] > 0).all()
    assert counts[:3, :5].sum() == 3000
    # Chi-square with 14 degrees of freedom: 36.1 is exceeded once in a thousand.
    assert ((counts[:3, :5] - 200) ** 2 / 200).sum() < 36.1


@pytest.mark.parametrize(("hold_out", "last"), [(0, 20), (6, 14), (19, 1), (50, 1)])
def test_variants_are_drawn_uniformly_and_the_last_ones_never(hold_out, last):
    (task,) = tasks_of(1, count=1)
    variants = make([task], 20, 0)
    drawn = VariantDraw(variants, SIDE, 0, hold_out=hold_out).draw(**one_pair(task, 0, 4000))
    counts = np.bincount(drawn.puzzle_B.numpy(), minlength=22)
    assert counts[1 : last + 1].sum() == 4000
    expected = 4000 / last
    # Five standard errors of a count.
    assert (abs(counts[1 : last + 1] - expected) <= 5 * expected**0.5).all()


def test_one_pair_of_every_variant_stays_and_the_seed_chooses():
    tasks = tasks_of(2)
    variants = make(tasks, 300, 0)
    puzzle_B = torch.tensor(list(variants.ids("t3")))
    pairs_B = torch.full_like(puzzle_B, 4)
    draw = VariantDraw(variants, SIDE, 0)
    stays_B = draw.stays(puzzle_B, pairs_B)
    counts = stays_B.bincount(minlength=4)
    assert len(counts) == 4
    assert (abs(counts - 75) < 40).all()  # five standard errors
    assert torch.equal(draw.stays(puzzle_B[7:9], pairs_B[7:9]), stays_B[7:9])
    assert not torch.equal(VariantDraw(variants, SIDE, 1).stays(puzzle_B, pairs_B), stays_B)


def test_a_row_depends_on_its_key_alone():
    tasks = tasks_of(0)
    _, arguments = rows_of(tasks, 50, 0)
    draw = VariantDraw(make(tasks, 12, 0), SIDE, 0)
    many = draw.draw(**arguments)
    few = draw.draw(**{name: each[10:20] for name, each in arguments.items()})
    for a, b in zip(few, many, strict=True):
        assert torch.equal(a, b[10:20])
    other = draw.draw(**arguments | {"key_B": arguments["key_B"] + 1})
    assert not torch.equal(other.puzzle_B, many.puzzle_B)


def test_arguments_may_be_of_any_integer_type_and_are_left_alone():
    tasks = tasks_of(0)
    _, arguments = rows_of(tasks, 50, 0)
    before = {name: each.clone() for name, each in arguments.items()}
    draw = VariantDraw(make(tasks, 12, 0), SIDE, 0)
    wide = {name: each.long() for name, each in arguments.items()}
    for a, b in zip(draw.draw(**arguments), draw.draw(**wide), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(before[name], each) for name, each in arguments.items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_draws_the_same_without_waiting():
    tasks = tasks_of(0)
    variants = make(tasks, 12, 0)
    _, arguments = rows_of(tasks, 200, 0)
    expected = VariantDraw(variants, SIDE, 0).draw(**arguments)
    draw = VariantDraw(variants, SIDE, 0, device="cuda")
    on_device = {name: each.cuda() for name, each in arguments.items()}
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = draw.draw(**on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.cpu(), b)
