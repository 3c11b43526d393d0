"""Thinking: answers refined step by step, for as long and in as many ways as a puzzle needs.

`think` is the one loop over supervision steps: rows that are done leave the batch and the rest is
compacted, so the cost follows the difficulty. `ponder` runs several rollouts of every puzzle through it,
`in_turns` more of one puzzle than a batch holds, and `Choice` keeps one answer of them.

A row is done when its halting logit is positive AND its answer did not change in the last step. The
logit alone stops too early: it says "right" of answers that are still moving, and costs exact accuracy.

Rollouts of a puzzle differ by noise on the latents before every step, by a random starting point, or by
a symmetry of the family that is undone on the answer; the first rollout is always the plain one. All
randomness is keyed by the seed, the puzzle's own tokens and the rollout, so an answer depends neither
on the batch size nor on the order, nor on the puzzles beside it.

Shapes: B puzzles, K rollouts, R = B * K rows, A rows still at work, L tokens, S positions, D width.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trm import rng
from trm.config import Effort
from trm.errors import UserError
from trm.models import RecursiveModel, State
from trm.models.candidates import Candidates
from trm.puzzles.family import Family
from trm.puzzles.symmetry import Symmetry


class Thought(NamedTuple):
    """The rows at work after one supervision step."""

    step: int
    """Supervision steps taken, from 1."""
    row_A: Tensor
    """Their places in the batch."""
    answer_AL: Tensor
    """Their answers, as tokens."""
    halt_A: Tensor
    """Their halting logits."""
    changed_A: Tensor
    """Whether the answer differs from that of the step before (true after the first)."""
    drift_A: Tensor
    """How far y moved in this step: root mean square of the difference."""
    done_A: Tensor
    """Whether they leave now."""

    @property
    def settled_A(self) -> Tensor:
        """The rule for stopping early: the halting logit is positive and the answer stands still."""
        return (self.halt_A > 0) & ~self.changed_A


Leave = Callable[[Thought], Tensor]


def when_settled(thought: Thought) -> Tensor:
    """Rows leave when they are done."""
    return thought.settled_A


def never(thought: Thought) -> Tensor:
    """All rows run to the last step: the paper's evaluation."""
    return torch.zeros_like(thought.changed_A)


@torch.inference_mode()
def think(
    model: RecursiveModel,
    tokens_RL: Tensor,
    puzzle_R: Tensor,
    steps: int,
    leave: Leave = when_settled,
    state: State | None = None,
    disturb: Callable[[State, int, Tensor], State] | None = None,
    same_cells: bool = False,
) -> Iterator[Thought]:
    """Refine answers for at most `steps` supervision steps; yields after each.

    `leave` says which rows go after a step. `state` is the starting point if not the model's own.
    `disturb` changes the state of the given rows before a step. With `same_cells`, padding of the question is
    padding of the answer: training says nothing of it, so what the model says there is noise. The model must
    be in evaluation mode.
    """
    row_A = torch.arange(len(tokens_RL), device=tokens_RL.device)
    x_ASD = model.encode(tokens_RL, puzzle_R)
    state = model.initial_state(len(tokens_RL)) if state is None else state
    previous_AL = torch.full_like(tokens_RL, -1)
    for step in range(1, steps + 1):
        if disturb is not None:
            state = disturb(state, step, row_A)
        before_ASD = state.y_BSD
        state, out = model.step(state, x_ASD)
        answer_AL = out.logits_BLV.argmax(-1)
        if same_cells:
            answer_AL = answer_AL.masked_fill(tokens_RL[row_A] == 0, 0)
        drift_A = (state.y_BSD.float() - before_ASD.float()).square().mean((1, 2)).sqrt()
        changed_A = (answer_AL != previous_AL).any(-1)
        last_A = torch.full_like(changed_A, step == steps)
        thought = Thought(step, row_A, answer_AL, out.halt_B, changed_A, drift_A, last_A)
        thought = thought._replace(done_A=last_A | leave(thought))
        yield thought
        stay_A = ~thought.done_A
        if not stay_A.any():
            return
        if not stay_A.all():
            row_A, x_ASD, answer_AL = row_A[stay_A], x_ASD[stay_A], answer_AL[stay_A]
            state = state.rows(stay_A)
        previous_AL = answer_AL


