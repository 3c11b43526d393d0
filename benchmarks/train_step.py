"""Time, memory and share of the matrix-product peak of a training step, in several ways of computing it.

    python benchmarks/train_step.py [--device cuda] [--batch 8] [--ways eager compiled] [--only paper-97]

Prints one row per step and way: seconds until it was warm (compilation included), median milliseconds, rows
per second, operations counted from the shapes, the share of the peak that a plain matrix product reaches in
the same run and dtype, peak memory, and below it the three largest costs as the profiler sees them. Every
step is a whole optimizer step: drawing and augmenting the batch, refill, forward, loss, backward, optimizer,
average.

    eager         plain PyTorch
    compiled      a compiled cycle in a CUDA graph; without CUDA, compiled blocks
    kernels       the same with the fused kernels
    kernels-only  the fused kernels in a CUDA graph, nothing compiled
"""

import gc
import resource
import statistics
import sys
import time
import traceback
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import tyro
from flops import matmul_peak, seconds, step_flops, synchronize
from torch import Tensor

from trm import rng
from trm.config import parse
from trm.data.batches import labels
from trm.models import Problem, build
from trm.puzzles.family import Family
from trm.recipe import RunConfig, load_recipe
from trm.training.optim import Ema, Optimizer
from trm.training.step import WARM_UP, TrainingStep
from trm.training.supervision import Batch

Way = Literal["eager", "compiled", "kernels", "kernels-only"]


@dataclass
class Case:
    """A training step to time."""

    name: str
    config: RunConfig
    gpu_batch: int


class Timing(NamedTuple):
    """What was measured: seconds until warm and of a step, operations of a step, memory, largest costs."""

    ready: float
    step: float
    flops: int
    gibibytes: float
    costs: list[str]


def cases() -> list[Case]:
    """The paper's steps (97 and 81 tokens, attention, Maze), the fast recipe's and the bundled model's."""

    def changed(recipe: str, **model: object) -> RunConfig:
        config = load_recipe(recipe)
        return config.model_copy(update={"model": config.model.model_copy(update=model)})

    return [
        Case("paper-97", changed("sudoku-paper"), 768),
        Case("paper-81", changed("sudoku-paper", prefix=0, puzzle_width=0), 768),
        Case("fast-82", changed("sudoku-fast"), 384),
        Case("attention-97", changed("sudoku-paper-attention"), 768),
        Case("maze-916", changed("maze-paper"), 128),
        Case("mini", changed("mini"), 64),
    ]


def settings(way: Way, cuda: bool) -> dict[str, object]:
    """Options of the section `compute` for a way of computing."""
    return {
        "cuda_graph": cuda and way != "eager",
        "compile": "none" if way in ("eager", "kernels-only") else "cycle" if cuda else "block",
        "kernels": "triton" if way.startswith("kernels") else "torch",
    }


def drawing(family: Family, batch: int, device: torch.device):
    """Random boards, drawn and augmented as in training."""
    tokens_NL = torch.randint(2, family.vocab_size, (1000, family.length), device=device)

    def draw(number: Tensor) -> Batch:
        key = rng.fold(rng.stream("benchmark", device), number)
        row_B = rng.fold(key, torch.arange(batch, device=device))
        index_B = rng.randint(row_B, 0, len(tokens_NL))
        tokens_BL = family.symmetry(row_B).apply(tokens_NL[index_B])
        return Batch(tokens_BL, labels(tokens_BL.roll(1, 1)), torch.zeros_like(index_B), index_B)

    return draw


def time_step(case: Case, way: Way, dtype: str, batch: int, device: torch.device, repeat: int) -> Timing:
    """Time `repeat` training steps of a case in a way."""
    torch.manual_seed(0)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    values = case.config.model_dump()
    values["compute"] |= {"dtype": dtype} | settings(way, cuda)
    values["train"]["batch"] = batch
    config = parse(RunConfig, values, "benchmark")
    family = config.family.build()
    graph = config.compute.cuda_graph
    model = build(config.model, Problem(family.vocab_size, family.length), config.compute).to(device).train()
    optimizer = Optimizer(config.optimizer, model, config.train.steps, capturable=graph)
    ema = Ema(config.ema, model, capturable=graph)
    take = TrainingStep(config, model, optimizer, ema, drawing(family, batch, device), graph=graph)
    for number in range(WARM_UP + 1 if graph else 1):
        take(number)
    synchronize(device)
    ready = time.perf_counter() - start
    median = statistics.median(seconds(lambda n=n: take(n), device) for n in range(10, 10 + repeat))
    flops = step_flops(model, training=True) * batch
    return Timing(ready, median, flops, peak_memory(device), largest_costs(take, device))


