"""Thinking: answers refined step by step, for as long and in as many ways as a puzzle needs.

`think` is the one loop over supervision steps: rows that are done leave the batch and the rest is
compacted, so the cost follows the difficulty. `ponder` runs several rollouts of every puzzle through it,
and `choose` picks one answer.

A row is done when its halting logit is positive AND its answer did not change in the last step. The
logit alone stops too early: it says "right" of answers that are still moving, and costs exact accuracy.

Rollouts of a puzzle differ by noise on the latents before every step, by a random starting point, or by
a symmetry of the family that is undone on the answer; the first rollout is always the plain one. All
randomness is keyed by the seed, the puzzle's own tokens and the rollout, so an answer depends neither
on the batch size nor on the order, nor on the puzzles beside it.

Shapes: B puzzles, K rollouts, R = B * K rows, A rows still at work, L tokens, S positions, D width.
"""

import time
from collections.abc import Callable, Iterator
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


class Ends(NamedTuple):
    """How the rollouts of one puzzle ended; K rollouts."""

    answer_KL: np.ndarray
    halt_K: np.ndarray
    drift_K: np.ndarray
    steps_K: np.ndarray
    settled_K: np.ndarray
    verified_K: np.ndarray


def ponder(
    model: RecursiveModel, family: Family, tokens_BL: Tensor, puzzle_B: Tensor, steps: int, effort: Effort
) -> list[Ends]:
    """Run all rollouts of every puzzle, of at most `steps` each; `choose` picks the answers."""
    if (
        isinstance(model, Candidates)
        and effort.rollouts > 1
        and not (effort.noise or effort.start == "random")
    ):
        raise UserError(
            "rollouts of a model of candidates are all the same under symmetries: add noise or a random start"
        )
    ways = _Ways(model, family, tokens_BL, effort)
    puzzle_R = puzzle_B.repeat_interleave(effort.rollouts)
    watch = _Watch(family, tokens_BL, effort, ways)
    disturb = ways.disturb if effort.noise and effort.rollouts > 1 else None
    for thought in think(
        model, ways.tokens_RL, puzzle_R, steps, watch.leave, ways.start(), disturb, family.same_cells
    ):
        watch.note(thought)
    return list(watch.ends())


def refine(
    model: RecursiveModel, family: Family, tokens_BL: Tensor, puzzle_B: Tensor, steps: int, effort: Effort
) -> Iterator[Thought]:
    """The plain rollout of every puzzle, step by step, stopped as `ponder` would with one rollout."""
    plain = effort.model_copy(update={"rollouts": 1})
    watch = _Watch(family, tokens_BL, plain, _Ways(model, family, tokens_BL, plain))
    for thought in think(model, tokens_BL, puzzle_B, steps, watch.leave, same_cells=family.same_cells):
        watch.note(thought)
        yield thought


def choose(ends: Ends, select: str) -> Decision:
    """One answer from the ends of a puzzle's rollouts."""
    best = _BY[select](ends)
    return Decision(
        ends.answer_KL[best], float(ends.halt_K[best]), int(ends.steps_K[best]), int(ends.steps_K.sum())
    )


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


def _by_vote(ends: Ends) -> int:
    """The answer that most rollouts gave; ties by mean halting probability, then the earlier rollout."""
    chance_K = 1 / (1 + np.exp(-ends.halt_K))
    groups: dict[bytes, list[int]] = {}
    for k, answer in enumerate(ends.answer_KL):
        groups.setdefault(answer.tobytes(), []).append(k)
    winner = max(groups.values(), key=lambda members: (len(members), chance_K[members].mean(), -members[0]))
    return max(winner, key=lambda k: ends.halt_K[k])


def _by_verify(ends: Ends) -> int:
    """An answer that the rules confirm; without one, the surest."""
    return int(ends.verified_K.argmax()) if ends.verified_K.any() else _by_halt(ends)


_BY = {"halt": _by_halt, "first": _by_first, "stable": _by_stable, "vote": _by_vote, "verify": _by_verify}


