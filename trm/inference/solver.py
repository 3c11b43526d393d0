"""Load weights, solve puzzles, watch the answer being refined."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trm import pretrained
from trm.config import ComputeConfig, Effort, parse
from trm.errors import UserError
from trm.inference.search import Found, search
from trm.inference.think import Decision, Ends, choose, ponder, refine
from trm.models import RecursiveModel
from trm.models.candidates import Candidates
from trm.models.layers import GatedUnit
from trm.processes import ALONE
from trm.puzzles.family import Family

# Most rows per batch. On a CPU the widest activations of a chunk should stay in the cache; on a GPU a chunk
# should fit into the memory of a small one.
CPU_CHUNK, GPU_CHUNK = 64, 1024
_PARTS = 4  # batches of puzzles that a process searches through at a time
_CACHE_BYTES, _GPU_BYTES = 8 * 2**20, 4 * 2**30


@dataclass(frozen=True)
class Answer:
    """The answer to one puzzle, and how much to trust it."""

    puzzle: str
    answer: str
    verified: bool | None
    """Whether the rules confirm the answer; None where the family cannot tell."""
    steps: int
    """Supervision steps of the chosen rollout, or of the search."""
    halt_probability: float
    """The model's own probability that its answer is right."""
    rollouts: int = 1
    """Rollouts used."""
    decisions: int = 0
    """Decisions of a search."""
    take_backs: int = 0
    """Times that the search took up an older branch."""
    by: str = "model"
    """`model`, or `exact` where the exact solver had to step in."""
    answer_L: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8), repr=False, compare=False)
    """The answer as tokens, uint8 [L]."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = asdict(self)
        del values["answer_L"]
        return values


@dataclass(frozen=True)
class Refinement:
    """The answer after one supervision step, as tokens uint8 [L]."""

    step: int
    answer: np.ndarray
    halt_probability: float
    done: bool


class Solver:
    """A model with its family. Build one with `trm.load`."""

    def __init__(self, model: RecursiveModel, family: Family, steps: int):
        self.model = model.eval()
        self.family = family
        self.training_steps = steps
        self.processes = ALONE  # a command shares its work with others by putting them here
        self.chunk = chunk_size(model)

    @property
    def searches(self) -> bool:
        """Whether the model can search (see `inference.search`)."""
        return isinstance(self.model, Candidates)

    def solve(
        self, puzzles: str | Iterable[str], effort: Effort | None = None, puzzle_id: int = 0
    ) -> list[Answer]:
        """Solve puzzles given as text; answers come in the same order.

        `puzzle_id` says which rule they follow, for a model that was trained on several. Raises UserError
        for a malformed puzzle. Whether it has exactly one solution is not asked here: `family.check` does
        that.
        """
        return list(self.answers([puzzles] if isinstance(puzzles, str) else puzzles, effort, puzzle_id))

    def answers(
        self, puzzles: Iterable[str], effort: Effort | None = None, puzzle_id: int = 0
    ) -> Iterator[Answer]:
        """As `solve`, but each batch of answers comes as soon as it is there."""
        effort = effort or Effort()
        self._check_id(puzzle_id)
        tokens = [self.family.parse(text) for text in puzzles]
        if not tokens:
            return
        if effort.search:
            # Alone, all puzzles are one search: nobody waits for the last of a part.
            size = len(tokens) if self.processes.count == 1 else _PARTS * self.chunk
            parts = (np.stack(tokens[first : first + size]) for first in range(0, len(tokens), size))
            yield from self.processes.deal(parts, lambda part: self._searched(part, effort))
            return
        for tokens_L, decision in zip(tokens, self.decide(np.stack(tokens), effort, puzzle_id), strict=True):
            yield self.answer(tokens_L, decision.answer_L, decision.steps, _sigmoid(decision.halt), effort)

    def _searched(self, tokens_NL: np.ndarray, effort: Effort) -> Iterator[Answer]:
        """Answers by search, in the order of the puzzles: one that ends early waits for those before it."""
        if not isinstance(self.model, Candidates):
            raise UserError("only a model of candidates can search: leave search out, or choose such a model")
        ended: dict[int, Found] = {}
        next_one = 0
        for index, found in search(
            self.model, self.family, tokens_NL, effort.search, self.chunk, effort.budget
        ):
            ended[index] = found
            while next_one in ended:
                each = ended.pop(next_one)
                answer = self.answer(
                    tokens_NL[next_one], each.answer_L, each.steps, _sigmoid(each.halt), effort
                )
                yield replace(answer, decisions=each.decisions, take_backs=each.take_backs)
                next_one += 1

    def steps(self, puzzle: str, effort: Effort | None = None, puzzle_id: int = 0) -> Iterator[Refinement]:
        """The answer to one puzzle after each supervision step of the plain rollout, until it is done."""
        effort = effort or Effort()
        self._check_id(puzzle_id)
        tokens_1L = self._tensor(self.family.parse(puzzle)[None])
        steps = effort.steps or self.training_steps
        puzzle_1 = torch.full_like(tokens_1L[:, 0], puzzle_id)
        for thought in refine(self.model, self.family, tokens_1L, puzzle_1, steps, effort):
            yield Refinement(
                thought.step,
                thought.answer_AL[0].cpu().numpy().astype(np.uint8),
                thought.halt_A[0].sigmoid().item(),
                bool(thought.done_A[0]),
            )

    def decide(self, tokens_NL: np.ndarray, effort: Effort, puzzle_id: int = 0) -> Iterator[Decision]:
        """Answers to puzzles as tokens uint8 [N, L]."""
        puzzle_N = np.full(len(tokens_NL), puzzle_id)
        return (choose(ends, effort.select) for ends in self.rollouts(tokens_NL, effort, puzzle_N))

    def rollouts(
        self, tokens_NL: np.ndarray, effort: Effort, puzzle_N: np.ndarray | None = None
    ) -> Iterator[Ends]:
        """How the rollouts of each puzzle end; those of one puzzle run together. Ids are 0 if not given."""
        puzzle_N = np.zeros(len(tokens_NL), np.int32) if puzzle_N is None else puzzle_N
        steps, size = effort.steps or self.training_steps, max(1, self.chunk // effort.rollouts)

        def pondered(first: int) -> list[Ends]:
            part = slice(first, first + size)
            tokens_BL, puzzle_B = self._tensor(tokens_NL[part]), self._tensor(puzzle_N[part])
            return ponder(self.model, self.family, tokens_BL, puzzle_B, steps, effort)

        yield from self.processes.deal(range(0, len(tokens_NL), size), pondered)

    def answer(
        self, tokens_L: np.ndarray, answer_L: np.ndarray, steps: int, halt_probability: float, effort: Effort
    ) -> Answer:
        """What is to be said of an answer; with `effort.exact`, the exact solver has the last word."""
        by, verified = "model", self.family.verify(tokens_L, answer_L)
        if effort.exact and verified is False:
            found = self.family.solve_exactly(tokens_L)
            if found is not None:
                answer_L, by, verified = found, "exact", self.family.verify(tokens_L, found)
        return Answer(
            puzzle=self.family.text(tokens_L),
            answer=self.family.text(answer_L),
            verified=verified,
            steps=steps,
            halt_probability=halt_probability,
            rollouts=effort.rollouts,
            by=by,
            answer_L=answer_L,
        )

    def _check_id(self, puzzle_id: int) -> None:
        known = self.model.problem.puzzles if self.model.config.puzzle_width else 1
        if not 0 <= puzzle_id < known:
            raise UserError(f"the model knows puzzle ids below {known}, not {puzzle_id}")

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).long().to(self.model.y_init.device)


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0


def chunk_size(model: RecursiveModel) -> int:
    """Rows per batch for a model where it is."""
    units = [unit.up for unit in model.modules() if isinstance(unit, GatedUnit)]
    if model.y_init.device.type == "cpu":
        widest = max(up.out_features for up in units)
        return max(1, min(CPU_CHUNK, _CACHE_BYTES // (4 * widest * model.seq_len)))
    state = model.seq_len * len(model.y_init)
    # A unit over channels has one row of `up` for each position, one over tokens for each channel.
    return gpu_rows(state, max(state // up.in_features * up.out_features for up in units))


def gpu_rows(state: int, widest: int) -> int:
    """Rows whose evaluation fits into 4 GiB, at most 1,024.

    A row keeps some six states (x, y, z, and what replaces them). Beside them it needs the larger of two: the
    input of a gated unit's nonlinearity with the results that follow, or the random numbers for noise on y
    and z. A normal is made of two uniform numbers, whose hashing holds three integers of 8 bytes each.

    Args:
        state: elements of y (positions times width).
        widest: elements of the widest activation of a row.
    """
    activations, noise = 4 * 2 * widest, 2 * state * 2 * 3 * 8
    return max(1, min(GPU_CHUNK, _GPU_BYTES // (4 * 6 * state + max(activations, noise))))


def load(name: str | Path, *, board: str = "", **compute: Any) -> Solver:
    """A solver from a model folder, a training run, bundled weights by name, or a hub repository.

    `board` is a puzzle as text: weights that serve boards of every size solve those of its size. `compute`
    are options of `config.ComputeConfig`: `device` auto, cpu, cuda or mps; `dtype` bfloat16 halves the memory
    (very deep runs need float32); `compile` block pays for many puzzles on a GPU. Raises UserError if there
    is no such model, it is damaged, or it cannot be computed like that here.
    """
    boards = pretrained.fitting(pretrained.find(name)[1], board) if board else None
    found = pretrained.load(name, parse(ComputeConfig, compute, "load"), boards)
    return Solver(found.model, found.family, found.config.steps)
