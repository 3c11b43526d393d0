"""Transforms of puzzles that keep them the same puzzle, as data: a move of cells and a renaming of tokens.

Every symmetry of a grid puzzle that we use (relabelled digits, permuted rows, a rotated maze, recoloured
ARC grids) has this one form, so applying, undoing and testing them is written once.

The dihedral images of a grid are numbered, here and in the tables of ARC's weights:

    0 identity              4 left to right (np.fliplr)
    1 a quarter turn        5 upside down (np.flipud)
      counterclockwise      6 transpose, about the main diagonal
      (np.rot90)            7 transpose about the other diagonal, np.fliplr(np.rot90(x))
    2 a half turn
    3 a quarter turn clockwise

Shapes: B batch, L cells, V vocabulary, G symmetries of a rectangle; H height, W width.
"""

from typing import NamedTuple

import numpy as np
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


# A dihedral image, cell by cell: image[i, j] = grid[row, column] where (row, column) is (i, j), or (j, i) for
# images that swap the sides, and is then counted from the far side where the image mirrors it.
SWAPS = (0, 1, 0, 1, 0, 0, 1, 1)
MIRRORS_ROW = (0, 0, 1, 1, 0, 1, 0, 1)
MIRRORS_COLUMN = (0, 1, 1, 0, 1, 0, 0, 1)
DIHEDRAL = len(SWAPS)
INVERSE = (0, 3, 2, 1, 4, 5, 6, 7)
# The order in which images are drawn in training: another one would change what a seed gives.
_DRAWN = (0, 4, 1, 7, 2, 5, 3, 6)


def turn(grid_HW: np.ndarray, image: int) -> np.ndarray:
    """A view of the grid as one of its eight images, by number."""
    rows = grid_HW[::-1] if MIRRORS_ROW[image] else grid_HW
    turned_HW = rows[:, ::-1] if MIRRORS_COLUMN[image] else rows
    return turned_HW.T if SWAPS[image] else turned_HW


def images_that_keep(height: int, width: int) -> tuple[int, ...]:
    """Numbers of the images that keep a rectangle's shape: all of a square, else those that swap no sides."""
    return tuple(image for image in _DRAWN if height == width or not SWAPS[image])


def dihedral_cells(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Rotations and reflections that keep a rectangle's shape: 8 of a square, else 4; int64 [G, L].

    Row 0 is the identity. out[i] = in[cells[i]], as in `Symmetry`.
    """
    # Made on the device: a copy to it would make every training step wait.
    cells_HW = torch.arange(height * width, device=device).view(height, width)
    turned = []
    for image in images_that_keep(height, width):
        mirrored = [axis for axis, table in enumerate((MIRRORS_ROW, MIRRORS_COLUMN)) if table[image]]
        turned_HW = cells_HW.flip(mirrored)
        turned.append((turned_HW.T if SWAPS[image] else turned_HW).flatten())
    return torch.stack(turned)
