"""Batches as a pure function of (seed, step, row), drawn and augmented on the device.

There is no loader and no loader state: any row of the batch of any step can be computed at any time, by any
process, on any device, with the same result. A data set of 1,000 Sudokus is 162 kB and lives there.

Shapes: N puzzles, B batch, L tokens, P puzzle ids.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trm import rng
from trm.puzzles.family import Augment, Family
from trm.puzzles.table import Puzzles

# Chances are kept as whole numbers of this many: every device adds and compares these alike.
_PARTS = 2**31


IGNORE = -100  # the label of a cell that counts neither for the loss nor for accuracy


class Batch(NamedTuple):
    """Puzzles offered to the slots.

    Tokens and labels, int64 [B, L] (label -100 = ignored); puzzle ids and rows of the training data, [B].
    """

    tokens_BL: Tensor
    labels_BL: Tensor
    puzzle_B: Tensor
    row_B: Tensor


class Batches:
    """The training puzzles on a device, and the batches drawn from them.

    Of each batch only the given rows are computed: those of this process. Puzzles are drawn uniformly, or
    with the given chances, float64 [N] with sum 1.
    """

    def __init__(
        self,
        puzzles: Puzzles,
        rows: range,
        augment: Augment,
        device: torch.device | str,
        chance_N: np.ndarray | None = None,
    ):
        self.rows, self.augment = rows, augment
        self.until_N = None
        if chance_N is not None:
            self.until_N = torch.from_numpy((chance_N.cumsum() * _PARTS).round().astype(np.int64)).to(device)
        self.tokens_NL = torch.from_numpy(puzzles.tokens_NL).to(device)
        self.answers_NL = torch.from_numpy(puzzles.answers_NL).to(device)

    def batch(self, seed: int, step: int | Tensor) -> Batch:
        """The rows of the batch offered at `step`: independent draws, each augmented in its own way.

        The step may be an int64 scalar on the device, as a recorded graph needs it.
        """
        key = rng.stream("batch", self.tokens_NL.device)
        for part in (seed, step, 0):  # the last is of old: what it stood for is in the row
            key = rng.fold(key, part)
        row_B = rng.rows(key, self.rows)
        if self.until_N is None:
            index_B = rng.randint(row_B, 0, len(self.tokens_NL))
        else:
            last = len(self.tokens_NL) - 1
            index_B = torch.searchsorted(self.until_N, rng.randint(row_B, 0, _PARTS), right=True).clamp_max(
                last
            )
        tokens_BL, answers_BL = self.tokens_NL[index_B].long(), self.answers_NL[index_B].long()
        tokens_BL, answers_BL, puzzle_B = self.augment(rng.fold(row_B, 1), index_B, tokens_BL, answers_BL)
        return Batch(tokens_BL, labels(answers_BL), puzzle_B, index_B)


def as_they_are(puzzles: Puzzles, device: torch.device | str) -> Augment:
    """No augmentation."""
    puzzle_N = torch.from_numpy(puzzles.puzzle_N).to(device).long()
    return lambda _key_B, index_B, tokens_BL, answers_BL: (tokens_BL, answers_BL, puzzle_N[index_B])


def random_symmetry(puzzles: Puzzles, family: Family, device: torch.device | str) -> Augment:
    """Every puzzle under a random symmetry of its family; its id stays."""
    puzzle_N = torch.from_numpy(puzzles.puzzle_N).to(device).long()

    def augment(
        key_B: Tensor, index_B: Tensor, tokens_BL: Tensor, answers_BL: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        symmetry = family.symmetry(key_B)
        return symmetry.apply(tokens_BL), symmetry.apply(answers_BL), puzzle_N[index_B]

    return augment


def labels(answers_BL: Tensor) -> Tensor:
    """Labels of answers: padding (token 0) is ignored by the loss."""
    return answers_BL.masked_fill(answers_BL == 0, IGNORE)