def largest_costs(take: TrainingStep, device: torch.device) -> list[str]:
    """The three kernels (operators, on a CPU) that take most of a step, with their shares of all."""
    from torch.profiler import ProfilerActivity, profile

    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
        take(1000)
        synchronize(device)
    spent = {
        each.key: each.self_device_time_total if cuda else each.self_cpu_time_total
        for each in profiler.key_averages()
    }
    total = sum(spent.values()) or 1.0
    largest = sorted(spent, key=lambda key: -spent[key])[:3]
    return [f"{100 * spent[key] / total:.0f} % {key[:60]}" for key in largest]


def peak_memory(device: torch.device) -> float:
    """Peak memory so far, in GiB: of the device since its last reset, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**30


def main(
    device: Literal["cpu", "cuda", "mps"] = "cpu",
    dtype: Literal["float32", "bfloat16"] | None = None,
    batch: int | None = None,
    ways: tuple[Way, ...] = (),
    repeat: int | None = None,
    only: tuple[str, ...] = (),
) -> None:
    """Time training steps.

    Args:
        device: Where to compute.
        dtype: Precision of the forward pass. Default: float32 on a CPU, bfloat16 elsewhere.
        batch: Rows. Default: 8 on a CPU (64 for mini, 1 for the maze), the recipe's elsewhere.
        ways: Ways of computing. Default: eager, compiled and kernels on CUDA, else eager.
        repeat: Timed steps. Default: 20 on CUDA, else 5.
        only: Names of steps. Default: all.
    """
    place = torch.device(device)
    on_cuda = device == "cuda"
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    ways = ways or (("eager", "compiled", "kernels") if on_cuda else ("eager",))
    name = torch.cuda.get_device_name() if on_cuda else f"{device}, {torch.get_num_threads()} threads"
    print(f"{name}, {dtype}, torch {torch.__version__}")
    print(
        f"{'step':<14}{'way':<14}{'batch':>6}{'ready s':>9}{'ms':>10}{'rows/s':>9}{'GFLOP/row':>11}"
        f"{'peak TFLOP/s':>14}{'% of peak':>11}{'GiB':>7}"
    )
    failed = False
    for case in cases():
        if only and case.name not in only:
            continue
        rows = batch or (case.gpu_batch if device != "cpu" else {"mini": 64, "maze-916": 1}.get(case.name, 8))
        for way in ways:
            before = matmul_peak(place, getattr(torch, dtype))
            try:
                timing = time_step(case, way, dtype, rows, place, repeat or (20 if on_cuda else 5))
            except Exception:  # one way that fails must not cost the figures of the others
                failed = True
                print(f"{case.name:<14}{way:<14} failed", flush=True)
                traceback.print_exc()
                continue
            finally:
                torch.compiler.reset()
                gc.collect()
                if on_cuda:
                    torch.cuda.empty_cache()
            # The machine's speed drifts: the peak is taken on both sides of the step.
            peak = max(before, matmul_peak(place, getattr(torch, dtype)))
            print(
                f"{case.name:<14}{way:<14}{rows:>6}{timing.ready:>9.1f}{1000 * timing.step:>10.2f}"
                f"{rows / timing.step:>9.1f}{timing.flops / rows / 1e9:>11.2f}{peak / 1e12:>14.3f}"
                f"{100 * timing.flops / timing.step / peak:>11.1f}{timing.gibibytes:>7.2f}"
            )
            print(f"{'':<14}{'; '.join(timing.costs)}", flush=True)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    tyro.cli(main)
