"""Deep supervision, worked by hand with a model whose halting logits are scripted."""

import pytest
import torch
from torch import Tensor

from trm import rng
from trm.config import SupervisionConfig
from trm.data.batches import Batch
from trm.models import Output, State
from trm.training.supervision import disturb, empty_slots, refill, supervise

KEY = rng.stream("test")
NO_EXPLORATION = {"exploration": 0.0}


class Scripted:
    """Stands for a model: y counts the steps since the start, and each call pops the next logits."""

    def __init__(self, *script: tuple[list[float], list[float]]):
        self.script = list(script)
        self.seen: list[tuple[Tensor, Tensor, State]] = []

    def initial_state(self, size: int) -> State:
        return State(torch.full((size, 1, 1), 100.0), torch.zeros(size, 1, 0))

    def __call__(self, tokens_BL: Tensor, puzzle_B: Tensor, state: State) -> tuple[State, Output]:
        self.seen.append((tokens_BL, puzzle_B, state))
        halt, more = (torch.tensor(each) for each in self.script.pop(0))
        logits = torch.zeros(*tokens_BL.shape, 2)
        return State(state.y_BSD + 1, state.z_BSD), Output(
            logits, halt, more, torch.full_like(halt, -torch.inf)
        )


def offer(number: int, size: int = 3) -> Batch:
    """The puzzles offered at a step: row i is 10 * number + i everywhere."""
    ids = 10 * number + torch.arange(size)
    return Batch(ids.view(-1, 1).expand(-1, 2).clone(), ids.view(-1, 1) + 1000, ids, ids)


def walk(config: SupervisionConfig, *script: tuple[list[float], list[float]]):
    """Supervise along a script; returns the model and every step."""
    model = Scripted(*script)
    slots, steps = empty_slots(model, offer(0, len(script[0][0]))), []
    while model.script:
        i = len(steps) + 1
        step = supervise(model, slots, offer(i, len(slots.steps_B)), config, rng.fold(KEY, i))
        steps.append(step)
        slots = step.slots
    return model, steps


def test_a_sequence_by_hand():
    """Row 0 halts at its 2nd step, row 1 at each, row 2 never: it runs into the limit of 3."""
    zeros = [0.0, 0.0, 0.0]
    model, steps = walk(
        SupervisionConfig(steps=3, **NO_EXPLORATION),
        ([-1.0, 1.0, -1.0], zeros),
        ([1.0, 1.0, 0.0], zeros),  # a logit of 0 does not halt
        ([-1.0, 1.0, -1.0], zeros),
        ([-1.0, 1.0, -1.0], zeros),
    )
    assert [s.slots.batch.puzzle_B.tolist() for s in steps] == [
        [10, 11, 12],
        [10, 21, 12],
        [30, 31, 12],
        [30, 41, 42],
    ]
    assert [s.slots.steps_B.tolist() for s in steps] == [[1, 1, 1], [2, 1, 2], [1, 1, 3], [2, 1, 1]]
    assert [s.slots.halted_B.tolist() for s in steps] == [
        [False, True, False],
        [True, True, False],
        [False, True, True],
        [False, True, False],
    ]
    # y is 100 at the start of a puzzle, and one more after each step.
    assert [s.slots.state.y_BSD.flatten().tolist() for s in steps] == [
        [101, 101, 101],
        [102, 101, 102],
        [101, 101, 103],
        [102, 101, 101],
    ]
    for step, (tokens, ids, _) in zip(steps, model.seen, strict=True):
        batch = step.slots.batch
        assert torch.equal(tokens, batch.tokens_BL) and torch.equal(ids, batch.puzzle_B)
        assert torch.equal(batch.tokens_BL, ids.view(-1, 1).expand(-1, 2))
        assert torch.equal(batch.labels_BL, ids.view(-1, 1) + 1000)
        assert step.continue_target_B is None


