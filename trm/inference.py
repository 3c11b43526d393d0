"""Thinking: a batch of puzzles refined step by step, where rows that are done leave.

A row is done when its halting logit is positive AND its answer did not change in the last step. The
logit alone stops too early: it says "right" for answers that are still moving, and costs exact accuracy.
Rows that are done leave the batch and the rest is compacted, so the cost follows the difficulty.

Shapes: B rows of the whole batch, A rows still at work, L tokens.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from trm.models import RecursiveModel


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
    done_A: Tensor
    """Whether they leave now."""


@torch.inference_mode()
def think(
    model: RecursiveModel, tokens_BL: Tensor, puzzle_B: Tensor, steps: int, early_stop: bool = True
) -> Iterator[Thought]:
    """Refine answers for at most `steps` supervision steps; yields after each.

    With `early_stop` rows leave when they are done; without, all run to the end (the paper's evaluation).
    The model must be in evaluation mode. What a row becomes does not depend on the rows beside it.
    """
    row_A = torch.arange(len(tokens_BL), device=tokens_BL.device)
    x_ASD = model.encode(tokens_BL, puzzle_B)
    state = model.initial_state(len(tokens_BL))
    previous_AL = torch.full_like(tokens_BL, -1)
    for step in range(1, steps + 1):
        state, out = model.step(state, x_ASD)
        answer_AL = out.logits_BLV.argmax(-1)
        changed_A = (answer_AL != previous_AL).any(-1)
        done_A = torch.full_like(changed_A, step == steps)
        if early_stop:
            done_A |= (out.halt_B > 0) & ~changed_A
        yield Thought(step, row_A, answer_AL, out.halt_B, changed_A, done_A)
        stay_A = ~done_A
        if not stay_A.any():
            return
        if not stay_A.all():
            row_A, x_ASD, answer_AL = row_A[stay_A], x_ASD[stay_A], answer_AL[stay_A]
            state = state.rows(stay_A)
        previous_AL = answer_AL
