"""Input embedding: tokens, positions, and a prefix of registers or of a puzzle embedding.

    x = sqrt(D) * (prefix ++ tokens)                          without learned positions
    x = sqrt(D) * sqrt(1/2) * (prefix ++ tokens + positions)  with them, at the same variance

The tables are small (std 1/sqrt(D)), so that optimizer steps of one size suit them and the matrices.

Shapes: B batch, L puzzle tokens, P prefix positions, S = P + L, D width, V vocabulary, N puzzles,
W width of a puzzle embedding (at most P * D; the rest of the prefix is zero).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trm.config import ModelConfig
from trm.models.layers import trunc_normal_

_HALF = 0.707106781  # the original's digits of sqrt(1/2)


class PuzzleEmbedding(nn.Module):
    """One learned vector per puzzle id, updated sparsely by `optim.SignSgd`.

    The table takes no part in autograd: a training lookup hands out the rows as a fresh leaf and
    remembers it, and the optimizer writes back only those rows. A table of millions of rows then costs
    nothing but its memory.
    """

    def __init__(self, puzzles: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(puzzles, width), requires_grad=False)
        self.looked_up: tuple[Tensor, Tensor] | None = None

    def forward(self, puzzle_B: Tensor) -> Tensor:
        rows_BW = self.weight[puzzle_B]
        if self.training and torch.is_grad_enabled():
            rows_BW.requires_grad_()
            self.looked_up = (puzzle_B, rows_BW)
        return rows_BW


class InputEmbedding(nn.Module):
    """Embeds a puzzle's tokens and its id into x_BSD."""

    def __init__(self, config: ModelConfig, vocab_size: int, length: int, puzzles: int):
        super().__init__()
        self.prefix, self.width = config.prefix, config.width
        self.dtype = getattr(torch, config.dtype)
        std = config.width**-0.5

        def table(rows: int) -> nn.Parameter:
            return nn.Parameter(trunc_normal_(torch.empty(rows, config.width), std=std))

        self.tokens = table(vocab_size)
        self.positions = table(config.prefix + length) if config.positions == "learned" else None
        self.puzzle = PuzzleEmbedding(puzzles, config.puzzle_width) if config.puzzle_width else None
        self.registers = table(config.prefix) if config.prefix and not config.puzzle_width else None

    def forward(self, tokens_BL: Tensor, puzzle_B: Tensor) -> Tensor:
        x = F.embedding(tokens_BL, self.tokens.to(self.dtype))
        if self.puzzle is not None:
            rows_BW = self.puzzle(puzzle_B).to(self.dtype)
            padded = F.pad(rows_BW, (0, self.prefix * self.width - rows_BW.shape[1]))
            x = torch.cat((padded.view(-1, self.prefix, self.width), x), dim=1)
        elif self.registers is not None:
            x = torch.cat((self.registers.to(self.dtype).expand(len(x), -1, -1), x), dim=1)
        if self.positions is not None:
            x = _HALF * (x + self.positions.to(self.dtype))
        return math.sqrt(self.width) * x
