"""Data folders of the original: read as its builders make them, written as its loader reads them."""

import errno
import json
import os
import pickle
import resource
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny import ANSWER, PUZZLES, TASK

from trm.errors import UserError
from trm.original import folders as original
from trm.puzzles.table import Puzzles, from_arrays

ARC = SimpleNamespace(vocab_size=12, length=900)
BLANK = "<blank>"


def build(inside: Path, fields: dict[str, np.ndarray], set_name: str = "all", **about: object) -> None:
    """A split as the original's builders leave it: `np.save` of every field, and `dataset.json`."""
    inside.mkdir(parents=True, exist_ok=True)
    for name, array in fields.items():
        np.save(inside / f"{set_name}__{name}.npy", array)
    about = {
        "pad_id": 0,
        "ignore_label_id": 0,
        "blank_identifier_id": 0,
        "num_puzzle_identifiers": 1,
        "total_groups": len(fields["group_indices"]) - 1,
        "mean_puzzle_examples": len(fields["inputs"]) / len(fields["puzzle_identifiers"]),
        "total_puzzles": len(fields["puzzle_identifiers"]),
        "sets": ["all"],
    } | about
    (inside / "dataset.json").write_text(json.dumps(about))


def tokens(text: str) -> np.ndarray:
    """A 4x4 board in the original's tokens, worked out from the text alone: blank 1, digit d + 1."""
    return np.array([1 if c == "." else int(c) + 1 for c in text])


def indices(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


# Two puzzles: the first with two variants (digits exchanged), the second alone.
SWAPPED = str.maketrans("1234", "2143")
QUESTIONS = [PUZZLES[0], PUZZLES[0].translate(SWAPPED), PUZZLES[1]]
ANSWERS = [ANSWER, ANSWER.translate(SWAPPED), ANSWER]
SUDOKU = {
    # Augmentation indexes a table of int64 there, so that augmented folders are int64 and others uint8.
    "inputs": np.stack([tokens(text) for text in QUESTIONS]).astype(np.int64),
    "labels": np.stack([tokens(text) for text in ANSWERS]).astype(np.int64),
    "puzzle_identifiers": indices(0, 0, 0),
    "puzzle_indices": indices(0, 1, 2, 3),
    "group_indices": indices(0, 2, 3),
}
SUDOKU_ABOUT = {"vocab_size": 6, "seq_len": 16}


@pytest.fixture
def sudoku(tmp_path: Path) -> Path:
    folder = tmp_path / "sudoku"
    build(folder / "train", SUDOKU, **SUDOKU_ABOUT)
    last = {
        name: array[2:].astype(np.uint8) for name, array in SUDOKU.items() if name in ("inputs", "labels")
    }
    alone = {
        "puzzle_identifiers": indices(0), "puzzle_indices": indices(0, 1), "group_indices": indices(0, 1)
    }  # fmt: skip
    build(folder / "test", last | alone, **SUDOKU_ABOUT)
    (folder / "identifiers.json").write_text(json.dumps([BLANK]))
    return folder


def change(folder: Path, field: str, array: np.ndarray) -> None:
    np.save(folder / "train" / f"all__{field}.npy", array)


def describe(folder: Path, **about: object) -> None:
    path = folder / "train" / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | about))


def equal(a: Puzzles, b: Puzzles) -> bool:
    arrays = ("tokens_NL", "answers_NL", "puzzle_N", "rating_N")
    return all(
        np.array_equal(getattr(a, n), getattr(b, n)) and getattr(a, n).dtype == getattr(b, n).dtype
        for n in arrays
    )


# Reading


def test_an_augmented_sudoku_folder(sudoku: Path):
    puzzles = original.read(sudoku, "train", TASK)
    assert [TASK.text(tokens_L) for tokens_L in puzzles.tokens_NL] == QUESTIONS
    assert [TASK.text(tokens_L) for tokens_L in puzzles.answers_NL] == ANSWERS
    assert puzzles.puzzle_N.tolist() == puzzles.rating_N.tolist() == [0, 0, 0]
    assert puzzles.tokens_NL.dtype == puzzles.answers_NL.dtype == np.uint8
    assert puzzles.puzzle_N.dtype == puzzles.rating_N.dtype == np.int32
    test = original.read(sudoku, "test", TASK)
    assert [TASK.text(tokens_L) for tokens_L in test.tokens_NL] == [PUZZLES[1]]


