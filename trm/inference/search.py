"""Search: a network of candidates decides, and weighs what it sees.

A network alone can stand still, undecided; a person would pencil in a guess. Here a decision is just an
input: "this symbol is given", or "this symbol is out". When the answer of a puzzle is not confirmed by the
rules, the surest open cell is decided both ways, and both branches are thought on by one step. If the puzzle
allowed what was decided before, it allows exactly one of them. Which one, the network says: by the
probability p of the symbol before, and by how much either branch looks like a conflict after,

    log odds (given : out) = logit(p) + conflict(out) - conflict(given)

so every branch has a probability, the product of those on the way to it, and what it says itself by now
(its conflict) counts beside the way. The search always continues with the best branch of all: when one begins
to look wrong, an older one is taken up again, from the state in which it was left. Only what the rules forbid
is dropped. So nothing is decided twice, a false alarm costs time and no answer, an answer that is found is
one that the rules confirm, and a search that ends empty has proved that there is none.

What a row does depends on its puzzle alone, not on the rows beside it. Rows whose search has ended leave the
batch between two steps, and the next puzzles join.

Shapes: A branches at work, L cells, N symbols, S = L * N candidates, D width.
"""

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator
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

# Branches of one puzzle whose states are kept; one less likely starts afresh if it is ever taken up. Where so
# many of large boards would not fit, fewer are.
KEPT = 128
_KEPT_BYTES = 2**31  # of all puzzles at work
# Branches that wait, of all puzzles at work: each takes some kilobytes.
_WAITING = 1_000_000


# The most that a branch's own conflict counts in its rank, as a logit.
_MOST_SAID = 4.0


class Policy(NamedTuple):
    """When and what a row decides."""

    first: int = 6
    """Most steps before the first decision; fewer where the answer stands still."""
    patience: int = 3
    """In training: steps after which a row decides even if its answer still moves."""
    sure: float = 0.9
    """Probability from which a symbol counts as known: it is decided last, and two of them conflict."""
    doubt: float = 5.0
    """By how much such a conflict, and an answer that is sure everywhere and wrong, lower the logarithm of a
    branch's probability: both branches may look wrong, where what was decided before is."""


class Found(NamedTuple):
    """How the search for one puzzle ended."""

    answer_L: np.ndarray
    """Tokens, uint8."""
    verified: bool
    halt: float
    """Halting logit of the answer."""
    steps: int
    """Supervision steps of all branches."""
    decisions: int
    take_backs: int
    """Decisions after which another branch than one of the two was taken up."""


