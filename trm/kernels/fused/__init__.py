"""The parts of a block as Triton kernels; `plain` holds the same functions to read and to test against.

What the kernels save is traffic: the gated unit's inner activations (3 to 6 times the size of h) and the
transposes of the token mixer never reach memory in a pass without gradient.

With a = silu(g) * u, both gates are one form, as the normed gate only scales each row of it:

    sigmoid(g) * rmsnorm(g * u) = r a,   r = (mean(g^2 u^2) + eps)^-1/2

A scale of rows moves through the product that follows: m = r (a @ down^T). Backward through
y = n t with t = h + m and n = (mean(t^2) + eps)^-1/2:

    dt = n (dy - y mean(dy y))
    da = (r dt) @ down,   c = sum(dt m) = eps n^2 sum(dy y) - sum(dt h),   k = -c r^2 / I
    dg = da u silu'(g) + k g u^2
    du = da silu(g) + k g^2 u

(c reads m = t - h; sum(dt t) is 0 but for eps, so that nothing is lost by y being rounded.) Sums run in
float32 and in a fixed order: with the same sizes of blocks, equal inputs give equal bits. (The sizes are
chosen by trial on the first call.)

Shapes: B batch, S tokens, D width, M = B S rows, I inner width, E = 2 I.
"""

import torch
from torch import Tensor

from trm.errors import UserError
from trm.kernels import Gate, plain
from trm.kernels.fused import channels, tokens
from trm.kernels.fused.common import INTERPRETED


def mix_tokens(h_BSD: Tensor, up_ES: Tensor, down_SI: Tensor, gate: Gate) -> Tensor:
    """The gated unit over tokens, residual and norm over tokens; `plain` above 128 tokens."""
    if h_BSD.shape[1] > tokens.MOST_TOKENS:
        return plain.mix_tokens(h_BSD, up_ES, down_SI, gate)
    _check(h_BSD)
    return tokens.mix(h_BSD, up_ES, down_SI, gate == "normed")[0]


def mix_channels(h_BSD: Tensor, up_ED: Tensor, down_DI: Tensor, gate: Gate) -> Tensor:
    """The gated unit over channels, residual and norm over channels."""
    _check(h_BSD)
    return channels.mix(h_BSD, up_ED, down_DI, gate == "normed", torch.is_grad_enabled())[0]


def add_rms_norm(h_BSD: Tensor, m_BSD: Tensor) -> Tensor:
    """Residual and norm over channels."""
    _check(h_BSD)
    return channels.add_norm(h_BSD, m_BSD)[0]


def _check(h: Tensor) -> None:
    if h.device.type != "cuda" and not INTERPRETED:
        raise UserError(f"kernels triton needs a CUDA device, not {h.device.type}: use torch")
