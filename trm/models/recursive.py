"""The contract of every model: `encode`, `initial_state`, `step`; callers own the loop.

    x = model.encode(tokens_BL, puzzle_B)
    state = model.initial_state(batch_size)
    for _ in range(N_sup):
        state, out = model.step(state, x)

A step is ONE supervision step. The state it returns is detached, so gradient never crosses steps.

Shapes: B batch, L puzzle tokens, S positions (prefix + L, or one for every candidate), D width, V vocabulary.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trm import kernels, rng
from trm.config import ComputeConfig, ModelConfig
from trm.models.embedding import CandidateEmbedding, InputEmbedding
from trm.models.halting import HALTING_HEADS
from trm.models.layers import Block, Linear, Network, Rope, inner_width, trunc_normal_
from trm.models.mixing import MIXINGS
from trm.problem import Problem


class State(NamedTuple):
    """What a model carries between supervision steps: the answer y and the latent z.

    A model without z carries one of width 0, so that code over states needs no cases.
    """

    y_BSD: Tensor
    z_BSD: Tensor

    def detach(self) -> "State":
        """The same values, cut from the graph."""
        return State(self.y_BSD.detach(), self.z_BSD.detach())

    def where(self, mask_B: Tensor, other: "State") -> "State":
        """Rows of this state where the mask is true, of the other elsewhere."""
        mask_B11 = mask_B.view(-1, 1, 1)
        return State(*(torch.where(mask_B11, a, b) for a, b in zip(self, other, strict=True)))

    def normals(self, key_B: Tensor) -> "State":
        """Standard normals of the same shape, one draw per key (see `rng`) and element."""
        sizes = [part[0].numel() for part in self]
        draws = rng.normal(key_B, sum(sizes)).split(sizes, dim=1)
        return State(*(d.view(p.shape).to(p.dtype) for d, p in zip(draws, self, strict=True)))

    def plus(self, other: "State", factor_B: Tensor) -> "State":
        """The sum of this state and a multiple of the other, row by row."""
        factor_B11 = factor_B.view(-1, 1, 1)
        return State(*(a + factor_B11.to(a.dtype) * b for a, b in zip(self, other, strict=True)))

    def rows(self, index: Tensor) -> "State":
        """The chosen rows, by index or mask."""
        return State(self.y_BSD[index], self.z_BSD[index])


class Output(NamedTuple):
    """What one supervision step says: token logits, and the logits that it is right / may improve."""

    logits_BLV: Tensor
    halt_B: Tensor
    continue_B: Tensor
    conflict_BL: Tensor
    """That nothing is left for a cell, as what was decided contradicts the puzzle; minus infinity from models
    that never say so."""

    @property
    def conflict_B(self) -> Tensor:
        """That what was decided contradicts the puzzle: what the most alarmed cell says."""
        return self.conflict_BL.amax(1)


class RecursiveModel(nn.Module, ABC):
    """A model that refines an answer step by step.

    Subclasses build their networks with `network()` and say in `refine` how one supervision step
    changes the state.
    """

    def __init__(self, config: ModelConfig, problem: Problem, compute: ComputeConfig):
        super().__init__()
        self.config = config
        self.problem = problem
        self.compute = compute
        self.dtype = getattr(torch, compute.dtype)
        self.embed = self.embedding()
        self.seq_len: int = self.embed.seq_len
        uses_rope = config.mixing == "attention" and config.positions == "rope"
        self.rope = Rope(config.width_of_a_head, self.seq_len) if uses_rope else None
        # Starting points of y and z: drawn once, saved, never trained.
        self.register_buffer("y_init", trunc_normal_(torch.empty(config.width), std=1.0))
        self.register_buffer("z_init", trunc_normal_(torch.empty(config.width), std=1.0))
        self.answer_head = self.answering()
        self.halting_head = HALTING_HEADS[config.halting](config.width, self.seq_len)

    def embedding(self) -> InputEmbedding | CandidateEmbedding:
        """From puzzles to x, one position per cell unless a subclass says otherwise."""
        return InputEmbedding(self.config, self.problem, self.dtype)

    def answering(self) -> nn.Module:
        """From y, without its prefix, to logits [B, L, V]."""
        return Linear(self.config.width, self.problem.vocab_size, bias=False)

    def block(self) -> nn.Module:
        """One block of this model's shape."""
        c = self.config
        mix = MIXINGS[c.mixing](c, self.problem, self.rope)
        inner = c.inner or inner_width(c.width, c.expansion)
        return Block(c.width, inner, c.gate, mix, kernels.choose(self.compute.kernels))

    def network(self, layers: int) -> Network:
        """A stack of blocks of this model's shape."""
        network = Network([self.block() for _ in range(layers)])
        if self.compute.compile == "block":
            for each in network.blocks:
                each.compile()
        return network

    @abstractmethod
    def refine(self, state: State, x_BSD: Tensor) -> State:
        """The state after one supervision step; only the last updates may carry gradient."""

    @abstractmethod
    def applications(self) -> tuple[list[Network], list[Network]]:
        """The networks that one supervision step applies, in order, and those of them that carry gradient."""

    def encode(self, tokens_BL: Tensor, puzzle_B: Tensor) -> Tensor:
        """Embed puzzles, int [B, L], and their ids, int [B], as x_BSD in the forward dtype."""
        return self.embed(tokens_BL, puzzle_B)

    def initial_state(self, batch_size: int) -> State:
        """The state before the first step: the fixed vectors at every position."""
        shape = (batch_size, self.seq_len, -1)
        return State(self.y_init.to(self.dtype).expand(shape), self.z_init.to(self.dtype).expand(shape))

    def step(self, state: State, x_BSD: Tensor) -> tuple[State, Output]:
        """One supervision step: the refined state, detached, and what it says."""
        state = self.refine(state, x_BSD)
        return state.detach(), self.say(state.y_BSD)

    def say(self, y_BSD: Tensor) -> Output:
        """What the heads read from y."""
        logits_BLV = self.answer_head(y_BSD[:, self.config.prefix :])
        halt_B, continue_B = self.halting_head(y_BSD).unbind(-1)
        never_BL = torch.full_like(logits_BLV[..., 0], -torch.inf, dtype=torch.float32)
        return Output(logits_BLV, halt_B, continue_B, never_BL)

    def forward(self, tokens_BL: Tensor, puzzle_B: Tensor, state: State) -> tuple[State, Output]:
        """`encode` and `step` in one call."""
        return self.step(state, self.encode(tokens_BL, puzzle_B))