def test_a_folder_like_that_of_arc(tmp_path: Path):
    """Two tasks of one variant each and one of two, with 2, 1, 3 and 3 pairs; ids in no order."""

    def canvas(grid: list[list[int]]) -> np.ndarray:
        drawn = np.zeros((30, 30), dtype=np.uint8)
        rows, columns = np.shape(grid)
        drawn[:rows, :columns] = np.array(grid) + 2
        drawn[rows, :columns] = drawn[:rows, columns] = 1
        return drawn.flatten()

    inputs = np.stack([canvas([[pair, 0], [9, pair]]) for pair in range(9)])
    labels = np.stack([canvas([[pair]]) for pair in range(9)])
    fields = {
        "inputs": inputs,
        "labels": labels,
        "puzzle_identifiers": indices(3, 1, 2, 4),
        "puzzle_indices": indices(0, 2, 3, 6, 9),
        "group_indices": indices(0, 1, 2, 4),
    }
    build(tmp_path / "train", fields, vocab_size=12, seq_len=900, num_puzzle_identifiers=5)
    puzzles = original.read(tmp_path, "train", ARC)
    assert puzzles.puzzle_N.tolist() == [3, 3, 1, 2, 2, 2, 4, 4, 4]
    assert np.array_equal(puzzles.tokens_NL, inputs)
    assert puzzles.answers_NL[4].reshape(30, 30)[:2, :2].tolist() == [[6, 1], [1, 0]]


def test_ignored_labels_become_padding(sudoku: Path):
    labels = SUDOKU["labels"].copy()
    labels[1, 3:7] = -100
    change(sudoku, "labels", labels)
    with pytest.raises(UserError, match=r"all__labels\.npy, row 1: token -100"):
        original.read(sudoku, "train", TASK)
    describe(sudoku, ignore_label_id=-100)
    expected = np.where(labels < 0, 0, labels)
    assert np.array_equal(original.read(sudoku, "train", TASK).answers_NL, expected)
    # A label that is a token as well, in an array that needs no other conversion.
    change(sudoku, "labels", SUDOKU["labels"].astype(np.uint8))
    describe(sudoku, ignore_label_id=3)
    read = original.read(sudoku, "train", TASK)
    assert np.array_equal(read.answers_NL, np.where(SUDOKU["labels"] == 3, 0, SUDOKU["labels"]))
    assert np.array_equal(read.tokens_NL, SUDOKU["inputs"])


def test_nothing_is_ignored_where_the_label_is_null(sudoku: Path):
    describe(sudoku, ignore_label_id=None)
    assert np.array_equal(original.read(sudoku, "train", TASK).answers_NL, SUDOKU["labels"])


def test_only_what_is_needed_must_be_there(sudoku: Path):
    """The older metadata lacks total_puzzles; forks add fields; names of ids are for people."""
    wanted = original.read(sudoku, "train", TASK)
    path = sudoku / "train" / "dataset.json"
    path.write_text(json.dumps(SUDOKU_ABOUT | {"num_puzzle_identifiers": 1, "sets": ["all"], "mine": []}))
    (sudoku / "identifiers.json").unlink()
    assert equal(original.read(sudoku, "train", TASK), wanted)


