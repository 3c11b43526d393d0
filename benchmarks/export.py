"""Puzzles per second of an exported model, of PyTorch and of PyTorch compiled, in one run.

    python benchmarks/export.py [--model mini] [--n 256] [--batch 64]

Every way thinks about the same puzzles for all steps, in batches of one size; the ways take turns, and the
best of the turns counts. Set OMP_NUM_THREADS to give all of them as many threads.
"""

import functools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import tyro

from trm import export, pretrained
from trm.config import ComputeConfig
from trm.data.sources import generate
from trm.inference.think import never, think
from trm.models import RecursiveModel, build, load_weights


def main(model: str = "mini", n: int = 256, batch: int = 64, turns: int = 3) -> None:
    """Time the ways.

    Args:
        model: Weights, as for `trm export`.
        n: Puzzles, generated from a fixed seed.
        batch: Puzzles at a time.
        turns: Times that every way is measured.
    """
    found = pretrained.load(model, ComputeConfig(device="cpu", kernels="torch"))
    generator = found.config.family.data().generator()
    assert generator is not None
    puzzles = generate(generator.model_copy(update={"test": n}), found.family, seed=12345)["test"]
    tokens_NL, steps = puzzles.tokens_NL, found.config.steps
    print(f"{model}: {n} puzzles, {steps} steps each, batches of {batch}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "PyTorch": functools.partial(by_torch, found.model, steps),
            "PyTorch, compiled": functools.partial(by_torch, compiled(found), steps),
            "ONNX Runtime": by_runtime(found, Path(folder) / "out", steps),
        }
        best = dict.fromkeys(ways, 0.0)
        answers: dict[str, np.ndarray] = {}
        for turn in range(turns + 1):
            for name, way in ways.items():
                part = tokens_NL if turn else tokens_NL[:batch]  # the first turn is to warm up
                begun = time.perf_counter()
                got = np.concatenate([way(part[i : i + batch]) for i in range(0, len(part), batch)])
                if turn:
                    best[name] = max(best[name], n / (time.perf_counter() - begun))
                    answers[name] = got
    for name, speed in best.items():
        alike = (answers[name] == answers["PyTorch"]).all(1).sum()
        print(f"{name:<18}{speed:8.1f} puzzles/s, {alike} of {n} answers as PyTorch's")


def compiled(found: pretrained.Pretrained) -> RecursiveModel:
    """The same model with compiled blocks."""
    compute = ComputeConfig(device="cpu", kernels="torch", compile="block")
    made = build(found.model.config, found.model.problem, compute)
    load_weights(made, found.model.state_dict(), "the compiled model")
    return made.eval()


def by_torch(model: RecursiveModel, steps: int, tokens_NL: np.ndarray) -> np.ndarray:
    """Answers after all steps."""
    tokens_BL = torch.from_numpy(tokens_NL).long()
    *_, last = think(model, tokens_BL, torch.zeros(len(tokens_BL), dtype=torch.long), steps, never)
    return last.answer_AL.numpy()


def by_runtime(found: pretrained.Pretrained, folder: Path, steps: int) -> Callable[[np.ndarray], np.ndarray]:
    """The way of the exported graph of a step."""
    export.export(found, folder, export.example_puzzles(found, 2))
    about = json.loads((folder / export.MODEL).read_text(encoding="utf-8"))
    runner = export.Runner(folder, about)

    def solve(tokens_NL: np.ndarray) -> np.ndarray:
        values: dict[str, np.ndarray] = {"tokens": tokens_NL.astype(np.int64).reshape(-1, *about["cells"])}
        for name, start in about["start"].items():
            values[name] = np.tile(np.array(start, np.float32), (len(tokens_NL), *about["positions"], 1))
        for _ in range(steps):
            values = runner.call(["step"], values)
        return values["logits"].argmax(-1)

    return solve


if __name__ == "__main__":
    tyro.cli(main)