class LatentRecursion(RecursiveModel):
    """T cycles of n latent updates and one answer update; gradient through the last `graded` only."""

    def __init__(self, config: ModelConfig, problem: Problem, compute: ComputeConfig):
        super().__init__(config, problem, compute)
        # The same graph serves all cycles (one with gradient, one without), so it is compiled once.
        compiled = compute.compile == "cycle"
        self._cycle = torch.compile(self.cycle) if compiled else self.cycle
        self._latents = torch.compile(self.latents) if compiled else self.latents

    latent_network: Network

    @property
    def answering_network(self) -> Network:
        """The network that updates y: the one that updates z, unless there is another."""
        return self.latent_network

    def applications(self) -> tuple[list[Network], list[Network]]:
        cycle = [self.latent_network] * self.config.n + [self.answering_network]
        return cycle * self.config.T, cycle[-self.graded - 1 :]

    @property
    @abstractmethod
    def graded(self) -> int:
        """Latent updates of the last cycle that carry gradient, 1..n."""

    @abstractmethod
    def update_latent(self, state: State, x_BSD: Tensor) -> State:
        """Z from x, y and z."""

    @abstractmethod
    def update_answer(self, state: State) -> State:
        """Y from y and z; it never sees x."""

    def refine(self, state: State, x_BSD: Tensor) -> State:
        with torch.no_grad():
            for _ in range(self.config.T - 1):
                state = self._cycle(state, x_BSD, self.config.n)
            if self.graded < self.config.n:
                state = self._latents(state, x_BSD, self.config.n - self.graded)
        return self._cycle(state, x_BSD, self.graded)

    def cycle(self, state: State, x_BSD: Tensor, updates: int) -> State:
        """Latent updates, then one answer update."""
        return self.update_answer(self.latents(state, x_BSD, updates))

    def latents(self, state: State, x_BSD: Tensor, updates: int) -> State:
        """Latent updates alone."""
        for _ in range(updates):
            state = self.update_latent(state, x_BSD)
        return state
