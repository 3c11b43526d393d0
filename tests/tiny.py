"""What several tests share: 4x4 boards worked by hand, and untrained models small enough to run at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trm import pretrained
from trm.config import ComputeConfig, ModelConfig
from trm.inference.solver import Solver
from trm.models import Problem, RecursiveModel, build
from trm.puzzles.sudoku.config import SudokuConfig
from trm.puzzles.sudoku.family import Sudoku

CONFIG = SudokuConfig(box_rows=2, box_cols=2)
TASK = Sudoku(CONFIG)
ANSWER = "1234341221434321"
# Every line has ANSWER as its one solution: each blank can be filled in by elimination.
PUZZLES = (
    "123434122143432.",
    ".234341221434321",
    "1.34341.2143.321",
    "12.434.22.434321",
    "1234..122143432.",
    ".2343.1221.34321",
    "123434122143....",
    "....341221434321",
)
MODEL = ModelConfig(width=16, heads=2, layers=1, expansion=1, T=1, n=1, mixing="mixer", positions="none")
EXACT = ComputeConfig(dtype="float64")


def make(options: Mapping[str, Any], problem: Problem) -> RecursiveModel:
    """A fresh model from options of the model and of how it computes, told apart by their names."""
    compute = {name: value for name, value in options.items() if name in ComputeConfig.model_fields}
    model = {name: value for name, value in options.items() if name not in compute}
    return build(ModelConfig(**model), problem, ComputeConfig(**compute))


def model(seed: int = 2) -> RecursiveModel:
    """Random weights, small enough for answers to settle, and a halting head that says yes here and there."""
    torch.manual_seed(seed)
    made = build(MODEL, Problem(TASK.vocab_size, TASK.length), EXACT)
    torch.nn.init.normal_(made.halting_head.weight)
    torch.nn.init.zeros_(made.halting_head.bias)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            weight.mul_(0.2 if ".blocks." in name else 1)
    return made.eval()


def solver(steps: int = 6) -> Solver:
    """A solver around `model`."""
    return Solver(model(), TASK, steps)


def save(folder: Path, steps: int = 6, **about: object) -> Path:
    """`model` as a folder."""
    config = pretrained.PretrainedConfig(family=CONFIG, model=MODEL, steps=steps, about=about)
    pretrained.save(folder, config, model().state_dict())
    return folder
