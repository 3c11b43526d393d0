"""`trm eval`: accuracy with intervals, and accuracy against compute."""

import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from trm.commands.common import at_least, console, dump, shared, to_lower
from trm.config import ComputeConfig, Device, Dtype, Effort, parse
from trm.errors import UserError, out_of_memory_is_a_user_error
from trm.recipe import RunConfig

if TYPE_CHECKING:
    from trm.inference.curve import Point
    from trm.inference.evaluate import Report
    from trm.inference.solver import Solver
    from trm.pretrained import Pretrained
    from trm.puzzles.table import Puzzles

_EFFORT = Effort()
_DEPTHS, _ROLLOUTS = "16,32,64,128", "1,4,16"
# Options that a sweep takes over; it sets the others itself.
_SWEPT = {"early_stop", "noise", "start", "symmetries", "seed"}


def evaluate(
    model: Positional[str] = "",
    /,
    *,
    data: str = "",
    limit: int | None = None,
    all_steps: bool = False,
    weights: Literal["all", "ema", "raw"] = "all",
    allow_leaks: bool = False,
    curve: Path | None = None,
    curve_depths: str = _DEPTHS,
    curve_rollouts: str = _ROLLOUTS,
    json: bool = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    effort: Annotated[Effort, arg(name="")] = _EFFORT,
) -> int:
    """Measure accuracy on puzzles with known answers, with 95 % intervals.

    Rows stop when the halting logit is positive and the answer did not change in the last step. With
    options that change how the model thinks (rollouts, select, ...) that effort is measured as well. (ARC
    tasks are answered by votes: trm arc eval --help.)

    For example:
      trm eval mini --data test.csv
      trm eval runs/mini --data test.csv --limit 500 --all-steps --json
      trm eval mini --data hard.csv --steps 64 --rollouts 16 --select verify
      trm eval mini --data hard.csv --curve curves/hard
      torchrun --nproc-per-node 4 -m trm eval mini --data test.csv

    Args:
        model: Weights: a model folder, a training run, bundled weights by name, or a hub repository. Those
            that serve boards of every size take the size of the first puzzle.
        data: Table (CSV, TSV) or JSON with `question` and `answer`, also packed (.gz);
            hub:sudoku-extreme/test; or a split of one of the original code's data folders.
        limit: Use only the first puzzles of the file.
        all_steps: Also run every puzzle to the last step, as the paper does; slower.
        weights: Which weights: the moving average, the raw ones, or all that the model has.
        allow_leaks: Evaluate even on puzzles that the weights were trained on.
        curve: Sweep depth, rollouts and selection, and write table, JSON and plot to this folder.
        curve_depths: Depths of the sweep, in supervision steps.
        curve_rollouts: Numbers of rollouts of the sweep.
        json: Print the report as JSON.
        device: Where to compute.
        dtype: Precision of the forward pass.
        effort: How long, and in how many ways, to think.
    """
    from trm import pretrained
    from trm.data import sources
    from trm.inference.solver import Solver
    from trm.models import load_weights
    from trm.original import arc as original_arc
    from trm.original import folders as original

    if not model or not data:
        raise UserError("give a model and data: trm eval MODEL --data FILE")
    at_least(1, limit=limit)
    if effort.exact:
        raise UserError("--exact would measure the exact solver, not the model: leave it out")
    if effort.search:
        raise UserError(
            "--search is not measured here: `trm solve --file FILE --brief` says what it verifies"
        )
    if curve is None and (curve_depths, curve_rollouts) != (_DEPTHS, _ROLLOUTS):
        raise UserError("--curve-depths and --curve-rollouts need a folder: --curve FOLDER")
    if curve is not None and (all_steps or effort != Effort(**effort.model_dump(include=_SWEPT))):
        raise UserError("--curve sweeps steps, rollouts and selection by itself: leave out those options")
    with shared(device) as group:
        compute, about = ComputeConfig(device=device, dtype=dtype), pretrained.find(model)[1]
        boards = None
        if about.model.any_board:
            first = sources.first_question(data, about.family.build())
            boards = pretrained.fitting(about, first)
        found = pretrained.load(model, compute, boards)
        if (commands := found.family.commands) and not original.is_split(data):
            raise UserError(f"models of this family have commands of their own: trm {commands} eval --help")
        if found.config.puzzle_ids and found.config.model.puzzle_width:
            table = original_arc.variants(Path(data).resolve().parent)
            remedy = "give data that the model was trained for, or evaluate its tasks by votes"
            pretrained.check_ids(found.folder, table, remedy)
        variants = _variants(found, weights)
        puzzles = sources.read(data, found.family, limit)
        if found.config.model.puzzle_width and (top := puzzles.puzzle_N.max()) >= found.config.puzzles:
            raise UserError(
                f"{data} has the puzzle id {top}, but the model knows ids below {found.config.puzzles}"
            )
        if not allow_leaks:
            _refuse_leaks(found, puzzles, data)
        title = f"{model} on {data}, n = {len(puzzles)}"
        solver = Solver(found.model, found.family, found.config.steps)
        solver.processes = group
        results: dict[str, tuple[Report, Point | None]] = {}
        with out_of_memory_is_a_user_error(to_lower(effort)):
            if curve is not None:
                load_weights(found.model, next(iter(variants.values())), str(found.folder))
                depths, rollouts = (_counts(text) for text in (curve_depths, curve_rollouts))
                return _curve(solver, puzzles, effort, depths, rollouts, curve, title, json)
            solver.check_effort(effort)
            for name, tensors in variants.items():
                load_weights(found.model, tensors, str(found.folder))
                results[name] = _evaluate(solver, puzzles, effort, all_steps, name)
        if json:
            figures = {
                name: report.as_dict() | ({"effort": asdict(point)} if point else {})
                for name, (report, point) in results.items()
            }
            print(dump({"model": str(found.folder), "data": data, "n": len(puzzles), "weights": figures}))
        else:
            _print_reports(results, title)
        return 0


