"""ARC grids on a square canvas of tokens: placing them, finding them, and drawing augmented training rows.

A canvas of side S has L = S * S tokens, row by row: 0 pad, 1 end of grid, 2..11 the colours 0..9. Just below
a grid and just right of it, where there is room, runs a line of end tokens as long as the grid's side; the
corner where the two lines would meet stays pad. The end tokens tell the network's answer where it stops: a
grid is read back from the top-left corner as the largest rectangle of colours.

In training, a pair is shown under a random variant of its task (see `variants`), at a random place: question
and answer are moved alike, so that only what they have in common can be learned. Answers are read from the
corner, so the network must see pairs there, too: one pair of every variant never moves.

Shapes: S side, L = S * S tokens, B batch, N tasks, P puzzle ids, V = 12 tokens, C = 10 colours.
"""

from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from trm import rng
from trm.errors import UserError
from trm.jit import njit
from trm.puzzles.arc.readers import COLOURS
from trm.puzzles.arc.variants import Variants
from trm.puzzles.symmetry import DIHEDRAL, MIRRORS_COLUMN, MIRRORS_ROW, SWAPS

PAD, END, BLACK = range(3)
VOCABULARY = BLACK + COLOURS


def to_canvas(grid_HW: np.ndarray, side: int, row: int = 0, col: int = 0) -> np.ndarray:
    """Tokens of a canvas with the top-left cell of a grid of colours at (row, col), uint8 [L].

    Raises:
        UserError: the grid does not fit there.
    """
    height, width = grid_HW.shape
    if min(row, col) < 0 or row + height > side or col + width > side:
        raise UserError(
            f"a grid of {height} x {width} at row {row}, column {col} is not inside a canvas of side {side}: "
            "enlarge the canvas, or leave the task out"
        )
    canvas_SS = np.full((side, side), PAD, np.uint8)
    canvas_SS[row : row + height, col : col + width] = grid_HW + BLACK
    # Slices past the last line are empty.
    canvas_SS[row + height : row + height + 1, col : col + width] = END
    canvas_SS[row : row + height, col + width : col + width + 1] = END
    return canvas_SS.ravel()


def from_canvas(tokens_L: np.ndarray, side: int) -> np.ndarray:
    """The grid of colours in the top-left corner of a canvas, uint8 [H, W]; 0 x 0 where there is none.

    It is the rectangle of largest area with that corner that holds only colour tokens, and the one with
    fewest rows where several are largest. Whatever else is on the canvas plays no part.

    Args:
        tokens_L: any integers; what is not 2..11 is no colour.
        side: side S of the canvas.
    """
    height, width = _corner(np.ascontiguousarray(tokens_L), side)
    return (np.reshape(tokens_L, (side, side))[:height, :width] - BLACK).astype(np.uint8)


@njit
def _corner(tokens_L, side):
    """Height and width of the largest rectangle of colours in the top-left corner."""
    best_height, best_width, width = 0, 0, side
    for row in range(side):
        for column in range(width):
            token = tokens_L[row * side + column]
            if token < BLACK or token >= VOCABULARY:
                width = column
                break
        if width == 0:
            break
        if (row + 1) * width > best_height * best_width:
            best_height, best_width = row + 1, width
    return best_height, best_width


class Drawn(NamedTuple):
    """Training rows: tokens and answers int64 [B, L] (0 = pad), puzzle ids int64 [B]."""

    tokens_BL: Tensor
    answers_BL: Tensor
    puzzle_B: Tensor