class Decision(NamedTuple):
    """The answer chosen for one puzzle."""

    answer_L: np.ndarray
    """Tokens, uint8."""
    halt: float
    """Halting logit of the chosen rollout (for `vote`, the highest among those that agree)."""
    steps: int
    """Supervision steps of the chosen rollout."""
    total_steps: int
    """Supervision steps of all rollouts together: the cost."""
    rollouts: int = 1
    """Rollouts that were run."""
    rollout: int = 0
    """Number of the chosen one (for `vote`, the surest among those that agree)."""


class Ends(NamedTuple):
    """How rollouts of one puzzle ended; K rollouts."""

    answer_KL: np.ndarray
    halt_K: np.ndarray
    drift_K: np.ndarray
    steps_K: np.ndarray
    settled_K: np.ndarray
    verdict_K: np.ndarray
    """What the rules say, where they are asked: 1 they confirm the answer, -1 it breaks them, 0 unknown."""

    @property
    def confirmed(self) -> bool:
        """Whether the rules confirm an answer."""
        return bool((self.verdict_K > 0).any())


def ponder(
    model: RecursiveModel,
    family: Family,
    tokens_BL: Tensor,
    puzzle_B: Tensor,
    steps: int,
    effort: Effort,
    turn: range | None = None,
) -> list[Ends]:
    """Run rollouts of every puzzle, of at most `steps` each; `Choice` picks the answers.

    `turn` says which rollouts: by default all of them. They run together, so memory follows their number.
    """
    if (
        isinstance(model, Candidates)
        and effort.rollouts > 1
        and not (effort.noise or effort.start == "random")
    ):
        raise UserError(
            "rollouts of a model of candidates are all the same under symmetries: add noise or a random start"
        )
    ways = _Ways(model, family, tokens_BL, effort, range(effort.rollouts) if turn is None else turn)
    watch = _Watch(family, tokens_BL, effort, ways)
    for _ in _watched(model, family, ways, watch, puzzle_B, steps):
        pass
    return list(watch.ends())


def _watched(
    model: RecursiveModel, family: Family, ways: "_Ways", watch: "_Watch", puzzle_B: Tensor, steps: int
) -> Iterator[Thought]:
    """Thoughts of the rollouts, each once it is noted, until the watch has sent all of them away."""
    puzzle_R = puzzle_B.repeat_interleave(ways.rollouts)
    for thought in think(
        model, ways.tokens_RL, puzzle_R, steps, watch.leave, ways.start(), ways.noise, family.same_cells
    ):
        watch.note(thought)
        yield thought


def in_turns(
    model: RecursiveModel,
    family: Family,
    tokens_1L: Tensor,
    puzzle_1: Tensor,
    steps: int,
    effort: Effort,
    rows: int,
) -> Iterator[Ends]:
    """The rollouts of one puzzle, `rows` at a time, so that memory does not follow their number.

    A rollout ends as it would among all of them, but for three options that look at the others. `first` is
    the first to settle by its steps, whatever its turn: later turns get no more steps than the first so far.
    `verify` ends with the turn in which an answer is confirmed. A budget is shared out evenly, and what a
    turn leaves of its share goes to those after it; when the seconds are over, the other turns are not run.
    """
    left, started = effort.budget, time.monotonic()
    for start in range(0, effort.rollouts, rows):
        turn = range(start, min(start + rows, effort.rollouts))
        share = None if left is None else left * len(turn) // (effort.rollouts - start)
        rest = None if effort.seconds is None else effort.seconds - (time.monotonic() - started)
        if start and rest is not None and rest <= 0:
            return
        asked = effort.model_copy(update={"budget": share, "seconds": rest})
        (ends,) = ponder(model, family, tokens_1L, puzzle_1, steps, asked, turn)
        yield ends
        if left is not None:
            left -= int(ends.steps_K.sum())
        if effort.select == "verify" and ends.confirmed:
            return
        if effort.select == "first" and ends.settled_K.any():
            steps = min(steps, int(ends.steps_K[ends.settled_K].min()))