def _variants(found: "Pretrained", wanted: str) -> dict[str, Any]:
    """The weights to evaluate, by name."""
    recipe = found.config.about.get("recipe")
    run = parse(RunConfig, recipe, f"the recipe of {found.folder}") if recipe else None
    # Puzzle embeddings are never averaged.
    averaged = run is not None and run.ema.decay and not run.optimizer.only_puzzles
    variants = {"ema" if averaged else "raw": found.model.state_dict()}
    variants = {name: {k: v.clone() for k, v in weights.items()} for name, weights in variants.items()}
    if found.raw is not None:
        variants["raw"] = found.raw
    if wanted == "all":
        return variants
    if wanted not in variants:
        raise UserError(f"{found.folder} has no {wanted} weights, only {', '.join(variants)}")
    return {wanted: variants[wanted]}


def _evaluate(
    solver: "Solver", puzzles: "Puzzles", effort: Effort, all_steps: bool, name: str
) -> "tuple[Report, Point | None]":
    """The plain evaluation of one kind of weights, and that of a larger effort where one is asked for."""
    from trm.inference.curve import measure
    from trm.inference.evaluate import evaluate
    from trm.terminal import bar

    steps, screen = effort.steps or solver.training_steps, console(stderr=True)
    with bar(screen, f"evaluating {name}", len(puzzles)) as progress:
        report = evaluate(
            solver.model, puzzles, steps, all_steps, progress.at, solver.family, solver.processes
        )
    if effort == Effort(steps=effort.steps, seed=effort.seed):
        return report, None
    with bar(screen, f"thinking longer {name}", len(puzzles)) as progress:
        return report, measure(solver, puzzles, [effort], progress.at)[0]


def _refuse_leaks(found: "Pretrained", puzzles: "Puzzles", data: str) -> None:
    """UserError where the weights were trained on some of the puzzles, turned or renamed as they may be."""
    import numpy as np

    from trm import pretrained

    known = pretrained.trained_on(found.folder)
    if known is None:
        return
    leaked = int(np.isin(pretrained.marks(found.family, puzzles.tokens_NL), known).sum())
    if leaked:
        raise UserError(
            f"{data}: {leaked} of {len(puzzles)} puzzles are equivalent to puzzles that the weights were "
            "trained on, and say nothing of unseen ones: leave them out, or give --allow-leaks"
        )


