"""What the folders of runs tell without loading anything: how far each has come, its figures, its curves.

A run is known by its `config.yaml` with what training has written beside it. Whether it is running is asked
of the lock that its process holds, not guessed from dates; a run of an earlier version, which held none, may
be running if it has changed lately, and is called unknown then.
"""

import io
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trm.errors import UserError
from trm.files import full_disk_is_a_user_error, is_held, read_json, read_yaml, write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOCK = "run.lock"
_MARKS = (LOCK, "metrics.jsonl", "checkpoints", "data.json")
_LATELY = 900.0  # seconds
FORMATS = (".svg", ".png", ".pdf")

Line = Mapping[str, Any]
State = Literal["running", "finished", "stopped", "unknown"]


@dataclass(frozen=True)
class Best:
    """The best evaluation of a run: exact accuracy first, cells between equals. Shares are of 1."""

    step: int
    exact: float
    low: float
    high: float
    """95 % interval."""
    cells: float
    n: int
    """Validation puzzles."""


@dataclass(frozen=True)
class Run:
    """How a run stands."""

    folder: str
    name: str
    state: State
    """finished: all its steps are done and saved; stopped: `trm train --resume` can continue it."""
    step: int
    """The last step that was logged or saved."""
    saved: int
    """The step from which it would go on; 0 where nothing was saved."""
    steps: int
    seconds: float
    """Training time up to the last line of its metrics."""
    changed: float
    """Seconds since it last wrote figures or a checkpoint."""
    loss: float | None
    best: Best | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / "config.yaml").is_file() and any((folder / mark).exists() for mark in _MARKS)


def find(folder: Path) -> list[Path]:
    """The runs in a folder and the folders below it, sorted; the folder itself, where it is a run.

    Raises UserError where there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    found = []
    for place, below, _ in os.walk(folder):
        if is_run(Path(place)):
            found.append(Path(place))
            below.clear()
        below[:] = sorted(name for name in below if not name.startswith("."))
    return sorted(found)


def lines(folder: Path) -> list[Line]:
    """The lines of a run's metrics, oldest first; one that is being written or was cut short is left out."""
    try:
        text = (folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return list(_whole(text))


def _whole(text: str) -> Iterator[Line]:
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int) and "kind" in values:
            yield values


def read(folder: Path) -> Run:
    """How the run in a folder stands; UserError where there is none, or its configuration is damaged."""
    if not is_run(folder):
        raise UserError(f"{folder} holds no run: expected config.yaml and metrics.jsonl")
    try:
        config = read_yaml(folder / "config.yaml")
        name, steps = str(config["name"]), int(config["train"]["steps"])
    except (UserError, ValueError, TypeError, KeyError):
        raise UserError(
            f"{folder / 'config.yaml'} is damaged: it does not say the run's name and length"
        ) from None
    found = lines(folder)
    trained = [line for line in found if line["kind"] == "train"]
    saved = _saved(folder)
    newest = max(
        path.stat().st_mtime
        for path in (folder / "config.yaml", folder / "metrics.jsonl", folder / "last")
        if path.exists()
    )
    changed = max(0.0, time.time() - newest)  # the clock may have been put back
    return Run(
        folder=str(folder),
        name=name,
        state=_state(folder, saved >= steps, changed),
        step=max([saved, *(int(line["step"]) for line in found)]),
        saved=saved,
        steps=steps,
        seconds=max((float(line.get("seconds", 0)) for line in found), default=0.0),
        changed=changed,
        loss=trained[-1].get("loss") if trained else None,
        best=_best([line for line in found if line["kind"] == "eval"]),
    )


def _state(folder: Path, done: bool, changed: float) -> State:
    if is_held(folder / LOCK):
        return "running"
    if done:
        return "finished"
    return "unknown" if not (folder / LOCK).exists() and changed < _LATELY else "stopped"


def _saved(folder: Path) -> int:
    """Step of the newest weights for use, which are written with every checkpoint."""
    try:
        return int(read_json(folder / "last" / "config.json")["about"]["step"])
    except (UserError, ValueError, TypeError, KeyError, OverflowError):
        return 0