def refine(
    model: RecursiveModel,
    family: Family,
    tokens_1L: Tensor,
    puzzle_1: Tensor,
    steps: int,
    effort: Effort,
    rollout: int = 0,
) -> Iterator[Thought]:
    """One rollout of a puzzle, step by step, stopped as `ponder` would if it were the only one.

    Answers are those to the puzzle as it was asked, whatever the rollout does to it.
    """
    ways = _Ways(model, family, tokens_1L, effort, range(rollout, rollout + 1))
    watch = _Watch(family, tokens_1L, effort, ways)
    for thought in _watched(model, family, ways, watch, puzzle_1, steps):
        yield thought._replace(answer_AL=ways.undo(thought.answer_AL, thought.row_A))


class Choice:
    """The answer to keep of a puzzle's rollouts, which come a few at a time.

    What it holds does not grow with their number (of `vote`: only with the number of different answers).
    """

    def __init__(self, select: str):
        self.select = select
        self.kept: Ends | None = None
        self.number = 0  # of the rollout that is kept
        self.steps = self.rollouts = 0
        self.votes: dict[bytes, _Votes] = {}

    def add(self, ends: Ends) -> None:
        """Take further rollouts into account."""
        numbers = range(self.rollouts, self.rollouts + len(ends.steps_K))
        self.steps += int(ends.steps_K.sum())
        self.rollouts += len(ends.steps_K)
        if self.select == "vote":
            self._count(ends, numbers)
            return
        known = [self.number, *numbers] if self.kept is not None else numbers
        if self.kept is not None:
            ends = Ends(*(np.concatenate(parts) for parts in zip(self.kept, ends, strict=True)))
        best = _BY[self.select](ends)
        self.kept, self.number = Ends(*(part[best : best + 1].copy() for part in ends)), known[best]

    def decision(self) -> Decision:
        """The answer that is kept."""
        if self.select == "vote":
            # Ties go to the higher mean halting probability, then to the answer that came first.
            answer, votes = max(self.votes.items(), key=lambda entry: (entry[1].count, entry[1].mean))
            answer_L = np.frombuffer(answer, np.uint8)
            return Decision(answer_L, votes.halt, votes.steps, self.steps, self.rollouts, votes.rollout)
        assert self.kept is not None  # there is at least one rollout
        answer_L, halt, steps = (
            part[0] for part in (self.kept.answer_KL, self.kept.halt_K, self.kept.steps_K)
        )
        return Decision(answer_L, float(halt), int(steps), self.steps, self.rollouts, self.number)

    def _count(self, ends: Ends, numbers: Iterable[int]) -> None:
        columns = ends.halt_K, 1 / (1 + np.exp(-ends.halt_K)), ends.steps_K
        for number, answer_L, halt, chance, steps in zip(
            numbers, ends.answer_KL, *(column.tolist() for column in columns), strict=True
        ):
            votes = self.votes.setdefault(answer_L.tobytes(), _Votes())
            votes.count, votes.chance = votes.count + 1, votes.chance + chance
            if votes.count == 1 or halt > votes.halt:
                votes.halt, votes.steps, votes.rollout = halt, steps, number


@dataclass
class _Votes:
    """The rollouts that gave one answer."""

    count: int = 0
    chance: float = 0.0
    """Sum of their halting probabilities."""
    halt: float = 0.0
    """The highest of their halting logits; and steps and number of that rollout."""
    steps: int = 0
    rollout: int = 0

    @property
    def mean(self) -> float:
        """Mean halting probability."""
        return self.chance / self.count


