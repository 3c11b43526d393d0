"""The parts of a block in plain PyTorch: what the models compute, and the twins of the fused kernels.

Shapes: see `trm.kernels`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trm.kernels import Gate

EPS = 1e-5


def rms_norm(x: Tensor) -> Tensor:
    """Root-mean-square norm over the last dimension, without weight."""
    return F.rms_norm(x, x.shape[-1:], eps=EPS)


def gated(h: Tensor, up: Tensor, down: Tensor, gate: Gate) -> Tensor:
    """Gated linear unit over the last dimension.

    swiglu: down(silu(g) * u) (Shazeer, arXiv 2002.05202).
    normed: down(sigmoid(g) * rmsnorm(g * u)): the same product, bounded, as Muon's large steps need.
    """
    g, u = F.linear(h, up.to(h.dtype)).chunk(2, dim=-1)
    inner = torch.sigmoid(g) * rms_norm(g * u) if gate == "normed" else F.silu(g) * u
    return F.linear(inner, down.to(h.dtype))


def add_rms_norm(h_BSD: Tensor, m_BSD: Tensor) -> Tensor:
    """Residual and norm over channels."""
    return rms_norm(h_BSD + m_BSD)


def mix_channels(h_BSD: Tensor, up_ED: Tensor, down_DI: Tensor, gate: Gate) -> Tensor:
    """The gated unit over channels, residual and norm over channels."""
    return rms_norm(h_BSD + gated(h_BSD, up_ED, down_DI, gate))


def mix_tokens(h_BSD: Tensor, up_ES: Tensor, down_SI: Tensor, gate: Gate) -> Tensor:
    """The gated unit over tokens, residual and norm over TOKENS, as the original does."""
    h_BDS = h_BSD.transpose(1, 2)
    return rms_norm(h_BDS + gated(h_BDS, up_ES, down_SI, gate)).transpose(1, 2)


def mix_relations(h_BSD: Tensor, group_RS: Tensor, pool_up_RQD: Tensor, pool_down_RDP: Tensor) -> Tensor:
    """Adds what gated units make of the means of a candidate's groups, one per relation; then the norm.

    group_RS numbers the groups of each relation from 0 on; Q = 2 P as in `gated`.
    """
    mixed_BSD = torch.zeros_like(h_BSD)
    for group_S, up_QD, down_DP in zip(group_RS, pool_up_RQD, pool_down_RDP, strict=True):
        count_G = torch.bincount(group_S)
        sum_BGD = h_BSD.new_zeros(len(h_BSD), len(count_G), h_BSD.shape[-1]).index_add(1, group_S, h_BSD)
        pooled_BGD = gated(sum_BGD / count_G[:, None].clamp(min=1).to(h_BSD.dtype), up_QD, down_DP, "swiglu")
        mixed_BSD = mixed_BSD + pooled_BGD[:, group_S]
    return add_rms_norm(h_BSD, mixed_BSD)


def candidates(
    h_BSD: Tensor,
    group_RS: Tensor,
    pool_up_RQD: Tensor,
    pool_down_RDP: Tensor,
    up_ED: Tensor,
    down_DI: Tensor,
) -> Tensor:
    """A block over candidates, the twin of `native.block`."""
    return mix_channels(mix_relations(h_BSD, group_RS, pool_up_RQD, pool_down_RDP), up_ED, down_DI, "swiglu")
