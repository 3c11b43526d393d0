"""Variants against pictures by hand, the inverse, and a count of different tasks by plain comparison."""

import dataclasses
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm.errors import UserError
from trm.puzzles.arc import readers as arc
from trm.puzzles.arc.readers import ArcTask, Pair
from trm.puzzles.arc.variants import Variants, make, transform, undo

SAME = np.arange(10, dtype=np.uint8)


def grid(*rows: str) -> np.ndarray:
    return np.array([list(map(int, row)) for row in rows], np.uint8)


def random_task(seed: int, colours: int = 10, name: str = "task", most_side: int = 6) -> ArcTask:
    rng = np.random.default_rng(seed)

    def pair() -> Pair:
        return Pair(
            *(rng.integers(0, colours, rng.integers(1, most_side + 1, 2), dtype=np.uint8) for _ in "io")
        )

    return ArcTask(name, tuple(pair() for _ in range(rng.integers(1, 4))), (pair(), pair()))


def look(task: ArcTask, dihedral: int, colours_C: np.ndarray) -> tuple:
    """All that a variant shows: the transformed train pairs and test inputs, each in a fixed order."""

    def image(*grids: np.ndarray | None) -> tuple:
        images = [transform(each, dihedral, colours_C) for each in grids if each is not None]
        return tuple((each.shape, each.tobytes()) for each in images)

    return tuple(sorted(image(*pair) for pair in task.train)), tuple(
        sorted(image(p.input) for p in task.test)
    )


def looks(variants: Variants, task: ArcTask) -> list[tuple]:
    return [look(task, variants.dihedral_P[i], variants.colours_PC[i]) for i in variants.ids(task.name)]


ONE_CELL = ArcTask("cell", (Pair(grid("1"), grid("1")),), (Pair(grid("1"), None),))
BLACK_ONLY = ArcTask("black", (Pair(grid("000"), grid("000")),), (Pair(grid("000"), grid("123")),))
PLAIN = ArcTask("plain", (Pair(grid("12", "30"), grid("1")),), (Pair(grid("1"), None),))


@pytest.mark.parametrize(
    ("dihedral", "rows"),
    [
        (0, ("123", "456")),
        (1, ("36", "25", "14")),
        (2, ("654", "321")),
        (3, ("41", "52", "63")),
        (4, ("321", "654")),
        (5, ("456", "123")),
        (6, ("14", "25", "36")),
        (7, ("63", "52", "41")),
    ],
)
def test_the_eight_images(dihedral, rows):
    assert transform(grid("123", "456"), dihedral, SAME).tolist() == grid(*rows).tolist()


def test_images_are_those_of_numpy():
    x = np.random.default_rng(0).integers(0, 10, (4, 7), dtype=np.uint8)
    turned = [x, np.rot90(x), np.rot90(x, 2), np.rot90(x, 3)]
    for dihedral, image in enumerate([*turned, np.fliplr(x), np.flipud(x), x.T, np.fliplr(np.rot90(x))]):
        np.testing.assert_array_equal(transform(x, dihedral, SAME), image)


def test_colours_are_renamed_by_the_table():
    table = np.array([0, 5, 6, 7, 8, 9, 1, 2, 3, 4], np.uint8)
    found = transform(grid("0123456789"), 4, table)
    assert found.tolist() == [[4, 3, 2, 1, 9, 8, 7, 6, 5, 0]]
    assert found.dtype == np.uint8


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32), st.integers(0, 7), st.permutations(range(1, 10)))
def test_undo_is_the_inverse_on_either_side(seed, dihedral, colours):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 10, rng.integers(0, 31, 2), dtype=np.uint8)
    table = np.array([0, *colours], np.uint8)
    before = x.copy()
    np.testing.assert_array_equal(undo(transform(x, dihedral, table), dihedral, table), x)
    np.testing.assert_array_equal(transform(undo(x, dihedral, table), dihedral, table), x)
    transform(x, dihedral, table)[...] = 7
    undo(x, dihedral, table)[...] = 7
    np.testing.assert_array_equal(x, before)


