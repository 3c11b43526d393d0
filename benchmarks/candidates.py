"""A network over Sudoku candidates on one thread of a CPU: time per row of a step, computed in several ways.

    python benchmarks/candidates.py [--repeat 5] [--json]

    axes      means over the axes of a tensor [B, band, row, stack, column, digit, D], plain PyTorch
    compiled  the same, its block compiled by torch.compile; the yardstick of the last column
    plain     means by tables of groups: `plain.candidates`
    blocks    `native.block`
    native    a cycle at once: `native.cycle`

A step is what happens between two halting decisions: T cycles of n latent updates and one answer update.
Training adds the backward pass through the last cycle; embedding, heads, loss and optimizer are left out.
Only matrix products count as operations, backward as twice its forward; what a way computes again in its
backward pass does not count. Times are the best of several, in seconds of the processor, so that other
processes count little; the peak is that of a large matrix product by the same clock in the same run.
"""

import functools
import itertools
import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import tyro
from flops import matmul_peak
from rich.console import Console
from rich.table import Table
from torch import Tensor

from trm.kernels import native, plain

T, N, LAYERS = 3, 6, 2
AXES = ((5,), (3, 4), (1, 2), (2, 4))  # of a cell's digits; of a digit's places in a row, a column, a box
SHAPE = (3, 3, 3, 3, 9)
BATCHES = {"train": (8, 16, 32), "solve": (1, 16, 64)}

Block = Callable[..., Tensor]
Cycle = Callable[..., tuple[Tensor, Tensor]]


@dataclass
class Row:
    """One line of the table."""

    task: str
    batch: int
    way: str
    ms_per_row: float
    gflop_per_row: float
    percent_of_peak: float
    times_compiled: float


def groups() -> Tensor:
    """The relations' tables in the order of AXES."""
    row, column, digit = torch.meshgrid(*[torch.arange(9)] * 3, indexing="ij")
    box = row // 3 * 3 + column // 3
    tables = (row * 9 + column, row * 9 + digit, column * 9 + digit, box * 9 + digit)
    return torch.stack([each.flatten() for each in tables]).int()


def axes_block(h: Tensor, _: Tensor, pool_up: Tensor, pool_down: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """A block whose means run over axes."""
    h = h.unflatten(1, SHAPE)
    pooled = [
        plain.gated(h.mean(axes, keepdim=True), pool_up[r], pool_down[r], "swiglu")
        for r, axes in enumerate(AXES)
    ]
    h = plain.rms_norm(h + sum(pooled))
    return plain.mix_channels(h, up, down, "swiglu").flatten(1, 5)


def by_block(
    block: Block, y: Tensor, z: Tensor, x: Tensor, group: Tensor, blocks: list[list[Tensor]]
) -> tuple[Tensor, Tensor]:
    """A cycle, block by block."""

    def network(h: Tensor) -> Tensor:
        for weights in blocks:
            h = block(h, group, *weights)
        return h

    for _ in range(N):
        z = network(z + (y + x))
    return network(y + z), z


def at_once(
    y: Tensor, z: Tensor, x: Tensor, group: Tensor, blocks: list[list[Tensor]]
) -> tuple[Tensor, Tensor]:
    """A cycle in one native call."""
    return native.cycle(y, z, x, group, *(torch.stack(each) for each in zip(*blocks, strict=True)), n=N)


def step(cycle: Cycle, blocks: list[list[Tensor]], group: Tensor, yzx: list[Tensor], training: bool) -> None:
    """One supervision step, with its backward pass when training."""
    y, z, x = yzx
    for number in range(T):
        with torch.set_grad_enabled(training and number == T - 1):
            y, z = cycle(y, z, x, group, blocks)
    if training:
        torch.autograd.grad(y, [x, *itertools.chain(*blocks)], torch.ones_like(y))


def step_flops(blocks: list[list[Tensor]], group: Tensor, training: bool) -> int:
    """Operations of one step of one row."""
    pooled = sum(int(each.max()) + 1 for each in group)
    once = 0
    for pool_up, pool_down, up, down in blocks:
        once += 2 * pooled * (pool_up[0].numel() + pool_down[0].numel())
        once += 2 * group.shape[1] * (up.numel() + down.numel())
    return once * (T * (N + 1) + (2 * (N + 1) if training else 0))


def processor_seconds(work: Callable[[], object], _: torch.device | None = None) -> float:
    """Time that this process spent on one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main(width: int = 32, pooled: int = 32, inner: int = 64, repeat: int = 5, json_: bool = False) -> None:
    """Time training and solving.

    Args:
        width: Width D of a candidate.
        pooled: Inner width P of the relations' units.
        inner: Inner width I of the channels' unit.
        repeat: Timed steps.
        json_: Print JSON instead of a table.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    group, cpu = groups(), torch.device("cpu")
    R, S = group.shape
    shapes = ((R, 2 * pooled, width), (R, width, pooled), (2 * inner, width), (width, inner))
    blocks = [
        [(torch.randn(shape) * shape[-1] ** -0.5).requires_grad_() for shape in shapes] for _ in range(LAYERS)
    ]
    rows, peak = [], matmul_peak(cpu, torch.float32, processor_seconds)
    for task, batch in [(name, each) for name, batches in BATCHES.items() for each in batches]:
        training = task == "train"
        torch.compiler.reset()
        ways: dict[str, Cycle] = {
            "axes": functools.partial(by_block, axes_block),
            "compiled": functools.partial(by_block, torch.compile(axes_block, dynamic=False)),
            "plain": functools.partial(by_block, plain.candidates),
        }
        if native.available():
            ways |= {"blocks": functools.partial(by_block, native.block), "native": at_once}
        yzx = [torch.randn(batch, S, width) for _ in range(3)]
        yzx[2].requires_grad_(training)
        best = {}
        for turn in range(repeat + 1):  # all ways in turn: the machine's speed drifts
            for way in random.sample(sorted(ways), len(ways)):
                spent = processor_seconds(lambda w=ways[way]: step(w, blocks, group, yzx, training))  # noqa: B023
                if turn > 0:  # the first compiles
                    best[way] = min(spent, best.get(way, spent))
        flops = step_flops(blocks, group, training)
        for way in ways:
            each = best[way] / batch
            rows.append(
                Row(task, batch, way, 1e3 * each, flops / 1e9, flops / each, best["compiled"] / best[way])
            )
    peak = max(peak, matmul_peak(cpu, torch.float32, processor_seconds))
    for row in rows:
        row.percent_of_peak *= 100 / peak
    if json_:
        print(json.dumps({"peak_gflops": peak / 1e9, "rows": [asdict(row) for row in rows]}, indent=2))
        return
    table = Table(title=f"width {width}, one thread, peak {peak / 1e9:.0f} GFLOP/s")
    for name in ("task", "batch", "way", "ms/row", "GFLOP/row", "% of peak", "x compiled"):
        table.add_column(name, justify="left" if name in ("task", "way") else "right")
    for row in rows:
        figures = (f"{row.ms_per_row:.2f}", f"{row.gflop_per_row:.2f}", f"{row.percent_of_peak:.0f}")
        table.add_row(row.task, str(row.batch), row.way, *figures, f"{row.times_compiled:.2f}")
    Console().print(table)


if __name__ == "__main__":
    tyro.cli(main)
