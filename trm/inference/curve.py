"""Accuracy against compute: what thinking longer, and in more ways, is worth.

A sweep over depth (supervision steps), rollouts and selection, on the same puzzles. Cost is counted in
network applications per puzzle, T * (n + 1) per supervision step, over all rollouts.

Shapes: E efforts, N puzzles, L tokens.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from trm.config import Effort, parse
from trm.files import write_atomic
from trm.inference.evaluate import Share, shares, wilson
from trm.inference.solver import Solver
from trm.puzzles.table import Puzzles

# Selections of one group let the rollouts stop by the same rule.
_GROUPS = (("halt", "stable", "vote"), ("first",), ("verify",))


@dataclass(frozen=True)
class Point:
    """What one effort reaches on a set of puzzles."""

    depth: int
    rollouts: int
    select: str
    n: int
    exact: Share
    """Puzzles with every cell right."""
    steps: float
    """Mean supervision steps per puzzle, over all rollouts."""
    applications: float
    """Mean network applications per puzzle."""
    puzzles_per_second: float
    grades: dict[str, Share]
    """Shares of puzzles by the family's own measures (see `Family.grade`)."""


def measure(
    solver: Solver,
    puzzles: Puzzles,
    efforts: Sequence[Effort],
    progress: Callable[[int], None] = lambda done: None,
) -> list[Point]:
    """Accuracy and cost of efforts that differ only in how they select, from the same rollouts."""
    n, steps, start = len(puzzles), 0, time.perf_counter()
    chosen_ENL = np.zeros((len(efforts), *puzzles.answers_NL.shape), np.uint8)
    for i, decisions in enumerate(solver.decisions(puzzles.tokens_NL, efforts, puzzles.puzzle_N)):
        chosen_ENL[:, i] = [decision.answer_L for decision in decisions]
        steps += decisions[0].total_steps
        progress(i + 1)
    speed = n / (time.perf_counter() - start)
    # Cells without an answer (padding) do not count.
    right_EN = ((chosen_ENL == puzzles.answers_NL) | (puzzles.answers_NL == 0)).all(-1)
    return [
        Point(
            depth=effort.steps or solver.training_steps,
            rollouts=effort.rollouts,
            select=effort.select,
            n=n,
            exact=wilson(int(right_N.sum()), n),
            steps=steps / n,
            applications=steps / n * len(solver.model.applications()[0]),
            puzzles_per_second=speed,
            grades=shares(
                [solver.family.grade(*pair) for pair in zip(puzzles.tokens_NL, chosen_NL, strict=True)]
            ),
        )
        for effort, right_N, chosen_NL in zip(efforts, right_EN, chosen_ENL, strict=True)
    ]


def sweep(
    base: Effort, depths: Sequence[int], rollouts: Sequence[int], verifies: bool = True
) -> Iterator[list[Effort]]:
    """Every combination, in groups that share their rollouts; with one, only `halt` and `verify` differ.

    Without `verifies` there are no rules to select by.
    """
    for depth in depths:
        for count in rollouts:
            groups = _GROUPS if count > 1 else (("halt",), ("verify",))
            for group in (group for group in groups if verifies or group != ("verify",)):
                values = base.model_dump() | {"steps": depth, "rollouts": count}
                yield [parse(Effort, values | {"select": select}, "curve") for select in group]


def write(points: list[Point], folder: Path, title: str) -> list[Path]:
    """Write the sweep as curve.json, curve.md and, with matplotlib, curve.png."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"title": title, "points": [asdict(point) for point in points]}
    write_atomic(folder / "curve.json", json.dumps(values, indent=1) + "\n")
    write_atomic(folder / "curve.md", f"{title}\n\n{table(points)}")
    written = [folder / "curve.json", folder / "curve.md"]
    try:
        import matplotlib
    except ImportError:
        return written
    matplotlib.use("agg")
    _plot(points, folder / "curve.png", title)
    return [*written, folder / "curve.png"]


def table(points: list[Point]) -> str:
    """The sweep as a Markdown table."""
    grades = list(points[0].grades) if points else []
    head = f"depth | rollouts | select | exact [95 %]{''.join(f' | {name}' for name in grades)}"
    rows = [f"| {head} | steps | network applications | puzzles/s |", "|" + "---|" * (7 + len(grades))]
    rows += [
        f"| {p.depth} | {p.rollouts} | {p.select} | {' | '.join(map(str, (p.exact, *p.grades.values())))} "
        f"| {p.steps:.2f} | {p.applications:.1f} | {p.puzzles_per_second:.1f} |"
        for p in points
    ]
    return "\n".join(rows) + "\n"


def _plot(points: list[Point], path: Path, title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    lines: dict[tuple[int, str], list[Point]] = {}
    for point in points:
        lines.setdefault((point.rollouts, point.select), []).append(point)
    counts, selects = (sorted({key[i] for key in lines}) for i in (0, 1))
    for (rollouts, select), line in lines.items():
        cost, exact = [p.applications for p in line], [100 * p.exact.value for p in line]
        below = [100 * (p.exact.value - p.exact.low) for p in line]
        above = [100 * (p.exact.high - p.exact.value) for p in line]
        label = f"{rollouts} rollout{'s' if rollouts > 1 else ''}, {select}"
        style = {"color": f"C{selects.index(select)}", "marker": "os^Dv"[counts.index(rollouts) % 5]}
        axes.errorbar(cost, exact, (below, above), capsize=2, linewidth=1, label=label, **style)
    axes.set_xscale("log")
    axes.set_xlabel("network applications per puzzle")
    axes.set_ylabel("exact accuracy, % (95 % interval)")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=120)
