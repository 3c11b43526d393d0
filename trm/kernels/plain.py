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
