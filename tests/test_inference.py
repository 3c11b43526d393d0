"""Thinking against the plain loop, rollouts against their definitions, selection against slow votes."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import ANSWER, PUZZLES, TASK, model
from torch import nn

from trm import rng
from trm.config import Effort
from trm.inference.think import Choice, Ends, choose, in_turns, never, ponder, think, when_settled
from trm.models import State

STEPS = 8


@pytest.fixture(scope="module", name="boards_BL")
def draw_boards():
    """Some hundred different boards: the tiny puzzles under drawn symmetries."""
    boards = torch.stack([torch.from_numpy(TASK.parse(puzzle)).long() for puzzle in PUZZLES]).repeat(12, 1)
    return TASK.symmetry(rng.fold(rng.stream("boards"), torch.arange(len(boards)))).apply(boards)


@torch.no_grad()
def plain_loop(net, boards_BL):
    """Answers [steps, B, L] and halting logits [steps, B], as the paper evaluates."""
    x = net.encode(boards_BL, torch.zeros(len(boards_BL), dtype=torch.long))
    state, answers, halts = net.initial_state(len(boards_BL)), [], []
    for _ in range(STEPS):
        state, out = net.step(state, x)
        answers.append(out.logits_BLV.argmax(-1))
        halts.append(out.halt_B)
    return torch.stack(answers), torch.stack(halts)


def run(net, boards_BL, early_stop=True):
    """Last step, answer and halting logit of every row."""
    puzzle_B = torch.zeros(len(boards_BL), dtype=torch.long)
    last = {}
    for thought in think(net, boards_BL, puzzle_B, STEPS, when_settled if early_stop else never):
        for i, row in enumerate(thought.row_A.tolist()):
            if thought.done_A[i]:
                assert row not in last
                last[row] = thought.step, thought.answer_AL[i].tolist(), thought.halt_A[i].item()
    return [last[row] for row in range(len(boards_BL))]


def test_early_stop_equals_the_plain_loop_cut_at_the_rule(boards_BL):
    net = model()
    answers, halts = plain_loop(net, boards_BL)
    stopped = set()
    for row, (step, answer, halt) in enumerate(run(net, boards_BL)):
        expected = next(
            (
                s
                for s in range(2, STEPS)
                if halts[s - 1, row] > 0 and answers[s - 1, row].equal(answers[s - 2, row])
            ),
            STEPS,
        )
        assert step == expected
        assert answer == answers[step - 1, row].tolist()
        assert halt == pytest.approx(halts[step - 1, row].item(), abs=1e-6)
        stopped.add(step)
    assert len(stopped) > 2  # the test says nothing unless rows stop at different steps


def test_all_steps_is_the_plain_loop(boards_BL):
    net = model()
    answers, halts = plain_loop(net, boards_BL)
    thoughts = list(think(net, boards_BL, torch.zeros(len(boards_BL), dtype=torch.long), STEPS, never))
    assert [thought.step for thought in thoughts] == list(range(1, STEPS + 1))
    for i, thought in enumerate(thoughts):
        assert torch.equal(thought.row_A, torch.arange(len(boards_BL)))
        assert torch.equal(thought.answer_AL, answers[i])
        assert torch.equal(thought.halt_A, halts[i])
        assert thought.done_A.all() if i == STEPS - 1 else not thought.done_A.any()
        changed = torch.ones(len(boards_BL), dtype=bool) if i == 0 else (answers[i] != answers[i - 1]).any(-1)
        assert torch.equal(thought.changed_A, changed)


def test_rows_do_not_depend_on_their_mates_or_their_order(boards_BL):
    net = model()
    together = run(net, boards_BL)
    order = torch.randperm(len(boards_BL), generator=torch.Generator().manual_seed(0))
    shuffled = run(net, boards_BL[order])
    alone = [run(net, boards_BL[row : row + 1])[0] for row in range(0, len(boards_BL), 7)]
    for others in (
        zip(order.tolist(), shuffled, strict=True),
        zip(range(0, len(boards_BL), 7), alone, strict=True),
    ):
        for row, (step, answer, halt) in others:
            assert (step, answer) == together[row][:2]
            assert halt == pytest.approx(together[row][2], abs=1e-6)


def test_a_positive_logit_alone_does_not_stop(boards_BL):
    net = model()
    torch.nn.init.zeros_(net.halting_head.weight)
    torch.nn.init.ones_(net.halting_head.bias)
    first = next(think(net, boards_BL, torch.zeros(len(boards_BL), dtype=torch.long), STEPS))
    assert (first.halt_A > 0).all()
    assert not first.done_A.any()
    assert min(step for step, _, _ in run(net, boards_BL)) == 2


def test_rows_that_are_done_cost_nothing(boards_BL):
    net, rows = model(), []
    step = net.step
    net.step = lambda state, x: (rows.append(len(x)), step(state, x))[1]
    ends = [end for end, _, _ in run(net, boards_BL)]
    assert rows == [sum(end >= s for end in ends) for s in range(1, max(ends) + 1)]


def test_no_gradient_is_kept(boards_BL):
    thought = next(think(model(), boards_BL, torch.zeros(len(boards_BL), dtype=torch.long), STEPS))
    assert not thought.halt_A.requires_grad


def decide(net, boards_BL, steps=STEPS, **effort):
    asked, puzzle_B = Effort(**effort), torch.zeros(len(boards_BL), dtype=torch.long)
    return [choose(ends, asked.select) for ends in ponder(net, TASK, boards_BL, puzzle_B, steps, asked)]


def same(a, b) -> bool:
    return (a.answer_L == b.answer_L).all() and a[2:] == b[2:] and a.halt == pytest.approx(b.halt, abs=1e-6)


def test_one_rollout_to_the_end_is_the_paper_evaluation(boards_BL):
    answers, halts = plain_loop(model(), boards_BL)
    decisions = decide(model(), boards_BL, early_stop=False)
    for row, decision in enumerate(decisions):
        assert decision.answer_L.tolist() == answers[-1, row].tolist()
        assert decision.halt == pytest.approx(halts[-1, row].item(), abs=1e-6)
        assert (decision.steps, decision.total_steps) == (STEPS, STEPS)


def test_one_rollout_stops_like_think(boards_BL):
    for decision, (step, answer, halt) in zip(
        decide(model(), boards_BL), run(model(), boards_BL), strict=True
    ):
        assert (decision.steps, decision.total_steps) == (step, step)
        assert decision.answer_L.tolist() == answer
        assert decision.halt == pytest.approx(halt, abs=1e-6)


WAYS = [
    {"rollouts": 4, "noise": 0.3, "symmetries": False},
    {"rollouts": 3, "start": "random", "symmetries": False, "select": "vote"},
    {"rollouts": 3, "select": "first"},
    {"rollouts": 4, "noise": 0.3, "start": "random", "select": "stable"},
    {"rollouts": 2, "select": "verify", "budget": 9},
]


@pytest.mark.parametrize("way", WAYS)
def test_answers_do_not_depend_on_the_batch(boards_BL, way):
    together = decide(model(), boards_BL, **way)
    order = torch.randperm(len(boards_BL), generator=torch.Generator().manual_seed(1))
    shuffled = decide(model(), boards_BL[order], **way)
    assert all(same(shuffled[i], together[row]) for i, row in enumerate(order.tolist()))
    for row in range(0, len(boards_BL), 17):
        assert same(decide(model(), boards_BL[row : row + 1], **way)[0], together[row])


@pytest.mark.parametrize("way", WAYS[:4])
def test_the_seed_decides_and_the_first_rollout_is_plain(boards_BL, way):
    boards_BL = boards_BL[:24]
    options = way | {"select": "halt", "early_stop": False}
    first, again, other = (decide(model(), boards_BL, **options, seed=seed) for seed in (0, 0, 1))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not all(same(a, b) for a, b in zip(first, other, strict=True))
    plain = decide(model(), boards_BL, early_stop=False)
    assert all(many.halt >= one.halt - 1e-6 for many, one in zip(first, plain, strict=True))
    assert any(many.halt > one.halt + 1e-6 for many, one in zip(first, plain, strict=True))


class Echo(nn.Module):
    """Answers with the puzzle it sees, whatever the state."""

    def __init__(self):
        super().__init__()
        self.register_buffer("y_init", torch.zeros(1))

    def encode(self, tokens_BL, puzzle_B):
        return nn.functional.one_hot(tokens_BL, TASK.vocab_size).float()

    def initial_state(self, size):
        return State(torch.zeros(size, 2, 3), torch.zeros(size, 2, 3))

    def step(self, state, x):
        return state, SimpleNamespace(logits_BLV=x, halt_B=x.new_full((len(x),), -1.0))


def test_symmetries_are_undone_on_the_answer(boards_BL):
    for decision, board in zip(
        decide(Echo(), boards_BL, rollouts=5, select="stable"), boards_BL, strict=True
    ):
        assert decision.answer_L.tolist() == board.tolist()


def test_noise_has_the_asked_strength_on_all_rollouts_but_the_first(boards_BL):
    seen = []
    net = Echo()
    step = net.step
    net.step = lambda state, x: (seen.append(torch.cat(state, 2)), step(state, x))[1]
    decide(net, boards_BL, steps=2, rollouts=8, noise=0.25, symmetries=False)
    states = torch.stack(seen).unflatten(1, (len(boards_BL), 8))  # [steps, B, K, S, D]
    assert (states[:, :, 0] == 0).all()
    first, second = states[0, :, 1:], states[1, :, 1:] - states[0, :, 1:]
    for noise in (first, second):
        assert noise.std() == pytest.approx(0.25, rel=0.02)
        assert noise.mean() == pytest.approx(0, abs=0.01)
    assert abs((first * second).mean()) < 0.002  # independent from step to step


def test_a_budget_bounds_the_steps_of_all_rollouts(boards_BL):
    for budget in (4, 9, 10):
        decisions = decide(model(), boards_BL, rollouts=4, budget=budget, early_stop=False)
        assert {d.total_steps for d in decisions} == {budget // 4 * 4}
    timed = decide(model(), boards_BL, steps=10**6, early_stop=False, seconds=0.2)
    assert all(1 <= d.steps < 10**6 for d in timed)


class Late(Echo):
    """Right in the step that the first token names, wrong before; sure of itself from the start."""

    def initial_state(self, size):
        return State(torch.zeros(size, 1, 1), torch.zeros(size, 1, 1))

    def encode(self, tokens_BL, puzzle_B):
        return tokens_BL

    def step(self, state, x):
        right = torch.from_numpy(TASK.parse(ANSWER)).long().expand(len(x), -1).clone()
        step = state.y_BSD[:, 0, 0] + 1
        right[step < 3, 5] = 0  # padding is no answer; so it is until the third step
        logits = nn.functional.one_hot(right, 10).float()
        return State(state.y_BSD + 1, state.z_BSD), SimpleNamespace(
            logits_BLV=logits, halt_B=torch.ones(len(x))
        )


def test_verify_goes_on_until_the_rules_confirm():
    board = torch.from_numpy(TASK.parse(PUZZLES[0])).long()[None]
    (by_halt,) = decide(Late(), board)
    (by_verify,) = decide(Late(), board, select="verify")
    assert by_halt.steps == 2 and not TASK.verify(board[0].numpy(), by_halt.answer_L)
    assert by_verify.steps == 3 and TASK.verify(board[0].numpy(), by_verify.answer_L)
    (gave_up,) = decide(Late(), board, steps=2, select="verify")
    assert gave_up.steps == 2 and gave_up.answer_L[5] == 0


def ends(answers, halts, drifts=None, steps=None, settled=None, verified=None):
    k = len(answers)
    rows = np.array(answers, dtype=np.uint8).reshape(k, -1)
    default = [np.zeros(k), np.ones(k, int), np.zeros(k, bool), np.zeros(k, bool)]
    given = [
        d if g is None else np.array(g)
        for g, d in zip((drifts, steps, settled, verified), default, strict=True)
    ]
    return Ends(rows, np.array(halts, float), *given)


def test_every_selection_by_hand():
    made = ends(
        [7, 8, 8, 9],
        [3.0, -1.0, 1.0, 2.0],
        drifts=[0.4, 0.3, 0.2, 0.5],
        steps=[6, 4, 5, 4],
        settled=[True, False, True, True],
        verified=[False, True, False, False],
    )
    picked = {select: choose(made, select) for select in ("halt", "first", "stable", "vote")}
    assert {select: int(d.answer_L[0]) for select, d in picked.items()} == {
        "halt": 7,
        "first": 9,  # of the two that ended at step 4, only this one had settled
        "stable": 8,
        "vote": 8,
    }
    assert picked["vote"].halt == 1.0 and picked["vote"].total_steps == 19
    assert choose(made, "verify").halt == -1.0
    none = made._replace(verdict_K=np.zeros(4, int), settled_K=np.zeros(4, bool))
    assert choose(none, "verify").answer_L[0] == 7
    assert choose(none, "first").answer_L[0] == 7


def test_votes_against_a_slow_count():
    random = np.random.default_rng(0)
    ties = 0
    for _ in range(500):
        k = int(random.integers(1, 9))
        answers, halts = random.integers(0, 3, k), random.normal(size=k).round(1)
        counts = Counter(answers.tolist())
        chance = {
            a: np.mean([1 / (1 + np.exp(-h)) for b, h in zip(answers, halts, strict=True) if b == a])
            for a in counts
        }
        first = {a: answers.tolist().index(a) for a in counts}
        expected = sorted(counts, key=lambda a: (-counts[a], -chance[a], first[a]))[0]
        ties += list(counts.values()).count(max(counts.values())) > 1
        chosen = choose(ends(answers, halts), "vote")
        assert chosen.answer_L[0] == expected
        assert chosen.halt == max(h for a, h in zip(answers, halts, strict=True) if a == expected)
    assert ties > 50


# --- more rollouts than a batch holds


def turns(board_1L, rows: int, steps: int = STEPS, **effort):
    """The decision on one puzzle whose rollouts come `rows` at a time, and how many ran together."""
    asked, together, net = Effort(**effort), [], model()
    step = net.step
    net.step = lambda state, x: (together.append(len(x)), step(state, x))[1]
    choice = Choice(asked.select)
    for part in in_turns(net, TASK, board_1L, torch.zeros(1, dtype=torch.long), steps, asked, rows):
        choice.add(part)
    return choice.decision(), max(together)


@pytest.mark.parametrize("select", ["halt", "first", "stable", "vote"])
@pytest.mark.parametrize("way", [{"noise": 0.4}, {"start": "random"}, {"steps": 3}])
def test_rollouts_in_turns_end_as_together(boards_BL, select, way):
    for row in range(0, len(boards_BL), 13):
        board_1L = boards_BL[row : row + 1]
        (together,) = decide(model(), board_1L, rollouts=11, select=select, **way)
        apart, most = turns(board_1L, 4, rollouts=11, select=select, **way)
        assert most <= 4
        assert (apart.answer_L == together.answer_L).all()
        assert apart.halt == pytest.approx(together.halt, abs=1e-6)
        assert (apart.steps, apart.rollout, apart.rollouts) == (together.steps, together.rollout, 11)


def test_a_budget_is_shared_out_over_turns(boards_BL):
    for budget in (11, 30, 44):
        decision, _ = turns(boards_BL[:1], 4, rollouts=11, budget=budget, early_stop=False)
        assert decision.rollouts == 11 and budget - 11 < decision.total_steps <= budget


def test_turns_end_with_the_time_or_a_confirmed_answer(boards_BL):
    decision, _ = turns(boards_BL[:1], 2, steps=10**5, rollouts=9, seconds=0.2, early_stop=False)
    assert 2 <= decision.rollouts < 9
    choice = Choice("verify")
    for part in in_turns(
        Late(), TASK, boards_BL[:1], torch.zeros(1).long(), STEPS, Effort(rollouts=9, select="verify"), 2
    ):
        choice.add(part)
    assert choice.rollouts in (2, 4, 6, 8, 9)


def test_votes_hold_no_more_than_the_different_answers():
    choice = Choice("vote")
    for _ in range(50):
        choice.add(ends([1, 2, 1], [0.0, 3.0, 1.0]))
    decision = choice.decision()
    assert (decision.answer_L.tolist(), decision.rollouts, decision.total_steps) == ([1], 150, 150)
    assert (decision.halt, decision.rollout, len(choice.votes)) == (1.0, 2, 2)


def test_what_the_rules_do_not_refute_is_preferred():
    made = ends([1, 2, 3], [3.0, 1.0, 2.0], verified=[-1, 0, 0])
    assert choose(made, "verify").answer_L[0] == 3
