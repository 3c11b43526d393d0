"""The data folders of the original TRM and HRM code, read and written.

Its builders turn CSV and JSON files into folders of arrays, its training reads nothing else, and people
keep such folders for their own puzzles. Reading one here needs no conversion; writing one lets the
original's code train and evaluate on puzzles of ours.

    FOLDER/identifiers.json              names of puzzle ids; id 0 is "<blank>"
    FOLDER/SPLIT/dataset.json            sizes, special tokens, and the names of the sets (mostly just "all")
    FOLDER/SPLIT/SET__inputs.npy         questions, integers [N, L]
    FOLDER/SPLIT/SET__labels.npy         answers, integers [N, L]
    FOLDER/SPLIT/SET__puzzle_identifiers.npy   id of every puzzle [M]
    FOLDER/SPLIT/SET__puzzle_indices.npy       first example of every puzzle, then N [M + 1]
    FOLDER/SPLIT/SET__group_indices.npy        first puzzle of every group, then M [G + 1]

A puzzle has one id and one or more examples (the pairs of an ARC task); the puzzles of a group are
variants of one another, of which the original draws one per epoch. Sudoku and mazes have one example per
puzzle and share the id 0. Tokens mean the same there and here, and 0 is padding in both.

The augmented Sudoku folder has a million rows of eight bytes per token. So files are mapped into memory
instead of being loaded, checked and converted a few thousand rows at a time, and arrays that are uint8
already are used where they lie. Files are never unpickled.

Shapes: N examples, L tokens, M puzzles, G groups.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ConfigDict, Field

from trm.config import Config, parse
from trm.errors import UserError, first_line
from trm.files import LISTING, full_disk_is_a_user_error, new_folder, read_json, write_atomic
from trm.puzzles.arc.readers import TEST_PUZZLES
from trm.puzzles.family import Family
from trm.puzzles.table import Puzzles

IDENTIFIERS, BLANK = "identifiers.json", "<blank>"
_ABOUT = "dataset.json"
_SET = "all"
# Elements that are looked at in one go: 32 MiB of the widest integers.
_CHUNK = 1 << 22


class _About(Config):
    """What we need of `dataset.json`; its other fields are statistics, and forks add their own."""

    model_config = ConfigDict(extra="ignore")

    vocab_size: int
    seq_len: int
    num_puzzle_identifiers: int = Field(gt=0, le=2**31)  # ids are int32
    pad_id: int = 0
    ignore_label_id: int | None = 0
    sets: list[str] = Field(min_length=1)


def is_split(name: str) -> bool:
    """Whether a path is a split of such a folder; no name is none, wherever the command runs."""
    return bool(name) and (Path(name) / _ABOUT).is_file()


def is_folder(path: Path) -> bool:
    """Whether the path is a data folder of the original: one that holds splits. Never raises."""
    return bool(splits(path))


def splits(folder: Path) -> list[str]:
    """Names of the splits in a data folder, sorted; none if it is something else."""
    try:
        found = [about.parent.name for about in folder.glob(f"*/{_ABOUT}")]
    except OSError:  # a folder that we may not look into
        return []
    return sorted(name for name in found if not name.startswith("."))


class Sizes(NamedTuple):
    """What the original takes from the data to build a model, by its own names."""

    vocab_size: int
    seq_len: int
    num_puzzle_identifiers: int


def sizes(path: Path) -> Sizes:
    """Sizes in a `dataset.json`, that of a split, or that of a data folder (of `train` where there is one).

    Raises UserError if there is no such file, or if it is damaged.
    """
    if found := splits(path):
        path = path / ("train" if "train" in found else found[0])
    about = _parse_about(path / _ABOUT if path.is_dir() else path)
    return Sizes(about.vocab_size, about.seq_len, about.num_puzzle_identifiers)


def identifiers(folder: Path) -> list[str]:
    """Names of the puzzle ids of a data folder; UserError if the file is missing or damaged."""
    path = folder / IDENTIFIERS
    names = read_json(path, "it says what the puzzle ids of the folder stand for", LISTING)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} must be a list of names: build the folder again")
    return names


def read(folder: Path, split: str, family: Family) -> Puzzles:
    """The examples of a split: the sets one after the other, each in the order of its files.

    Every example carries the id of its puzzle and the number of its group; ratings are 0, as the format has
    none. Labels that the original ignores become token 0, which the loss
    ignores here; where `ignore_label_id` is null, the original learns padding and we do not. A change of
    the arrays never reaches the files.

    Raises UserError, naming the file, if one is missing, damaged, or at odds with the others or the family.
    Answers are not checked against the rules of the family.
    """
    about = _read_about(folder, split, family)
    parts = [_read_set(folder / split, name, about) for name in about.sets]
    return parts[0] if len(parts) == 1 else _joined(parts)


def write(
    folder: Path,
    splits: Mapping[str, Puzzles],
    family: Family,
    groups: Mapping[str, np.ndarray] | None = None,
    identifiers: Sequence[str] = (BLANK,),
    test_puzzles: Mapping[str, Any] | None = None,
) -> None:
    """Write puzzles as a data folder of the original, which appears as a whole or not at all.

    Neighbours that share an id above 0 are the examples of one puzzle; every example of id 0 is a puzzle
    of its own. Ratings are not written.

    Args:
        folder: a new folder, or an empty one.
        splits: the puzzles by the name of their split.
        family: gives the vocabulary and the number of tokens.
        groups: for any of the splits the first puzzle of every group, then M; integers [G + 1].
            Default: every puzzle is a group.
        identifiers: names of the puzzle ids, one for each id in use; the first is that of id 0.
        test_puzzles: the ARC tasks to be predicted, by name, as they were published.

    Raises UserError if the folder holds something already, if the puzzles do not fit the family, the
    identifiers or the groups, or if the disk is full.
    """
    folder, groups = folder.resolve(), groups or {}
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder: give the name of a new one")
    if not splits:
        raise UserError(f"no puzzles to write to {folder}: give at least one split")
    if unknown := sorted(groups.keys() - splits.keys()):
        raise UserError(f"groups of {', '.join(unknown)}, but the splits are {', '.join(splits)}")
    for split, puzzles in splits.items():
        _check_split(split, puzzles, family, groups.get(split), len(identifiers))
    with full_disk_is_a_user_error(f"data folder {folder} was not written"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".draft"))
        try:
            write_atomic(draft / IDENTIFIERS, json.dumps(list(identifiers)))
            if test_puzzles is not None:
                write_atomic(draft / TEST_PUZZLES, json.dumps(test_puzzles))
            for split, puzzles in splits.items():  # each syncs the draft as well, the last one all of it
                with new_folder(draft / split) as inside:
                    _write_split(inside, puzzles, family, groups.get(split), len(identifiers))
            draft.chmod(0o755)
            draft.rename(folder)  # takes the place of an empty folder, and of no other
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise


class Merged(NamedTuple):
    """Several data folders as one, ready to be written."""

    splits: dict[str, Puzzles]
    groups: dict[str, np.ndarray]
    """By split: the first puzzle of every group, then M; integers [G + 1]."""
    identifiers: list[str]
    test_puzzles: dict[str, Any] | None


def merge(given: Sequence[Path], family: Family) -> Merged:
    """The rows of several data folders one after the other, for each of their splits.

    The original's training takes a list of folders and looks their ids up in one table. So an id must have
    the same name wherever it has one: build the second folder with its ids after those of the first.

    Raises UserError where an id has two names, a task two forms, or a folder is damaged.
    """
    names: list[str] = []
    homes: list[Path] = []
    tests: dict[str, Any] | None = None
    for folder in given:
        for index, name in enumerate(_names(folder)):
            if index == len(names):
                names.append(name)
                homes.append(folder)
            elif names[index] == BLANK:
                names[index], homes[index] = name, folder
            elif name not in (BLANK, names[index]):
                raise UserError(
                    f"the puzzle id {index} is {names[index][:40]!r} in {homes[index]}, but {name[:40]!r} in "
                    f"{folder}: build that folder with ids that begin after those of the first "
                    "(--puzzle-identifiers-start)"
                )
        for name, task in _test_puzzles(folder).items():
            tests = {} if tests is None else tests
            if tests.setdefault(name, task) != task:
                raise UserError(
                    f"{folder / TEST_PUZZLES}: the task {name} is another one in a folder before it"
                )
    splits_: dict[str, Puzzles] = {}
    groups: dict[str, np.ndarray] = {}
    for split in sorted({split for folder in given for split in splits(folder)}):
        parts = [read(folder, split, family) for folder in given if split in splits(folder)]
        splits_[split] = parts[0] if len(parts) == 1 else _joined(parts)
        groups[split] = _first_puzzles(splits_[split])
    return Merged(splits_, groups, names, tests)


def _joined(parts: Sequence[Puzzles]) -> Puzzles:
    groups, count = [], 0
    for part in parts:
        assert part.group_N is not None  # see `_read_set`
        groups.append(part.group_N + count)
        count += int(part.group_N[-1]) + 1
    return Puzzles(
        np.concatenate([part.tokens_NL for part in parts]),
        np.concatenate([part.answers_NL for part in parts]),
        np.concatenate([part.puzzle_N for part in parts]),
        np.concatenate([part.rating_N for part in parts]),
        np.concatenate(groups),
    )


def _first_puzzles(puzzles: Puzzles) -> np.ndarray:
    """The first puzzle of every group, then M: integers [G + 1]."""
    assert puzzles.group_N is not None
    first_M = first_examples(puzzles.puzzle_N)[:-1]
    group_M = puzzles.group_N[first_M]
    return np.concatenate([[0], np.flatnonzero(np.diff(group_M)) + 1, [len(group_M)]])


def _names(folder: Path) -> list[str]:
    """Names of the ids; where nothing is named (HRM's early builders), all of them are blank."""
    if (folder / IDENTIFIERS).exists():
        return identifiers(folder)
    return [BLANK] * sizes(folder).num_puzzle_identifiers


def _test_puzzles(folder: Path) -> dict[str, Any]:
    path = folder / TEST_PUZZLES
    if not path.exists():
        return {}
    try:
        return dict(read_json(path, "build the folder again", LISTING))
    except (ValueError, TypeError) as error:
        raise UserError(f"cannot read {path}: {first_line(error)}; build the folder again") from None


# Reading


def _read_about(folder: Path, split: str, family: Family) -> _About:
    known = splits(folder)
    if not known:
        raise UserError(f"{folder} is not a data folder of the original: it holds no SPLIT/{_ABOUT}")
    if split not in known:
        raise UserError(f"{folder} has no split {split!r}; choose one of {', '.join(known)}")
    path = folder / split / _ABOUT
    about = _parse_about(path)
    for name, theirs, ours in (
        ("vocab_size", about.vocab_size, family.vocab_size),
        ("seq_len", about.seq_len, family.length),
        ("pad_id", about.pad_id, 0),
    ):
        if theirs != ours:
            raise UserError(
                f"{path}: {name} is {theirs}, but {ours} in the family: choose the one that it was built for"
            )
    for name in about.sets:
        if not _is_plain(name):
            raise UserError(f"{path}: {name!r} is not the name of a set; use letters, digits and _")
    if len(set(about.sets)) < len(about.sets):
        raise UserError(f"{path} names a set twice: build the folder again")
    return about


def _parse_about(path: Path) -> _About:
    return parse(_About, read_json(path, "build the folder again"), str(path))


def _read_set(inside: Path, name: str, about: _About) -> Puzzles:
    def file(field: str) -> Path:
        return inside / f"{name}__{field}.npy"

    tokens_NL = _load_tokens(file("inputs"), about, ignored=None)
    answers_NL = _load_tokens(file("labels"), about, ignored=about.ignore_label_id)
    N = len(tokens_NL)
    if len(answers_NL) != N:
        raise UserError(
            f"{file('labels')} has {len(answers_NL)} rows, but the inputs have {N}: build the folder again"
        )
    puzzle_M = _load(file("puzzle_identifiers"), 1)
    M, ids = len(puzzle_M), about.num_puzzle_identifiers
    if M and not 0 <= puzzle_M.min() <= puzzle_M.max() < ids:
        at = np.flatnonzero((puzzle_M < 0) | (puzzle_M >= ids))[0]
        raise UserError(
            f"{file('puzzle_identifiers')}, puzzle {at}: id {puzzle_M[at]} is not within the "
            f"{ids} identifiers of {_ABOUT}: build the folder again"
        )
    first_M1 = _load(file("puzzle_indices"), 1)
    if len(first_M1) != M + 1:
        raise UserError(
            f"{file('puzzle_indices')} has {len(first_M1)} entries where {M} puzzles need {M + 1}: "
            "build the folder again"
        )
    _check_bounds(first_M1, N, str(file("puzzle_indices")))
    first_G1 = _load(file("group_indices"), 1)
    _check_bounds(first_G1, M, str(file("group_indices")))
    examples_M, puzzles_G = (np.diff(first.astype(np.int64)) for first in (first_M1, first_G1))
    puzzle_N = np.repeat(puzzle_M.astype(np.int32), examples_M)
    group_M = np.repeat(np.arange(len(puzzles_G), dtype=np.int32), puzzles_G)
    return Puzzles(
        tokens_NL, answers_NL, puzzle_N, np.zeros(N, dtype=np.int32), np.repeat(group_M, examples_M)
    )


def _load_tokens(path: Path, about: _About, ignored: int | None) -> np.ndarray:
    """Tokens below the vocabulary size, uint8 [N, L], with those to ignore as 0."""
    given_NL = _load(path, 2)
    if len(given_NL) == 0 or given_NL.shape[1] != about.seq_len:
        raise UserError(
            f"{path} has shape {given_NL.shape}: need at least one row, and the {about.seq_len} columns "
            f"of {_ABOUT}"
        )
    in_place = given_NL.dtype == np.uint8 and not ignored
    tokens_NL = given_NL if in_place else np.empty(given_NL.shape, dtype=np.uint8)
    for rows in _chunks(given_NL):
        part = given_NL[rows]
        if ignored:
            part = np.where(part == ignored, 0, part)
        if part.min() < 0 or part.max() >= about.vocab_size:
            row, column = np.argwhere((part < 0) | (part >= about.vocab_size))[0]
            raise UserError(
                f"{path}, row {rows.start + row}: token {part[row, column]} is not within the vocabulary "
                f"of {about.vocab_size}: build the folder again"
            )
        if not in_place:
            tokens_NL[rows] = part
    return tokens_NL


def _load(path: Path, dimensions: int) -> np.ndarray:
    """An array of integers, mapped into memory: changes of it are private and never reach the file."""
    try:
        mapped = np.lib.format.open_memmap(path, mode="c")  # refuses pickled objects
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the data folder is incomplete; build it again") from None
    except Exception as error:  # a damaged file makes numpy fail in a dozen ways
        raise UserError(
            f"{path} is not a readable array ({first_line(error)}): build the folder again"
        ) from None
    if mapped.dtype.kind not in "iu" or mapped.ndim != dimensions:
        raise UserError(
            f"{path} holds {mapped.dtype} of shape {mapped.shape}; need integers with "
            f"{dimensions} dimension{'s' if dimensions > 1 else ''}"
        )
    return mapped.view(np.ndarray)


def _check_bounds(bounds: np.ndarray, total: int, where: str, strictly: bool = False) -> None:
    """UserError unless the bounds rise from 0 to the total."""
    # Compared and not subtracted: differences of unsigned integers wrap around.
    falls = bounds[1:] <= bounds[:-1] if strictly else bounds[1:] < bounds[:-1]
    if len(bounds) == 0 or bounds[0] != 0 or bounds[-1] != total or falls.any():
        raise UserError(f"{where}: need indices that rise from 0 to {total}")


# Writing


def _check_split(split: str, puzzles: Puzzles, family: Family, group_G1: np.ndarray | None, ids: int) -> None:
    if not _is_plain(split):
        raise UserError(f"{split!r} is not the name of a split; use letters, digits and _")
    N = len(puzzles)
    if N == 0:
        raise UserError(f"split {split!r} holds no puzzles: leave it out")
    for tokens_NL in (puzzles.tokens_NL, puzzles.answers_NL):
        if tokens_NL.shape != (N, family.length) or tokens_NL.max() >= family.vocab_size:
            raise UserError(
                f"the puzzles of split {split!r} do not fit the family: it has {family.length} tokens per "
                f"puzzle and a vocabulary of {family.vocab_size}"
            )
    low, high = puzzles.puzzle_N.min(), puzzles.puzzle_N.max()
    if low < 0 or high >= ids:
        raise UserError(f"split {split!r} has puzzle ids from {low} to {high}, but identifiers name {ids}")
    if group_G1 is not None:
        # The original draws one puzzle of every group, and fails where there is none.
        _check_bounds(
            group_G1, len(first_examples(puzzles.puzzle_N)) - 1, f"groups of {split!r}", strictly=True
        )


def _write_split(
    inside: Path, puzzles: Puzzles, family: Family, group_G1: np.ndarray | None, ids: int
) -> None:
    first_M1 = first_examples(puzzles.puzzle_N)
    M = len(first_M1) - 1
    group_G1 = np.arange(M + 1) if group_G1 is None else group_G1
    for field, array in {
        "inputs": puzzles.tokens_NL,
        "labels": puzzles.answers_NL,
        "puzzle_identifiers": puzzles.puzzle_N[first_M1[:-1]].astype(np.int32),
        "puzzle_indices": first_M1.astype(np.int32),
        "group_indices": group_G1.astype(np.int32),
    }.items():
        _save(inside / f"{_SET}__{field}.npy", array)
    about = {
        "pad_id": 0,
        "ignore_label_id": 0,
        "blank_identifier_id": 0,
        "vocab_size": family.vocab_size,
        "seq_len": family.length,
        "num_puzzle_identifiers": ids,
        "total_groups": len(group_G1) - 1,
        "mean_puzzle_examples": len(puzzles) / M,
        "total_puzzles": M,
        "sets": [_SET],
    }
    write_atomic(inside / _ABOUT, json.dumps(about))


def first_examples(puzzle_N: np.ndarray) -> np.ndarray:
    """The first example of every puzzle, then N: integers [M + 1]."""
    goes_on = (puzzle_N[1:] == puzzle_N[:-1]) & (puzzle_N[1:] != 0)
    return np.concatenate([[0], np.flatnonzero(~goes_on) + 1, [len(puzzle_N)]])


def _save(path: Path, array: np.ndarray) -> None:
    """What `np.save` does, but a full disk keeps its error number, by which it is told from other faults."""
    header = {
        "descr": np.lib.format.dtype_to_descr(array.dtype),
        "fortran_order": False,
        "shape": array.shape,
    }
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for rows in _chunks(array):
            file.write(array[rows].tobytes())


def _chunks(array: np.ndarray) -> Iterator[slice]:
    """Runs of rows that hold about `_CHUNK` elements each; empty arrays have none."""
    rows = max(1, _CHUNK * len(array) // max(1, array.size))
    for start in range(0, len(array), rows):
        yield slice(start, start + rows)


def _is_plain(name: str) -> bool:
    """Whether a name can be (part of) that of a file inside the folder, and of no file elsewhere."""
    return name.replace("-", "_").replace("_", "a").isalnum()
