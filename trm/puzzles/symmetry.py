"""Transforms of puzzles that keep them the same puzzle, as data: a move of cells and a renaming of tokens.

Every symmetry of a grid puzzle that we use (relabelled digits, permuted rows, a rotated maze, recoloured
ARC grids) has this one form, so applying, undoing and testing them is written once.

Shapes: B batch, L cells, V vocabulary, G symmetries of a rectangle.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Symmetry(NamedTuple):
    """One transform per row: out[i] = symbols[in[cells[i]]]; both tables are permutations, int64."""

    cells_BL: Tensor
    symbols_BV: Tensor

    def apply(self, tokens_BL: Tensor) -> Tensor:
        """Transform tokens (or labels: negative ones are moved, not renamed)."""
        moved_BL = tokens_BL.gather(1, self.cells_BL)
        renamed_BL = self.symbols_BV.gather(1, moved_BL.clamp_min(0))
        return torch.where(moved_BL < 0, moved_BL, renamed_BL)

    def inverse(self) -> "Symmetry":
        """The transform that undoes this one."""
        return Symmetry(self.cells_BL.argsort(dim=1), self.symbols_BV.argsort(dim=1))


def dihedral_cells(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Rotations and reflections that keep a rectangle's shape: 8 of a square, else 4; int64 [G, L].

    Row 0 is the identity. out[i] = in[cells[i]], as in `Symmetry`.
    """
    # Made on the device: a copy to it would make every training step wait.
    cells_HW = torch.arange(height * width, device=device).view(height, width)
    turns = range(4) if height == width else (0, 2)
    turned = [cells_HW.rot90(turn) for turn in turns]
    return torch.stack([image.flatten() for each in turned for image in (each, each.flip(1))])