def test_empty_slots_are_all_free_and_refill_takes_free_rows_only():
    model = Scripted()
    slots = empty_slots(model, offer(0))
    assert slots.halted_B.all() and (slots.steps_B == 0).all()
    slots = slots._replace(
        batch=offer(5),
        state=State(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1), torch.zeros(3, 1, 0)),
        steps_B=torch.tensor([4, 5, 6], dtype=torch.int32),
        halted_B=torch.tensor([False, True, False]),
    )
    filled = refill(model, slots, offer(6))
    assert filled.batch.puzzle_B.tolist() == [50, 61, 52]
    assert filled.batch.tokens_BL[:, 0].tolist() == [50, 61, 52]
    assert filled.state.y_BSD.flatten().tolist() == [1, 100, 3]
    assert filled.steps_B.tolist() == [4, 0, 6] and filled.steps_B.dtype == torch.int32
    assert not filled.halted_B.any()


def test_without_act_every_row_runs_all_steps():
    config = SupervisionConfig(steps=3, act=False, exploration=1.0)
    _, steps = walk(config, *[([9.0, -9.0], [0.0, 0.0])] * 7)
    assert [s.slots.halted_B.tolist() for s in steps] == [[i % 3 == 0] * 2 for i in range(1, 8)]
    assert all(step.continue_target_B is None for step in steps)


@pytest.mark.parametrize("continue_loss", [False, True])
def test_one_step_per_puzzle_always_halts(continue_loss: bool):
    """With steps == 1 nothing can be explored: all rows halt, and there is no next step to look at."""
    config = SupervisionConfig(steps=1, exploration=1.0, continue_loss=continue_loss)
    model, steps = walk(config, *[([-9.0, 9.0], [0.0, 0.0])] * 3)
    assert all(step.slots.halted_B.all() and (step.slots.steps_B == 1).all() for step in steps)
    assert [step.slots.batch.puzzle_B.tolist() for step in steps] == [[10, 11], [20, 21], [30, 31]]
    assert all(step.continue_target_B is None for step in steps)
    assert len(model.seen) == 3


def test_continue_loss_compares_logits_and_looks_one_step_ahead():
    model, steps = walk(
        SupervisionConfig(steps=2, continue_loss=True, **NO_EXPLORATION),
        ([1.0, 1.0, -2.0], [2.0, 0.5, -3.0]),  # halts where halt > continue: rows 1 and 2
        ([0.3, -0.4, 0.0], [0.2, 0.7, 0.0]),  # the look ahead: maximum, as no row is at its last step
        ([-1.0, -1.0, 1.0], [1.0, 1.0, 1.0]),  # row 0 is at its last step; equal logits do not halt
        ([-5.0, -5.0, 0.1], [3.0, 3.0, 0.2]),  # so its target is the halting logit alone
    )
    first, second = steps
    assert first.slots.halted_B.tolist() == [False, True, True]
    torch.testing.assert_close(first.continue_target_B, torch.sigmoid(torch.tensor([0.3, 0.7, 0.0])))
    assert second.slots.halted_B.tolist() == [True, False, False]
    torch.testing.assert_close(second.continue_target_B, torch.sigmoid(torch.tensor([-5.0, 3.0, 0.2])))
    # The look ahead starts from the state after the step, on the same puzzles, and leaves no trace.
    assert model.seen[1][2].y_BSD.flatten().tolist() == [101, 101, 101]
    assert torch.equal(model.seen[1][1], model.seen[0][1])
    assert first.slots.state.y_BSD.flatten().tolist() == [101, 101, 101]
    assert second.slots.steps_B.tolist() == [2, 1, 1]


def halting_steps(config: SupervisionConfig, size: int, seed: int = 0) -> Tensor:
    """Step at which each of `size` rows, eager to halt at once, is let go."""
    model = Scripted(*[([9.0] * size, [0.0] * size)] * config.steps)
    slots = empty_slots(model, offer(0, size))
    first = torch.zeros(size, dtype=torch.int64)
    for i in range(config.steps):
        key = rng.fold(rng.fold(KEY, seed), i)
        slots = supervise(model, slots, offer(i, size), config, key).slots
        first = torch.where((first == 0) & slots.halted_B, i + 1, first)
    return first


