"""The search: its functions against plain loops, and all of it with a network that knows nothing."""

import heapq

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny import ANSWER, PUZZLES, TASK
from torch import Tensor

from trm import rng
from trm.config import ComputeConfig, Effort, ModelConfig
from trm.errors import UserError
from trm.inference.search import KEPT, Policy, _Branch, _Row, broken, decided, ruled_out, search, surest
from trm.inference.solver import Solver
from trm.models import Output, State
from trm.models.candidates import Candidates
from trm.models.embedding import GIVEN, OPEN, OUT

RELATIONS = TASK.relations
KIND = {"kind": "candidates", "mixing": "relations", "positions": "none", "halting": "every"}
CONFIG = ModelConfig.model_validate(KIND | {"width": 8, "inner": 8, "T": 1, "n": 1, "layers": 1})


class Clueless(Candidates):
    """Knows what is given and ruled out, and nothing else."""

    def __init__(self):
        super().__init__(CONFIG, TASK.problem(), ComputeConfig())
        self.eval()

    def encode_kinds(self, kind_BS: Tensor) -> Tensor:
        return kind_BS

    def step(self, state: State, x_BSD: Tensor) -> tuple[State, Output]:
        score_BLN = torch.tensor([0.0, 9.0, -9.0])[x_BSD].unflatten(1, (TASK.length, -1))
        never = torch.full((len(x_BSD),), -torch.inf)
        logits_BLV = torch.nn.functional.pad(score_BLN, (2, 0), value=-99.0)
        return state, Output(logits_BLV, never, never, never.unsqueeze(1))


def kinds(puzzle: str) -> Tensor:
    return Clueless().kinds_of(torch.from_numpy(TASK.parse(puzzle))[None].long())


def groups() -> list[list[int]]:
    """Every set of candidates of which exactly one is true, from the rules of a 4x4 Sudoku."""
    at = lambda row, column, digit: (row * 4 + column) * 4 + digit  # noqa: E731
    lines = [[at(i, j, d) for j in range(4)] for i in range(4) for d in range(4)]
    columns = [[at(j, i, d) for j in range(4)] for i in range(4) for d in range(4)]
    boxes = [
        [at(r + i, c + j, d) for i in range(2) for j in range(2)]
        for r in (0, 2)
        for c in (0, 2)
        for d in range(4)
    ]
    cells = [[at(i, j, d) for d in range(4)] for i in range(4) for j in range(4)]
    return lines + columns + boxes + cells


@given(st.lists(st.sampled_from([OPEN, OPEN, OPEN, GIVEN, OUT]), min_size=64, max_size=64))
def test_broken_is_what_single_sets_tell(kind: list[int]):
    def possible(s: int) -> bool:
        rivals = {t for group in groups() if s in group for t in group} - {s}
        return kind[s] != OUT and not any(kind[t] == GIVEN for t in rivals)

    expected = any(
        sum(kind[s] == GIVEN for s in group) > 1 or not any(map(possible, group)) for group in groups()
    )
    assert broken(torch.tensor([kind]), RELATIONS).item() == expected


def test_a_decision_gives_a_symbol_and_rules_out_the_others_of_its_cell():
    kind_1LN = torch.full((1, 16, 4), OPEN)
    after_LN = decided(kind_1LN, torch.tensor([4 * 5 + 2]))[0]
    assert after_LN[5].tolist() == [OUT, OUT, GIVEN, OUT]
    assert (after_LN == OPEN).sum() == 60 and (kind_1LN == OPEN).all()


def test_the_last_candidate_of_a_cell_is_given():
    kind_1LN = torch.full((1, 16, 4), OPEN)
    for symbol, expected in (
        (0, [OUT, OPEN, OPEN, OPEN]),
        (3, [OUT, OPEN, OPEN, OUT]),
        (1, [OUT, OUT, GIVEN, OUT]),
    ):
        kind_1LN = ruled_out(kind_1LN, torch.tensor([4 * 7 + symbol]))
        assert kind_1LN[0, 7].tolist() == expected


