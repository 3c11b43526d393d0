"""Search: a network of candidates decides, notices a conflict, and takes back.

A network alone can stand still, undecided; a person would pencil in a guess. Here a decision is just an
input: "this symbol is given". When the answer of a puzzle is not confirmed by the rules and no longer
moves, the surest open cell gets its likeliest symbol, and thinking goes on from the state as it is. A
conflict takes the last decision back: its candidate is ruled out ("this symbol is out") and the state before
it is restored. So nothing is decided twice, and an answer that is found is one that the rules confirm.

Some conflicts follow from the rules, others are only believed, and a belief may be false. When nothing is
left to take back, the puzzle has no answer if the rules alone have led there; otherwise the search starts
over, and from then on symbols are drawn from the network's own distribution.

What a row does depends on its puzzle and the seed alone, not on the rows beside it. Rows whose search has
ended leave the batch between two steps, and the next puzzles join.

Shapes: A rows at work, L cells, N symbols, S = L * N candidates, D width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trm import rng
from trm.models import State
from trm.models.candidates import Candidates
from trm.models.embedding import GIVEN, OPEN, OUT
from trm.problem import Relations
from trm.puzzles.family import Family

# Most steps that a decision may take on the way down, its taking back included.
STEPS_PER_DECISION = 8


class Policy(NamedTuple):
    """When a row decides and when it takes back."""

    patience: int = 3
    """Steps after which a row decides even if its answer still moves."""
    sure: float = 0.9
    """Probability from which a symbol counts as known: it is not decided, and two of them conflict."""
    alarm: float = 0.4
    """Probability of a conflict from which the last decision is taken back; chosen on validation puzzles."""


class Found(NamedTuple):
    """How the search for one puzzle ended."""

    answer_L: np.ndarray
    """Tokens, uint8."""
    verified: bool
    halt: float
    """Halting logit of the answer."""
    steps: int
    decisions: int
    take_backs: int
    restarts: int


def surest(
    chance_ALN: Tensor, kind_ASN: Tensor, policy: Policy, key_A: Tensor, draws_A: Tensor
) -> tuple[Tensor, Tensor]:
    """The candidate to decide in every row, and whether there is one; int64 [A], bool [A].

    It is of the cell whose likeliest symbol is likeliest, among those in which nothing is given or sure: that
    symbol, or one that is drawn.
    """
    chance_ALN = chance_ALN.masked_fill(kind_ASN == OUT, 0)
    chance_ALN = chance_ALN / chance_ALN.sum(-1, keepdim=True).clamp_min(1e-9)
    best_AL = chance_ALN.amax(-1)
    undecided_AL = (kind_ASN == OPEN).sum(-1).gt(1) & (best_AL < policy.sure)
    cell_A = best_AL.masked_fill(~undecided_AL, -1).argmax(-1)
    chance_AN = chance_ALN[torch.arange(len(cell_A), device=cell_A.device), cell_A]
    below_AN = chance_AN.cumsum(-1) <= rng.uniform(key_A, 1) * chance_AN.sum(-1, keepdim=True)
    drawn_A = below_AN.sum(-1).clamp_max(chance_AN.shape[1] - 1)
    symbol_A = torch.where(draws_A, drawn_A, chance_AN.argmax(-1))
    return cell_A * chance_AN.shape[1] + symbol_A, undecided_AL.any(-1)


def broken(kind_AS: Tensor, relations: Relations) -> Tensor:
    """Whether what is given and ruled out cannot be completed, as far as single relations tell; bool [A].

    Every set of a relation has exactly one true candidate: two given ones conflict, and so does a set in
    which each candidate is out or related to another one that is given.
    """
    return _clash(kind_AS == GIVEN, relations) | _empty(kind_AS, relations)


def excluded(kind_AS: Tensor, relations: Relations) -> Tensor:
    """Candidates of which a related one is given, bool [A, S]."""
    given = _sets(kind_AS == GIVEN, relations)
    return torch.stack([(count - own > 0).flatten(1) for own, count in given]).any(0)


def believed_conflict(chance_ALN: Tensor, relations: Relations, policy: Policy) -> Tensor:
    """Whether two candidates of which only one can be true are both sure; bool [A]."""
    return _clash(chance_ALN.flatten(1) >= policy.sure, relations)


def _sets(part_AS: Tensor, relations: Relations) -> Iterator[tuple[Tensor, Tensor]]:
    """For every relation, the candidates in their factored shape, and the sums over its sets."""
    part = part_AS.unflatten(1, relations.shape).int()
    for _, axes in relations.members:
        yield part, part.sum([1 + axis for axis in axes], keepdim=True)


def _clash(true_AS: Tensor, relations: Relations) -> Tensor:
    return torch.stack([(n > 1).flatten(1).any(1) for _, n in _sets(true_AS, relations)]).any(0)


def _empty(kind_AS: Tensor, relations: Relations) -> Tensor:
    possible_AS = (kind_AS != OUT) & ~excluded(kind_AS, relations)
    return torch.stack([(n == 0).flatten(1).any(1) for _, n in _sets(possible_AS, relations)]).any(0)


def decided(kind_ALN: Tensor, candidate_A: Tensor) -> Tensor:
    """The kinds with one candidate of every row given, and the others of its cell out."""
    row_A, cell_A, symbol_A = _places(kind_ALN, candidate_A)
    kind_ALN = kind_ALN.clone()
    kind_ALN[row_A, cell_A] = OUT
    kind_ALN[row_A, cell_A, symbol_A] = GIVEN
    return kind_ALN


def ruled_out(kind_ALN: Tensor, candidate_A: Tensor) -> Tensor:
    """The kinds with one candidate of every row out; the last one that is left in its cell is given."""
    row_A, cell_A, symbol_A = _places(kind_ALN, candidate_A)
    kind_ALN = kind_ALN.clone()
    kind_ALN[row_A, cell_A, symbol_A] = OUT
    kind_AN = kind_ALN[row_A, cell_A]
    left_AN = kind_AN != OUT
    last_AN = left_AN & (left_AN.sum(-1, keepdim=True) == 1)
    kind_ALN[row_A, cell_A] = torch.where(last_AN, GIVEN, kind_AN)
    return kind_ALN


def _places(kind_ALN: Tensor, candidate_A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, cell and symbol of a candidate in each row."""
    symbols = kind_ALN.shape[2]
    row_A = torch.arange(len(kind_ALN), device=kind_ALN.device)
    return row_A, candidate_A // symbols, candidate_A % symbols