def choose(ends: Ends, select: str) -> Decision:
    """One answer from the ends of all rollouts of a puzzle."""
    choice = Choice(select)
    choice.add(ends)
    return choice.decision()


def _by_halt(ends: Ends) -> int:
    return int(ends.halt_K.argmax())


def _by_first(ends: Ends) -> int:
    """The first to settle; of several at once, the surest."""
    if not ends.settled_K.any():
        return _by_halt(ends)
    order = np.lexsort((-ends.halt_K, ends.steps_K, ~ends.settled_K))
    return int(order[0])


def _by_stable(ends: Ends) -> int:
    return int(ends.drift_K.argmin())


def _by_verify(ends: Ends) -> int:
    """An answer that the rules confirm; without one, the surest of those of which they say least ill."""
    if ends.confirmed:
        return int(ends.verdict_K.argmax())
    return int(np.where(ends.verdict_K == ends.verdict_K.max(), ends.halt_K, -np.inf).argmax())


_BY = {"halt": _by_halt, "first": _by_first, "stable": _by_stable, "verify": _by_verify}


class _Ways:
    """The different ways in which rollouts of every puzzle go; `turn` says which rollouts."""

    def __init__(self, model: RecursiveModel, family: Family, tokens_BL: Tensor, effort: Effort, turn: range):
        self.model, self.effort, self.rollouts = model, effort, len(turn)
        root = rng.fold(rng.stream("rollout", tokens_BL.device), effort.seed)
        key_B = rng.of_rows(root, tokens_BL)
        rollout_K = torch.arange(turn.start, turn.stop, device=tokens_BL.device)
        self.key_R = rng.fold(key_B.unsqueeze(1), rollout_K).flatten()
        self.plain_R = (rollout_K == 0).repeat(len(tokens_BL))
        self.tokens_RL = tokens_BL.repeat_interleave(self.rollouts, dim=0)
        self.symmetry: Symmetry | None = None
        self._all_plain = turn.stop == 1
        if effort.symmetries and not self._all_plain:
            drawn = family.symmetry(rng.fold(self.key_R, 1))
            plain_R1 = self.plain_R.unsqueeze(1)
            self.symmetry = Symmetry(
                *(torch.where(plain_R1, torch.arange(t.shape[1], device=t.device), t) for t in drawn)
            )
            self.tokens_RL = self.symmetry.apply(self.tokens_RL)
            self._back = self.symmetry.inverse()

    def undo(self, answer_AL: Tensor, row_A: Tensor) -> Tensor:
        """Answers of the given rows as answers to the puzzle as it was asked."""
        if self.symmetry is None:
            return answer_AL
        return Symmetry(*(table[row_A] for table in self._back)).apply(answer_AL)

    def start(self) -> State | None:
        """Where the rollouts start, if not all from the model's own starting point."""
        if self.effort.start == "fixed" or self._all_plain:
            return None
        fixed = self.model.initial_state(len(self.key_R))
        return fixed.where(self.plain_R, fixed.normals(rng.fold(self.key_R, 2)))

    @property
    def noise(self) -> Callable[[State, int, Tensor], State] | None:
        """What disturbs the states before every step, if anything."""
        return self._disturb if self.effort.noise and not self._all_plain else None

    def _disturb(self, state: State, step: int, row_A: Tensor) -> State:
        """Noise on the latents of all rollouts but the first."""
        noise = state.normals(rng.fold(rng.fold(self.key_R[row_A], 3), step))
        return state.plus(noise, self.effort.noise * ~self.plain_R[row_A])


