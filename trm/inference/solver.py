"""Load weights, solve puzzles, watch the answer being refined."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import RenderableType
from torch import Tensor

from trm import pretrained
from trm.config import ComputeConfig, Effort, parse
from trm.errors import UserError
from trm.inference.search import Found, search
from trm.inference.think import Choice, Decision, Ends, in_turns, ponder, refine
from trm.models import RecursiveModel
from trm.models.candidates import Candidates
from trm.models.layers import GatedUnit
from trm.processes import ALONE
from trm.puzzles.family import Family
from trm.terminal import panel, svg

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
    """Rollouts that were run."""
    decisions: int = 0
    """Decisions of a search."""
    take_backs: int = 0
    """Times that the search took up an older branch."""
    by: str = "model"
    """`model`, or `exact` where the exact solver had to step in."""
    rollout: int = field(default=0, repr=False, compare=False)
    """Number of the rollout whose answer was chosen, for `Solver.replay`."""
    answer_L: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8), repr=False, compare=False)
    """The answer as tokens, uint8 [L]."""
    family: Family | None = field(default=None, repr=False, compare=False)
    """The family, which draws it."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.repr}

    def __rich__(self) -> RenderableType:
        """The answer as a picture, with what is known of it."""
        if self.family is None:
            return self.answer
        drawn = self.family.render(self.family.parse(self.puzzle), self.answer_L)
        said = {True: "solved", False: "breaks the rules", None: "not verified"}[self.verified]
        return panel(drawn, said, f"{100 * self.halt_probability:.1f} %")

    def _repr_html_(self) -> str:
        """The picture, for notebooks."""
        return svg(self)


@dataclass(frozen=True)
class Refinement:
    """The answer after one supervision step, as tokens uint8 [L]."""

    step: int
    answer: np.ndarray
    halt_probability: float
    done: bool
    question: np.ndarray = field(repr=False)
    """The puzzle, as tokens uint8 [L]."""
    previous: np.ndarray = field(repr=False)
    """The answer after the step before; the puzzle, before the first."""
    family: Family = field(repr=False)
    """The family, which draws it."""

    def __rich__(self) -> RenderableType:
        """The answer as a picture: clues, guesses, and what changed in this step."""
        drawn = self.family.render(self.question, self.answer, self.previous)
        return panel(drawn, f"step {self.step}", f"halt {100 * self.halt_probability:.1f} %")

    def _repr_html_(self) -> str:
        """The picture, for notebooks."""
        return svg(self)


