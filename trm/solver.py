"""Load weights, solve puzzles, watch the answer being refined."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trm import pretrained
from trm.config import Effort
from trm.errors import UserError
from trm.inference import Decision, ponder, refine
from trm.models import RecursiveModel
from trm.tasks import Task

# Rows per batch: small enough that the activations of a block stay in a CPU's cache.
CPU_CHUNK, GPU_CHUNK = 64, 1024


@dataclass(frozen=True)
class Answer:
    """The answer to one puzzle, and how much to trust it."""

    puzzle: str
    answer: str
    verified: bool | None
    """Whether the rules confirm the answer; None where the task cannot tell."""
    steps: int
    """Supervision steps of the chosen rollout."""
    halt_probability: float
    """The model's own probability that its answer is right."""
    rollouts: int = 1
    """Rollouts used."""
    by: str = "model"
    """`model`, or `search` where the exact solver had to step in."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Refinement:
    """The answer after one supervision step, as tokens uint8 [L]."""

    step: int
    answer: np.ndarray
    halt_probability: float
    done: bool


class Solver:
    """A model with its task. Build one with `trm.load`."""

    def __init__(self, model: RecursiveModel, task: Task, steps: int):
        self.model = model.eval()
        self.task = task
        self.training_steps = steps
        self.chunk = chunk_size(model)

    def solve(self, puzzles: str | Iterable[str], effort: Effort | None = None) -> list[Answer]:
        """Solve puzzles given as text; answers come in the same order.

        Raises UserError for a malformed puzzle. Whether it has exactly one solution is not asked here:
        `task.check` does that.
        """
        effort = effort or Effort()
        texts = [puzzles] if isinstance(puzzles, str) else list(puzzles)
        tokens = [self.task.parse(text) for text in texts]
        size = max(1, self.chunk // effort.rollouts)
        answers = []
        for first in range(0, len(tokens), size):
            part = tokens[first : first + size]
            answers += map(self._answer, part, self.decide(np.stack(part), effort), [effort] * len(part))
        return answers

    def steps(self, puzzle: str, effort: Effort | None = None) -> Iterator[Refinement]:
        """The answer to one puzzle after each supervision step of the plain rollout, until it is done."""
        effort = effort or Effort()
        tokens_1L = self._tensor(self.task.parse(puzzle)[None])
        steps = effort.steps or self.training_steps
        for thought in refine(self.model, self.task, tokens_1L, _ids(tokens_1L), steps, effort):
            yield Refinement(
                thought.step,
                thought.answer_AL[0].cpu().numpy().astype(np.uint8),
                thought.halt_A[0].sigmoid().item(),
                bool(thought.done_A[0]),
            )

    def decide(self, tokens_BL: np.ndarray, effort: Effort) -> list[Decision]:
        """Answers to one batch of puzzles, as tokens uint8 [B, L]."""
        tokens = self._tensor(tokens_BL)
        steps = effort.steps or self.training_steps
        return ponder(self.model, self.task, tokens, _ids(tokens), steps, effort)

    def _answer(self, tokens_L: np.ndarray, decision: Decision, effort: Effort) -> Answer:
        answer_L, by = decision.answer_L, "model"
        verified = self.task.verify(tokens_L, answer_L)
        if effort.exact and verified is False:
            found = self.task.solve_exactly(tokens_L)
            if found is not None:
                answer_L, by, verified = found, "search", self.task.verify(tokens_L, found)
        return Answer(
            puzzle=self.task.text(tokens_L),
            answer=self.task.text(answer_L),
            verified=verified,
            steps=decision.steps,
            halt_probability=float(1 / (1 + np.exp(-decision.halt))),
            rollouts=effort.rollouts,
            by=by,
        )

    def _tensor(self, tokens_BL: np.ndarray) -> Tensor:
        return torch.from_numpy(tokens_BL).long().to(self.model.y_init.device)


def _ids(tokens_BL: Tensor) -> Tensor:
    """Puzzle ids of new puzzles: all 0."""
    return torch.zeros(len(tokens_BL), dtype=torch.long, device=tokens_BL.device)


def chunk_size(model: RecursiveModel) -> int:
    """Rows per batch for a model where it is."""
    return CPU_CHUNK if model.y_init.device.type == "cpu" else GPU_CHUNK


def load(name: str | Path, device: str = "auto", dtype: str | None = None) -> Solver:
    """A solver from a model folder, a training run, bundled weights by name, or a hub repository.

    `device` is auto, cpu, cuda or mps; `dtype` overrides the precision of the forward pass (very deep
    runs need float32). Raises UserError if there is no such model or it is damaged.
    """
    found = pretrained.load(name, pick_device(device), dtype)
    return Solver(found.model, found.task, found.config.steps)


def pick_device(device: str) -> str:
    """The device to use: `auto` prefers CUDA, then an Apple GPU, then the CPU."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, there in here.items() if there)
    if not here.get(device):
        raise UserError(
            f"no device {device!r} here: choose one of auto, {', '.join(n for n in here if here[n])}"
        )
    return device
