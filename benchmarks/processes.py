"""Runs by several processes of this machine against the run by one: what they end with, and their speed.

    python benchmarks/processes.py same [--steps 40] [--batch 16] [--only mini arc muon]
    python benchmarks/processes.py speed [--rounds 5]

`same` trains `mini` from its bundled weights, the same with Muon, and `arc-mini`, which has puzzle embeddings
and starts from nothing, by 1, 2 and 4 processes and by 2, then 1, then 4. It compares them with the run by
one: the largest difference of a logged loss and of a final weight, and accuracy on validation puzzles.
"nudged" is the run by one, begun with every weight moved by one unit in the last place: what a run owes to
rounding alone.

`speed` times steps of `mini` by 1, 2 and 4 processes, one after the other and over again, so that whatever
else the machine does slows all of them; ratios are taken within a round.
"""

import json
import os
import socket
import statistics
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest import mock

import torch
import tyro
from safetensors.torch import load_file
from torch import nn

from trm.config import OptimizerConfig, parse
from trm.recipe import RunConfig, load_recipe
from trm.training import loop
from trm.training.optim import Optimizer

Name = Literal["mini", "arc", "muon"]
Dtype = Literal["float32", "float64"]
DATA = {"generate": {"train": 500, "validation": 100, "test": 0}}
CASES: dict[Name, tuple[str, Mapping[str, Any]]] = {
    "mini": ("mini", {"data": DATA, "train": {"start_from": "mini"}}),
    "muon": ("mini", {"data": DATA, "train": {"start_from": "mini"}, "optimizer": {"name": "muon"}}),
    "arc": ("arc-mini", {"train": {"eval_puzzles": 100}}),
}


class Leg(NamedTuple):
    """A part of a run: by how many processes, up to which step, and on how many threads each."""

    count: int
    end: int
    threads: int = 1


def settings(name: Name, dtype: Dtype, **train: object) -> RunConfig:
    """The recipe of a case with its changes."""
    recipe, changes = CASES[name]
    values = load_recipe(recipe).model_dump()
    for section, options in {**changes, "compute": {"dtype": dtype}}.items():
        values[section] |= options
    if dtype == "float64":
        values["loss"]["tokens"] = "stablemax64"
    values["train"] |= {**changes.get("train", {}), **train, "loggers": ()}
    return parse(RunConfig, values, "benchmark")


def run(config: RunConfig, folder: Path, legs: list[Leg], nudge: bool = False) -> None:
    """Train by forks of this process, which spares them the imports."""
    for leg in legs:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        resumed = (folder / "config.yaml").exists()
        children = []
        for rank in range(leg.count):
            if child := os.fork():
                children.append(child)
                continue
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": leg.count, "LOCAL_WORLD_SIZE": leg.count}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "benchmark"}
            os.environ |= {name: str(value) for name, value in place.items()}
            code = 1
            try:
                work(None if resumed else config, folder, leg, nudge)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        codes = [os.waitpid(child, 0)[1] for child in children]
        if any(codes):
            raise SystemExit("a process failed; see above")


def work(config: RunConfig | None, folder: Path, leg: Leg, nudge: bool) -> None:
    """What each process does."""
    torch.set_num_threads(leg.threads)
    compute = (config or loop.load_config(folder / "config.yaml")).compute
    torch.set_default_dtype(getattr(torch, compute.dtype))  # of the weights, too
    if nudge:
        mock.patch.object(loop, "Optimizer", nudged).start()
    loop.train(config, folder, leg.end)


def nudged(config: OptimizerConfig, model: nn.Module, *arguments: Any) -> Optimizer:
    """An optimizer that finds all weights one unit in the last place larger."""
    for weight in model.parameters():
        weight.data = torch.nextafter(weight.data, torch.full_like(weight.data, torch.inf))
    return Optimizer(config, model, *arguments)


def figures(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of one kind that a run has logged."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def same(
    steps: int = 40,
    batch: int = 16,
    only: tuple[Name, ...] = ("mini", "arc", "muon"),
    dtypes: tuple[Dtype, ...] = ("float32", "float64"),
) -> None:
    """Compare what runs by several processes end with.

    Args:
        steps: Optimizer steps; a multiple of 4.
        batch: Rows of a step, of all processes.
        only: Cases.
        dtypes: Of the weights and of what is computed.
    """
    ways = {
        "1": [Leg(1, steps)],
        "1, nudged": [Leg(1, steps)],
        "2": [Leg(2, steps)],
        "4": [Leg(4, steps)],
        "2, 1, 4": [Leg(2, steps // 4), Leg(1, steps // 2), Leg(4, steps)],
    }
    train = {"steps": steps, "batch": batch, "log_every": steps // 4, "eval_every": steps}
    train |= {"checkpoint_every": steps}
    print(f"torch {torch.__version__}, {steps} steps of {batch} rows, seed 0")
    print("| run | dtype | processes | loss | loss, difference | weights, difference | exact | cells |")
    print("|---|---|---|---|---|---|---|---|")
    for name in only:
        for dtype in dtypes:
            first: tuple[list[float], dict[str, torch.Tensor]] | None = None
            for way, legs in ways.items():
                with tempfile.TemporaryDirectory() as place:
                    folder = Path(place) / "run"
                    run(settings(name, dtype, **train), folder, legs, "nudged" in way)
                    losses = [line["loss"] for line in figures(folder, "train")]
                    (judged,) = figures(folder, "eval")
                    weights = load_file(folder / "last" / "model.safetensors")
                first = first or (losses, weights)
                apart = max(abs(a - b) for a, b in zip(losses, first[0], strict=True))
                further = max((weights[key] - other).abs().max().item() for key, other in first[1].items())
                print(
                    f"| {name} | {dtype} | {way} | {losses[-1]:.7f} | {apart:.1e} | {further:.1e} | "
                    f"{judged['exact_accuracy']:.2f} | {judged['cell_accuracy']:.4f} |",
                    flush=True,
                )


def speed(rounds: int = 5, steps: int = 20, batch: int = 64) -> None:
    """Compare how fast runs are.

    Args:
        rounds: Rounds.
        steps: Timed steps; as many before them are not timed.
        batch: Rows of a step, of all processes.
    """
    ways = {
        "1 process, 1 thread": Leg(1, 2 * steps),
        "1 process, 2 threads": Leg(1, 2 * steps, 2),
        "2 processes, 1 thread": Leg(2, 2 * steps),
        "4 processes, 1 thread": Leg(4, 2 * steps),
    }
    train = {"steps": 1000, "batch": batch, "log_every": steps, "eval_every": 1000, "checkpoint_every": 1000}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, leg in ways.items():
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place) / "run"
                run(settings("mini", "float32", **train), folder, [leg])
                start, end = (line["seconds"] for line in figures(folder, "train"))
            taken[way].append((end - start) / steps)
    base = taken["1 process, 2 threads"]
    print(f"torch {torch.__version__}, mini, {batch} rows a step, {steps} steps, n = {rounds} rounds")
    print("| | rows/s (median) | of 1 process with 2 threads (median, least, most) |")
    print("|---|---|---|")
    for way, seconds in taken.items():
        ratios = [b / s for b, s in zip(base, seconds, strict=True)]
        print(
            f"| {way} | {batch / statistics.median(seconds):.0f} | {statistics.median(ratios):.2f}, "
            f"{min(ratios):.2f}, {max(ratios):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)  # forks must not find others at work
    tyro.extras.subcommand_cli_from_dict({"same": same, "speed": speed})
