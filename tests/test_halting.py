"""Halting heads: the first position as in the original, and all of them as a product of probabilities."""

import pytest
import torch
from torch import Tensor, nn

from trm.config import ComputeConfig, ModelConfig
from trm.models import Problem, build
from trm.models.halting import EveryPosition, FirstPosition

WIDTH = 6


def drawn(head: nn.Linear, std: float = 0.5) -> nn.Linear:
    torch.manual_seed(0)
    nn.init.normal_(head.weight, std=std)
    return head


def product(head: nn.Linear, y_BSD: Tensor) -> Tensor:
    """The logit of the product of all probabilities, as it is said, in float64."""
    p_BS2 = torch.sigmoid(y_BSD.double() @ head.weight.double().T + head.bias.double())
    p_B2 = p_BS2.prod(1)
    return torch.log(p_B2 / (1 - p_B2))


# The first position


def test_the_first_position_alone_counts():
    head = drawn(FirstPosition(WIDTH, 5))
    y_BSD = torch.randn(3, 5, WIDTH)
    logits_B2 = head(y_BSD)
    assert logits_B2.shape == (3, 2)
    torch.testing.assert_close(logits_B2, y_BSD[:, 0] @ head.weight.T + head.bias)
    other_BSD = torch.cat((y_BSD[:, :1], torch.randn(3, 4, WIDTH)), 1)
    assert torch.equal(head(other_BSD), logits_B2)


def test_the_first_position_starts_at_minus_five():
    head = FirstPosition(WIDTH, 900)
    assert head.weight.shape == (2, WIDTH) and (head.weight == 0).all() and (head.bias == -5).all()
    assert (head(torch.randn(3, 7, WIDTH)) == -5).all()


# Every position


@pytest.mark.parametrize("positions", [1, 2, 16, 1000])
def test_every_position_is_the_product_of_probabilities(positions: int):
    head = drawn(EveryPosition(WIDTH, positions))
    # From almost surely right to surely wrong, without leaving what float64 can multiply.
    spread_B11 = torch.tensor([0.0, 0.1, 0.3, 1.0]).view(-1, 1, 1)
    y_BSD = spread_B11 * torch.randn(4, positions, WIDTH)
    expected_B2 = product(head, y_BSD)
    assert expected_B2.isfinite().all()
    torch.testing.assert_close(head(y_BSD).double(), expected_B2, rtol=1e-4, atol=1e-4)


def test_a_right_answer_may_be_almost_certain():
    head = EveryPosition(WIDTH, 900)
    nn.init.constant_(head.bias, 18.0)
    logits_B2 = head(torch.zeros(1, 900, WIDTH))
    torch.testing.assert_close(
        logits_B2.double(), product(head, torch.zeros(1, 900, WIDTH)), rtol=1e-3, atol=1e-3
    )
    nn.init.constant_(head.bias, 1e6)
    assert 13 < head(torch.zeros(1, 900, WIDTH)).max() < 15, "as sure as float32 can be, and finite"


@pytest.mark.parametrize("positions", [1, 4, 16, 64, 729, 900, 15_625])
def test_every_position_starts_where_the_first_does(positions: int):
    """A logit of -5, whatever the number of positions."""
    head = EveryPosition(WIDTH, positions)
    assert (head.weight == 0).all()
    logits_B2 = head(torch.randn(2, positions, WIDTH))
    torch.testing.assert_close(logits_B2, torch.full((2, 2), -5.0), rtol=0, atol=1e-2)


def test_one_wrong_position_in_900_shows():
    head = EveryPosition(1, 900)
    with torch.no_grad():
        head.weight.fill_(1)
        head.bias.fill_(0)
    y_BSD = torch.full((2, 900, 1), 12.0)
    y_BSD[1, 417] = -3
    (right, wrong), _ = head(y_BSD).T
    assert right > 4 and wrong < -2.9
    # The mean of y, which a head over pooled positions would read, is almost the same.
    assert y_BSD[1].mean() > 11.9


def test_the_order_of_positions_is_nothing_to_it():
    head = drawn(EveryPosition(WIDTH, 50))
    y_BSD = torch.randn(3, 50, WIDTH)
    torch.testing.assert_close(head(y_BSD[:, torch.randperm(50)]), head(y_BSD))


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e2, 1e4, -1e4])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_gradients_stay_finite(scale: float, target: float):
    head = drawn(EveryPosition(WIDTH, 900))
    y_BSD = (scale * torch.rand(2, 900, WIDTH)).requires_grad_()
    logits_B2 = head(y_BSD)
    assert logits_B2.isfinite().all()
    nn.functional.binary_cross_entropy_with_logits(logits_B2, torch.full((2, 2), target)).backward()
    assert all(g.isfinite().all() for g in (y_BSD.grad, head.weight.grad, head.bias.grad))


def test_what_is_surely_wrong_can_still_be_learned():
    """A product of 900 small probabilities is 0 in float32, but its logarithm has a slope everywhere."""
    head = drawn(EveryPosition(WIDTH, 900))
    y_BSD = (-100 * torch.rand(1, 900, WIDTH)).requires_grad_()
    head(y_BSD).sum().backward()
    assert (y_BSD.grad.abs().sum(-1) > 0).all() and head.bias.grad.abs().min() > 0


@pytest.mark.parametrize("halting", ["first", "every"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_in_a_model(halting: str, dtype: str):
    """The head reads the y that the step returns; what it says is float32, and starts at -5."""
    torch.manual_seed(0)
    config = ModelConfig(width=8, heads=2, layers=1, inner=8, T=1, n=1, prefix=2, halting=halting)
    model = build(config, Problem(7, 6), ComputeConfig(dtype=dtype))
    tokens_BL, ids_B = torch.arange(18).view(3, 6) % 7, torch.zeros(3, dtype=torch.int64)
    _, out = model(tokens_BL, ids_B, model.initial_state(3))
    assert out.halt_B.dtype == out.continue_B.dtype == torch.float32
    near = 0.05 if dtype == "bfloat16" else 1e-2
    torch.testing.assert_close(out.halt_B, torch.full((3,), -5.0), rtol=0, atol=near)
    drawn(model.halting_head)
    state, out = model(tokens_BL, ids_B, model.initial_state(3))
    said_B2 = torch.stack((out.halt_B, out.continue_B), 1)
    y_BSD = state.y_BSD.double()
    w, b = model.halting_head.weight.double(), model.halting_head.bias.double()
    expected_B2 = product(model.halting_head, y_BSD) if halting == "every" else y_BSD[:, 0] @ w.T + b
    rounding = 0.1 if dtype == "bfloat16" else 1e-4
    torch.testing.assert_close(said_B2.double(), expected_B2, rtol=rounding, atol=rounding)
