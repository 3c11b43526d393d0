"""Losses and metrics against direct formulas, gradients included, and worked by hand."""

import math

import pytest
import torch
from torch import Tensor

from trm.config import LossConfig
from trm.data.batches import Batch
from trm.models import Output, State
from trm.training.losses import (
    IGNORE,
    correctness,
    softmax_cross_entropy,
    stablemax_cross_entropy,
    step_loss,
    token_loss,
)
from trm.training.supervision import Slots, Step


def s(x: float) -> float:
    return x + 1 if x >= 0 else 1 / (1 - x)


def stablemax_by_hand(logits: list[float], label: int) -> float:
    return -math.log(s(logits[label]) / sum(s(x) for x in logits))


def stablemax_gradient_by_hand(logits: list[float], label: int) -> list[float]:
    """d/dx_i = s'(x_i) / sum(s) - [i = label] s'(x_i) / s(x_i), with s' = 1 above 0, 1 / (1 - x)^2 below."""
    total = sum(s(x) for x in logits)
    slope = [1.0 if x >= 0 else (1 - x) ** -2 for x in logits]
    return [d * (1 / total - (i == label) / s(x)) for i, (x, d) in enumerate(zip(logits, slope, strict=True))]


def loss_and_gradient(logits: Tensor, labels: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    loss = stablemax_cross_entropy(logits, labels, dtype)
    loss.sum().backward()
    return loss.detach(), logits.grad


ROWS = {
    "mixed": [0.5, -2.0, 3.0, -0.1],
    "large": [1e4, -1e4, 50.0, -50.0],
    "one": [1.0, -1.0, 2.0, 0.5],
    "zero": [0.0, 0.7, -0.3, 0.0],
    "all_one": [1.0, 1.0, 1.0, 1.0],
    "all_zero": [0.0, 0.0, 0.0, 0.0],
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
@pytest.mark.parametrize("label", range(4))
def test_stablemax_and_its_gradient_by_hand(row: list[float], label: int, dtype: torch.dtype):
    logits = torch.tensor([[row]], dtype=torch.float64)
    loss, gradient = loss_and_gradient(logits, torch.tensor([[label]]), dtype)
    tolerance = dict(
        zip(("rtol", "atol"), (1e-5, 2e-6) if dtype == torch.float32 else (1e-12, 1e-15), strict=True)
    )
    expected = torch.tensor([[stablemax_by_hand(row, label)]], dtype=dtype)
    torch.testing.assert_close(loss, expected, **tolerance)
    slope = torch.tensor([[stablemax_gradient_by_hand(row, label)]], dtype=torch.float64)
    torch.testing.assert_close(gradient, slope, **tolerance)


def test_stablemax_gradient_is_finite_for_every_bfloat16_logit():
    """In bfloat16 logits of exactly 1 or 0 are common: one of them must not spoil a run."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    values = bits.view(torch.bfloat16)
    values = values[values.isfinite() & (values.abs() < 1e30)]
    logits = torch.stack((values, torch.zeros_like(values)), -1).unsqueeze(0)
    for label in (0, 1):
        labels = torch.full((1, len(values)), label)
        for dtype in (torch.float32, torch.float64):
            loss, gradient = loss_and_gradient(logits, labels, dtype)
            assert loss.isfinite().all()
            assert gradient.isfinite().all(), values[~gradient[0].isfinite().all(-1)].tolist()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e2, 1e5])
def test_float32_stablemax_is_as_good_as_float64(scale: float):
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 50, 12) * scale, torch.randint(12, (4, 50))
    (loss, gradient), (loss64, gradient64) = (
        loss_and_gradient(logits, labels, dtype) for dtype in (torch.float32, torch.float64)
    )
    assert loss.dtype == torch.float32 and loss64.dtype == torch.float64
    torch.testing.assert_close(loss.double(), loss64, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(gradient, gradient64, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tokens", ["stablemax64", "stablemax", "softmax"])
def test_ignored_labels_cost_nothing_and_get_no_gradient(tokens: str):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, requires_grad=True)
    labels = torch.tensor([[1, IGNORE, 3], [IGNORE, IGNORE, IGNORE]])
    loss = token_loss(LossConfig(tokens=tokens), logits, labels)
    assert ((loss == 0) == (labels == IGNORE)).all()
    loss.sum().backward()
    assert torch.equal(logits.grad.abs().sum(-1) == 0, labels == IGNORE)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_softmax_with_label_smoothing_by_hand(smoothing: float):
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 5), torch.tensor([[0, 4, 2], [3, IGNORE, 1]])
    loss = softmax_cross_entropy(logits, labels, smoothing)
    for b in range(2):
        for i in range(3):
            label = labels[b, i].item()
            if label == IGNORE:
                assert loss[b, i] == 0
                continue
            row = logits[b, i].tolist()
            total = math.log(sum(math.exp(x) for x in row))
            target = [smoothing / 5 + (1 - smoothing) * (k == label) for k in range(5)]
            expected = sum(t * (total - x) for t, x in zip(target, row, strict=True))
            assert loss[b, i].item() == pytest.approx(expected, rel=1e-5)


def test_the_configured_loss_is_used():
    torch.manual_seed(0)
    logits, labels = 5 * torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    stable64, stable, soft, smooth = (
        token_loss(LossConfig(**options), logits, labels)
        for options in (
            {"tokens": "stablemax64"},
            {"tokens": "stablemax"},
            {"tokens": "softmax"},
            {"tokens": "softmax", "label_smoothing": 0.1},
        )
    )
    assert stable64.dtype == torch.float64 and stable.dtype == soft.dtype == torch.float32
    torch.testing.assert_close(stable64.float(), stable)
    torch.testing.assert_close(soft, -torch.log_softmax(logits, -1).gather(-1, labels[..., None])[..., 0])
    assert not torch.allclose(soft, stable, rtol=0.1) and not torch.allclose(soft, smooth, rtol=0.01)


def test_correctness_of_tokens_and_rows():
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 2, 0], [1, 2, 0], [0, 0, 0]]), 3).float()
    labels = torch.tensor([[1, 2, IGNORE], [1, 1, IGNORE], [IGNORE, IGNORE, IGNORE]])
    correct, exact = correctness(logits, labels)
    assert correct.tolist() == [[True, True, False], [True, False, False], [False, False, False]]
    assert exact.tolist()[:2] == [True, False]


# A batch of four rows, two of which have just halted; logits are -1 or 2, so that all is countable.
LABELS = torch.tensor([[0, 1, IGNORE], [0, 1, 1], [1, IGNORE, IGNORE], [IGNORE, IGNORE, IGNORE]])
GUESSES = torch.tensor([[0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]])  # exact, 2 of 3, wrong, nothing asked
HALT = [1.5, 0.5, -0.5, 2.0]
CONTINUE = [0.1, -0.2, 0.3, 0.4]
TARGET = [0.9, 0.5, 0.2, 0.6]


def step(with_target: bool) -> Step:
    logits = torch.where(GUESSES[..., None] == torch.arange(2), 2.0, -1.0).requires_grad_()
    output = Output(
        logits,
        torch.tensor(HALT, requires_grad=True),
        torch.tensor(CONTINUE, requires_grad=True),
        torch.full((4,), -torch.inf),
    )
    slots = Slots(
        Batch(torch.zeros_like(LABELS), LABELS, *torch.zeros(2, 4, dtype=torch.int64)),
        State(torch.zeros(4, 3, 1), torch.zeros(4, 3, 1)),
        steps_B=torch.tensor([3, 5, 7, 9], dtype=torch.int32),
        halted_B=torch.tensor([True, True, False, True]),
    )
    return Step(slots, output, torch.tensor(TARGET) if with_target else None)


def bce(logit: float, target: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -target * math.log(p) - (1 - target) * math.log(1 - p)


@pytest.mark.parametrize("with_target", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_the_loss_is_a_sum_of_row_means_and_weighted_halting_terms(with_target: bool, weight: float):
    loss, _ = step_loss(LossConfig(halting_weight=weight), step(with_target))
    right, wrong = stablemax_by_hand([2.0, -1.0], 0), stablemax_by_hand([2.0, -1.0], 1)
    tokens = right + (2 * right + wrong) / 3 + wrong  # the empty row adds nothing
    exact = [1, 0, 0, 1]  # a row of which nothing is asked counts as exact
    halting = sum(bce(x, t) for x, t in zip(HALT, exact, strict=True))
    continuing = sum(bce(x, t) for x, t in zip(CONTINUE, TARGET, strict=True)) if with_target else 0.0
    assert loss.tokens.item() == pytest.approx(tokens, rel=1e-6)
    assert loss.halting.item() == pytest.approx(halting, rel=1e-6)
    assert loss.continuing.item() == pytest.approx(continuing, rel=1e-6)
    assert loss.total.item() == pytest.approx(tokens + weight * (halting + continuing), rel=1e-6)
    assert [each.requires_grad for each in loss] == [True, False, False, False]


def test_the_gradient_of_the_halting_terms():
    """Of a BCE: sigmoid(logit) - target, times the weight; `continue` has none without a target."""
    for with_target in (False, True):
        one = step(with_target)
        step_loss(LossConfig(halting_weight=0.5), one)[0].total.backward()
        expected = 0.5 * (torch.sigmoid(torch.tensor(HALT)) - torch.tensor([1.0, 0, 0, 1]))
        torch.testing.assert_close(one.output.halt_B.grad, expected)
        if with_target:
            expected = 0.5 * (torch.sigmoid(torch.tensor(CONTINUE)) - torch.tensor(TARGET))
            torch.testing.assert_close(one.output.continue_B.grad, expected)
        else:
            assert one.output.continue_B.grad is None


def test_metrics_by_hand():
    """Sums over the rows that halted and are not empty: rows 0 and 1."""
    loss, metrics = step_loss(LossConfig(), step(True))
    assert metrics["rows"] == 4
    assert metrics["count"] == 2
    assert metrics["accuracy"].item() == pytest.approx(1 + 2 / 3)
    assert metrics["exact_accuracy"] == 1
    assert metrics["halting_accuracy"] == 1  # row 0 is exact and says so; row 1 says so and is not
    assert metrics["steps"] == 3 + 5
    names = {"loss": loss.total, "token_loss": loss.tokens}
    names |= {"halting_loss": loss.halting, "continue_loss": loss.continuing}
    assert all(metrics[name] == value for name, value in names.items())
    assert all(value.dtype == torch.float32 and not value.requires_grad for value in metrics.values())