def test_the_surest_open_cell_is_decided():
    chance_ALN = torch.full((1000, 16, 4), 0.25)
    chance_ALN[:, 3] = torch.tensor([0.6, 0.3, 0.1, 0.0])
    chance_ALN[:, 9] = torch.tensor([0.95, 0.05, 0.0, 0.0])  # known already
    kind_ALN = torch.full((1000, 16, 4), OPEN)
    key_A = rng.fold(rng.stream("test"), torch.arange(1000))
    candidate_A, there_A = surest(chance_ALN, kind_ALN, Policy(), key_A)
    assert there_A.all() and (candidate_A // 4 == 3).all()
    share_N = torch.bincount(candidate_A % 4, minlength=4) / 1000
    assert torch.allclose(share_N, torch.tensor([0.6, 0.3, 0.1, 0.0]), atol=0.05)
    likeliest_A, _ = surest(chance_ALN, kind_ALN, Policy())
    assert (likeliest_A == 3 * 4).all()
    kind_ALN[:, 3, 0] = OUT
    candidate_A, _ = surest(chance_ALN, kind_ALN, Policy(), key_A)
    assert (candidate_A != 12).all() and (candidate_A == 13).float().mean() == pytest.approx(0.75, abs=0.05)
    assert not surest(chance_ALN, torch.full_like(kind_ALN, OUT), Policy(), key_A)[1].any()


def test_a_clueless_network_finds_every_answer():
    """With nothing to go by, deciding, noticing and taking back alone are a complete search."""
    tokens_NL = np.stack([TASK.parse(each) for each in (*PUZZLES, "1...............")])
    found = dict(search(Clueless(), TASK, tokens_NL, 100_000, rows=3))
    assert sorted(found) == list(range(len(tokens_NL)))
    for index, each in found.items():
        assert each.verified and TASK.verify(tokens_NL[index], each.answer_L)
        assert each.take_backs < each.decisions + 1


@pytest.mark.parametrize("puzzle", ["1234........1...", "2.1......3....4.", "...2...1....12.."])
def test_a_search_that_ends_empty_says_so(puzzle: str):
    """At once where the clues leave a cell nothing, and after some decisions where they do not."""
    tokens_1L = TASK.parse(puzzle)[None]
    assert TASK.solve_exactly(tokens_1L[0]) is None
    ((_, found),) = search(Clueless(), TASK, tokens_1L, 100_000, rows=1)
    assert not found.verified and found.steps < 100
    assert bool(found.decisions) is not broken(kinds(puzzle), RELATIONS).item()


class Liar(Clueless):
    """Says of every board with a certain symbol given that it is a conflict, and of no other."""

    def __init__(self, candidate: int, sure: float):
        super().__init__()
        self.candidate, self.sure = candidate, sure

    def step(self, state: State, x_BSD: Tensor) -> tuple[State, Output]:
        state, out = super().step(state, x_BSD)
        lies_B1 = (x_BSD[:, self.candidate] == GIVEN).unsqueeze(1)
        return state, out._replace(conflict_BL=torch.where(lies_B1, self.sure, -self.sure).expand(-1, 16))


@pytest.mark.parametrize("sure", [1.0, 30.0])
def test_false_alarms_cost_time_and_no_answer(sure: float):
    """Every answer of the puzzle has the symbols of ANSWER in its first row, and one of them is denied."""
    tokens_1L = TASK.parse(".234341221434321")[None]
    open_1L = TASK.parse(".2..3...2......1")[None]
    answer_L = TASK.solve_exactly(tokens_1L[0])
    lied = Liar(int(answer_L[0]) - 2, sure)
    ((_, found),) = search(lied, TASK, open_1L, 1000, rows=1)
    assert found.verified
    ((_, trusted),) = search(Clueless(), TASK, open_1L, 1000, rows=1)
    assert trusted.verified


def test_the_likeliest_branch_comes_first():
    """A head that knows the truth leads straight to the answer."""

    class Oracle(Clueless):
        def step(self, state: State, x_BSD: Tensor) -> tuple[State, Output]:
            state, out = super().step(state, x_BSD)
            true_S = torch.from_numpy(TASK.parse(ANSWER)).long().unsqueeze(1) == self.token_N
            wrong_B = ((x_BSD == OUT) & true_S.flatten()).any(1)
            return state, out._replace(
                conflict_BL=torch.where(wrong_B, 9.0, -9.0).unsqueeze(1).expand(-1, 16)
            )

    tokens_1L = TASK.parse("1...............")[None]
    ((_, found),) = search(Oracle(), TASK, tokens_1L, 1000, rows=1)
    assert found.verified and found.take_backs == 0


def test_states_of_unlikely_branches_are_let_go(monkeypatch):
    """Then they start anew, and nothing is lost."""
    tokens_1L = TASK.parse("...2...1....12..")[None]
    ((_, whole),) = search(Clueless(), TASK, tokens_1L, 100_000, rows=1)
    monkeypatch.setattr("trm.inference.search.KEPT", 1)
    ((_, less),) = search(Clueless(), TASK, tokens_1L, 100_000, rows=1)
    assert not whole.verified and not less.verified
    assert less.decisions == whole.decisions and less.steps > whole.steps


def test_answers_do_not_depend_on_the_batch():
    tokens_NL = np.stack([TASK.parse(each) for each in PUZZLES])
    one, many = (dict(search(Clueless(), TASK, tokens_NL, 1000, rows=n)) for n in (1, 8))
    for index in one:
        assert np.array_equal(one[index].answer_L, many[index].answer_L)
        assert one[index][1:] == many[index][1:]


def test_the_number_of_decisions_is_bounded():
    tokens_1L = TASK.parse("1...............")[None]
    ((_, found),) = search(Clueless(), TASK, tokens_1L, 3, rows=1)
    assert found.decisions == 3 and not found.verified and found.steps == 1 + 1 + 2 * 3
    ((_, found),) = search(Clueless(), TASK, tokens_1L, 1000, rows=1, steps=20)
    assert 20 <= found.steps <= 21 and not found.verified


def test_a_solver_searches_and_says_how():
    made = Solver(Clueless(), TASK, 4)
    answers = made.solve(PUZZLES, Effort(search=1000))
    assert [answer.puzzle for answer in answers] == list(PUZZLES)
    assert all(answer.verified and answer.by == "model" and answer.rollouts == 1 for answer in answers)
    found = dict(search(Clueless(), TASK, np.stack([TASK.parse(each) for each in PUZZLES]), 1000, rows=8))
    assert [(a.steps, a.decisions, a.take_backs) for a in answers] == [
        found[i][3:] for i in range(len(PUZZLES))
    ]
    (short,) = made.solve(PUZZLES[-1], Effort(search=1000, budget=2))
    assert not short.verified and short.steps == 2


def test_a_model_that_knows_no_candidates_cannot_search():
    with pytest.raises(UserError, match="only a model of candidates can search"):
        tiny.solver().solve(PUZZLES[0], Effort(search=5))


@pytest.mark.parametrize("other", [{"rollouts": 2}, {"steps": 5}, {"early_stop": False}])
def test_what_a_search_would_not_do_is_refused(other: dict):
    with pytest.raises(ValidationError, match="a search is one rollout"):
        Effort(search=5, **other)


def test_rollouts_that_would_all_be_the_same_are_refused():
    made = Solver(Clueless(), TASK, 4)
    with pytest.raises(UserError, match="all the same under symmetries"):
        made.solve(PUZZLES[0], Effort(rollouts=2))


def test_a_complete_board_is_its_own_answer():
    ((_, found),) = search(Clueless(), TASK, TASK.parse(ANSWER)[None], 1000, rows=1)
    assert found.verified and (found.steps, found.decisions) == (1, 0)


def test_states_are_kept_however_long_a_search_goes_on():
    row = _Row(0, TASK.parse(ANSWER), [])
    for number in range(0, 4000, 2):
        for each in (number, number + 1):
            row.put(
                _Branch(torch.zeros(1), torch.zeros(1), torch.zeros(1), torch.zeros(1), log_p=-each),
                each,
                KEPT,
            )
        heapq.heappop(row.waiting)
    kept = [each for _, _, each in row.waiting if each.y_SD is not None]
    assert len(row.waiting) == 2000 and KEPT - 1 <= len(kept) <= KEPT