def test_sets_follow_each_other(sudoku: Path):
    more = SUDOKU | {
        "inputs": SUDOKU["inputs"][::-1],
        "labels": SUDOKU["labels"][::-1],
        "puzzle_identifiers": indices(5, 2),
        "puzzle_indices": indices(0, 1, 3),
        "group_indices": indices(0, 2),
    }
    about = SUDOKU_ABOUT | {"sets": ["easy", "all"], "num_puzzle_identifiers": 6}
    build(sudoku / "train", more, "easy", **about)
    puzzles = original.read(sudoku, "train", TASK)
    assert [TASK.text(tokens_L) for tokens_L in puzzles.tokens_NL] == QUESTIONS[::-1] + QUESTIONS
    assert [TASK.text(tokens_L) for tokens_L in puzzles.answers_NL] == ANSWERS[::-1] + ANSWERS
    assert puzzles.puzzle_N.tolist() == [5, 2, 2, 0, 0, 0]
    assert len(puzzles.rating_N) == 6


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", ">i4", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("chunk", [1, 16, 40, 1 << 22])
def test_every_kind_of_integer_in_chunks_of_any_size(sudoku: Path, monkeypatch, dtype: str, chunk: int):
    wanted = original.read(sudoku, "train", TASK)
    monkeypatch.setattr(original, "_CHUNK", chunk)
    for field, array in SUDOKU.items():
        change(sudoku, field, array.astype(dtype))
    assert equal(original.read(sudoku, "train", TASK), wanted)
    # A fault is placed the same whatever the chunks are.
    bad = SUDOKU["inputs"].astype(dtype)
    bad[2, 5] = 6
    change(sudoku, "inputs", bad)
    with pytest.raises(
        UserError, match=r"all__inputs\.npy, row 2: token 6 is not within the vocabulary of 6"
    ):
        original.read(sudoku, "train", TASK)


def test_columns_first_arrays_are_read_alike(sudoku: Path):
    wanted = original.read(sudoku, "train", TASK)
    change(sudoku, "inputs", np.asfortranarray(SUDOKU["inputs"].astype(np.uint8)))
    assert equal(original.read(sudoku, "train", TASK), wanted)


def test_a_large_folder_stays_in_its_files(tmp_path: Path):
    N = 300_000
    single = {
        "puzzle_identifiers": indices(0), "puzzle_indices": indices(0, N), "group_indices": indices(0, 1)
    }  # fmt: skip
    shapes = {"inputs": np.empty((1, 81)), "labels": np.empty((1, 81))}
    build(tmp_path / "train", shapes | single, vocab_size=11, seq_len=81)
    for field in shapes:  # 24 MB of zeros that take no space on the disk
        np.lib.format.open_memmap(tmp_path / f"train/all__{field}.npy", "w+", np.uint8, (N, 81))
    tracemalloc.start()
    puzzles = original.read(tmp_path, "train", SimpleNamespace(vocab_size=11, length=81))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(puzzles) == N
    assert peak < 3 * 4 * N + 1_000_000  # ids, groups and ratings, int32


def test_changing_the_arrays_leaves_the_files_alone(sudoku: Path):
    change(sudoku, "inputs", SUDOKU["inputs"].astype(np.uint8))
    puzzles = original.read(sudoku, "train", TASK)
    puzzles.tokens_NL[:] = 0
    assert np.array_equal(original.read(sudoku, "train", TASK).tokens_NL, SUDOKU["inputs"])


# Faults


def rows(field: str, count: int) -> np.ndarray:
    return SUDOKU[field][:count]


