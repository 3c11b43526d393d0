"""Load weights, solve puzzles, watch the answer being refined."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from trm import pretrained
from trm.inference import Thought, think
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
    """Supervision steps used."""
    halt_probability: float
    """The model's own probability that the answer is right."""

    def as_dict(self) -> dict[str, str | bool | int | float | None]:
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
        self.steps_by_default = steps
        self.device = model.y_init.device
        self.chunk = CPU_CHUNK if self.device.type == "cpu" else GPU_CHUNK

    def solve(
        self, puzzles: str | Iterable[str], steps: int | None = None, early_stop: bool = True
    ) -> list[Answer]:
        """Solve puzzles given as text; answers come in the same order.

        Raises UserError for a malformed puzzle. Whether it has exactly one solution is not asked here:
        `task.check` does that.
        """
        texts = [puzzles] if isinstance(puzzles, str) else list(puzzles)
        tokens = [self.task.parse(text) for text in texts]
        answers = []
        for start in range(0, len(tokens), self.chunk):
            answers += self._solve_chunk(np.stack(tokens[start : start + self.chunk]), steps, early_stop)
        return answers

    def steps(self, puzzle: str, steps: int | None = None, early_stop: bool = True) -> Iterator[Refinement]:
        """The answer to one puzzle after each supervision step, until it is done."""
        tokens_1L = self._to_device(self.task.parse(puzzle)[None])
        for thought in self._think(tokens_1L, steps, early_stop):
            for _, refinement in self._refinements(thought):
                yield refinement

    def answer(self, tokens_L: np.ndarray, last: Refinement) -> Answer:
        """The answer that the last refinement of a puzzle is."""
        return Answer(
            puzzle=self.task.text(tokens_L),
            answer=self.task.text(last.answer),
            verified=self.task.verify(tokens_L, last.answer),
            steps=last.step,
            halt_probability=last.halt_probability,
        )

    def _refinements(self, thought: Thought) -> Iterator[tuple[int, Refinement]]:
        """Rows of the batch and what one step made of them."""
        answers = thought.answer_AL.cpu().numpy().astype(np.uint8)
        chances, done = thought.halt_A.sigmoid().tolist(), thought.done_A.tolist()
        for row, answer, chance, ends in zip(thought.row_A.tolist(), answers, chances, done, strict=True):
            yield row, Refinement(thought.step, answer, chance, ends)

    def _solve_chunk(self, tokens_BL: np.ndarray, steps: int | None, early_stop: bool) -> list[Answer]:
        answers: dict[int, Answer] = {}
        for thought in self._think(self._to_device(tokens_BL), steps, early_stop):
            for row, refinement in self._refinements(thought):
                if refinement.done:
                    answers[row] = self.answer(tokens_BL[row], refinement)
        return [answers[row] for row in range(len(tokens_BL))]

    def _think(self, tokens_BL: torch.Tensor, steps: int | None, early_stop: bool):
        puzzle_B = torch.zeros(len(tokens_BL), dtype=torch.long, device=self.device)
        return think(self.model, tokens_BL, puzzle_B, steps or self.steps_by_default, early_stop)

    def _to_device(self, tokens_BL: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(tokens_BL).long().to(self.device)


def load(name: str | Path, device: str = "auto") -> Solver:
    """A solver from a model folder, a training run, bundled weights by name, or a hub repository.

    `device` is auto, cpu, cuda or mps. Raises UserError if there is no such model or it is damaged.
    """
    found = pretrained.load(name, pick_device(device))
    return Solver(found.model, found.task, found.config.steps)


def pick_device(device: str) -> str:
    """The device to use: `auto` prefers CUDA, then an Apple GPU, then the CPU."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
