"""Input embedding: tokens, positions, and a prefix of registers or of a puzzle embedding.

    x = sqrt(D) * (prefix ++ tokens)                          without learned positions
    x = sqrt(D) * sqrt(1/2) * (prefix ++ tokens + positions)  with them, at the same variance

The tables are small (std 1/sqrt(D)), so that optimizer steps of one size suit them and the matrices.

A model of candidates has a position for every cell and symbol instead, and all that x says of one is its
kind: open, given (a clue), or out (another symbol is given in its cell, or it was ruled out).

Shapes: B batch, L puzzle tokens, P prefix positions, S = P + L, D width, V vocabulary, N puzzles (or symbols
of a board of candidates, where S = L * N), W width of a puzzle embedding (at most P * D; the rest of the
prefix is zero).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trm.config import ModelConfig
from trm.models.layers import Linear, trunc_normal_
from trm.problem import Problem, Relations

_HALF = 0.707106781  # the original's digits of sqrt(1/2)
_NONE = -3.0  # at the start, something is almost surely left
NEVER = -1e4  # a logit that no softmax notices; fits in float16


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

    def __init__(self, config: ModelConfig, problem: Problem, dtype: torch.dtype):
        super().__init__()
        self.prefix, self.width = config.prefix, config.width
        self.seq_len: int = config.prefix + problem.length
        self.dtype = dtype
        std = config.width**-0.5

        def table(rows: int) -> nn.Parameter:
            return nn.Parameter(trunc_normal_(torch.empty(rows, config.width), std=std))

        self.tokens = table(problem.vocab_size)
        self.positions = table(self.seq_len) if config.positions == "learned" else None
        self.puzzle = PuzzleEmbedding(problem.puzzles, config.puzzle_width) if config.puzzle_width else None
        self.registers = table(config.prefix) if config.prefix and not config.puzzle_width else None

    def forward(self, tokens_BL: Tensor, puzzle_B: Tensor) -> Tensor:
        x = F.embedding(tokens_BL, self.tokens.to(self.dtype))
        if self.puzzle is not None:
            rows_BW = self.puzzle(puzzle_B).to(self.dtype)
            padded = F.pad(rows_BW, (0, self.prefix * self.width - rows_BW.shape[1]))
            x = torch.cat((padded.view(-1, self.prefix, self.width), x), dim=1)
        elif self.registers is not None:
            batch = x.shape[0]  # `len` would be a fixed number where the model is traced
            x = torch.cat((self.registers.to(self.dtype).expand(batch, -1, -1), x), dim=1)
        if self.positions is not None:
            x = _HALF * (x + self.positions.to(self.dtype))
        return math.sqrt(self.width) * x


OPEN, GIVEN, OUT = range(3)  # the kinds of candidate


class CandidateEmbedding(nn.Module):
    """Embeds what is known of every candidate into x_BSD."""

    def __init__(self, config: ModelConfig, problem: Problem, relations: Relations, dtype: torch.dtype):
        super().__init__()
        self.width = config.width
        self.seq_len: int = relations.candidates
        self.dtype = dtype
        self.kinds = nn.Parameter(trunc_normal_(torch.empty(3, config.width), std=config.width**-0.5))
        kind_VN = torch.full((problem.vocab_size, relations.symbols), OPEN)
        kind_VN[list(relations.tokens)] = OUT
        kind_VN[list(relations.tokens), range(relations.symbols)] = GIVEN
        self.register_buffer("kind_VN", kind_VN, persistent=False)

    def kinds_of(self, tokens_BL: Tensor) -> Tensor:
        """What a puzzle says of every candidate, int64 [B, S]."""
        return F.embedding(tokens_BL, self.kind_VN).flatten(1)

    def embed_kinds(self, kind_BS: Tensor) -> Tensor:
        """Kinds of candidates as x_BSD."""
        return math.sqrt(self.width) * F.embedding(kind_BS, self.kinds.to(self.dtype))

    def forward(self, tokens_BL: Tensor, puzzle_B: Tensor) -> Tensor:
        del puzzle_B  # candidates know one rule: that of their relations
        return self.embed_kinds(self.kinds_of(tokens_BL))


class ConflictHead(Linear):
    """Scores one more answer of a cell, "none": likely where those of all its symbols are low."""

    def __init__(self, config: ModelConfig, relations: Relations):
        super().__init__(config.width, 1)
        self.symbols = relations.symbols
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.bias, _NONE)

    def forward(self, input: Tensor) -> Tensor:
        """The score of "none" from y, [B, L]."""
        return super().forward(input.unflatten(1, (-1, self.symbols)).mean(2)).squeeze(-1)


class CandidateHead(nn.Module):
    """One logit per candidate, laid out as [B, L, V]; tokens that are no symbol are never answered."""

    def __init__(self, config: ModelConfig, problem: Problem, relations: Relations):
        super().__init__()
        self.symbols = relations.symbols
        self.score = Linear(config.width, 1, bias=False)
        source_V = torch.full((problem.vocab_size,), relations.symbols)  # the column that is added below
        source_V[list(relations.tokens)] = torch.arange(relations.symbols)
        self.register_buffer("source_V", source_V, persistent=False)

    def forward(self, y_BSD: Tensor) -> Tensor:
        score_BLN = self.score(y_BSD).squeeze(-1).unflatten(1, (-1, self.symbols))
        return F.pad(score_BLN, (0, 1), value=NEVER).index_select(-1, self.source_V)
