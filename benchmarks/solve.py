"""Puzzles per second of ways of solving, against the plain loop over all steps, in one run.

    python benchmarks/solve.py [--model mini] [--data FILE] [--n 500]

The plain loop gives every puzzle all supervision steps, in chunks of the same size. Every row says its
exact accuracy, since speed at a loss of accuracy is none. Without data, puzzles of the model's size are
generated from a fixed seed (they may be equivalent to training puzzles of the bundled weights:
for accuracy to report, give a test file).
"""

from pathlib import Path
from typing import Literal

import torch
import tyro
from flops import matmul_peak, step_flops
from train_step import peak_memory

import trm
from trm.config import Effort
from trm.data import sources
from trm.inference.curve import Point, measure
from trm.puzzles.sudoku.config import SudokuGeneratorConfig


def main(
    model: str = "mini",
    data: Path | None = None,
    n: int = 500,
    depths: tuple[int, ...] = (4, 16),
    chunks: tuple[int, ...] = (64,),
    repeat: int = 3,
    compile: Literal["none", "block"] = "none",
) -> None:
    """Compare ways of solving.

    Args:
        model: Weights, as for `trm solve`.
        data: CSV file of puzzles.
        n: Puzzles.
        depths: Most supervision steps; the bundled model was trained with 4.
        chunks: Rows per batch to try.
        compile: What torch.compile makes one piece of.
        repeat: Times that everything is run; the fastest counts.
    """
    solver = trm.load(model, compile=compile)
    device = solver.model.y_init.device
    if data is not None:
        puzzles = sources.read(str(data), solver.family, n)
    else:
        puzzles = sources.generate(SudokuGeneratorConfig(test=n), solver.family, seed=12345)["test"]
    peak = matmul_peak(device, torch.float32)
    print(f"{device}, {torch.get_num_threads()} threads; matrix product {peak / 1e9:,.0f} GFLOP/s")
    print(f"{'way':<22}{'chunk':>6}{'puzzles/s':>11}{'ratio':>7}{'steps':>7}{'exact %':>9}{'% of peak':>11}")
    ways = {
        f"{name}, {steps}": effort
        for steps in depths
        for name, effort in {
            "all steps": Effort(steps=steps, early_stop=False),
            "stop when settled": Effort(steps=steps),
            "stop when verified": Effort(steps=steps, select="verify"),
        }.items()
    }
    for chunk in chunks:
        solver.chunk = chunk
        plain = 0.0
        # In turns, so that a change in the machine's speed meets every way.
        rounds = [
            {name: measure(solver, puzzles, [way])[0] for name, way in ways.items()} for _ in range(repeat)
        ]
        for name in ways:
            best: Point = max((each[name] for each in rounds), key=lambda point: point.puzzles_per_second)
            if name.startswith("all steps"):
                plain = best.puzzles_per_second
            flops = step_flops(solver.model, training=False) * best.steps * best.puzzles_per_second
            print(
                f"{name:<22}{chunk:>6}{best.puzzles_per_second:>11.1f}{best.puzzles_per_second / plain:>7.2f}"
                f"{best.steps:>7.2f}{100 * best.exact.value:>9.2f}{100 * flops / peak:>11.1f}"
            )
    print(f"peak memory {peak_memory(device):.2f} GiB")


if __name__ == "__main__":
    tyro.cli(main)