class _Decision(NamedTuple):
    """What is restored when a decision is taken back."""

    candidate: int
    y_SD: Tensor
    z_SD: Tensor
    kind_LN: Tensor


@dataclass
class _Row:
    """A puzzle at work."""

    puzzle: int
    tokens_L: np.ndarray
    key: Tensor
    stack: list[_Decision] = field(default_factory=list)
    steps: int = 0
    since: int = 0
    """Steps since the last change of what is given."""
    decisions: int = 0
    take_backs: int = 0
    restarts: int = 0
    believed: bool = False
    """Something was taken back on a belief."""


@torch.inference_mode()
def search(
    model: Candidates,
    family: Family,
    tokens_NL: np.ndarray,
    steps: int,
    decisions: int,
    rows: int,
    seed: int = 0,
    policy: Policy | None = None,
) -> Iterator[tuple[int, Found]]:
    """Search for the answers of puzzles, at most `rows` at a time; yields (index, how it ended).

    A puzzle gets at most `steps` supervision steps and `decisions` decisions.
    """
    work = _Work(model, family, tokens_NL, steps, decisions, rows, seed, policy or Policy())
    while work.fill():
        yield from work.step()


class _Work:
    """The batch of rows at work, and the puzzles that wait."""

    def __init__(
        self,
        model: Candidates,
        family: Family,
        tokens_NL: np.ndarray,
        steps: int,
        decisions: int,
        rows: int,
        seed: int,
        policy: Policy,
    ):
        self.model, self.family, self.relations = model, family, model.relations
        self.tokens_NL, self.next = tokens_NL, 0
        self.steps, self.decisions, self.size, self.policy = steps, decisions, rows, policy
        self.device = model.y_init.device
        self.root = rng.fold(rng.stream("search", self.device), seed)
        self.rows: list[_Row] = []
        self.state = model.initial_state(0)
        self.kind_ALN = torch.zeros(0, *self._grid(), dtype=torch.int64, device=self.device)
        self.answer_AL = torch.zeros(0, tokens_NL.shape[1], dtype=torch.int64, device=self.device)

    def _grid(self) -> tuple[int, int]:
        n = self.relations.symbols
        return self.relations.candidates // n, n

    def fill(self) -> bool:
        """Let waiting puzzles join; whether any row is at work."""
        first, self.next = self.next, min(len(self.tokens_NL), self.next + self.size - len(self.rows))
        if self.next > first:
            tokens_BL = torch.from_numpy(self.tokens_NL[first : self.next]).long().to(self.device)
            key_B = rng.of_rows(self.root, tokens_BL)
            self.rows += [_Row(first + i, self.tokens_NL[first + i], key) for i, key in enumerate(key_B)]
            kind_BLN = self.model.kinds_of(tokens_BL).unflatten(1, self._grid())
            self.kind_ALN = torch.cat((self.kind_ALN, kind_BLN))
            self.answer_AL = torch.cat((self.answer_AL, torch.full_like(tokens_BL, -1)))
            fresh = self.model.initial_state(len(tokens_BL))
            self.state = State(*(torch.cat(parts) for parts in zip(self.state, fresh, strict=True)))
        return bool(self.rows)

    def step(self) -> Iterator[tuple[int, Found]]:
        """One supervision step of every row, and what follows from it."""
        policy, relations = self.policy, self.relations
        self.state, out = self.model.step(self.state, self.model.encode_kinds(self.kind_ALN.flatten(1)))
        chance_ALN = self.model.chances(out.logits_BLV)
        answer_AL = out.logits_BLV.argmax(-1)
        moved_A = (answer_AL != self.answer_AL).any(-1).tolist()
        self.answer_AL = answer_AL
        kind_AS = self.kind_ALN.flatten(1)
        broken_A = broken(kind_AS, relations).tolist()
        believed_A = believed_conflict(chance_ALN, relations, policy).tolist()
        alarm_A = (out.conflict_B.sigmoid() >= policy.alarm).tolist()
        step_A = torch.tensor([row.steps for row in self.rows], device=self.device)
        key_A = rng.fold(torch.stack([row.key for row in self.rows]), step_A)
        draws_A = torch.tensor([row.restarts > 0 for row in self.rows], device=self.device)
        choice = surest(chance_ALN, self.kind_ALN, policy, key_A, draws_A)
        candidate_A, undecided_A = (each.tolist() for each in choice)
        answers = answer_AL.cpu().numpy().astype(np.uint8)
        stay = []
        for i, row in enumerate(self.rows):
            row.steps += 1
            row.since += 1
            verified = moved_A[i] and self.family.verify(row.tokens_L, answers[i]) is True
            resting = not moved_A[i] or row.since >= policy.patience
            believed = alarm_A[i] or (resting and (believed_A[i] or not undecided_A[i]))
            empty = broken_A[i] and not row.stack and not row.believed
            if verified or row.steps >= self.steps or empty:
                counts = row.steps, row.decisions, row.take_backs, row.restarts
                yield row.puzzle, Found(answers[i], verified, float(out.halt_B[i]), *counts)
                continue
            stay.append(i)
            if (broken_A[i] or believed) and row.stack:
                row.believed |= not broken_A[i]
                self._take_back(i, row)
            elif (broken_A[i] or believed) and row.believed:
                self._start_over(i, row)
            elif resting and undecided_A[i] and row.decisions < self.decisions:
                self._decide(i, row, candidate_A[i])
        if len(stay) < len(self.rows):
            keep = torch.tensor(stay, dtype=torch.int64, device=self.device)
            self.rows = [self.rows[i] for i in stay]
            self.state, self.kind_ALN, self.answer_AL = (
                self.state.rows(keep),
                self.kind_ALN[keep],
                self.answer_AL[keep],
            )

    def _decide(self, i: int, row: _Row, candidate: int) -> None:
        y_ASD, z_ASD = self.state
        row.stack.append(_Decision(candidate, y_ASD[i].clone(), z_ASD[i].clone(), self.kind_ALN[i].clone()))
        self.kind_ALN[i] = decided(self.kind_ALN[i, None], self._one(candidate))[0]
        row.decisions, row.since = row.decisions + 1, 0

    def _take_back(self, i: int, row: _Row) -> None:
        last = row.stack.pop()
        self.state.y_BSD[i], self.state.z_BSD[i] = last.y_SD, last.z_SD
        self.kind_ALN[i] = ruled_out(last.kind_LN[None], self._one(last.candidate))[0]
        row.take_backs, row.since = row.take_backs + 1, 0

    def _start_over(self, i: int, row: _Row) -> None:
        fresh = self.model.initial_state(1)
        self.state.y_BSD[i], self.state.z_BSD[i] = fresh.y_BSD[0], fresh.z_BSD[0]
        tokens_1L = torch.from_numpy(row.tokens_L).long()[None].to(self.device)
        self.kind_ALN[i] = self.model.kinds_of(tokens_1L).unflatten(1, self._grid())[0]
        row.restarts, row.since, row.believed = row.restarts + 1, 0, False

    def _one(self, candidate: int) -> Tensor:
        return torch.tensor([candidate], device=self.device)