class _Ways:
    """The different ways in which the rollouts of every puzzle go."""

    def __init__(self, model: RecursiveModel, family: Family, tokens_BL: Tensor, effort: Effort):
        self.model, self.effort = model, effort
        rollouts = effort.rollouts
        root = rng.fold(rng.stream("rollout", tokens_BL.device), effort.seed)
        key_B = rng.of_rows(root, tokens_BL)
        rollout_K = torch.arange(rollouts, device=tokens_BL.device)
        self.key_R = rng.fold(key_B.unsqueeze(1), rollout_K).flatten()
        self.plain_R = (rollout_K == 0).repeat(len(tokens_BL))
        self.tokens_RL = tokens_BL.repeat_interleave(rollouts, dim=0)
        self.symmetry: Symmetry | None = None
        if effort.symmetries and rollouts > 1:
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
        if self.effort.start == "fixed" or self.effort.rollouts == 1:
            return None
        fixed = self.model.initial_state(len(self.key_R))
        return fixed.where(self.plain_R, fixed.normals(rng.fold(self.key_R, 2)))

    def disturb(self, state: State, step: int, row_A: Tensor) -> State:
        """Noise on the latents of all rollouts but the first."""
        noise = state.normals(rng.fold(rng.fold(self.key_R[row_A], 3), step))
        return state.plus(noise, self.effort.noise * ~self.plain_R[row_A])


class _Watch:
    """Decides which rows leave, and remembers how each row ended."""

    def __init__(self, family: Family, tokens_BL: Tensor, effort: Effort, ways: _Ways):
        self.family, self.effort, self.ways = family, effort, ways
        self.tokens_BL = tokens_BL.cpu().numpy().astype(np.uint8)
        rows, length = len(tokens_BL) * effort.rollouts, tokens_BL.shape[1]
        self.answer_RL = np.zeros((rows, length), np.uint8)
        self.halt_R, self.drift_R = np.zeros(rows), np.zeros(rows)
        self.steps_R = np.zeros(rows, int)
        self.settled_R, self.verified_R = np.zeros(rows, bool), np.zeros(rows, bool)
        self.rules_tell = True
        self.started = time.monotonic()

    def leave(self, thought: Thought) -> Tensor:
        """Rows that are settled, or whose puzzle is finished by another row or by its budget."""
        effort, device = self.effort, thought.row_A.device
        row_A = thought.row_A.cpu().numpy()
        puzzle_A = row_A // effort.rollouts
        settled_A = thought.settled_A.cpu().numpy()
        finished_A = np.zeros(len(row_A), bool)
        if effort.select == "verify":
            finished_A = self._verify(thought, row_A)
            if self.rules_tell:
                # An answer that settled without being confirmed is known to be wrong: it goes on.
                settled_A = np.zeros_like(settled_A)
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
        k = self.effort.rollouts
        for first in range(0, len(self.steps_R), k):
            part = slice(first, first + k)
            yield Ends(
                self.answer_RL[part],
                self.halt_R[part],
                self.drift_R[part],
                self.steps_R[part],
                self.settled_R[part],
                self.verified_R[part],
            )

    def _spent(self, puzzles: int) -> np.ndarray:
        """Steps of the rows that have left, per puzzle."""
        return self.steps_R.reshape(puzzles, self.effort.rollouts).sum(1)

    def _verify(self, thought: Thought, row_A: np.ndarray) -> np.ndarray:
        """Whether the rules confirm each row's answer; only answers that changed are checked."""
        changed = thought.changed_A
        answers = self.ways.undo(thought.answer_AL[changed], thought.row_A[changed])
        for row, answer in zip(
            row_A[changed.cpu().numpy()], answers.cpu().numpy().astype(np.uint8), strict=True
        ):
            verdict = self.family.verify(self.tokens_BL[row // self.effort.rollouts], answer)
            self.rules_tell &= verdict is not None
            self.verified_R[row] = verdict is True
        return self.verified_R[row_A]