class Solver:
    """A model with its family. Build one with `trm.load`."""

    def __init__(
        self, model: RecursiveModel, family: Family, steps: int, found: pretrained.Pretrained | None = None
    ):
        """`found` is what the model was loaded from, so that `save` keeps all that was said there."""
        self.found = found
        self.model = model.eval()
        self.family = family
        self.training_steps = steps
        self.processes = ALONE  # a command shares its work with others by putting them here
        self.chunk = chunk_size(model)

    @property
    def searches(self) -> bool:
        """Whether the model was taught to search (see `inference.search`); it does so by itself."""
        return isinstance(self.model, Candidates) and self.model.conflict_head is not None

    def by_itself(self, effort: Effort, decisions: int) -> Effort:
        """The effort asked for; a search with so many decisions where none is and the model was taught to."""
        return Effort(search=decisions) if self.searches and effort == Effort() else effort

    def save(self, folder: str | Path) -> Path:
        """Write the weights to a folder that `trm.load` and `trm solve --model` read.

        UserError where the folder holds anything but a model, or the disk is full.
        """
        path = Path(folder)
        pretrained.check_replaceable(path)
        if self.found is not None:
            self.found.save(path)
        else:
            model, family = self.model.config, self.family.config
            config = pretrained.PretrainedConfig(
                family=family, model=model, puzzles=self.model.problem.puzzles, steps=self.training_steps
            )
            pretrained.save(path, config, pretrained.weights(self.model))
        return path

    def solve(self, puzzles: Any, effort: Effort | None = None, puzzle_id: int = 0) -> list[Answer]:
        """Solve puzzles, one or several; answers come in the same order.

        A puzzle is a text, or its cells: an array or nested lists, as rows [H, W] or one after the other [L].

        `puzzle_id` says which rule they follow, for a model that was trained on several. Raises UserError
        for a malformed puzzle. Whether it has exactly one solution is not asked here: `family.check` does
        that.
        """
        return list(self.answers(texts(puzzles, self.family), effort, puzzle_id))

    def answers(
        self, puzzles: Iterable[str], effort: Effort | None = None, puzzle_id: int = 0
    ) -> Iterator[Answer]:
        """As `solve`, but each batch of answers comes as soon as it is there."""
        effort = effort or Effort()
        self.check_effort(effort)
        self.check_id(puzzle_id)
        tokens = (self.family.parse(text) for text in puzzles)
        if effort.search:
            yield from self.processes.deal(self._parts(tokens), lambda part: self._searched(part, effort))
            return

        def answered(tokens_NL: np.ndarray) -> Iterator[Answer]:
            puzzle_N = np.full(len(tokens_NL), puzzle_id)
            for tokens_L, (decision,) in zip(
                tokens_NL, self._decided(tokens_NL, [effort], puzzle_N), strict=True
            ):
                yield self.answer(tokens_L, decision, effort)

        yield from self.processes.deal(self._batches(tokens, effort), answered)

    def _batches(self, tokens: Iterator[np.ndarray], effort: Effort) -> Iterator[np.ndarray]:
        """Puzzles, [N, L]: one, then twice as many each time, so that the first answer comes soon."""
        size = 1
        while part := list(itertools.islice(tokens, size)):
            yield np.stack(part)
            size = min(2 * size, self._together(effort))

    def _together(self, effort: Effort) -> int:
        """Puzzles whose rollouts make up one batch."""
        return max(1, self.chunk // effort.rollouts)

    def _parts(self, tokens: Iterator[np.ndarray]) -> Iterator[Iterator[np.ndarray]]:
        """Puzzles that a process searches through at a time: alone, all of them."""
        if self.processes.count == 1:
            yield tokens
            return
        while part := list(itertools.islice(tokens, _PARTS * self.chunk)):
            yield iter(part)

    def _searched(self, tokens: Iterator[np.ndarray], effort: Effort) -> Iterator[Answer]:
        """Answers by search, in the order of the puzzles: one that ends early waits for those before it."""
        if not isinstance(self.model, Candidates):
            raise UserError("only a model of candidates can search: leave search out, or choose such a model")
        asked: dict[int, np.ndarray] = {}  # puzzles that have joined the search and not yet been answered
        ended: dict[int, Found] = {}
        next_one = 0

        def joining() -> Iterator[np.ndarray]:
            for index, tokens_L in enumerate(tokens):
                asked[index] = tokens_L
                yield tokens_L

        for index, found in search(
            self.model, self.family, joining(), effort.search, self.chunk, effort.budget
        ):
            ended[index] = found
            while next_one in ended:
                each = ended.pop(next_one)
                decision = Decision(each.answer_L, each.halt, each.steps, each.steps)
                answer = self.answer(asked.pop(next_one), decision, effort)
                yield replace(answer, decisions=each.decisions, take_backs=each.take_backs)
                next_one += 1

    def steps(
        self, puzzle: Any, effort: Effort | None = None, puzzle_id: int = 0, rollout: int = 0
    ) -> Iterator[Refinement]:
        """The answer to one puzzle after each supervision step of one rollout, until it is done.

        With several rollouts, `replay` shows the steps of the one whose answer was chosen.
        """
        effort = effort or Effort()
        self.check_id(puzzle_id)
        if len(one := texts(puzzle, self.family)) != 1:
            raise UserError(f"steps are those of one puzzle, and these are {len(one)}")
        question_L = previous_L = self.family.parse(one[0])
        tokens_1L = self._tensor(question_L[None])
        steps = effort.steps or self.training_steps
        puzzle_1 = torch.full_like(tokens_1L[:, 0], puzzle_id)
        for thought in refine(self.model, self.family, tokens_1L, puzzle_1, steps, effort, rollout):
            answer_L = thought.answer_AL[0].cpu().numpy().astype(np.uint8)
            yield Refinement(
                thought.step,
                answer_L,
                thought.halt_A[0].sigmoid().item(),
                bool(thought.done_A[0]),
                question_L,
                previous_L,
                self.family,
            )
            previous_L = answer_L

    def replay(self, answer: Answer, effort: Effort, puzzle_id: int = 0) -> Iterator[Refinement]:
        """The steps of the rollout that an answer comes from."""
        alone = {
            "early_stop": False,
            "budget": None,
            "seconds": None,
            "select": "halt",
            "steps": answer.steps,
        }
        return self.steps(answer.puzzle, effort.model_copy(update=alone), puzzle_id, answer.rollout)

    def decisions(
        self, tokens_NL: np.ndarray, efforts: Sequence[Effort], puzzle_N: np.ndarray
    ) -> Iterator[list[Decision]]:
        """Answers by efforts that differ only in how they select, from the same rollouts, for each puzzle.

        Memory is that of `chunk` rows, whatever the number of puzzles and rollouts.
        """
        size = self._together(efforts[0])
        parts = (slice(first, first + size) for first in range(0, len(tokens_NL), size))
        yield from self.processes.deal(
            parts, lambda part: self._decided(tokens_NL[part], efforts, puzzle_N[part])
        )

    def _decided(
        self, tokens_BL: np.ndarray, efforts: Sequence[Effort], puzzle_B: np.ndarray
    ) -> Iterator[list[Decision]]:
        """`decisions` for one batch of puzzles, by this process."""
        for parts in self._rollouts(self._tensor(tokens_BL), efforts[0], self._tensor(puzzle_B)):
            choices = [Choice(effort.select) for effort in efforts]
            for ends in parts:
                for choice in choices:
                    choice.add(ends)
            yield [choice.decision() for choice in choices]

    def _rollouts(self, tokens_BL: Tensor, effort: Effort, puzzle_B: Tensor) -> Iterator[Iterable[Ends]]:
        """How the rollouts of each puzzle of a batch end: all together, or one chunk after the other."""
        given = (self.model, self.family, tokens_BL, puzzle_B, effort.steps or self.training_steps, effort)
        if effort.rollouts > self.chunk:
            yield in_turns(*given, self.chunk)
        else:
            yield from ([ends] for ends in ponder(*given))

    def check_effort(self, effort: Effort) -> None:
        """Raise UserError for an effort that asks for what cannot be, or for options that do nothing."""
        name = self.family.config.name
        for option in effort.idle():
            value = getattr(effort, option)
            raise UserError(
                f"{option} {value} would do nothing for one rollout: set rollouts, or leave {option} out"
            )
        if effort.exact and not self.family.solves:
            raise UserError(f"there is no exact solver for these puzzles ({name}): leave exact out")
        if effort.select == "verify" and not self.family.verifies:
            raise UserError(
                f"select verify: nothing can be checked of answers to these puzzles ({name}): declare their "
                "rules, or choose another select"
            )

    def answer(self, tokens_L: np.ndarray, decision: Decision, effort: Effort) -> Answer:
        """What is to be said of an answer; with `effort.exact`, the exact solver has the last word."""
        answer_L, by = decision.answer_L, "model"
        verified = self.family.verify(tokens_L, answer_L)
        if effort.exact and verified is False:
            found = self.family.solve_exactly(tokens_L)
            if found is not None:
                answer_L, by, verified = found, "exact", self.family.verify(tokens_L, found)
        return Answer(
            puzzle=self.family.text(tokens_L),
            answer=self.family.text(answer_L),
            verified=verified,
            steps=decision.steps,
            halt_probability=_sigmoid(decision.halt),
            rollouts=decision.rollouts,
            by=by,
            rollout=decision.rollout,
            answer_L=answer_L,
            family=self.family,
        )

    def check_id(self, puzzle_id: int) -> None:
        """Raise UserError for a puzzle id that the model does not know."""
        known = self.model.problem.puzzles if self.model.config.puzzle_width else 1
        if not 0 <= puzzle_id < known:
            raise UserError(f"the model knows puzzle ids below {known}, not {puzzle_id}")

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).long().to(self.model.y_init.device)


