"""Time, memory and share of the matrix-product peak of a training step.

    python benchmarks/train_step.py [--device cuda] [--batch 8] [--repeat 5] [--compile] [--only paper-97]

Prints one row per step: milliseconds, rows per second, operations counted from the shapes, the share of
the peak that a plain matrix product reaches in the same run and dtype, and peak memory. Every step is a
whole optimizer step: refill, forward, loss, backward, AdamATan2 or Muon, EMA.
"""

import resource
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


def time_step(
    case: Case, batch: int, device: torch.device, model_config: ModelConfig, repeat: int
) -> tuple[float, int]:
    """Seconds of the fastest of `repeat` training steps, and the operations of one."""
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
    return min(seconds(step, device) for _ in range(repeat)), step_flops(model, training=True) * batch


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
    compile: bool = False,
    repeat: int = 5,
    only: tuple[str, ...] = (),
) -> None:
    """Time training steps.

    Args:
        device: Where to compute.
        dtype: Precision of the forward pass. Default: float32 on a CPU, bfloat16 elsewhere.
        batch: Rows. Default: 8 on a CPU (64 for mini), the recipe's elsewhere.
        compile: Time every step with compiled blocks as well.
        repeat: Timed steps; the fastest counts, as for the peak.
        only: Names of steps. Default: all.
    """
    place = torch.device(device)
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    print(f"{device}, {torch.get_num_threads()} threads, {dtype}")
    print(
        f"{'step':<14}{'blocks':<10}{'batch':>6}{'ms':>10}{'rows/s':>9}{'GFLOP/row':>11}"
        f"{'peak GFLOP/s':>14}{'% of peak':>11}"
    )
    for case in cases():
        if only and case.name not in only:
            continue
        rows = batch or (case.gpu_batch if device != "cpu" or case.name == "mini" else 8)
        for compiled in (False, True) if compile else (False,):
            values = case.config.model.model_dump() | {"dtype": dtype, "compile": compiled}
            before = matmul_peak(place, getattr(torch, dtype))
            took, flops = time_step(case, rows, place, parse(ModelConfig, values, "benchmark"), repeat)
            # The machine's speed drifts: the peak is taken on both sides of the step.
            peak = max(before, matmul_peak(place, getattr(torch, dtype)))
            print(
                f"{case.name:<14}{'compiled' if compiled else 'eager':<10}{rows:>6}{1000 * took:>10.1f}"
                f"{rows / took:>9.2f}{flops / rows / 1e9:>11.1f}{peak / 1e9:>14,.0f}"
                f"{100 * flops / took / peak:>11.1f}"
            )
    print(f"peak memory of the whole run {peak_memory(place):.2f} GiB")


if __name__ == "__main__":
    tyro.cli(main)
