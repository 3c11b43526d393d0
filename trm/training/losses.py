"""Losses of one supervision step, and its metrics.

    loss = sum over rows of  mean over valid tokens of CE(logits, labels)
                           + w * (BCE(halt, exact) [+ BCE(continue, target)])
                           [+ v * mean over cells of BCE(conflict, wrong)]

where `exact` says that every valid token is right, and `wrong` that what is given in a row contradicts its
solution; the tokens of such a row do not count. The gradient is that of loss / global batch.

Stablemax (Prieto et al., arXiv 2501.04697) replaces exp in the softmax by s(x) = x + 1 for x >= 0 and
1 / (1 - x) below, which grows slowly on both sides.

Shapes: B batch, L puzzle tokens, V vocabulary.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trm.config import LossConfig
from trm.data.batches import IGNORE
from trm.training.supervision import Step


class Loss(NamedTuple):
    """Sums over the rows of a batch, scalars on the device; `total` is the one with gradient."""

    total: Tensor
    tokens: Tensor
    halting: Tensor
    continuing: Tensor


def stablemax_cross_entropy(logits_BLV: Tensor, labels_BL: Tensor, dtype: torch.dtype) -> Tensor:
    """Cross entropy over stablemax, computed in `dtype`, [B, L]; 0 where the label is ignored."""
    x_BLV = logits_BLV.to(dtype)
    # The branch not taken must stay finite too, or its gradient is 0 * inf: no 1 / (1 - x) at x = 1.
    s_BLV = torch.where(x_BLV < 0, 1 / (1 + x_BLV.abs()), x_BLV + 1)
    valid_BL = labels_BL != IGNORE
    target_BL1 = labels_BL.masked_fill(~valid_BL, 0).unsqueeze(-1)
    log_p_BL = s_BLV.gather(-1, target_BL1).squeeze(-1).log() - s_BLV.sum(-1).log()
    return (-log_p_BL).masked_fill(~valid_BL, 0)


def softmax_cross_entropy(logits_BLV: Tensor, labels_BL: Tensor, smoothing: float) -> Tensor:
    """Cross entropy over softmax with label smoothing, [B, L]; 0 where the label is ignored."""
    return F.cross_entropy(
        logits_BLV.float().transpose(1, 2),
        labels_BL.long(),
        ignore_index=IGNORE,
        reduction="none",
        label_smoothing=smoothing,
    )


def token_loss(config: LossConfig, logits_BLV: Tensor, labels_BL: Tensor) -> Tensor:
    """The configured cross entropy per token, [B, L]."""
    if config.tokens == "softmax":
        return softmax_cross_entropy(logits_BLV, labels_BL, config.label_smoothing)
    dtype = torch.float64 if config.tokens == "stablemax64" else torch.float32
    return stablemax_cross_entropy(logits_BLV, labels_BL.long(), dtype)


def correctness(logits_BLV: Tensor, labels_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Which valid tokens are right, bool [B, L], and which rows are right everywhere, bool [B]."""
    valid_BL = labels_BL != IGNORE
    correct_BL = valid_BL & (logits_BLV.argmax(-1) == labels_BL)
    return correct_BL, correct_BL.sum(-1) == valid_BL.sum(-1)


def step_loss(config: LossConfig, step: Step) -> tuple[Loss, dict[str, Tensor]]:
    """Loss of a supervision step, and its metrics as sums on the device.

    The metrics `count`, `accuracy`, `exact_accuracy`, `halting_accuracy` and `steps` are sums
    over the rows that have just halted; `rows` and the losses are sums over all rows.
    """
    output, slots = step.output, step.slots
    labels_BL = slots.batch.labels_BL
    valid_B = (labels_BL != IGNORE).sum(-1)
    correct_BL, exact_B = correctness(output.logits_BLV.detach(), labels_BL)

    tokens_B = token_loss(config, output.logits_BLV, labels_BL).sum(-1) / valid_B.clamp_min(1)
    if step.wrong_B is not None:  # the solution is no target of a row that was led away from it
        tokens_B = tokens_B.masked_fill(step.wrong_B, 0)
    tokens = tokens_B.sum()
    halting = _bce(output.halt_B, exact_B)
    continuing = torch.zeros_like(halting)
    if step.continue_target_B is not None:
        continuing = _bce(output.continue_B, step.continue_target_B)
    conflict = torch.zeros_like(halting)
    if step.wrong_B is not None:
        wrong_BL = step.wrong_B.unsqueeze(1).expand_as(output.conflict_BL)
        conflict = _bce(output.conflict_BL, wrong_BL) / wrong_BL.shape[1]
    total = tokens + config.halting_weight * (halting + continuing) + config.conflict_weight * conflict

    done_B = slots.halted_B & (valid_B > 0)
    if step.posed_wrong_B is not None:
        done_B &= ~step.posed_wrong_B
    metrics = {
        "rows": torch.ones_like(done_B),
        "count": done_B,
        "accuracy": done_B * correct_BL.sum(-1) / valid_B.clamp_min(1),
        "exact_accuracy": done_B & exact_B,
        "halting_accuracy": done_B & ((output.halt_B >= 0) == exact_B),
        "steps": done_B * slots.steps_B,
    }
    if step.wrong_B is not None:
        alarm_B = output.conflict_B >= 0
        metrics |= {"wrong": step.wrong_B, "alarms": alarm_B, "right_alarms": alarm_B & step.wrong_B}
    sums = {name: value_B.sum().detach().float() for name, value_B in metrics.items()}
    losses = Loss(total, tokens.detach(), halting.detach(), continuing.detach())
    sums |= {
        "loss": losses.total.detach().float(),
        "token_loss": losses.tokens.float(),
        "halting_loss": losses.halting.float(),
        "continue_loss": losses.continuing.float(),
    }
    if step.wrong_B is not None:
        sums["conflict_loss"] = conflict.detach().float()
    return losses, sums


def _bce(logits_B: Tensor, target_B: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits_B, target_B.to(logits_B.dtype), reduction="sum")
