"""Counter-based random numbers: a pure function of a key, the same on every device.

There is no generator state to save, and nothing depends on batch size or order: a number is the hash
of its key and its index. The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014, "Fast
splittable pseudorandom number generators") in wrapping int64 arithmetic, which CPU, CUDA and MPS share
bit for bit (normals go through log and cos, and agree to rounding).

Shapes: B keys, N numbers per key.
"""

import math
import zlib

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MUL_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MUL_2 = 0x94D049BB133111EB - (1 << 64)


def _shift(x: Tensor, k: int) -> Tensor:
    """Logical right shift of int64 (torch's >> keeps the sign)."""
    return (x >> k) & ((1 << (64 - k)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MUL_1
    x = (x ^ _shift(x, 27)) * _MUL_2
    return x ^ _shift(x, 31)


def stream(name: str, device: torch.device | str = "cpu") -> Tensor:
    """Root key of a named stream of random numbers, an int64 scalar."""
    # Filled on the device: copying a number there would wait for it.
    return _mix(torch.full((), zlib.crc32(name.encode()), dtype=torch.int64, device=device))


def fold(key: Tensor, value: int | Tensor) -> Tensor:
    """A new key from a key and a number: a seed, a step, a row; broadcasts over tensors."""
    return _mix(key * 3 + value + _GOLDEN)


def rows(key: Tensor, numbers: range) -> Tensor:
    """A key for each of these rows of a batch; a process that has some of the rows gets the same for them."""
    return fold(key, torch.arange(numbers.start, numbers.stop, device=key.device))


def of_rows(key: Tensor, value_BL: Tensor) -> Tensor:
    """A key for every row, from all its values: a sum of hashes of each at its place; int64 [B]."""
    place_L = torch.arange(value_BL.shape[1], device=value_BL.device)
    return fold(key, fold(fold(key, place_L), value_BL).sum(1))


def bits(key_B: Tensor, n: int) -> Tensor:
    """Random int64 of shape [*B, n]."""
    counter_N = torch.arange(1, n + 1, dtype=torch.int64, device=key_B.device)
    return _mix(key_B.unsqueeze(-1) + counter_N * _GOLDEN)


def uniform(key_B: Tensor, n: int) -> Tensor:
    """Uniform float32 in [0, 1) of shape [*B, n], multiples of 2^-24."""
    return _shift(bits(key_B, n), 40).float() * 2**-24


def normal(key_B: Tensor, n: int) -> Tensor:
    """Standard normal float32 of shape [*B, n] (Box-Muller)."""
    # 64 random bits make two uniforms, and these make two normals.
    bits_BM = bits(key_B, (n + 1) // 2)
    radius_BM = (-2 * torch.log1p(_shift(bits_BM, 40).float() * -(2**-24))).sqrt()
    angle_BM = (_shift(bits_BM, 16) & 0xFFFFFF).float() * (2 * math.pi * 2**-24)
    return torch.cat((radius_BM * angle_BM.cos(), radius_BM * angle_BM.sin()), dim=-1)[..., :n]


def randint(key_B: Tensor, low: int, high: int | Tensor) -> Tensor:
    """One uniform int64 in [low, high) per key; the bias is below (high - low) / 2^31."""
    return low + _shift(bits(key_B, 1).squeeze(-1), 33) % (high - low)


def permutation(key_B: Tensor, n: int) -> Tensor:
    """Uniform permutations of 0..n-1, int64 of shape [*B, n]."""
    return bits(key_B, n).argsort(dim=-1, stable=True)
