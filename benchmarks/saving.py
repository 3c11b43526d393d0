"""How long training waits for a checkpoint of the paper's size, and what is written.

    python benchmarks/saving.py [--variants 375] [--batch 768] [--saves 3] [--folder FOLDER]

A run of the recipe `arc1-paper` whose table of puzzle embeddings holds random numbers. Steps are left out, as
saving does not depend on them: the run saves at once, as often as asked, by the code of every run. Prints for
each save the seconds that training waits, in all and for each folder that is written, and the bytes in it;
beside them the seconds that the disk takes for as many bytes, written plainly and synced. Two saves are held
on the disk, each of about 4 bytes * 512 * tasks * variants, and as much again for the weights for use.
"""

import os
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import tyro
from rich.console import Console
from torch import nn

from trm import pretrained
from trm.config import OptimizerConfig, parse
from trm.recipe import RunConfig, load_recipe
from trm.training import checkpoint, loop
from trm.training.optim import Optimizer
from trm.training.step import TrainingStep


def filled(config: OptimizerConfig, model: nn.Module, *arguments: Any) -> Optimizer:
    """An optimizer that finds random numbers in the table of puzzle embeddings."""
    table = model.get_parameter("embed.puzzle.weight")
    nn.init.normal_(table.data)
    print(f"table of puzzle embeddings: {list(table.shape)}, {table.nbytes / 1e6:.0f} MB", flush=True)
    return Optimizer(config, model, *arguments)


def size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(file.stat().st_size for file in folder.iterdir())


def plainly(folder: Path, count: int) -> float:
    """Seconds that the disk takes for so many bytes."""
    block, path = os.urandom(2**24), folder / "plain"
    begin = time.perf_counter()
    with path.open("wb") as file:
        for start in range(0, count, len(block)):
            file.write(block[: count - start])
        file.flush()
        os.fsync(file.fileno())
    taken = time.perf_counter() - begin
    path.unlink()
    return taken


@contextmanager
def timed(owner: object, name: str, report: Callable[[float, tuple[Any, ...]], None]) -> Generator[None]:
    """Within the context, report the seconds and the arguments of every call of a function."""
    call = getattr(owner, name)

    def timing(*arguments: Any) -> Any:
        begin = time.perf_counter()
        result = call(*arguments)
        report(time.perf_counter() - begin, arguments)
        return result

    with mock.patch.object(owner, name, timing):
        yield


def main(
    variants: int = 375,
    batch: int = 768,
    saves: int = 3,
    recipe: str = "arc1-paper",
    folder: Path | None = None,
) -> None:
    """Measure.

    Args:
        variants: Variants of every ARC task; each has an embedding.
        batch: Rows in flight, whose states are a part of the checkpoint.
        saves: Saves to time.
        recipe: An ARC recipe, by name or as a YAML file.
        folder: Where to write, on the disk to measure. Default: where temporary files go.
    """
    values = load_recipe(recipe).model_dump()
    values["family"]["variants"] = variants
    values["data"] |= {"hold_out": 0, "hold_out_variants": 0}
    values["train"] |= {"steps": saves, "batch": batch, "log_every": saves, "checkpoint_every": 1}
    values["train"]["loggers"] = ()
    config = parse(RunConfig, values, "benchmark")
    print(f"torch {torch.__version__}, {recipe}, {variants} variants, {batch} rows in flight")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        run = Path(place) / "run"

        def saved(seconds: float, arguments: tuple[Any, ...]) -> None:
            written = size(checkpoint.checkpoint_path(arguments[0], arguments[1]))
            plain = plainly(Path(place), written)
            print(f"checkpoint {seconds:6.1f} s {written / 1e6:8.0f} MB (plainly {plain:.1f} s)", flush=True)

        def exported(seconds: float, arguments: tuple[Any, ...]) -> None:
            print(f"weights    {seconds:6.1f} s {size(arguments[0]) / 1e6:8.0f} MB", flush=True)

        nothing = {"rows": 1.0, "count": 1.0, "loss": 0.0, "exact_accuracy": 0.0}
        with (
            mock.patch.object(loop, "Optimizer", filled),
            mock.patch.object(TrainingStep, "__call__", lambda *_: None),
            mock.patch.object(TrainingStep, "read", lambda _: dict(nothing)),
            timed(checkpoint, "save", saved),
            timed(pretrained, "save", exported),
        ):
            loop.train(config, run, console=Console(quiet=True))


if __name__ == "__main__":
    tyro.cli(main)