@final
class VariantDraw:
    """Random variants and places for training pairs, drawn on the device.

    A row's draw is a pure function of its key. One pair of every variant stays in the top-left corner; which
    one is a pure function of the seed and the puzzle id.

    Args:
        variants: the table of puzzle ids.
        side: side S of the canvas.
        seed: chooses the pair that stays.
        hold_out: number of the last variants of every task that are never drawn; the task itself always is.
        translate: whether the other pairs move.
        device: where the tables are kept and the draws made.
    """

    def __init__(
        self,
        variants: Variants,
        side: int,
        seed: int,
        hold_out: int = 0,
        translate: bool = True,
        device: torch.device | str = "cpu",
    ):
        self.side, self.seed, self.translate = side, seed, translate
        self.first_N = torch.from_numpy(variants.first_N[:-1]).to(device)
        self.count_N = torch.from_numpy(variants.trained_N(hold_out)).to(device)
        self.dihedral_P = torch.from_numpy(variants.dihedral_P).to(device)
        self.colours_PC = torch.from_numpy(variants.colours_PC).to(device)
        # One row per dihedral image: swaps, mirrors rows, mirrors columns.
        images = (SWAPS, MIRRORS_ROW, MIRRORS_COLUMN)
        self.images_83 = torch.tensor(images, dtype=torch.bool).T.contiguous().to(device)
        self.ends_2 = torch.tensor([PAD, END], device=device)
        assert self.images_83.shape == (DIHEDRAL, 3)

    def draw(
        self,
        key_B: Tensor,
        tokens_BL: Tensor,
        answers_BL: Tensor,
        task_B: Tensor,
        pair_B: Tensor,
        pairs_B: Tensor,
    ) -> Drawn:
        """Show every pair under a uniformly drawn variant of its task, at a random place.

        Args:
            key_B: one key per row (see `rng`).
            tokens_BL: inputs as `to_canvas` places them at (0, 0), any integer type.
            answers_BL: outputs, likewise.
            task_B: index of the pair's task, int64.
            pair_B: index of the pair among the training pairs of its task, int64.
            pairs_B: number of training pairs of its task, int64.
        """
        variant_B = rng.randint(rng.fold(key_B, 1), 0, self.count_N[task_B])
        puzzle_B = self.first_N[task_B] + variant_B
        image_B3 = self.images_83[self.dihedral_P[puzzle_B].long()]
        symbols_BV = torch.cat(
            (self.ends_2.expand(len(puzzle_B), 2), self.colours_PC[puzzle_B].long() + BLACK), 1
        )
        sizes = [self._size(canvas_BL, image_B3) for canvas_BL in (tokens_BL, answers_BL)]
        row_B = column_B = torch.zeros_like(puzzle_B)
        if self.translate:
            (height_B, width_B), (answer_height_B, answer_width_B) = sizes
            room_B = self.side - torch.maximum(height_B, answer_height_B)
            row_B = rng.randint(rng.fold(key_B, 2), 0, room_B + 1)
            room_B = self.side - torch.maximum(width_B, answer_width_B)
            column_B = rng.randint(rng.fold(key_B, 3), 0, room_B + 1)
            moves_B = pair_B != self.stays(puzzle_B, pairs_B)
            row_B, column_B = row_B * moves_B, column_B * moves_B
        place = (image_B3, symbols_BV, row_B, column_B)
        tokens_BL = self._place(tokens_BL, *sizes[0], *place)
        return Drawn(tokens_BL, self._place(answers_BL, *sizes[1], *place), puzzle_B)

    def stays(self, puzzle_B: Tensor, pairs_B: Tensor) -> Tensor:
        """Which pair of a variant stays in the corner, int64 [B] in 0..pairs_B-1."""
        key = rng.fold(rng.stream("pair that stays", puzzle_B.device), self.seed)
        return rng.randint(rng.fold(key, puzzle_B), 0, pairs_B)

    def _size(self, canvas_BL: Tensor, image_B3: Tensor) -> tuple[Tensor, Tensor]:
        """Height and width of the image of the grid in the top-left corner, int64 [B] each."""
        canvas_BSS = canvas_BL.view(-1, self.side, self.side)
        height_B = (canvas_BSS[:, :, 0] >= BLACK).sum(1)
        width_B = (canvas_BSS[:, 0, :] >= BLACK).sum(1)
        swaps_B = image_B3[:, 0]
        return torch.where(swaps_B, width_B, height_B), torch.where(swaps_B, height_B, width_B)

    def _place(
        self,
        canvas_BL: Tensor,
        height_B: Tensor,
        width_B: Tensor,
        image_B3: Tensor,
        symbols_BV: Tensor,
        row_B: Tensor,
        column_B: Tensor,
    ) -> Tensor:
        """Canvases with the image of the corner's grid at (row, column); its height and width are given."""
        side_S = torch.arange(self.side, device=canvas_BL.device)
        # Counted from the top-left cell of the image: rows [B, S, 1] and columns [B, 1, S].
        row_BS1 = (side_S - row_B[:, None])[:, :, None]
        column_B1S = (side_S - column_B[:, None])[:, None, :]
        height_B11, width_B11 = height_B[:, None, None], width_B[:, None, None]
        in_rows_BS1 = (row_BS1 >= 0) & (row_BS1 < height_B11)
        in_columns_B1S = (column_B1S >= 0) & (column_B1S < width_B11)
        ends_BSS = ((row_BS1 == height_B11) & in_columns_B1S) | ((column_B1S == width_B11) & in_rows_BS1)

        # Mirroring counts from the far side; swapping makes rows of the grid columns of the image.
        swaps_B11, mirrors_row_B11, mirrors_column_B11 = image_B3[:, :, None, None].unbind(1)
        mirrors_down_B11 = torch.where(swaps_B11, mirrors_column_B11, mirrors_row_B11)
        mirrors_across_B11 = torch.where(swaps_B11, mirrors_row_B11, mirrors_column_B11)
        down_BS1 = torch.where(mirrors_down_B11, height_B11 - 1 - row_BS1, row_BS1)
        across_B1S = torch.where(mirrors_across_B11, width_B11 - 1 - column_B1S, column_B1S)
        cell_BSS = torch.where(
            swaps_B11, across_B1S * self.side + down_BS1, down_BS1 * self.side + across_B1S
        )

        inside_BSS = in_rows_BS1 & in_columns_B1S
        grid_BL = canvas_BL.long().gather(1, (cell_BSS * inside_BSS).flatten(1))
        colours_BL = symbols_BV.gather(1, grid_BL)
        return torch.where(inside_BSS.flatten(1), colours_BL, ends_BSS.flatten(1).long())
