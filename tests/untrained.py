"""Untrained models of every kind that can be exported, and puzzles for them."""

from pathlib import Path

import numpy as np
import tiny
import torch

from trm.config import ModelConfig
from trm.models import build
from trm.pretrained import Pretrained, PretrainedConfig
from trm.puzzles.grid.config import GridConfig
from trm.puzzles.maze.config import MazeConfig
from trm.puzzles.sudoku.config import SudokuConfig
from trm.puzzles.table import Puzzles, from_arrays

SMALL = {"width": 8, "heads": 2, "layers": 1, "inner": 8, "T": 2, "n": 2, "expansion": 0.1}
KINDS = {
    "single latent with registers": {**SMALL, "single_latent": True, "prefix": 3, "mixing": "mixer", "n": 1},
    "hrm with puzzle embeddings": {**SMALL, "kind": "hrm", "prefix": 2, "puzzle_width": 12, "n": 1},
    "transformer": {**SMALL, "kind": "transformer"},
}
FREE = {
    "convolution": (
        {**SMALL, "mixing": "convolution", "n": 1, "halting": "every"},
        MazeConfig(height=3, width=5),
    ),
    "candidates": (
        {**SMALL, "kind": "candidates", "mixing": "relations", "halting": "every", "conflict_head": True},
        SudokuConfig(box_rows=2, box_cols=3),
    ),
}


def made(options: dict, family: SudokuConfig | MazeConfig | GridConfig = tiny.CONFIG) -> Pretrained:
    """An untrained model whose heads say something."""
    torch.manual_seed(1)
    puzzles = 3 if options.get("puzzle_width") else 1
    config = PretrainedConfig(family=family, model=ModelConfig(**options), puzzles=puzzles, steps=3)
    model = build(config.model, family.build().problem(puzzles)).eval()
    for head in model.modules():
        if isinstance(head, torch.nn.Linear) and head.bias is not None:
            torch.nn.init.normal_(head.weight)
    if puzzles > 1:
        torch.nn.init.normal_(model.get_parameter("embed.puzzle.weight"))
    return Pretrained(config, model, family.build(), None, Path())


def drawn(found: Pretrained, count: int = 3) -> Puzzles:
    """Random tokens, which every model can think about."""
    generator = np.random.default_rng(0)
    shape = (count, found.family.length)
    tokens_NL = generator.integers(1, found.family.vocab_size, shape).astype(np.uint8)
    ids_N = generator.integers(0, found.config.puzzles, count)
    return from_arrays(tokens_NL, tokens_NL, puzzle_N=ids_N)
