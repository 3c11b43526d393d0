"""The variants of every ARC task: rotated, reflected and recoloured copies that have puzzle ids of their own.

The network is told by a learned vector which task it is to solve, and a variant is a task of its own: the
same rule under another rotation, reflection and renaming of colours. Variants are numbered once, before
training, and the table of numbers travels with the weights: with another table, the vectors mean nothing.

Dihedral images are numbered as in `symmetry`,
and colours are renamed by a table: colour c becomes colours_C[c]. Black (0) stays, as it is mostly the
background.

Two draws may look the same, as a task may be symmetric and need not use all colours. A task is the set of its
train pairs and the set of its test inputs, in no order. They are compared exactly, and without making their
images: a picture is known by the set of cells of each colour; these sets depend on the dihedral image alone,
and a renaming hands them to other colours. So a pair is judged by ten numbers of sets, whatever its size.

Shapes: N tasks, P puzzle ids, C = 10 colours, D draws, K pairs of a task, H height, W width.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save as save_numpy

from trm import rng
from trm.errors import UserError, first_line
from trm.files import full_disk_is_a_user_error, write_atomic
from trm.puzzles.arc.readers import COLOURS, ArcTask, Pair
from trm.puzzles.symmetry import DIHEDRAL, INVERSE, turn

_PATIENCE = 5  # draws per wanted variant, then a task is left with fewer
_TABLES = {"first_N": np.int64, "dihedral_P": np.uint8, "colours_PC": np.uint8}


@dataclass(frozen=True)
class Variants:
    """Every puzzle id and the variant that it stands for.

    The variants of task i have the ids first_N[i] to first_N[i + 1] - 1, int64 [N + 1], and the first of them
    is the task itself. Ids below first_N[0] are no puzzle: 0, and sometimes others in data of the original.
    dihedral_P, uint8 [P], and colours_PC, uint8 [P, 10], hold what `transform` is given.
    """

    names: tuple[str, ...]
    first_N: np.ndarray
    dihedral_P: np.ndarray
    colours_PC: np.ndarray

    def __len__(self) -> int:
        """Number of puzzle ids P, the id 0 included."""
        return len(self.dihedral_P)

    def digest(self) -> str:
        """Hash of the names and of every table, in hexadecimal: equal for equal meanings of all ids."""
        found = hashlib.sha256(json.dumps(self.names).encode())
        for name, kind in _TABLES.items():
            table = np.ascontiguousarray(getattr(self, name), np.dtype(kind).newbyteorder("<"))
            found.update(f"{name}{table.shape}".encode())
            found.update(table.tobytes())
        return found.hexdigest()

    def ids(self, name: str) -> range:
        """Puzzle ids of a task by name; UserError where there is no such task."""
        if name not in self._index:
            raise UserError(
                f"the model has no puzzle embeddings for task {name!r}: learn it with trm solve --task arc"
            )
        task = self._index[name]
        return range(int(self.first_N[task]), int(self.first_N[task + 1]))

    def trained_N(self, hold_out: int) -> np.ndarray:
        """How many of each task's variants training draws, int64 [N], from the first on.

        The last `hold_out` of every task are held out; the task itself is always trained on.
        """
        if hold_out < 0:
            raise UserError(f"cannot hold out {hold_out} variants of a task: give 0 or more")
        return np.maximum(np.diff(self.first_N) - hold_out, 1)

    def save(self, path: Path) -> None:
        """Write one safetensors file, as a whole; the names are in its metadata, as JSON."""
        tables = {name: np.ascontiguousarray(getattr(self, name), kind) for name, kind in _TABLES.items()}
        with full_disk_is_a_user_error(f"{path} was not written"):
            # One key: the order of several is not fixed, and equal tables should give equal files.
            write_atomic(path, save_numpy(tables, {"names": json.dumps(self.names)}))

    @staticmethod
    def load(path: Path) -> "Variants":
        """Read what `save` has written; UserError where the file is missing, damaged or of another kind."""
        try:
            with safe_open(path, framework="numpy") as file:
                names = json.loads((file.metadata() or {}).get("names", "null"))
                tables = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except FileNotFoundError:
            raise UserError(f"{path} is missing: it says what the puzzle ids mean") from None
        except Exception as error:  # safetensors and numpy fail in several ways
            raise UserError(f"{path} is damaged or no safetensors file: {first_line(error)}") from None
        if not _well_formed(names, tables):
            raise UserError(f"{path} holds no table of variants: it is damaged or another file")
        return Variants(tuple(names), **tables)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: task for task, name in enumerate(self.names)}


def transform(grid_HW: np.ndarray, dihedral: int, colours_C: np.ndarray) -> np.ndarray:
    """A grid of colours under a variant: a dihedral image (0..7, see above), recoloured; a new array."""
    return colours_C[turn(grid_HW, dihedral)]


def undo(grid_HW: np.ndarray, dihedral: int, colours_C: np.ndarray) -> np.ndarray:
    """The grid that `transform` makes this one of, for the same variant; a new array."""
    original_C = np.empty_like(colours_C)
    original_C[colours_C] = np.arange(len(colours_C), dtype=colours_C.dtype)
    return original_C[turn(grid_HW, INVERSE[dihedral])]


def make(tasks: Sequence[ArcTask], count: int, seed: int) -> Variants:
    """Number up to `count` different variants of every task, itself first.

    A variant is drawn uniformly, and dropped where the whole task (its train pairs and its test inputs, each
    in any order) looks like under an earlier one; after 5 * count draws a task is left with fewer. Test
    outputs play no part: they are not known where it matters.
    The variants of a task are a pure function of the seed and the task: other tasks, and a larger `count`,
    only add to them.

    Raises:
        UserError: `count` is below 1, or two tasks have the same name.
    """
    if count < 1:
        raise UserError(f"cannot make {count} variants of a task: give 1 or more (the task itself)")
    names = tuple(task.name for task in tasks)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"two tasks are named {twice}: give every task a name of its own")
    # Id 0 is no puzzle, and transforms as the identity.
    found = [(np.zeros(1, np.uint8), np.arange(COLOURS, dtype=np.uint8)[None])]
    found += [_different(task, count, seed) for task in tasks]
    dihedral, colours = zip(*found, strict=True)
    first_N = np.cumsum([len(each) for each in dihedral], dtype=np.int64)
    return Variants(names, first_N, np.concatenate(dihedral), np.concatenate(colours))


def _different(task: ArcTask, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` draws of a task that differ: dihedral [D] and colours [D, 10], uint8."""
    numbers: dict[bytes, int] = {}
    questions = [Pair(pair.input, None) for pair in task.test]
    parts_sets = [[_colour_sets(pair, numbers) for pair in part] for part in (task.train, questions)]
    dihedral_D, colours_DC = np.empty(0, np.uint8), np.empty((0, COLOURS), np.uint8)
    for start in range(0, _PATIENCE * count, count):
        more_D, more_DC = _draw(task.name, seed, start, start + count)
        dihedral_D = np.concatenate((dihedral_D, more_D))
        colours_DC = np.concatenate((colours_DC, more_DC))
        looks = [_looks(part_sets, dihedral_D, colours_DC, len(numbers)) for part_sets in parts_sets]
        _, first = np.unique(np.concatenate(looks, axis=1), axis=0, return_index=True)
        first.sort()
        dihedral_D, colours_DC = dihedral_D[first], colours_DC[first]
        if len(first) >= count:
            break
    return dihedral_D[:count], colours_DC[:count]


