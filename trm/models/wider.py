"""Twice as wide without forgetting: weights that compute the same with doubled channels.

Every channel is there twice (Net2Net, Chen et al., arXiv 1511.05641). A matrix splits each of its columns
between the two copies of its input, unevenly: the sum is the same, and the copies part as soon as they
are trained. The norms have no weights and see the same mean square. So a model that has stopped learning
gets room for more and keeps what it knows.

It holds for models whose channels are all alike, those of candidates and of convolutions; heads of attention
are not.
"""

import torch
from torch import Tensor

_UNEVEN = 0.5  # spread of a split, in standard deviations of the matrix


def widened(weights: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Weights of a model of twice the width and inner width that says the same, a function of the seed."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _wider(name, weight, generator) for name, weight in weights.items()}


def _wider(name: str, weight: Tensor, generator: torch.Generator) -> Tensor:
    if name.endswith("bias"):
        return weight
    if name.endswith("_init"):
        return weight.repeat(2)
    if name.startswith("embed."):  # read times sqrt(width)
        return weight.repeat(1, 2) * 0.5**0.5
    if name.endswith("head.weight") or name.startswith("answer_head."):
        return _split(weight, generator)
    # The rows of the gate and those of the values stay together.
    parts = weight.chunk(2) if name.endswith("up.weight") else (weight,)
    return torch.cat([_split(part, generator) for part in parts for _ in range(2)])


def _split(weight: Tensor, generator: torch.Generator) -> Tensor:
    """The matrix (its columns are dimension 1) for inputs that are there twice."""
    noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype, device="cpu")
    noise = noise.to(weight.device) * weight.std()
    return torch.cat((weight / 2 + _UNEVEN * noise, weight / 2 - _UNEVEN * noise), dim=1)