def surest(
    chance_ALN: Tensor, kind_ALN: Tensor, policy: Policy, key_A: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The candidate to decide in every row, and whether there is one worth deciding; int64 [A], bool [A].

    It is of the cell whose likeliest symbol is likeliest, among those in which nothing is given or sure
    (among all that are open, where there is no other): that symbol, or with keys one that is drawn.
    """
    chance_ALN = chance_ALN.masked_fill(kind_ALN == OUT, 0)
    chance_ALN = chance_ALN / chance_ALN.sum(-1, keepdim=True).clamp_min(1e-9)
    best_AL = chance_ALN.amax(-1)
    open_AL = (kind_ALN == OPEN).sum(-1).gt(1)
    undecided_AL = open_AL & (best_AL < policy.sure)
    cell_A = (best_AL + open_AL + 2 * undecided_AL).argmax(-1)
    chance_AN = chance_ALN[torch.arange(len(cell_A), device=cell_A.device), cell_A]
    if key_A is None:
        symbol_A = chance_AN.argmax(-1)
    else:
        below_AN = chance_AN.cumsum(-1) <= rng.uniform(key_A, 1) * chance_AN.sum(-1, keepdim=True)
        symbol_A = below_AN.sum(-1).clamp_max(chance_AN.shape[1] - 1)
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
    kind_ALN[row_A, cell_A] = kind_ALN.new_full((), OUT)
    kind_ALN[row_A, cell_A, symbol_A] = kind_ALN.new_full((), GIVEN)
    return kind_ALN


def ruled_out(kind_ALN: Tensor, candidate_A: Tensor) -> Tensor:
    """The kinds with one candidate of every row out; the last one that is left in its cell is given."""
    row_A, cell_A, symbol_A = _places(kind_ALN, candidate_A)
    kind_ALN = kind_ALN.clone()
    kind_ALN[row_A, cell_A, symbol_A] = kind_ALN.new_full((), OUT)
    kind_AN = kind_ALN[row_A, cell_A]
    left_AN = kind_AN != OUT
    last_AN = left_AN & (left_AN.sum(-1, keepdim=True) == 1)
    kind_ALN[row_A, cell_A] = kind_AN.masked_fill(last_AN, GIVEN)
    return kind_ALN


def _places(kind_ALN: Tensor, candidate_A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, cell and symbol of a candidate in each row."""
    symbols = kind_ALN.shape[2]
    row_A = torch.arange(len(kind_ALN), device=kind_ALN.device)
    return row_A, candidate_A // symbols, candidate_A % symbols


@dataclass(eq=False)
class _Branch:
    """What is given and ruled out, the state that thinks on from it, and what it says."""

    kind_LN: Tensor
    """Bytes, as many branches may wait."""
    y_SD: Tensor | None
    """None where it starts anew."""
    z_SD: Tensor | None
    answer_L: Tensor
    log_p: float = 0.0
    """Logarithm of the probability that the puzzle allows what was decided."""
    moved: bool = True
    """The last step changed the answer."""
    broken: bool = False
    """By the rules."""
    doubts: int = 0
    """Reasons to doubt it in what the network is sure of."""
    conflict: float = 0.0
    """Logit that the puzzle does not allow it."""
    candidate: int = 0
    """What to decide next."""
    chance: float = 0.5
    """Probability of that candidate."""
    halt: float = 0.0

    def rank(self) -> float:
        """Its place among those that wait: the best come first."""
        return -self.log_p + max(-_MOST_SAID, min(_MOST_SAID, self.conflict))


@dataclass(eq=False)
class _Row:
    """A puzzle at work."""

    puzzle: int
    tokens_L: np.ndarray
    current: list[_Branch]
    """Branches in flight: one that is thought on before it is decided, or the two of a decision."""
    parent: _Branch | None = None
    """What the two come from."""
    alone: int = 0
    """Steps of the one branch in flight."""
    waiting: list[tuple[float, int, _Branch]] = field(default_factory=list)
    """All other branches, the likeliest first (a heap)."""
    steps: int = 0
    decisions: int = 0
    take_backs: int = 0

    def put(self, branch: _Branch, number: int, keep: int) -> None:
        """Let a branch wait for its turn; at most so many keep their states."""
        heapq.heappush(self.waiting, (branch.rank(), number, branch))
        kept = [entry for entry in self.waiting if entry[2].y_SD is not None]
        if len(kept) > keep:
            _, _, least = max(kept, key=lambda entry: entry[0])
            least.y_SD = least.z_SD = None

    def weigh(self, doubt: float) -> list[_Branch]:
        """The branches of a decision that the rules allow, with their probabilities."""
        assert self.parent is not None
        given, out = self.current
        p = min(max(self.parent.chance, 1e-4), 1 - 1e-4)
        odds = math.log(p / (1 - p)) + out.conflict - given.conflict
        for branch, sign in ((given, 1), (out, -1)):
            branch.log_p = self.parent.log_p + _log_sigmoid(sign * odds) - doubt * branch.doubts
        return [branch for branch in self.current if not branch.broken]


@torch.inference_mode()
def search(
    model: Candidates,
    family: Family,
    tokens_NL: Iterable[np.ndarray],
    decisions: int,
    rows: int,
    steps: int | None = None,
    policy: Policy | None = None,
) -> Iterator[tuple[int, Found]]:
    """Search for the answers of puzzles, at most `rows` at a time; yields (index, how it ended).

    A puzzle gets at most `decisions` decisions, and `steps` supervision steps. Puzzles are asked for one by
    one, when there is room for another.
    """
    rows = max(1, min(rows, _WAITING // max(1, decisions)))
    work = _Work(model, family, iter(tokens_NL), decisions, rows, steps, policy or Policy())
    while work.fill():
        yield from work.step()


class _Work:
    """The rows at work, and the puzzles that wait."""

    def __init__(
        self,
        model: Candidates,
        family: Family,
        waiting: Iterator[np.ndarray],
        decisions: int,
        rows: int,
        steps: int | None,
        policy: Policy,
    ):
        self.model, self.family, self.relations = model, family, model.relations
        self.waiting, self.room = enumerate(waiting), 0
        state = 2 * 4 * self.relations.candidates * len(model.y_init)  # bytes
        self.kept = max(1, min(KEPT, _KEPT_BYTES // (rows * state)))
        self.decisions, self.size, self.steps, self.policy = decisions, rows, steps, policy
        self.device = model.y_init.device
        self.rows: list[_Row] = []
        self.number = itertools.count()

    def fill(self) -> bool:
        """Let waiting puzzles join; whether any row is at work.

        At first there is room for one, and for one more in every step, so that the first answer need not wait
        for a whole batch of others.
        """
        self.room = min(self.size, self.room + 1)
        for puzzle, tokens_L in itertools.islice(self.waiting, self.room - len(self.rows)):
            tokens_1L = torch.from_numpy(tokens_L).long()[None].to(self.device)
            kind_1LN = self.model.kinds_of(tokens_1L).unflatten(1, (-1, self.relations.symbols)).byte()
            nothing_L = torch.full_like(tokens_1L[0], -1, dtype=torch.int16)
            self.rows.append(_Row(puzzle, tokens_L, [_Branch(kind_1LN[0], None, None, nothing_L)]))
        return bool(self.rows)

    def step(self) -> Iterator[tuple[int, Found]]:
        """One supervision step of every branch in flight, and what follows from it."""
        self._think([branch for row in self.rows for branch in row.current])
        stay = []
        for row in self.rows:
            row.steps += len(row.current)
            found = self._found(row) or self._go_on(row)
            if found is None:
                stay.append(row)
            else:
                yield row.puzzle, found
        self.rows = stay

    def _think(self, branches: list[_Branch]) -> None:
        """Take a step of branches and note what each says."""
        policy = self.policy
        fresh = self.model.initial_state(1)
        y_ASD = torch.stack([fresh.y_BSD[0] if each.y_SD is None else each.y_SD for each in branches])
        z_ASD = torch.stack([fresh.z_BSD[0] if each.z_SD is None else each.z_SD for each in branches])
        kind_ALN = torch.stack([each.kind_LN for each in branches]).long()
        before_AL = torch.stack([each.answer_L for each in branches])
        x_ASD = self.model.encode_kinds(kind_ALN.flatten(1))
        state, out = self.model.step(State(y_ASD, z_ASD), x_ASD)
        chance_ALN = self.model.chances(out.logits_BLV)
        answer_AL = self.model.token_N[chance_ALN.masked_fill(kind_ALN == OUT, -1).argmax(-1)]
        candidate_A, undecided_A = surest(chance_ALN, kind_ALN, policy)
        chance_A = chance_ALN.flatten(1).gather(1, candidate_A.unsqueeze(1)).squeeze(1)
        doubts_A = believed_conflict(chance_ALN, self.relations, policy).int() + (~undecided_A).int()
        conflict_A = out.conflict_B.clamp(-30, 30)
        columns = (
            (answer_AL != before_AL).any(-1),
            broken(kind_ALN.flatten(1), self.relations),
            doubts_A,
            conflict_A,
            candidate_A,
            chance_A,
            out.halt_B,
        )
        noted = zip(*(column.tolist() for column in columns), strict=True)
        for i, (each, values) in enumerate(zip(branches, noted, strict=True)):
            # Copies: a view would keep the whole batch in memory for as long as its branch waits.
            each.y_SD, each.z_SD = state.y_BSD[i].clone(), state.z_BSD[i].clone()
            each.answer_L = answer_AL[i].to(torch.int16)
            each.moved, each.broken, each.doubts, each.conflict, each.candidate, each.chance, each.halt = (
                values
            )
            if each.broken:
                each.conflict = math.inf

    def _found(self, row: _Row) -> Found | None:
        """The answer, if the rules confirm one."""
        for branch in row.current:
            if branch.moved:
                answer_L = branch.answer_L.cpu().numpy().astype(np.uint8)
                if self.family.verify(row.tokens_L, answer_L) is True:
                    return self._ended(row, branch, True)
        return None

    def _ended(self, row: _Row, branch: _Branch, verified: bool) -> Found:
        answer_L = branch.answer_L.cpu().numpy().astype(np.uint8)
        return Found(answer_L, verified, branch.halt, row.steps, row.decisions, row.take_backs)

    def _go_on(self, row: _Row) -> Found | None:
        """Think on or decide; how the search ended, if it did."""
        spent = self.steps is not None and row.steps >= self.steps
        if row.parent is None:
            (alone,) = row.current
            row.alone += 1
            if alone.moved and row.alone < self.policy.first and not spent and not alone.broken:
                return None
            left = [] if alone.broken else [alone]  # it is the likeliest: it was taken up as that
        else:
            left = row.weigh(self.policy.doubt)
            for branch in left:
                row.put(branch, next(self.number), self.kept)
        if row.parent is not None or not left:
            if not row.waiting:  # the rules leave nothing
                return self._ended(row, row.current[0], False)
            _, _, likeliest = heapq.heappop(row.waiting)
        else:
            (likeliest,) = left
        if spent or row.decisions >= self.decisions:
            return self._ended(row, likeliest, False)
        row.take_backs += likeliest not in left
        if likeliest.y_SD is None:
            row.current, row.parent, row.alone = [likeliest], None, 0
        else:
            self._decide(row, likeliest)
        return None

    def _decide(self, row: _Row, branch: _Branch) -> None:
        kind_1LN, candidate_1 = branch.kind_LN[None], torch.tensor([branch.candidate], device=self.device)
        kinds = (decided(kind_1LN, candidate_1), ruled_out(kind_1LN, candidate_1))
        row.current = [_Branch(each[0], branch.y_SD, branch.z_SD, branch.answer_L) for each in kinds]
        row.parent, row.decisions = branch, row.decisions + 1


def _log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > -30 else max(x, -1e4)
