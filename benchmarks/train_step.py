"""Time, memory and share of the matrix-product peak of a training step.

    python benchmarks/train_step.py [--device cuda] [--batch 8] [--repeat 3] [--only paper-97]

Prints one row per step: milliseconds, rows per second, operations counted from the shapes, the share of
the peak that a plain matrix product reaches in the same run and dtype, and peak memory. Every step is a
whole optimizer step: refill, forward, loss, backward, AdamATan2 or Muon, EMA.
"""

import resource
import statistics
import sys
from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from flops import matmul_peak, seconds, step_flops

from trm import rng
from trm.config import EmaConfig, ModelConfig, RunConfig, load_recipe, parse
from trm.losses import step_loss
from trm.models import Problem, build
from trm.optim import Ema, Optimizer
from trm.supervision import Batch, empty_slots, supervise

SUDOKU = Problem(vocab_size=11, length=81)


@dataclass
class Case:
    """A training step to time."""

    name: str
    config: RunConfig
    gpu_batch: int


def cases() -> list[Case]:
    """The paper's steps (97 and 81 tokens, attention), the fast recipe's and the bundled model's."""

    def changed(recipe: str, **model: object) -> RunConfig:
        config = load_recipe(recipe)
        return config.model_copy(update={"model": config.model.model_copy(update=model)})

    return [
        Case("paper-97", changed("sudoku-paper"), 768),
        Case("paper-81", changed("sudoku-paper", prefix=0, puzzle_width=0), 768),
        Case("attention-97", changed("sudoku-paper-attention"), 768),
        Case("fast-82", changed("sudoku-fast"), 384),
        Case("mini", changed("mini"), 64),
    ]


def time_step(case: Case, batch: int, device: torch.device, model_config: ModelConfig, repeat: int) -> dict:
    """Median seconds of a training step, and what it computes."""
    torch.manual_seed(0)
    config = case.config
    problem = Problem(8, 36) if case.name == "mini" else SUDOKU
    model = build(model_config, problem).to(device).train()
    optimizer = Optimizer(config.optimizer, model, config.train.steps)
    ema = Ema(EmaConfig(decay=0.999), model)
    shape = (batch, problem.length)
    offered = Batch(
        torch.randint(1, problem.vocab_size, shape, device=device),
        torch.randint(2, problem.vocab_size, shape, device=device),
        torch.zeros(batch, dtype=torch.long, device=device),
    )
    slots = empty_slots(model, offered)
    key = rng.stream("benchmark", device)

    def step() -> None:
        nonlocal slots
        result = supervise(model, slots, offered, config.supervision, key)
        loss, _ = step_loss(config.loss, result)
        (loss.total / batch).backward()
        optimizer.step(config.optimizer.warmup)
        ema.update(0)
        slots = result.slots

    step()  # allocates, compiles
    times = [seconds(step, device) for _ in range(repeat)]
    return {"seconds": statistics.median(times), "flops": step_flops(model, training=True) * batch}


def peak_memory(device: torch.device) -> float:
    """Peak memory so far, in GiB: of the device, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**30


def main(
    device: Literal["cpu", "cuda", "mps"] = "cpu",
    dtype: Literal["float32", "bfloat16"] | None = None,
    batch: int | None = None,
    compiled: bool = False,
    repeat: int = 3,
    only: tuple[str, ...] = (),
) -> None:
    """Time training steps.

    Args:
        device: Where to compute.
        dtype: Precision of the forward pass. Default: float32 on a CPU, bfloat16 elsewhere.
        batch: Rows. Default: 8 on a CPU (64 for mini), the recipe's elsewhere.
        compiled: Compile the blocks.
        repeat: Timed steps; the median counts.
        only: Names of steps. Default: all.
    """
    place = torch.device(device)
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    peak = matmul_peak(place, getattr(torch, dtype))
    print(f"{device}, {torch.get_num_threads()} threads, {dtype}; matrix product {peak / 1e9:,.0f} GFLOP/s")
    print(f"{'step':<14}{'batch':>6}{'ms':>10}{'rows/s':>9}{'GFLOP/row':>11}{'% of peak':>11}")
    for case in cases():
        if only and case.name not in only:
            continue
        rows = batch or (case.gpu_batch if device != "cpu" or case.name == "mini" else 8)
        values = case.config.model.model_dump() | {"dtype": dtype, "compile": compiled}
        found = time_step(case, rows, place, parse(ModelConfig, values, "benchmark"), repeat)
        took, flops = found["seconds"], found["flops"]
        print(
            f"{case.name:<14}{rows:>6}{1000 * took:>10.1f}{rows / took:>9.2f}{flops / rows / 1e9:>11.1f}"
            f"{100 * flops / took / peak:>11.1f}"
        )
    print(f"peak memory of the whole run {peak_memory(place):.2f} GiB")


if __name__ == "__main__":
    tyro.cli(main)