def test_the_table_of_ids():
    tasks = [random_task(0, name="a"), ONE_CELL, random_task(1, name="b")]
    found = make(tasks, count=40, seed=3)
    assert found.names == ("a", "cell", "b")
    assert found.first_N.tolist() == [1, 41, 50, 90]  # one cell of one colour that is not black: nine
    assert len(found) == 90
    assert found.ids("a") == range(1, 41)
    assert found.ids("cell") == range(41, 50)
    with pytest.raises(UserError, match="'c'"):
        found.ids("c")
    for puzzle in (0, *found.first_N[:-1]):
        assert found.dihedral_P[puzzle] == 0
        assert found.colours_PC[puzzle].tolist() == list(range(10))
    assert (found.colours_PC[:, 0] == 0).all()
    assert (np.sort(found.colours_PC, axis=1) == np.arange(10)).all()
    assert (found.first_N.dtype, found.dihedral_P.dtype, found.colours_PC.dtype) == (
        np.int64,
        np.uint8,
        np.uint8,
    )


@pytest.mark.parametrize("colours", [1, 2, 3, 10])
@pytest.mark.parametrize("seed", range(4))
def test_no_two_variants_look_alike(colours, seed):
    task = random_task(seed, colours, most_side=3)
    found = looks(make([task], count=60, seed=seed), task)
    assert len(set(found)) == len(found) <= 60