def _looks(
    sets_K: Sequence[np.ndarray], dihedral_D: np.ndarray, colours_DC: np.ndarray, bound: int
) -> np.ndarray:
    """What pairs look like under every draw, whatever their order, int64 [D, 3 K].

    Args:
        sets_K: the sets of every pair, [8, 10], whose numbers are below the bound.
        dihedral_D: the draws' dihedral images, and
        colours_DC: their renamings.
        bound: at most 2^15.
    """
    assert bound <= 2**15
    words_KD3 = np.empty((len(sets_K), len(dihedral_D), 3), np.int64)
    for k, sets_8C in enumerate(sets_K):
        # The set of cells that is shown in each colour. Ten numbers of 15 bits fit into three words.
        shown_DC = np.zeros((len(dihedral_D), 12), np.int64)
        np.put_along_axis(shown_DC, colours_DC.astype(np.intp), sets_8C[dihedral_D], axis=1)
        words_KD3[k] = (shown_DC.reshape(-1, 3, 4) << np.arange(0, 60, 15)).sum(-1)
    order_KD = np.lexsort(words_KD3.transpose(2, 0, 1), axis=0)
    sorted_KD3 = np.take_along_axis(words_KD3, order_KD[..., None], axis=0)
    return sorted_KD3.transpose(1, 0, 2).reshape(len(dihedral_D), -1)


def _draw(name: str, seed: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws start..stop-1 of a task; draw 0 is the task itself."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little", signed=True)
    key = rng.fold(rng.fold(rng.stream("variants"), seed), number)
    key_D = rng.fold(key, torch.arange(start, stop))
    dihedral_D = rng.randint(rng.fold(key_D, 1), 0, DIHEDRAL).numpy().astype(np.uint8)
    colours_DC = np.zeros((stop - start, COLOURS), np.uint8)
    colours_DC[:, 1:] = rng.permutation(rng.fold(key_D, 2), COLOURS - 1).numpy() + 1
    if start == 0:
        dihedral_D[0], colours_DC[0] = 0, np.arange(COLOURS)
    return dihedral_D, colours_DC


def _colour_sets(pair: Pair, numbers: dict[bytes, int]) -> np.ndarray:
    """For every dihedral image and colour, the number of its set of cells, int64 [8, 10].

    Two images of the pair, recoloured, look the same if and only if their sets have the same ten numbers:
    a set is told by its cells and by the shapes of both grids. `numbers` holds those given so far.
    """
    sets_8C = np.empty((DIHEDRAL, COLOURS), np.int64)
    for dihedral in range(DIHEDRAL):
        images = [turn(grid_HW, dihedral) for grid_HW in pair if grid_HW is not None]
        cells = np.concatenate([image_HW.ravel() for image_HW in images])
        shapes = bytes(side for image_HW in images for side in image_HW.shape)
        for colour in range(COLOURS):
            where = shapes + np.packbits(cells == colour).tobytes()
            sets_8C[dihedral, colour] = numbers.setdefault(where, len(numbers))
    return sets_8C


def _well_formed(names: object, tables: dict[str, np.ndarray]) -> bool:
    """Whether a file holds what `make` could have made."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return False
    if {name: table.dtype for name, table in tables.items()} != _TABLES:
        return False
    first_N, dihedral_P, colours_PC = (tables[name] for name in _TABLES)
    return (
        first_N.shape == (len(names) + 1,)
        and len(set(names)) == len(names)
        and dihedral_P.ndim == 1
        and colours_PC.shape == (len(dihedral_P), COLOURS)
        and first_N[0] >= 1
        and bool((first_N[1:] > first_N[:-1]).all())  # differences could wrap around
        and first_N[-1] == len(dihedral_P)
        and bool((dihedral_P < DIHEDRAL).all())
        and bool((np.sort(colours_PC, axis=1) == np.arange(COLOURS)).all())
        and bool((colours_PC[:, 0] == 0).all())
    )
