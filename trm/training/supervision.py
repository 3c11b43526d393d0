"""Deep supervision: a batch of slots, each holding one puzzle for up to N_sup supervision steps.

Every supervision step is one optimizer step. A row that has halted takes the puzzle offered to it and
a fresh state; the others keep their puzzle and go on from where they are, detached. So a batch holds
puzzles at different depths, and the network learns to improve any state, not just the first.

In training a row halts when its halting logit says that the answer is right, or after N_sup steps; some
rows must first reach a random minimum, so that late steps keep being seen (exploration). HRM's form of
the same idea is Q-learning: halt when halt > continue, where the target of `continue` is the better of
the two at the next step, from a second forward pass.

Shapes: B batch, L puzzle tokens.
"""

from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from trm import rng
from trm.config import SupervisionConfig
from trm.data.batches import Batch
from trm.models import Output, RecursiveModel, State
from trm.models.candidates import Candidates

if TYPE_CHECKING:
    from trm.training.decisions import Decisions

# What is drawn from a step's key beside its exploration, which takes the numbers from 0.
NOISE, HINTS, BEGIN, FOLLOW = -1, -2, -3, -4


class Slots(NamedTuple):
    """The batch in flight."""

    batch: Batch
    state: State
    steps_B: Tensor
    halted_B: Tensor


class Step(NamedTuple):
    """One supervision step: the slots after it, the model's output, and the target for `continue`."""

    slots: Slots
    output: Output
    continue_target_B: Tensor | None
    wrong_B: Tensor | None = None
    """Rows in which what is given contradicts the solution, where there may be such."""
    posed_wrong_B: Tensor | None = None
    """Those of them that were posed like this, and have no answer."""


def empty_slots(model: RecursiveModel, batch: Batch) -> Slots:
    """Slots that are all free: the first step fills every one."""
    size, device = len(batch.puzzle_B), batch.puzzle_B.device
    return Slots(
        batch=Batch(*(torch.zeros_like(each) for each in batch)),
        state=State(*(each.clone() for each in model.initial_state(size))),
        steps_B=torch.zeros(size, dtype=torch.int32, device=device),
        halted_B=torch.ones(size, dtype=torch.bool, device=device),
    )


def refill(model: RecursiveModel, slots: Slots, offered: Batch) -> Slots:
    """Give every halted row the puzzle offered to it, a fresh state and a count of 0."""
    free_B = slots.halted_B
    return Slots(
        batch=Batch(
            *(
                torch.where(free_B.view(-1, *[1] * (new.ndim - 1)), new, old)
                for new, old in zip(offered, slots.batch, strict=True)
            )
        ),
        state=model.initial_state(len(free_B)).where(free_B, slots.state),
        steps_B=slots.steps_B.masked_fill(free_B, 0),
        halted_B=torch.zeros_like(free_B),
    )


def disturb(state: State, fresh_B: Tensor, config: SupervisionConfig, key: Tensor, first: int = 0) -> State:
    """The state with the noise of every step, and on fresh rows that of the start as well."""
    if not (config.noise or config.start_noise):
        return state
    key_B = rng.rows(rng.fold(key, NOISE), range(first, first + len(fresh_B)))
    start_B = config.start_noise * rng.uniform(key_B, 1).squeeze(-1)
    std_B = (fresh_B * start_B.square() + config.noise**2).sqrt()
    return state.plus(state.normals(rng.fold(key_B, 1)), std_B)


def supervise(
    model: RecursiveModel,
    slots: Slots,
    offered: Batch,
    config: SupervisionConfig,
    key: Tensor,
    decisions: "Decisions | None" = None,
    first: int = 0,
) -> Step:
    """Refill, take one supervision step, and decide which rows halt.

    `model` may be wrapped for distributed training: only its call and `initial_state` are used.
    `key` (see `rng`) draws the exploration; it must differ from step to step. `first` is the number of the
    first row in the global batch: what is drawn for a row does not depend on which process has it.
    """
    free_B = slots.halted_B
    slots = refill(model, slots, offered)
    batch = slots.batch
    before = disturb(slots.state, free_B, config, key, first)
    if decisions is None:
        state, output = model(batch.tokens_BL, batch.puzzle_B, before)
    else:
        kind_BS = decisions.begin(free_B, batch, rng.fold(key, BEGIN))
        state, output = cast(Candidates, model)(batch.tokens_BL, batch.puzzle_B, before, kind_BS)
    with torch.no_grad():
        steps_B = slots.steps_B + 1
        last_B = steps_B >= config.steps
        halted_B, continue_target_B = last_B, None
        if config.act and config.steps > 1:
            bar_B = output.continue_B if config.continue_loss else 0
            halted_B = (last_B | (output.halt_B > bar_B)) & (
                steps_B >= _minimum_steps(config, key, range(first, first + len(steps_B)))
            )
            if config.continue_loss:
                _, ahead = model(batch.tokens_BL, batch.puzzle_B, state)
                best_B = torch.maximum(ahead.halt_B, ahead.continue_B)
                continue_target_B = torch.where(last_B, ahead.halt_B, best_B).sigmoid()
        if decisions is None:
            return Step(Slots(batch, state, steps_B, halted_B), output, continue_target_B)
        wrong_B, posed_wrong_B = decisions.wrong_B.clone(), decisions.posed_wrong_B
        halted_B = torch.where(posed_wrong_B, last_B | (output.conflict_B > 0), halted_B)
        slots = decisions.follow(Slots(batch, state, steps_B, halted_B), output, rng.fold(key, FOLLOW))
        return Step(slots, output, continue_target_B, wrong_B, posed_wrong_B)


def _minimum_steps(config: SupervisionConfig, key: Tensor, rows: range) -> Tensor:
    """Steps that each row must reach before it may halt: random in 2..N_sup when exploring, else 0."""
    row_B = rng.rows(key, rows)
    explores_B = rng.uniform(row_B, 1).squeeze(-1) < config.exploration
    return rng.randint(rng.fold(row_B, 1), 2, config.steps + 1).masked_fill(~explores_B, 0)
