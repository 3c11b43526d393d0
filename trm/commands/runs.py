"""`trm runs` and `trm plot`: what training has left in its folders."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from trm.commands.common import console, dump
from trm.errors import UserError

if TYPE_CHECKING:
    from trm.training.history import Run

_COLOURS = {"running": "green", "finished": "bold", "stopped": "yellow", "unknown": "dim"}


def runs(folder: Positional[Path] = Path("runs"), /, *, json: bool = False) -> int:
    """List the runs in a folder: state, step, best figures.

    A run is running if a process on this machine trains it, finished if all its steps are done and saved, and
    stopped otherwise: then `trm train --resume RUN` continues it. Of a run by an earlier version that wrote
    something in the last minutes nothing is known.

    For example:
      trm runs
      trm runs runs/ablations --json

    Args:
        folder: Where to look, in folders below it, too.
        json: One JSON object per run and line; shares are of 1, times in seconds.
    """
    from trm.training import history

    found: list[Run] = []
    for each in history.find(folder):
        try:
            found.append(history.read(each))
        except UserError as error:  # one that is damaged hides no other
            console(stderr=True).print(f"left out: {error}")
    if json:
        for run in found:
            print(dump(run.as_dict()))
    elif found:
        _print(found)
    else:
        print(f"no runs in {folder}")
    return 0


def plot(
    folders: Positional[list[Path]],
    /,
    *,
    out: Path = Path("curves.svg"),
    against: Literal["steps", "hours"] = "steps",
) -> int:
    """Draw loss and accuracy of one or several runs beside each other.

    The figures are those of metrics.jsonl, so a run that is going on can be drawn as well. Needs matplotlib:
    pip install 'trm[plot]'.

    For example:
      trm plot runs/mini
      trm plot runs/mini runs/wide --out wide.png
      trm plot runs/* --against hours

    Args:
        folders: Runs, a curve in every panel for each.
        out: The file to write, .svg, .png or .pdf.
        against: What runs to the right: optimizer steps, or hours of training.
    """
    from trm.training import history

    if not folders:
        raise UserError("give the folder of a run, or several: trm plot RUN...")
    # Twice the same run is one curve.
    history.plot(list(dict.fromkeys(folders)), out, against)
    print(out)
    return 0


def _print(found: "list[Run]") -> None:
    from rich.table import Table

    table = Table("run", "state", box=None, pad_edge=False)
    for name in ("step", "loss", "best exact [95 %]", "cells", "n", "at step", "trained", "changed"):
        table.add_column(name, justify="right")
    for run in found:
        best = run.best
        figures = ["-", "-", "-", "-"]
        if best is not None:
            exact = f"{100 * best.exact:.2f} % [{100 * best.low:.2f}, {100 * best.high:.2f}]"
            figures = [exact, f"{100 * best.cells:.2f} %", str(best.n), f"{best.step:,}"]
        table.add_row(
            run.folder,
            f"[{_COLOURS[run.state]}]{run.state}[/]",
            f"{run.step:,} of {run.steps:,}",
            "-" if run.loss is None else f"{run.loss:.3f}",
            *figures,
            _duration(run.seconds),
            f"{_duration(run.changed)} ago",
        )
    screen = console()
    # A table that is cut to the width of a pipe helps nobody.
    if not screen.is_terminal:
        screen.width = 300
    screen.print(table)


def _duration(seconds: float) -> str:
    """A time to one or two digits of the largest unit that fits."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