class _Watch:
    """Decides which rows leave, and remembers how each row ended."""

    def __init__(self, family: Family, tokens_BL: Tensor, effort: Effort, ways: _Ways):
        self.family, self.effort, self.ways = family, effort, ways
        self.tokens_BL = tokens_BL.cpu().numpy().astype(np.uint8)
        rows, length = len(tokens_BL) * ways.rollouts, tokens_BL.shape[1]
        self.answer_RL = np.zeros((rows, length), np.uint8)
        self.halt_R, self.drift_R = np.zeros(rows), np.zeros(rows)
        self.steps_R = np.zeros(rows, int)
        self.settled_R, self.verdict_R = np.zeros(rows, bool), np.zeros(rows, np.int8)
        self.started = time.monotonic()

    def leave(self, thought: Thought) -> Tensor:
        """Rows that are settled, or whose puzzle is finished by another row or by its budget."""
        effort, device = self.effort, thought.row_A.device
        row_A = thought.row_A.cpu().numpy()
        puzzle_A = row_A // self.ways.rollouts
        settled_A = thought.settled_A.cpu().numpy()
        finished_A = np.zeros(len(row_A), bool)
        if effort.select == "verify":
            verdict_A = self._verify(thought, row_A)
            finished_A = verdict_A > 0
            settled_A = settled_A & (verdict_A >= 0)  # an answer that is known to be wrong goes on
        elif effort.select == "first":
            finished_A = settled_A
        puzzles = len(self.tokens_BL)
        over_B = np.bincount(puzzle_A, weights=finished_A, minlength=puzzles) > 0
        stop_A = settled_A if effort.early_stop else np.zeros_like(settled_A)
        if effort.budget is not None:
            at_work_B = np.bincount(puzzle_A, minlength=puzzles)
            staying_B = np.bincount(puzzle_A, weights=~stop_A, minlength=puzzles)
            spent_B = self._spent(puzzles) + at_work_B * thought.step
            over_B |= spent_B + staying_B > effort.budget
        if effort.seconds is not None and time.monotonic() - self.started > effort.seconds:
            over_B[:] = True
        return torch.from_numpy(stop_A | over_B[puzzle_A]).to(device)

    def note(self, thought: Thought) -> None:
        """Remember the rows that leave."""
        done_A = thought.done_A
        row_A = thought.row_A[done_A]
        rows = row_A.cpu().numpy()
        answers = self.ways.undo(thought.answer_AL[done_A], row_A)
        self.answer_RL[rows] = answers.cpu().numpy()
        self.halt_R[rows] = thought.halt_A[done_A].cpu().numpy()
        self.drift_R[rows] = thought.drift_A[done_A].cpu().numpy()
        self.settled_R[rows] = thought.settled_A[done_A].cpu().numpy()
        self.steps_R[rows] = thought.step

    def ends(self) -> Iterator[Ends]:
        """How the rollouts of each puzzle ended."""
        k = self.ways.rollouts
        for first in range(0, len(self.steps_R), k):
            part = slice(first, first + k)
            yield Ends(
                self.answer_RL[part],
                self.halt_R[part],
                self.drift_R[part],
                self.steps_R[part],
                self.settled_R[part],
                self.verdict_R[part],
            )

    def _spent(self, puzzles: int) -> np.ndarray:
        """Steps of the rows that have left, per puzzle."""
        return self.steps_R.reshape(puzzles, self.ways.rollouts).sum(1)

    def _verify(self, thought: Thought, row_A: np.ndarray) -> np.ndarray:
        """What the rules say of each row's answer (see `Ends`); only answers that changed are checked."""
        changed = thought.changed_A
        answers = self.ways.undo(thought.answer_AL[changed], thought.row_A[changed])
        for row, answer in zip(
            row_A[changed.cpu().numpy()], answers.cpu().numpy().astype(np.uint8), strict=True
        ):
            verdict = self.family.verify(self.tokens_BL[row // self.ways.rollouts], answer)
            self.verdict_R[row] = 0 if verdict is None else 1 if verdict else -1
        return self.verdict_R[row_A]
