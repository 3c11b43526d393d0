"""Layers of the recursive networks: post-norm blocks of token mixing and a gated unit.

    h = rmsnorm(h + mix(h))        mix: self-attention, or an MLP over the tokens
    h = rmsnorm(h + gated(h))

The norm has no weight and eps 1e-5. In the token mixer it runs over TOKENS, not channels: the original
transposes the tensor there, and its weights only fit that reading.

Weights are float32 and are cast to the dtype of their input, so a bfloat16 forward keeps float32
master weights.

Shapes: B batch, S tokens (prefix and puzzle), D width, H heads, K head width, I inner width.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trm.kernels import Gate, Kernels, plain


def trunc_normal_(tensor: Tensor, std: float) -> Tensor:
    """Fill with a normal cut at two sigma, widened so that the cut distribution has the given std."""
    # Variance of a standard normal cut at +-2: 1 - 2 * 2 * pdf(2) / P(|x| < 2).
    cut = 1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2))
    wide = std / math.sqrt(cut)
    return nn.init.trunc_normal_(tensor, std=wide, a=-2 * wide, b=2 * wide)


class Linear(nn.Linear):
    """Linear layer with LeCun truncated-normal weights, cast to the dtype of its input."""

    def reset_parameters(self) -> None:
        trunc_normal_(self.weight, std=self.in_features**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.weight.to(input.dtype), bias)


class Rope(nn.Module):
    """Rotary position embedding in the half-split form (Su et al., arXiv 2104.09864)."""

    def __init__(self, head_width: int, tokens: int, base: float = 10_000.0):
        super().__init__()
        frequency_K = base ** (-torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
        angle_SK = torch.outer(torch.arange(tokens, dtype=torch.float32), frequency_K).repeat(1, 2)
        self.register_buffer("cos_SK", angle_SK.cos(), persistent=False)
        self.register_buffer("sin_SK", angle_SK.sin(), persistent=False)

    def forward(self, x_BHSK: Tensor) -> Tensor:
        a, b = x_BHSK.chunk(2, dim=-1)
        # The tables are float32, so a bfloat16 x is rotated in float32.
        rotated = x_BHSK * self.cos_SK + torch.cat((-b, a), dim=-1) * self.sin_SK
        return rotated.to(x_BHSK.dtype)


class Attention(nn.Module):
    """Bidirectional multi-head self-attention without bias; `rope` may be None."""

    def __init__(self, width: int, heads: int, head_width: int, rope: Rope | None):
        super().__init__()
        self.heads = heads
        self.rope = rope
        self.qkv = Linear(width, 3 * heads * head_width, bias=False)
        self.out = Linear(heads * head_width, width, bias=False)

    def forward(self, h_BSD: Tensor) -> Tensor:
        qkv = self.qkv(h_BSD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q_BHSK, k_BHSK, v_BHSK = qkv.unbind(0)
        if self.rope is not None:
            q_BHSK, k_BHSK = self.rope(q_BHSK), self.rope(k_BHSK)
        a_BHSK = F.scaled_dot_product_attention(q_BHSK, k_BHSK, v_BHSK)
        return self.out(a_BHSK.transpose(1, 2).flatten(-2))


def inner_width(width: int, expansion: float) -> int:
    """I, the inner width of a gated unit: 2/3 of expansion x width, rounded up to 256s."""
    return math.ceil(round(expansion * width * 2 / 3) / 256) * 256


class GatedUnit(nn.Module):
    """Gated linear unit over the last dimension: see `kernels.plain.gated`.

    In a block its weights go to the kernel that also adds the residual and norms.
    """

    def __init__(self, width: int, inner: int, gate: Gate):
        super().__init__()
        self.gate: Gate = gate
        self.up = Linear(width, 2 * inner, bias=False)
        self.down = Linear(inner, width, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        return plain.gated(h, self.up.weight, self.down.weight, self.gate)


class Block(nn.Module):
    """Token mixing, then the gated unit over channels, each followed by its norm."""

    def __init__(self, width: int, inner: int, gate: Gate, mix: nn.Module, kernels: Kernels):
        super().__init__()
        self.mix = mix
        self.mlp = GatedUnit(width, inner, gate)
        self.kernels = kernels

    def forward(self, h_BSD: Tensor) -> Tensor:
        mix, mlp = self.mix, self.mlp
        if isinstance(mix, GatedUnit):
            h_BSD = self.kernels.mix_tokens(h_BSD, mix.up.weight, mix.down.weight, mix.gate)
        else:
            h_BSD = self.kernels.add_rms_norm(h_BSD, mix(h_BSD))
        return self.kernels.mix_channels(h_BSD, mlp.up.weight, mlp.down.weight, mlp.gate)


class Network(nn.Module):
    """A stack of blocks."""

    def __init__(self, blocks: Sequence[nn.Module]):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, h_BSD: Tensor) -> Tensor:
        for block in self.blocks:
            h_BSD = block(h_BSD)
        return h_BSD