def _best(evaluations: Sequence[Line]) -> Best | None:
    if not evaluations:
        return None
    best = max(evaluations, key=lambda line: (line["exact_accuracy"], line["cell_accuracy"]))
    exact = best["exact_accuracy"]
    return Best(
        best["step"],
        exact,
        best.get("exact_low", exact),
        best.get("exact_high", exact),
        best["cell_accuracy"],
        best.get("n", 0),
    )


# --- Curves


def plot(folders: Sequence[Path], out: Path, against: Literal["steps", "hours"] = "steps") -> None:
    """Draw loss and accuracy of runs beside each other into a file; its ending says of which format.

    Accuracy on validation puzzles is a line with its 95 % interval, that on training rows is dotted.

    Raises UserError where a run has no figures yet, the format is not known, or matplotlib is missing.
    """
    if out.suffix not in FORMATS:
        raise UserError(f"{out} should end in one of {', '.join(FORMATS)}")
    try:
        from matplotlib import colormaps, rc_context
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError:
        raise UserError("curves need matplotlib: pip install 'trm[plot]'") from None
    found = {folder: lines(folder) for folder in folders}
    for folder, figures in found.items():
        if not figures:
            raise UserError(f"{folder} has no metrics.jsonl with figures: give the folder of a run")
    with rc_context({"svg.hashsalt": "trm"}):  # equal figures give equal files
        figure = Figure(figsize=(13, 4.4), layout="constrained")
        loss, exact, cells = figure.subplots(1, 3)
        for index, (label, figures) in enumerate(zip(_labels(folders), found.values(), strict=True)):
            color = colormaps["tab20" if len(found) > 10 else "tab10"](index % 20)
            thin = {"color": color, "linestyle": ":", "linewidth": 0.8}
            _curve(loss, figures, "train", "loss", against, color=color, label=label)
            _curve(exact, figures, "train", "exact_accuracy", against, **thin)
            _curve(cells, figures, "train", "accuracy", against, **thin)
            _curve(exact, figures, "eval", "exact_accuracy", against, color=color, marker=".")
            _curve(cells, figures, "eval", "cell_accuracy", against, color=color, marker=".")
            _band(exact, figures, against, color)
        loss.set_yscale("log")
        titles = {loss: "loss of a training row", exact: "puzzles right, %", cells: "cells right, %"}
        for axes, title in titles.items():
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("optimizer steps" if against == "steps" else "hours of training")
            axes.grid(alpha=0.3)
        for axes in (exact, cells):
            axes.set_ylim(-2, 102)
        handles, labels = loss.get_legend_handles_labels()
        handles += [
            Line2D([], [], color="grey", marker=".", label="validation (band: 95 % interval)"),
            Line2D([], [], color="grey", linestyle=":", label="training rows, as they leave"),
        ]
        labels += [str(each.get_label()) for each in handles[-2:]]
        figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)), fontsize=8)
        _save(figure, out)


def _save(figure: "Figure", out: Path) -> None:
    drawn = io.BytesIO()
    kind = out.suffix[1:]
    figure.savefig(drawn, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    with full_disk_is_a_user_error(f"{out} was not written"):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, drawn.getvalue())


def _curve(axes: "Axes", figures: Sequence[Line], kind: str, name: str, against: str, **style: Any) -> None:
    shown = [line for line in figures if line["kind"] == kind and name in line]
    scale = 1 if name == "loss" else 100
    axes.plot([_at(line, against) for line in shown], [scale * line[name] for line in shown], **style)


def _band(axes: "Axes", figures: Sequence[Line], against: str, color: Any) -> None:
    shown = [line for line in figures if line["kind"] == "eval" and "exact_low" in line]
    low, high = ([100 * line[name] for line in shown] for name in ("exact_low", "exact_high"))
    axes.fill_between([_at(line, against) for line in shown], low, high, color=color, alpha=0.15, linewidth=0)


def _at(line: Line, against: str) -> float:
    return line["step"] if against == "steps" else line.get("seconds", 0) / 3600


def _labels(folders: Sequence[Path]) -> list[str]:
    """Names of folders, and their paths where two of them have the same name."""
    names = [folder.resolve().name for folder in folders]
    return [
        name if names.count(name) == 1 else str(folder) for folder, name in zip(folders, names, strict=True)
    ]