def minima(config: SupervisionConfig, size: int, seed: int) -> Tensor:
    """The minimum drawn for each row at one step: the least count of steps that lets it halt."""
    key = rng.fold(KEY, seed)
    least = torch.full((size,), 99)
    for count in reversed(range(1, config.steps + 1)):
        model = Scripted(([9.0] * size, [0.0] * size))
        slots = empty_slots(model, offer(0, size))._replace(
            steps_B=torch.full((size,), count - 1, dtype=torch.int32),
            halted_B=torch.zeros(size, dtype=torch.bool),
        )
        halted = supervise(model, slots, offer(1, size), config, key).slots.halted_B
        least = torch.where(halted, count, least)
    return least


def test_exploration_draws_a_minimum_of_2_to_all_steps_with_its_probability():
    size = 20_000
    drawn = minima(SupervisionConfig(steps=6, exploration=0.3), size, seed=0)
    assert drawn.min() == 1 and drawn.max() == 6
    explores = (drawn > 1).double()
    assert abs(explores.mean() - 0.3) < 4 * (0.3 * 0.7 / size) ** 0.5
    counts = torch.bincount(drawn, minlength=7)[2:].double()
    expected = counts.sum() / 5
    assert ((counts - expected) ** 2 / expected).sum() < 20  # chi-square with 4 degrees of freedom


@pytest.mark.parametrize(("exploration", "explored"), [(0.0, False), (1.0, True)])
def test_exploration_at_its_ends(exploration: float, explored: bool):
    drawn = minima(SupervisionConfig(steps=4, exploration=exploration), 500, seed=1)
    assert (drawn > 1).all() if explored else (drawn == 1).all()
    assert (halting_steps(SupervisionConfig(steps=4, exploration=exploration), 500) <= 4).all()


def test_exploration_differs_from_step_to_step_and_follows_the_key():
    config = SupervisionConfig(steps=8, exploration=0.5)
    assert torch.equal(minima(config, 100, 0), minima(config, 100, 0))
    assert not torch.equal(minima(config, 100, 0), minima(config, 100, 1))
    assert torch.equal(minima(config, 100, 0)[:7], minima(config, 7, 0))


def test_exploration_never_ends_a_row_that_does_not_want_to_halt():
    size = 200
    config = SupervisionConfig(steps=5, exploration=1.0)
    _, steps = walk(config, *[([-9.0] * size, [0.0] * size)] * 5)
    assert [bool(s.slots.halted_B.any()) for s in steps] == [False] * 4 + [True]
    assert steps[-1].slots.halted_B.all()


# Noise


def zeros(rows: int) -> State:
    return State(torch.zeros(rows, 30, 20), torch.zeros(rows, 30, 10))


def spreads(config: SupervisionConfig, fresh_B: Tensor, seed: int = 0) -> Tensor:
    """The standard deviation of the noise in every row, measured over y and z together (900 numbers)."""
    noisy = disturb(zeros(len(fresh_B)), fresh_B, config, rng.fold(KEY, seed))
    return torch.cat([each.flatten(1) for each in noisy], 1).std(1)


def test_without_noise_the_state_is_the_very_same():
    state, fresh_B = zeros(3), torch.tensor([True, False, True])
    assert disturb(state, fresh_B, SupervisionConfig(), KEY) is state