def texts(puzzles: Any, family: Family) -> list[str]:
    """Puzzles as text: one or several, each a text, or cells [H, W] or [L] in arrays or nested lists."""
    plain = _plain(puzzles)
    if isinstance(plain, str):
        return [plain]

    def whole(each: Any) -> bool:
        in_a_row = isinstance(each, list) and len(each) == family.length
        return isinstance(each, str) or _depth(each) == 2 or in_a_row

    if not all(map(whole, plain)):
        plain = [plain]
    return [each if isinstance(each, str) else _written(each, family) for each in plain]


def _plain(values: Any) -> Any:
    """Arrays and sequences as lists, whole numbers as integers."""
    if isinstance(values, np.ndarray | np.generic | Tensor):
        values = values.tolist()
    if isinstance(values, float) and values.is_integer():
        return int(values)
    if isinstance(values, Iterable) and not isinstance(values, str):
        return [_plain(each) for each in values]
    return values


def _depth(values: Any) -> int:
    return 1 + max(map(_depth, values), default=0) if isinstance(values, list) else 0


def _written(cells: Any, family: Family) -> str:
    """The text of one puzzle that is given as cells."""
    if _depth(cells) == 1:
        width = family.board[1] if family.board else max(1, len(cells))
        cells = [cells[first : first + width] for first in range(0, len(cells), width)]
    if _depth(cells) != 2 or not all(isinstance(row, list) for row in cells):
        raise UserError("a puzzle is a text, or cells as rows [H, W] or one after the other [L]")
    return family.written(cells)


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


def load(name: str | Path, *, board: str = "", revision: str = "", **compute: Any) -> Solver:
    """A solver from a model folder, a training run, bundled weights by name, or a hub repository.

    `revision` is a branch, a tag or a commit of a repository (`org/name@revision` says the same).
    `board` is a puzzle as text: weights that serve boards of every size solve those of its size. `compute`
    are options of `config.ComputeConfig`: `device` auto, cpu, cuda or mps; `dtype` bfloat16 halves the memory
    (very deep runs need float32); `compile` block pays for many puzzles on a GPU. Raises UserError if there
    is no such model, it is damaged, or it cannot be computed like that here.
    """
    if revision:
        name = pretrained.at_revision(str(name), revision)
    boards = pretrained.fitting(pretrained.find(name)[1], board) if board else None
    found = pretrained.load(name, parse(ComputeConfig, compute, "load"), boards)
    return Solver(found.model, found.family, found.config.steps, found)
