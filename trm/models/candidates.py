"""Recursion on candidates: one position for every cell and symbol, mixed by relations alone.

    repeat T times, with gradient in the last cycle only:
        repeat n times:  z = net(x + y + z)
        y = net(y + z)

Symbols, rows, columns and boxes that are alike are treated alike, exactly: renaming symbols or permuting
lines before the network or after it gives the same. So a thousand puzzles go a long way, and the weights
serve boards of every size. Close kin: recurrent relational networks (Palm et al., arXiv 1711.08028),
symbol-equivariant recurrent reasoning models (arXiv 2603.02193).

Shapes: B batch, L cells, N symbols, S = L * N candidates, D width, V vocabulary.
"""

from typing import cast, final

import torch
from torch import Tensor, nn

from trm.config import ComputeConfig, ModelConfig
from trm.errors import UserError
from trm.kernels import native
from trm.models.embedding import CandidateEmbedding, CandidateHead, ConflictHead
from trm.models.layers import inner_width
from trm.models.mixing import CandidateBlock, group_numbers
from trm.models.recursive import LatentRecursion, Output, State
from trm.problem import Problem


@final
class Candidates(LatentRecursion):
    """One network on candidates; UserError for a family whose symbols have no relations."""

    def __init__(self, config: ModelConfig, problem: Problem, compute: ComputeConfig):
        if problem.relations is None:
            raise UserError(
                "model.kind candidates needs a family that says which candidates belong together, as Sudoku "
                "does; this one has no relations: choose kind trm"
            )
        self.relations = problem.relations
        super().__init__(config, problem, compute)
        self.register_buffer("token_N", torch.tensor(problem.relations.tokens), persistent=False)
        self.register_buffer("group_RS", group_numbers(problem.relations), persistent=False)
        self.latent_network = self.network(config.layers)
        self.conflict_head = ConflictHead(config, self.relations) if config.conflict_head else None

    @property
    def graded(self) -> int:
        return self.config.n

    def block(self) -> CandidateBlock:
        c = self.config
        inner = c.inner or inner_width(c.width, c.expansion)
        return CandidateBlock(c.width, inner, self.relations)

    def embedding(self) -> CandidateEmbedding:
        return CandidateEmbedding(self.config, self.problem, self.relations, self.dtype)

    def answering(self) -> nn.Module:
        return CandidateHead(self.config, self.problem, self.relations)

    def kinds_of(self, tokens_BL: Tensor) -> Tensor:
        """What a puzzle says of every candidate (`OPEN`, `GIVEN` or `OUT`), int64 [B, S]."""
        return cast(CandidateEmbedding, self.embed).kinds_of(tokens_BL)

    def encode_kinds(self, kind_BS: Tensor) -> Tensor:
        """X from kinds of candidates: as `encode`, for what no puzzle can say (a candidate ruled out)."""
        return cast(CandidateEmbedding, self.embed).embed_kinds(kind_BS)

    def chances(self, logits_BLV: Tensor) -> Tensor:
        """Probabilities of the symbols of every cell, float32 [B, L, N], without gradient."""
        return logits_BLV.detach().index_select(-1, self.token_N).float().softmax(-1)

    def say(self, y_BSD: Tensor) -> Output:
        output = super().say(y_BSD)
        if self.conflict_head is None:
            return output
        any_BL = output.logits_BLV.index_select(-1, self.token_N).float().logsumexp(-1)
        return output._replace(conflict_BL=self.conflict_head(y_BSD).float() - any_BL)

    def forward(
        self, tokens_BL: Tensor, puzzle_B: Tensor, state: State, kind_BS: Tensor | None = None
    ) -> tuple[State, Output]:
        """As every model; `kind_BS` says more of the candidates than the puzzle does."""
        x_BSD = self.encode(tokens_BL, puzzle_B) if kind_BS is None else self.encode_kinds(kind_BS)
        return self.step(state, x_BSD)

    def cycle(self, state: State, x_BSD: Tensor, updates: int) -> State:
        """Latent updates, then one answer update; by native code where nothing else is asked for."""
        if self.compute.kernels in ("auto", "native") and self.compute.compile == "none":
            blocks = [cast(CandidateBlock, block).weights() for block in self.latent_network.blocks]
            pool_up, pool_down, up, down = (torch.stack(each) for each in zip(*blocks, strict=True))
            if native.fits(state.y_BSD, pool_down, down):
                weights = (self.group_RS, pool_up, pool_down, up, down)
                return State(*native.cycle(*state, x_BSD, *weights, updates))
        return super().cycle(state, x_BSD, updates)

    def update_latent(self, state: State, x_BSD: Tensor) -> State:
        y, z = state
        return State(y, self.latent_network(z + (y + x_BSD)))

    def update_answer(self, state: State) -> State:
        y, z = state
        return State(self.latent_network(y + z), z)
