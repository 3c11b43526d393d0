"""Batches as a pure function of (seed, step, rank), drawn and augmented on the device.

There is no loader and no loader state: the batch of any step of any process can be computed at any
time, on any device, with the same result. A data set of 1,000 Sudokus is 162 kB and lives there.

Shapes: N puzzles, B batch, L tokens.
"""

import torch
from torch import Tensor

from trm import rng
from trm.data.puzzles import Puzzles
from trm.losses import IGNORE
from trm.supervision import Batch
from trm.tasks.task import Task


class Batches:
    """The training puzzles on a device, and the batches drawn from them."""

    def __init__(self, puzzles: Puzzles, task: Task, size: int, augment: bool, device: torch.device | str):
        self.task, self.size, self.augment = task, size, augment
        self.tokens_NL = torch.from_numpy(puzzles.tokens_NL).to(device)
        self.answers_NL = torch.from_numpy(puzzles.answers_NL).to(device)
        self.puzzle_N = torch.from_numpy(puzzles.puzzle_N).to(device)

    def batch(self, seed: int, step: int, rank: int = 0) -> Batch:
        """The batch offered at `step` to process `rank`: uniform draws, each under its own symmetry."""
        key = rng.stream("batch", self.tokens_NL.device)
        for part in (seed, step, rank):
            key = rng.fold(key, part)
        row_B = rng.fold(key, torch.arange(self.size, device=key.device))
        index_B = rng.randint(row_B, 0, len(self.tokens_NL))
        tokens_BL, answers_BL = self.tokens_NL[index_B].long(), self.answers_NL[index_B].long()
        if self.augment:
            symmetry = self.task.symmetry(rng.fold(row_B, 1))
            tokens_BL, answers_BL = symmetry.apply(tokens_BL), symmetry.apply(answers_BL)
        return Batch(tokens_BL, labels(answers_BL), self.puzzle_N[index_B].long())


def labels(answers_BL: Tensor) -> Tensor:
    """Labels of answers: padding (token 0) is ignored by the loss."""
    return torch.where(answers_BL == 0, IGNORE, answers_BL)