def test_noise_of_every_step_has_its_standard_deviation_on_all_rows():
    fresh_B = torch.arange(400) % 2 == 0
    state = State(torch.full((400, 30, 20), 3.0), torch.full((400, 30, 10), -2.0))
    noisy = disturb(state, fresh_B, SupervisionConfig(noise=0.3), KEY)
    for before, after in zip(state, noisy, strict=True):
        for rows in (fresh_B, ~fresh_B):
            noise = (after - before)[rows]
            assert noise.std().item() == pytest.approx(0.3, rel=0.02)
            assert noise.mean().item() == pytest.approx(0, abs=0.005)
    each_B = spreads(SupervisionConfig(noise=0.3), fresh_B)
    assert ((each_B - 0.3).abs() < 0.05).all()
    y, z = noisy.y_BSD[:, :, :10] - 3, noisy.z_BSD + 2
    assert abs(torch.corrcoef(torch.stack((y.flatten(), z.flatten())))[0, 1]) < 4 / y.numel() ** 0.5


def test_noise_of_the_start_is_of_every_strength_and_for_fresh_rows_alone():
    size = 2000
    fresh_B = torch.arange(size) % 2 == 0
    each_B = spreads(SupervisionConfig(start_noise=2.0), fresh_B)
    assert (each_B[~fresh_B] == 0).all()
    drawn_B = each_B[fresh_B]
    assert drawn_B.min() < 0.02 and 1.95 < drawn_B.max() < 2.2
    counts = torch.histc(drawn_B, 10, 0, 2)
    expected = counts.sum() / 10
    assert ((counts - expected) ** 2 / expected).sum() < 30  # chi-square with 9 degrees of freedom


def test_the_variances_of_both_kinds_of_noise_add_up():
    fresh_B = torch.arange(1000) % 4 > 0
    both = spreads(SupervisionConfig(start_noise=2.0, noise=0.5), fresh_B)
    start = spreads(SupervisionConfig(start_noise=2.0), fresh_B)
    torch.testing.assert_close(both[~fresh_B], torch.full((250,), 0.5), rtol=0.15, atol=0)
    torch.testing.assert_close(
        both[fresh_B], (start[fresh_B].square() + 0.25).sqrt(), rtol=0.15, atol=0, msg="same key, same draw"
    )


def test_noise_is_a_function_of_the_key():
    config = SupervisionConfig(start_noise=1.0, noise=0.1)
    fresh_B = torch.arange(40) % 2 == 0
    one, again = (disturb(zeros(40), fresh_B, config, KEY) for _ in range(2))
    few = disturb(zeros(9), fresh_B[:9], config, KEY)
    other = disturb(zeros(40), fresh_B, config, rng.fold(KEY, 1))
    for a, b, c, d in zip(one, again, few, other, strict=True):
        assert torch.equal(a, b) and torch.equal(a[:9], c) and not torch.equal(a, d)
    assert len(one.y_BSD[:, 0, 0].unique()) == 40, "every row has its own"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_noise_leaves_the_dtype_of_the_state(dtype: torch.dtype):
    state = State(*(each.to(dtype) for each in zeros(4)))
    noisy = disturb(state, torch.tensor([True, False] * 2), SupervisionConfig(start_noise=1, noise=0.1), KEY)
    assert noisy.y_BSD.dtype == noisy.z_BSD.dtype == dtype


def test_the_model_sees_noise_that_fits_the_row():
    """Row 0 stays, row 1 is free at its second step; what is not noise goes on from the noisy state."""
    model = Scripted(([-1.0, 1.0], [0.0, 0.0]), ([-1.0, -1.0], [0.0, 0.0]))
    config = SupervisionConfig(steps=3, start_noise=5.0, **NO_EXPLORATION)
    first = supervise(model, empty_slots(model, offer(0, 2)), offer(1, 2), config, rng.fold(KEY, 1))
    second = supervise(model, first.slots, offer(2, 2), config, rng.fold(KEY, 2))
    started, went_on = (seen[2].y_BSD.flatten() for seen in model.seen)
    assert (started != 100).all() and (started - 100).abs().max() < 30
    assert torch.equal(first.slots.state.y_BSD.flatten(), started + 1)
    assert went_on[0] == started[0] + 1, "no noise of the start on a row that goes on"
    assert went_on[1] not in (100, started[1], started[1] + 1) and (went_on[1] - 100).abs() < 30
    assert second.slots.steps_B.tolist() == [2, 1]