@pytest.mark.parametrize(
    ("task", "number"),
    [
        (ONE_CELL, 9),
        (BLACK_ONLY, 2),  # lying and standing; the test output does not count
        (PLAIN, 8 * 9 * 8 * 7 // 2),  # its transpose is itself with two colours exchanged
        (ArcTask("line", (Pair(grid("11"), grid("1")),), (Pair(grid("1"), None),)), 2 * 9),
        (ArcTask("corner", (Pair(grid("10", "00"), grid("1")),), (Pair(grid("1"), None),)), 4 * 9),
        # Only together do the grids tell all images apart.
        (ArcTask("two", (Pair(grid("10", "00"), grid("110")),), (Pair(grid("1"), None),)), 8 * 9),
        (ArcTask("test input", (Pair(grid("1"), grid("1")),), (Pair(grid("10", "00"), None),)), 4 * 9),
    ],
)
def test_all_variants_are_found_and_no_more(task, number):
    """By hand: images that look different, times colours for those that are used."""
    count = min(number, 100) if number > 100 else 5 * number
    found = make([task], count, seed=0)
    assert len(found.ids(task.name)) == min(number, count)
    if number < 100:
        everything = {look(task, d, np.insert(p, 0, 0)) for d in range(8) for p in (SAME[1:], SAME[:0:-1])}
        assert everything <= set(looks(found, task))


def test_a_task_without_enough_variants_ends_after_five_draws_each():
    # Of 2,016 different ones, 10,080 draws miss each with probability exp(-5): 13.6, sd 3.7.
    missing = 2016 - len(make([PLAIN], count=2016, seed=0).ids("plain"))
    assert 0 < missing < 32
    assert len(make([PLAIN], count=5000, seed=0).ids("plain")) == 2016


LEFT, RIGHT = grid("10", "00"), grid("01", "00")
DOT = grid("1")


@pytest.mark.parametrize(
    ("train", "test", "number"),
    [
        # A task is the set of its pairs: the mirror image that only exchanges two of them is no other task.
        # So there is one for each side of the square, times nine colours, not one for each of eight images.
        ([(LEFT, DOT), (RIGHT, DOT)], [DOT], 4 * 9),
        ([(DOT, DOT)], [LEFT, RIGHT], 4 * 9),
        # A pair to learn from and one to be predicted do not stand for each other.
        ([(LEFT, DOT)], [RIGHT], 8 * 9),
        ([(LEFT, DOT), (RIGHT, DOT)], [LEFT], 8 * 9),
        # Nor do a question and its answer, nor two pairs with their answers exchanged.
        ([(LEFT, RIGHT)], [DOT], 8 * 9),
        ([(LEFT, DOT), (RIGHT, grid("11"))], [DOT], 8 * 9),
        # How often a pair comes matters.
        ([(LEFT, DOT), (LEFT, DOT), (RIGHT, DOT)], [DOT], 8 * 9),
    ],
)
def test_the_order_of_pairs_plays_no_part(train, test, number):
    task = ArcTask("set", tuple(Pair(*pair) for pair in train), tuple(Pair(each, None) for each in test))
    assert len(make([task], 5 * number, seed=0).ids("set")) == number
    turned_round = task._replace(train=task.train[::-1], test=task.test[::-1])
    assert make([turned_round], 50, seed=1).digest() == make([task], 50, seed=1).digest()


def test_test_outputs_play_no_part():
    for seed in range(5):
        task = random_task(seed, colours=3, most_side=3)
        other = random_task(seed + 100)
        changed = task._replace(test=tuple(pair._replace(output=other.test[0].output) for pair in task.test))
        unknown = task._replace(test=tuple(pair._replace(output=None) for pair in task.test))
        digests = {make([each], 50, seed=1).digest() for each in (task, changed, unknown)}
        assert len(digests) == 1


def test_variants_of_a_task_depend_on_seed_and_task_alone():
    tasks = [random_task(i, name=f"t{i}", colours=2 + i) for i in range(5)]

    def of(name: str, found: Variants) -> list[tuple]:
        ids = found.ids(name)
        return [(found.dihedral_P[i], *found.colours_PC[i]) for i in ids]

    together = make(tasks, 30, seed=5)
    for task in tasks:
        assert of(task.name, make([task], 30, seed=5)) == of(task.name, together)
        assert of(task.name, make([task], 80, seed=5))[: len(together.ids(task.name))] == of(
            task.name, together
        )
        if task.name == "t4":  # it has many variants: the seed and the name choose
            assert of(task.name, make([task], 30, seed=6)) != of(task.name, together)
            renamed = make([task._replace(name="x")], 30, seed=5)
            assert of("x", renamed) != of("t4", together)


def test_variants_are_the_same_on_every_machine():
    found = make([PLAIN], count=4, seed=0)
    assert found.dihedral_P.tolist() == [0, 0, 5, 1, 7]
    tables = ["".join(map(str, row)) for row in found.colours_PC[2:].tolist()]
    assert tables == ["0546281739", "0928354167", "0352687491"]


def test_draws_are_uniform():
    task = random_task(7, name="uniform", most_side=10)
    found = make([task], count=8000, seed=0)
    ids = list(found.ids("uniform"))
    assert len(ids) == 8000
    images = np.bincount(found.dihedral_P[ids], minlength=8)
    # Chi-square with 7 degrees of freedom: 24.3 is exceeded once in a thousand.
    assert ((images - 1000) ** 2 / 1000).sum() < 24.3
    for colour in range(1, 10):
        counts = np.bincount(found.colours_PC[ids, colour], minlength=10)[1:]
        assert ((counts - 8000 / 9) ** 2 / (8000 / 9)).sum() < 32.0  # 8 degrees, once in ten thousand


def test_wrong_arguments():
    with pytest.raises(UserError, match="cannot make 0 variants"):
        make([PLAIN], 0, seed=0)
    with pytest.raises(UserError, match="two tasks are named plain"):
        make([ONE_CELL, PLAIN, PLAIN], 2, seed=0)
    assert make([], 5, seed=0).first_N.tolist() == [1]
    assert make([PLAIN], 1, seed=0).first_N.tolist() == [1, 2]


def test_held_out_variants():
    found = make([random_task(0, name="a"), ONE_CELL, BLACK_ONLY], count=20, seed=0)
    assert np.diff(found.first_N).tolist() == [20, 9, 2]
    assert found.trained_N(0).tolist() == [20, 9, 2]
    assert found.trained_N(8).tolist() == [12, 1, 1]
    assert found.trained_N(100).tolist() == [1, 1, 1]
    with pytest.raises(UserError, match="hold out -1"):
        found.trained_N(-1)


@pytest.fixture
def table() -> Variants:
    return make([random_task(0, name="a"), ONE_CELL, random_task(1, name="é")], count=20, seed=0)


def test_save_and_load(table, tmp_path):
    path = tmp_path / "variants.safetensors"
    table.save(path)
    once = path.read_bytes()
    found = Variants.load(path)
    assert found.names == table.names
    for name in ("first_N", "dihedral_P", "colours_PC"):
        ours, theirs = getattr(table, name), getattr(found, name)
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    assert found.digest() == table.digest()
    found.save(path)
    assert path.read_bytes() == once
    assert list(tmp_path.iterdir()) == [path]


def test_the_digest_tells_every_part(table):
    parts = {table.digest()}
    parts.add(dataclasses.replace(table, names=("a", "cell", "e")).digest())
    parts.add(dataclasses.replace(table, names=("cell", "a", "é")).digest())
    for name in ("first_N", "dihedral_P", "colours_PC"):
        changed = getattr(table, name).copy()
        changed.flat[-1] ^= 1
        parts.add(dataclasses.replace(table, **{name: changed}).digest())
    assert len(parts) == 6
    copy = dataclasses.replace(table, colours_PC=np.asfortranarray(table.colours_PC))
    assert copy.digest() == table.digest()


def test_broken_files_are_named(table, tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "v.safetensors"
    with pytest.raises(UserError, match=r"v\.safetensors is missing"):
        Variants.load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"v\.safetensors is damaged"):
        Variants.load(path)
    save_file({"w": np.zeros(3)}, path)
    with pytest.raises(UserError, match="no table of variants"):
        Variants.load(path)

    def change(name: str, index, value) -> Variants:
        changed = getattr(table, name).copy()
        changed[index] = value
        return dataclasses.replace(table, **{name: changed})

    for broken in (
        dataclasses.replace(table, names=("a", "cell")),
        dataclasses.replace(table, names=("a", "cell", "cell")),
        dataclasses.replace(table, dihedral_P=table.dihedral_P[1:]),
        dataclasses.replace(table, colours_PC=table.colours_PC[:, 1:]),
        change("first_N", 0, 0),
        change("first_N", -1, 1000),
        change("first_N", 1, 1),
        change("dihedral_P", 3, 8),
        change("colours_PC", (3, 1), 0),
        change("colours_PC", 3, [1, 0, *range(2, 10)]),
    ):
        broken.save(path)
        with pytest.raises(UserError, match="no table of variants"):
            Variants.load(path)


def test_a_failed_save_leaves_the_old_file(table, tmp_path, monkeypatch):
    path = tmp_path / "v.safetensors"
    table.save(path)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="disk is full"):
        make([PLAIN], 2, seed=0).save(path)
    assert Variants.load(path).names == table.names
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif("TRM_DATA" not in os.environ, reason="TRM_DATA names no data folder")
@pytest.mark.parametrize("name", ["training", "evaluation", "training2", "evaluation2", "concept"])
def test_all_published_grids_come_back(name):
    from trm.puzzles.arc.canvas import from_canvas, to_canvas

    tasks = arc.read(str(Path(os.environ["TRM_DATA"]) / "arc" / f"arc-agi_{name}_challenges.json"))
    found = make(tasks, 20, seed=0)
    assert found.names == tuple(task.name for task in tasks)
    random = np.random.default_rng(0)
    for task in tasks:
        assert len(set(looks(found, task))) == len(found.ids(task.name))
        few = random.choice(found.ids(task.name)[1:], 4)
        for x, puzzle in itertools.product((g for pair in task.train + task.test for g in pair), few):
            variant = found.dihedral_P[puzzle], found.colours_PC[puzzle]
            image = transform(x, *variant)
            np.testing.assert_array_equal(undo(image, *variant), x)
            shown = from_canvas(to_canvas(image, 30), 30)
            assert shown.dtype == np.uint8
            np.testing.assert_array_equal(undo(shown, *variant), x)