@pytest.mark.parametrize(
    ("field", "array", "words"),
    [
        ("inputs", rows("inputs", 0), r"shape \(0, 16\): need at least one row"),
        ("inputs", SUDOKU["inputs"][:, :9], r"shape \(3, 9\).* the 16 columns"),
        ("inputs", SUDOKU["inputs"].astype(float), "holds float64 of shape .* need integers"),
        ("inputs", SUDOKU["inputs"] > 1, "holds bool"),
        ("inputs", SUDOKU["inputs"].reshape(3, 4, 4), "with 2 dimensions"),
        ("inputs", -SUDOKU["inputs"], "row 0: token -2 "),
        ("labels", rows("labels", 2), "has 2 rows, but the inputs have 3"),
        ("labels", SUDOKU["labels"] + 250, "row 0: token 252 "),
        ("puzzle_identifiers", indices(0, 1, 0), "puzzle 1: id 1 is not within the 1 identifiers"),
        ("puzzle_identifiers", indices(0, 0, -1), "puzzle 2: id -1 "),
        ("puzzle_identifiers", indices(0, 0)[:, None], "with 1 dimension$"),
        ("puzzle_indices", indices(0, 1, 3), "has 3 entries where 3 puzzles need 4"),
        ("puzzle_indices", indices(0, 2, 1, 3), "rise from 0 to 3"),
        ("puzzle_indices", np.array([0, 2, 1, 3], dtype=np.uint64), "rise from 0 to 3"),
        ("puzzle_indices", indices(1, 1, 2, 3), "rise from 0 to 3"),
        ("puzzle_indices", indices(0, 1, 2, 4), "rise from 0 to 3"),
        ("group_indices", indices(0, 2, 4), "rise from 0 to 3"),
        ("group_indices", indices(0, 2, 1, 3), "rise from 0 to 3"),
        ("group_indices", indices(), "rise from 0 to 3"),
    ],
)
def test_arrays_that_do_not_fit_are_named(sudoku: Path, field: str, array: np.ndarray, words: str):
    change(sudoku, field, array)
    with pytest.raises(UserError, match=rf"all__{field}\.npy.*{words}"):
        original.read(sudoku, "train", TASK)


def test_no_puzzles_for_the_examples(sudoku: Path):
    change(sudoku, "puzzle_identifiers", indices())
    change(sudoku, "puzzle_indices", indices(0))
    with pytest.raises(UserError, match=r"all__puzzle_indices\.npy.*from 0 to 3"):
        original.read(sudoku, "train", TASK)


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"vocab_size": 11}, "vocab_size is 11, but 6 in the family"),
        ({"seq_len": 81}, "seq_len is 81, but 16 in the family"),
        ({"pad_id": 5}, "pad_id is 5, but 0"),
        ({"num_puzzle_identifiers": 0}, "num_puzzle_identifiers"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"sets": []}, "sets: "),
        ({"sets": ["../../secret"]}, "'../../secret' is not the name of a set"),
        ({"sets": ["all", "extra"]}, r"extra__inputs\.npy is missing"),
    ],
)
def test_metadata_that_does_not_fit_is_named(sudoku: Path, about: dict, words: str):
    describe(sudoku, **about)
    with pytest.raises(UserError, match=words) as caught:
        original.read(sudoku, "train", TASK)
    assert str(sudoku / "train") in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\udcff", '{"sets": ["all"]}', "[" * 100_000])
def test_broken_metadata_is_named(sudoku: Path, text: str):
    path = sudoku / "train" / "dataset.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"train/dataset\.json") as caught:
        original.read(sudoku, "train", TASK)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", SUDOKU)
def test_a_missing_file_is_named(sudoku: Path, field: str):
    (sudoku / "train" / f"all__{field}.npy").unlink()
    with pytest.raises(UserError, match=rf"all__{field}\.npy is missing"):
        original.read(sudoku, "train", TASK)


def test_a_file_cut_anywhere_is_refused(sudoku: Path):
    path = sudoku / "train" / "all__inputs.npy"
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"all__inputs\.npy") as caught:
            original.read(sudoku, "train", TASK)
        assert "\n" not in str(caught.value)


