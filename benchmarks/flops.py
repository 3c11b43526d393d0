"""Floating-point operations counted from shapes, and the matrix-product peak of the machine.

Only matrix products count (2 operations per multiply-add): projections, token mixing, attention. A
training step runs the networks T * (n + 1) times forward and goes back through the graded updates, each
at twice the cost of its forward. Embeddings and heads are below 1 % and left out.
"""

import time
from collections.abc import Callable

import torch

from trm.models import RecursiveModel
from trm.models.layers import Attention, Block, Network

Clock = Callable[[Callable[[], object], torch.device], float]


def network_flops(network: Network, tokens: int) -> int:
    """Operations of one application of a network to one row."""
    total = 0
    for block in network.blocks:
        assert isinstance(block, Block)
        width = block.mlp.down.out_features
        total += 2 * tokens * weights(block.mlp)
        if isinstance(block.mix, Attention):
            total += 2 * tokens * weights(block.mix) + 4 * tokens**2 * width
        else:  # the token mixer's products run once per channel
            total += 2 * width * weights(block.mix)
    return total


def weights(module: torch.nn.Module) -> int:
    """Parameters of a module."""
    return sum(p.numel() for p in module.parameters())


def step_flops(model: RecursiveModel, training: bool) -> int:
    """Operations of one supervision step for one row, with the backward pass when training."""
    forward, graded = model.applications()
    total = sum(network_flops(network, model.seq_len) for network in forward)
    if training:
        total += 2 * sum(network_flops(network, model.seq_len) for network in graded)
    return total


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time of one call, with the device idle before and after; on CUDA by the device's own clock."""
    synchronize(device)
    if device.type == "cuda":
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        work()
        after.record()
        synchronize(device)
        return before.elapsed_time(after) / 1000
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def matmul_peak(device: torch.device, dtype: torch.dtype, clock: Clock = seconds) -> float:
    """Best measured operations per second of a square matrix product."""
    best = 0.0
    for size in (1024, 2048, 4096) if device.type == "cpu" else (4096, 8192):
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        for _ in range(5):
            best = max(best, 2 * size**3 / clock(lambda x=a, y=b: x @ y, device))
    return best


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()
