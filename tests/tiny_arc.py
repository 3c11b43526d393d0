"""ARC tasks, files and runs small enough to train in a moment.

Grids are random, so that every variant looks different and no pair is by chance an image of another one.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trm.config import parse
from trm.puzzles.arc.config import ArcConfig
from trm.puzzles.arc.family import Arc
from trm.puzzles.arc.readers import ArcTask, Pair, Seen
from trm.puzzles.arc.variants import transform
from trm.recipe import RunConfig

SIDE = 4
TASK = Arc(ArcConfig(side=SIDE, variants=6))
RECIPE = {
    "name": "small arc",
    "family": {"name": "arc", "side": SIDE, "variants": 6},
    "data": {},
    "model": {
        "width": 16,
        "heads": 2,
        "layers": 1,
        "expansion": 1,
        "T": 1,
        "n": 1,
        "prefix": 2,
        "puzzle_width": 20,
        "mixing": "mixer",
        "positions": "none",
    },
    "supervision": {"steps": 2},
    "optimizer": {"lr": 1e-3, "weight_decay": 0.1, "puzzle_lr": 0.01, "warmup": 2},
    "ema": {"decay": 0.9},
    "train": {"batch": 8, "steps": 4, "log_every": 2, "eval_every": 4, "checkpoint_every": 4},
}


def grid(*rows: str) -> np.ndarray:
    """A grid from rows of digits."""
    return np.array([[int(char) for char in row] for row in rows], np.uint8)


def made(name: str, train: int = 3, test: int = 1) -> ArcTask:
    """A task of random 3 x 3 questions, two rows of which are mirrored; a function of the name."""
    random = np.random.default_rng(list(name.encode()))

    def pair() -> Pair:
        colours = random.permutation(10)[:4].astype(np.uint8)
        question = random.choice(colours, (3, 3))
        return Pair(question, np.fliplr(question[:2]).copy())

    pairs = [pair() for _ in range(train + test)]
    return ArcTask(name, tuple(pairs[:train]), tuple(pairs[train:]))


def image(pair: Pair, dihedral: int = 5, seed: int = 0) -> Pair:
    """The pair turned and recoloured, black included."""
    colours_C = np.random.default_rng(seed).permutation(10).astype(np.uint8)
    assert pair.output is not None
    return Pair(*(transform(each, dihedral, colours_C) for each in (pair.input, pair.output)))


def unanswered(task: ArcTask) -> ArcTask:
    """The task as a contest gives it."""
    return task._replace(test=tuple(Pair(pair.input, None) for pair in task.test))


def write(path: Path, tasks: Sequence[ArcTask]) -> str:
    """The tasks as one file, with the outputs of test pairs where they are known."""

    def plain(pair: Pair) -> dict[str, Any]:
        names = ("input", "output")
        return {n: each.tolist() for n, each in zip(names, pair, strict=True) if each is not None}

    values = {
        task.name: {"train": [plain(p) for p in task.train], "test": [plain(p) for p in task.test]}
        for task in tasks
    }
    path.write_text(json.dumps(values))
    return str(path)


def config(**changes: dict[str, Any]) -> RunConfig:
    """`RECIPE` with options changed, by section."""
    values: dict[str, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in RECIPE.items()}
    for section, options in changes.items():
        values[section] |= options
    return parse(RunConfig, values, "test")


def same(one: Pair, other: Pair) -> bool:
    """Whether one pair is the other, turned or recoloured."""
    return Seen.of((), [one]).shows(other)