def _curve(
    solver: "Solver",
    puzzles: "Puzzles",
    base: Effort,
    depths: list[int],
    rollouts: list[int],
    folder: Path,
    title: str,
    as_json: bool,
) -> int:
    """Sweep efforts and write what they reach."""
    from trm.files import full_disk_is_a_user_error
    from trm.inference import curve
    from trm.terminal import bar

    groups = list(curve.sweep(base, depths, rollouts, solver.family.verifies))
    points: list[Point] = []
    with bar(console(stderr=True), "sweeping", len(groups) * len(puzzles)) as progress:
        for i, group in enumerate(groups):
            before = i * len(puzzles)
            progress.at(before, f"{group[0].steps} steps, {group[0].rollouts} rollouts, {group[0].select}")
            points += curve.measure(solver, puzzles, group, lambda k, before=before: progress.at(before + k))
    with full_disk_is_a_user_error(f"not all of {folder} was written"):
        written = solver.processes.by_first(lambda: curve.write(points, folder, title))
    if as_json:
        print(dump([asdict(point) for point in points]))
    else:
        print(curve.table(points) + "\n" + "\n".join(map(str, written)))
    return 0


def _print_reports(results: "dict[str, tuple[Report, Point | None]]", title: str) -> None:
    """Figures as a table, one column per kind of weights."""
    from rich.table import Table
    from rich.text import Text

    reports = {name: report for name, (report, _) in results.items()}
    table = Table(title=Text(title))
    table.add_column("")
    for name in reports:
        table.add_column(f"{name} weights", justify="right")

    def row(label: str, figure: "Callable[[Report], str]") -> None:
        table.add_row(label, *(figure(report) for report in reports.values()))

    first = next(iter(reports.values()))
    row("exact, stopping early", lambda r: str(r.early_stop.exact))
    for grade in first.early_stop.grades:
        row(f"{grade}, stopping early", lambda r, grade=grade: str(r.early_stop.grades[grade]))
    row("cells, stopping early", lambda r: str(r.early_stop.cells))
    row("mean steps to stop", lambda r: f"{r.early_stop.mean_steps:.2f}")
    if any(report.all_steps for report in reports.values()):
        row("exact, all steps", lambda r: str(r.all_steps and r.all_steps.exact))
        for grade in first.early_stop.grades:
            row(f"{grade}, all steps", lambda r, grade=grade: str(r.all_steps and r.all_steps.grades[grade]))
        row("cells, all steps", lambda r: str(r.all_steps and r.all_steps.cells))
    for step in _milestones(len(first.per_step)):
        row(f"exact after step {step}", lambda r, at=step - 1: f"{100 * r.per_step[at]:.2f} %")
    row("calibration error", lambda r: f"{r.calibration.error:.4f}")
    row("puzzles per second", lambda r: f"{(r.all_steps or r.early_stop).puzzles_per_second:.1f}")
    points = [point for _, point in results.values() if point is not None]
    if points:
        effort = f"{points[0].depth} steps, {points[0].rollouts} rollouts, {points[0].select}"
        table.add_row(f"exact, {effort}", *(str(point.exact) for point in points))
        for grade in points[0].grades:
            table.add_row(f"{grade}, {effort}", *(str(point.grades[grade]) for point in points))
        table.add_row("steps per puzzle", *(f"{point.steps:.2f}" for point in points))
    console().print(table)


def _counts(text: str) -> list[int]:
    """Positive whole numbers from a comma-separated list."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise UserError(f"{text!r} is not a list of positive numbers; write for example 16,32,64")
    return [int(part) for part in text.split(",")]


def _milestones(steps: int) -> list[int]:
    """1, 2, 4, 8, ... and the last step."""
    return sorted({2**k for k in range(steps.bit_length()) if 2**k <= steps} | {steps})
