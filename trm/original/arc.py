"""ARC in the data folders of the original: what the puzzle ids stand for, and what training sees.

Its builder writes every variant of every task as a puzzle of its own and names it in `identifiers.json`:

    007bbfb7                        the task itself
    007bbfb7|||t3|||0132456789      turned by dihedral image 3 (numbered as in `variants`), then recoloured:
                                    colour c becomes the digit at place c (TRM's builder)
    007bbfb7_t3_0132456789          the same (HRM's builder)

From these names the table is rebuilt that weights carry, so that a model trained on such a folder votes,
adapts and hands its embeddings on like any other. Tasks in the split `test` are the ones to be predicted:
only their demonstrations are in the split `train`. TRM's builder also keeps them as they are, in
`test_puzzles.json`, which `readers.read` reads.

Shapes: N rows, L tokens, M tasks, P puzzle ids.
"""

import math
import re
from pathlib import Path

import numpy as np

from trm.errors import UserError
from trm.original import folders
from trm.puzzles.arc.canvas import BLACK
from trm.puzzles.arc.readers import COLOURS, Pair, Seen
from trm.puzzles.arc.variants import Variants
from trm.puzzles.family import Family
from trm.puzzles.table import Puzzles

_VARIANT = re.compile(r"(.+)(\|\|\||_)t([0-7])\2(0[1-9]{9})", re.DOTALL)


def variants(folder: Path) -> Variants:
    """What every puzzle id of a data folder stands for.

    Raises:
        UserError: `identifiers.json` is missing or damaged, or the variants of a task do not lie together
            with the task itself first, as the builders write them.
    """
    path, names = folder / folders.IDENTIFIERS, folders.identifiers(folder)
    # Several data sets may share one range of ids: then the first ones have no name here.
    start = next((i for i, name in enumerate(names) if name != folders.BLANK), len(names))
    if not 1 <= start < len(names):
        raise UserError(f"{path} names no ARC tasks after the id 0, {folders.BLANK}: build the folder again")
    dihedral_P = np.zeros(len(names), np.uint8)
    colours_PC = np.tile(np.arange(COLOURS, dtype=np.uint8), (len(names), 1))
    tasks: dict[str, int] = {}  # in the order of their ids, with the first of them
    for puzzle, name in enumerate(names[start:], start):
        found = _VARIANT.fullmatch(name)
        task = found[1] if found else name
        if found is None and task not in tasks:
            tasks[task] = puzzle
        elif found is None or not tasks or task != next(reversed(tasks)) or len(set(found[4])) < COLOURS:
            raise UserError(
                f"{path}: id {puzzle} is {name[:60]!r}, where a variant of the task before it or a new task "
                "should be: build the folder again"
            )
        if found is not None:
            dihedral_P[puzzle] = int(found[3])
            colours_PC[puzzle] = [int(digit) for digit in found[4]]
    first_N = np.array([*tasks.values(), len(names)], np.int64)
    return Variants(tuple(tasks), first_N, dihedral_P, colours_PC)


def chances(train: Puzzles, table: Variants) -> np.ndarray:
    """How often the original draws each training row, as a share of 1, float64 [N].

    It draws a task, then one of its variants, and takes all pairs of that one: a pair of a task with few
    variants comes as often as a pair of a task with many.
    """
    ids = np.unique(train.puzzle_N)
    variants_M = np.bincount(_task_of(ids, table), minlength=len(table.names))
    chance_N = 1 / variants_M[_task_of(train.puzzle_N, table)]
    return chance_N / chance_N.sum()


def hold_out(train: Puzzles, table: Variants, count: int, seed: int) -> tuple[Puzzles, Puzzles]:
    """Training and validation rows: of some tasks, drawn at random, the last pair is held out.

    It is a test pair where the builder knew its output. It is left out under every variant of the task, and
    asked for under the task itself, whose embedding its other pairs train.

    Raises:
        UserError: there are not so many tasks with two pairs or more.
    """
    ends_N = np.append(train.puzzle_N[1:] != train.puzzle_N[:-1], True)
    starts_N = np.insert(ends_N[:-1], 0, True)
    last = np.flatnonzero(ends_N & ~starts_N)  # the last row of every puzzle that has two or more
    task_of_last = _task_of(train.puzzle_N[last], table)
    able = np.unique(task_of_last)
    if count > len(able):
        raise UserError(f"data.hold_out is {count}, but only {len(able)} tasks have two pairs or more")
    chosen = np.sort(np.random.default_rng(seed).permutation(able)[:count])
    left_out = last[np.isin(task_of_last, chosen)]
    _, first = np.unique(_task_of(train.puzzle_N[left_out], table), return_index=True)
    kept_N = np.ones(len(train), bool)
    kept_N[left_out] = False
    return train.take(kept_N), train.take(left_out[first])


def seen(folder: Path, train: Puzzles, table: Variants, family: Family) -> Seen:
    """What a model sees that is trained on these rows of a folder: see `readers.Seen`.

    A task is trained on with all its pairs unless the split `test` asks for it. Its pairs are read off the
    first of its variants: `Seen` is the same for all of them.

    Raises:
        UserError: a row is not a grid on a canvas.
    """
    asked: set[int] = set()
    if "test" in folders.splits(folder):
        test_N = np.unique(folders.read(folder, "test", family).puzzle_N)
        asked = set(_task_of(test_N, table).tolist())
    ids = np.unique(train.puzzle_N)
    tasks, first = np.unique(_task_of(ids, table), return_index=True)
    whole = {int(i): int(ids[at]) for i, at in zip(tasks, first, strict=True) if int(i) not in asked}
    rows = np.flatnonzero(np.isin(train.puzzle_N, list(whole.values())))
    side = math.isqrt(family.length)
    pairs = [Pair(_grid(train.tokens_NL[row], side), _grid(train.answers_NL[row], side)) for row in rows]
    return Seen(frozenset(table.names[i] for i in whole)) | Seen.of((), pairs)


def _task_of(puzzle_N: np.ndarray, table: Variants) -> np.ndarray:
    """Index of the task of every id, int64 [N]; UserError for an id without a name."""
    low, high = (int(bound) for bound in (puzzle_N.min(), puzzle_N.max()))
    if low < table.first_N[0] or high >= len(table):
        raise UserError(
            f"the rows have puzzle ids from {low} to {high}, but {folders.IDENTIFIERS} names "
            f"{table.first_N[0]} to {len(table) - 1}: build the folder again"
        )
    return np.searchsorted(table.first_N, puzzle_N, side="right") - 1


def _grid(tokens_L: np.ndarray, side: int) -> np.ndarray:
    """The one grid of colours on a canvas, wherever it lies, uint8 [H, W]."""
    canvas_SS = np.reshape(tokens_L, (side, side))
    inside_SS = canvas_SS >= BLACK
    rows, columns = (np.flatnonzero(inside_SS.any(axis)) for axis in (1, 0))
    if len(rows):
        grid_HW = canvas_SS[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if (grid_HW >= BLACK).all():
            return (grid_HW - BLACK).astype(np.uint8)
    raise UserError("a training row of the data folder is not a grid on a canvas: build the folder again")