def test_pickles_are_refused_and_not_executed(sudoku: Path, tmp_path: Path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    path = sudoku / "train" / "all__labels.npy"
    np.save(path, np.array([Bomb()], dtype=object), allow_pickle=True)
    for _ in ("array of objects", "plain pickle"):
        with pytest.raises(UserError, match=r"all__labels\.npy is not a readable array"):
            original.read(sudoku, "train", TASK)
        path.write_bytes(pickle.dumps(Bomb()))
    assert not (tmp_path / "executed").exists()
    pickle.loads(path.read_bytes())  # the bomb is live
    assert (tmp_path / "executed").exists()


def test_what_is_a_folder_and_what_are_its_splits(sudoku: Path, tmp_path: Path):
    (sudoku / ".train.x.draft").mkdir()
    (sudoku / ".train.x.draft" / "dataset.json").touch()
    (sudoku / "other").mkdir()
    assert original.is_folder(sudoku)
    assert original.splits(sudoku) == ["test", "train"]
    for path in (sudoku / "train", tmp_path / "gone", sudoku / "identifiers.json", sudoku / "other"):
        assert not original.is_folder(path)
        assert original.splits(path) == []
        with pytest.raises(UserError, match="is not a data folder of the original"):
            original.read(path, "train", TASK)
    for split in ("dev", "other", "", "..", "train/"):
        with pytest.raises(UserError, match=r"has no split .*; choose one of test, train"):
            original.read(sudoku, split, TASK)


# Writing


def random_puzzles(seed: int, N: int = 50) -> Puzzles:
    """Boards that solve nothing, with runs of equal ids, id 0 among them, and ids that come back."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(rng.integers(0, 4, N), rng.integers(1, 5, N))[:N].astype(np.int32)
    boards = rng.integers(0, 6, (2, N, 16)).astype(np.uint8)
    return Puzzles(*boards, ids, np.zeros(N, dtype=np.int32))


NAMES = [BLANK, "a", "a|||t3|||0132456789", "é"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("chunk", [40, 1 << 22])
def test_what_was_written_is_read(tmp_path: Path, monkeypatch, seed: int, chunk: int):
    monkeypatch.setattr(original, "_CHUNK", chunk)
    splits = {"train": random_puzzles(seed), "test": random_puzzles(seed + 100, N=1)}
    folder = tmp_path / "deep" / "data"
    original.write(folder, splits, TASK, identifiers=NAMES)
    assert original.splits(folder) == ["test", "train"]
    for split, puzzles in splits.items():
        assert equal(original.read(folder, split, TASK), puzzles)


@pytest.mark.parametrize("seed", range(5))
def test_the_originals_loader_finds_its_way(tmp_path: Path, seed: int):
    """Ids of examples by the search of its evaluation, and the ranges that its training draws from."""
    puzzles = random_puzzles(seed)
    original.write(tmp_path, {"train": puzzles}, TASK, identifiers=NAMES)
    fields = {name: np.load(tmp_path / "train" / f"all__{name}.npy") for name in SUDOKU}
    about = json.loads((tmp_path / "train" / "dataset.json").read_text())
    first, groups = fields["puzzle_indices"], fields["group_indices"]
    puzzle = np.searchsorted(first, np.arange(50), side="right") - 1
    assert np.array_equal(fields["puzzle_identifiers"][puzzle], puzzles.puzzle_N)
    assert all(np.diff(first) > 0)
    assert np.array_equal(groups, np.arange(len(first)))
    assert all(fields[name].dtype == np.int32 for name in SUDOKU if name not in ("inputs", "labels"))
    assert about["total_puzzles"] == about["total_groups"] == len(fields["puzzle_identifiers"])
    assert about["mean_puzzle_examples"] == pytest.approx(50 / about["total_puzzles"])
    assert json.loads((tmp_path / "identifiers.json").read_text()) == NAMES


def test_a_written_folder_worked_by_hand(tmp_path: Path):
    ids = np.array([0, 0, 2, 2, 2, 1, 2], dtype=np.int32)
    boards = np.full((7, 16), 3, dtype=np.uint8)
    puzzles = Puzzles(boards, boards + 1, ids, ids * 0)
    groups = {"train": np.array([0, 2, 5])}
    original.write(tmp_path, {"train": puzzles}, TASK, groups, [BLANK, "a", "b"])
    inside = tmp_path / "train"
    fields = {name: np.load(inside / f"all__{name}.npy").tolist() for name in SUDOKU}
    assert fields == {
        "inputs": [[3] * 16] * 7,
        "labels": [[4] * 16] * 7,
        "puzzle_identifiers": [0, 0, 2, 1, 2],
        "puzzle_indices": [0, 1, 2, 5, 6, 7],
        "group_indices": [0, 2, 5],
    }
    assert json.loads((inside / "dataset.json").read_text()) == {
        "pad_id": 0,
        "ignore_label_id": 0,
        "blank_identifier_id": 0,
        "vocab_size": 6,
        "seq_len": 16,
        "num_puzzle_identifiers": 3,
        "total_groups": 2,
        "mean_puzzle_examples": 1.4,
        "total_puzzles": 5,
        "sets": ["all"],
    }
    assert {path.name for path in inside.iterdir()} == {*(f"all__{n}.npy" for n in SUDOKU), "dataset.json"}
    assert tmp_path.stat().st_mode & 0o777 == inside.stat().st_mode & 0o777 == 0o755


def test_reading_and_writing_a_folder_of_the_original_changes_nothing(sudoku: Path, tmp_path: Path):
    puzzles = {split: original.read(sudoku, split, TASK) for split in original.splits(sudoku)}
    original.write(tmp_path / "copy", puzzles, TASK, {"train": SUDOKU["group_indices"]})
    for field, array in SUDOKU.items():
        copied = np.load(tmp_path / "copy" / "train" / f"all__{field}.npy")
        assert np.array_equal(copied, array), field
        assert copied.dtype == (np.uint8 if field in ("inputs", "labels") else array.dtype)
    for split in puzzles:
        path = Path(split, "dataset.json")
        assert json.loads((tmp_path / "copy" / path).read_text()) == json.loads((sudoku / path).read_text())


def test_nothing_is_overwritten(tmp_path: Path):
    puzzles = {"train": random_puzzles(0)}
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for name in ("full", "file"):
        with pytest.raises(UserError, match=f"{name} exists and is not an empty folder"):
            original.write(tmp_path / name, puzzles, TASK, identifiers=NAMES)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    original.write(tmp_path / "empty", puzzles, TASK, identifiers=NAMES)
    assert original.splits(tmp_path / "empty") == ["train"]


BOARDS = np.ones((2, 16), dtype=np.uint8)


@pytest.mark.parametrize(
    ("splits", "options", "words"),
    [
        ({}, {}, "at least one split"),
        ({"train": random_puzzles(0)}, {}, "puzzle ids from 0 to 3, but identifiers name 1"),
        ({"train": random_puzzles(0)}, {"identifiers": NAMES[:3]}, "from 0 to 3, but identifiers name 3"),
        ({"train": from_arrays(BOARDS[:0], BOARDS[:0])}, {}, "'train' holds no puzzles"),
        ({"../train": from_arrays(BOARDS, BOARDS)}, {}, "'../train' is not the name of a split"),
        ({"train": from_arrays(BOARDS, BOARDS[:, :9])}, {}, "do not fit the family: it has 16 tokens"),
        ({"train": from_arrays(BOARDS, BOARDS + 5)}, {}, "a vocabulary of 6"),
        ({"train": from_arrays(BOARDS, BOARDS)}, {"groups": {"test": indices(0, 2)}}, "groups of test, but"),
        (
            {"train": from_arrays(BOARDS, BOARDS)},
            {"groups": {"train": indices(0, 3)}},
            "of 'train': need .* 0 to 2",
        ),
        (
            {"train": from_arrays(BOARDS, BOARDS)},
            {"groups": {"train": indices(0, 1, 1, 2)}},
            "groups of 'train'",
        ),
    ],
)
def test_what_does_not_fit_is_not_written(tmp_path: Path, splits: dict, options: dict, words: str):
    with pytest.raises(UserError, match=words):
        original.write(tmp_path / "data", splits, TASK, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", range(1, 13))
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch, call: int):
    real, calls = os.fsync, iter(range(1, 100))

    def fsync(handle: int) -> None:
        if next(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    splits = {"train": random_puzzles(0), "test": random_puzzles(1)}
    with pytest.raises(UserError, match=r"the disk is full: data folder .*data was not written"):
        original.write(tmp_path / "data", splits, TASK, identifiers=NAMES)
    assert list(tmp_path.iterdir()) == []


def test_arrays_that_find_no_room_are_told_from_other_faults(tmp_path: Path):
    """The way in which numpy writes loses the error number, by which a full disk is known."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(UserError, match="the disk is full"):
            original.write(tmp_path / "data", {"train": from_arrays(*np.ones((2, 1000, 16)))}, TASK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
