"""The command `trm`: solve, train, eval, data, info.

Each command is a function whose signature is its options; tyro makes the parser from them. Torch is
imported inside the commands, so that `--help` answers at once. Whatever a user can put right ends as
one line on stderr and exit code 2.
"""

import contextlib
import csv
import difflib
import functools
import inspect
import io
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro
from pydantic import ValidationError
from tyro.conf import AvoidSubcommands, Positional, arg

import trm
from trm.config import (
    Config,
    Effort,
    RunConfig,
    SudokuConfig,
    dump_config,
    explain,
    load_recipe,
    option_names,
    recipe_names,
)
from trm.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from trm.curve import Point
    from trm.data.puzzles import Puzzles
    from trm.evaluate import Report
    from trm.pretrained import Pretrained
    from trm.solver import Answer, Solver
    from trm.tasks import Task

Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["float32", "bfloat16", "float64"]
_COMMANDS = ("solve", "train", "eval", "data", "info")
_EFFORT = Effort()
# Options that a sweep takes over; it sets the others itself.
_SWEPT = {"early_stop", "noise", "start", "symmetries", "seed"}

_DESCRIPTION = """Recursive reasoning models (TRM, HRM): solve puzzles, train, evaluate.

Examples:
  trm solve ..15....6.1.2......3.........3.6..21     solve a 6x6 Sudoku and watch it being refined
  trm train mini --out runs/mini                     train the 6x6 model on this computer
  trm train --resume runs/mini                       go on with an interrupted run
  trm eval runs/mini --data runs/mini/data/test.csv  accuracy on held-out puzzles
  trm COMMAND --help                                 all options of a command"""


class _Source(NamedTuple):
    """A puzzle and where it stands, for messages."""

    text: str
    place: str


def solve(
    puzzle: Positional[str] = "",
    /,
    *,
    file: str = "",
    model: str = "",
    brief: bool = False,
    json: bool = False,
    device: Device = "auto",
    dtype: Dtype | None = None,
    effort: Annotated[Effort, arg(name="")] = _EFFORT,
) -> int:
    """Solve puzzles and show how the answer was refined, step by step.

    Every puzzle is first checked for a unique solution. Exit code 0 when every answer is verified, 1 when
    one is not, 2 when the input is wrong.

    For example:
      trm solve ..15....6.1.2......3.........3.6..21
      trm solve --file puzzles.txt --brief
      cat puzzles.txt | trm solve - --json
      trm solve --file hard.csv --steps 64 --rollouts 16 --select verify --exact

    Args:
        puzzle: One puzzle, row by row, with `.` or `0` for a blank; `-` reads puzzles from standard input.
        file: Read puzzles from a file: one per line, grids separated by blank lines, or a CSV file with
            a column `question`. `-` is standard input.
        model: Weights: a model folder, a training run, bundled weights by name, or a hub repository.
            Default: the bundled weights for the size of the puzzle.
        brief: One line per puzzle: the answer.
        json: One JSON object per puzzle and line.
        device: Where to compute.
        dtype: Precision of the forward pass. Default: as in training.
        effort: How long, and in how many ways, to think.
    """
    text, name = _read_text(puzzle, file)
    solver = trm.load(model or _bundled_model(text, name), device, dtype)
    sources = _split(text, name, solver.task)
    for source in sources:
        try:
            solver.task.check(solver.task.parse(source.text))
        except UserError as error:
            raise UserError(f"{source.place}: {error}" if source.place else str(error)) from None
    texts = [source.text for source in sources]
    shown = (_show(solver, text, effort) for text in texts)
    unsolved = 0
    for answer in solver.answers(texts, effort) if json or brief else shown:
        unsolved += answer.verified is False
        if json or brief:
            print(_dump(answer.as_dict()) if json else answer.answer, flush=True)
    return 1 if unsolved else 0


def eval_(
    model: Positional[str] = "",
    /,
    *,
    data: str = "",
    limit: int | None = None,
    all_steps: bool = False,
    weights: Literal["all", "ema", "raw"] = "all",
    curve: Path | None = None,
    curve_depths: str = "16,32,64,128",
    curve_rollouts: str = "1,4,16",
    json: bool = False,
    device: Device = "auto",
    dtype: Dtype | None = None,
    effort: Annotated[Effort, arg(name="")] = _EFFORT,
) -> int:
    """Measure accuracy on puzzles with known answers, with 95 % intervals.

    Rows stop when the halting logit is positive and the answer did not change in the last step. With
    options that change how the model thinks (rollouts, select, ...) that effort is measured as well.

    For example:
      trm eval mini --data test.csv
      trm eval runs/mini --data test.csv --limit 500 --all-steps --json
      trm eval mini --data hard.csv --steps 64 --rollouts 16 --select verify
      trm eval mini --data hard.csv --curve curves/hard

    Args:
        model: Weights: a model folder, a training run, bundled weights by name, or a hub repository.
        data: CSV file with the columns `question` and `answer`, or hub:sudoku-extreme/test.
        limit: Use only the first puzzles of the file.
        all_steps: Also run every puzzle to the last step, as the paper does; slower.
        weights: Which weights: the moving average, the raw ones, or all that the model has.
        curve: Sweep depth, rollouts and selection, and write table, JSON and plot to this folder.
        curve_depths: Depths of the sweep, in supervision steps.
        curve_rollouts: Numbers of rollouts of the sweep.
        json: Print the report as JSON.
        device: Where to compute.
        dtype: Precision of the forward pass. Default: as in training.
        effort: How long, and in how many ways, to think.
    """
    from trm import pretrained
    from trm.data import sources
    from trm.models import load_weights
    from trm.solver import Solver, pick_device

    if not model or not data:
        raise UserError("give a model and data: trm eval MODEL --data FILE")
    _at_least(1, limit=limit)
    if effort.exact:
        raise UserError("--exact would measure the exact solver, not the model: leave it out")
    if curve is not None and (all_steps or effort != Effort(**effort.model_dump(include=_SWEPT))):
        raise UserError("--curve sweeps steps, rollouts and selection by itself: leave out those options")
    found = pretrained.load(model, pick_device(device), dtype)
    variants = _variants(found, weights)
    puzzles = sources.read(data, found.task, limit)
    title = f"{model} on {data}, n = {len(puzzles)}"
    solver = Solver(found.model, found.task, found.config.steps)
    if curve is not None:
        load_weights(found.model, next(iter(variants.values())), str(found.folder))
        depths, rollouts = (_counts(text) for text in (curve_depths, curve_rollouts))
        return _curve(solver, puzzles, effort, depths, rollouts, curve, title, json)
    results: dict[str, tuple[Report, Point | None]] = {}
    for name, tensors in variants.items():
        load_weights(found.model, tensors, str(found.folder))
        results[name] = _evaluate(solver, puzzles, effort, all_steps, name)
    if json:
        figures = {
            name: report.as_dict() | ({"effort": asdict(point)} if point else {})
            for name, (report, point) in results.items()
        }
        print(_dump({"model": str(found.folder), "data": data, "n": len(puzzles), "weights": figures}))
    else:
        _print_reports(results, title)
    return 0


def data(
    task: Positional[Literal["sudoku"]] = "sudoku",
    /,
    *,
    out: Path,
    box_rows: int = 3,
    box_cols: int = 3,
    train: int = 1000,
    validation: int = 500,
    test: int = 1000,
    extra_clues: int = 0,
    min_guesses: int = 0,
    max_guesses: int = 1_000_000,
    avoid: str = "",
    seed: int = 0,
) -> int:
    """Generate puzzles with unique solutions; no two of them are essentially the same.

    For example:
      trm data sudoku --box-rows 2 --box-cols 3 --out data/sudoku-6x6
      trm data sudoku --train 0 --validation 0 --test 500 --min-guesses 5 --avoid train.csv --out data/hard

    Args:
        task: The puzzle family.
        out: Folder for train.csv, validation.csv and test.csv.
        box_rows: Rows of a box.
        box_cols: Columns of a box; a board has box_rows x box_cols symbols.
        train: Training puzzles.
        validation: Validation puzzles.
        test: Test puzzles.
        extra_clues: Clues put back on each minimal puzzle.
        min_guesses: Least difficulty: guesses that the exact solver needs.
        max_guesses: Greatest difficulty.
        avoid: CSV file of puzzles to which no new one may be essentially the same.
        seed: Seed of the generator.
    """
    from trm.config import DataConfig, parse
    from trm.data import sources
    from trm.data.puzzles import write_csv
    from trm.files import full_disk_is_a_user_error
    from trm.tasks import build_task
    from trm.terminal import bar

    board = parse(SudokuConfig, {"box_rows": box_rows, "box_cols": box_cols}, "trm data")
    counts = {"generate_train": train, "generate_validation": validation, "generate_test": test}
    _at_least(0, seed=seed)
    kind = {"extra_clues": extra_clues, "min_guesses": min_guesses, "max_guesses": max_guesses}
    config = parse(DataConfig, counts | kind, "trm data")
    wanted = {name: count for name, count in config.generated().items() if count}
    if not wanted:
        raise UserError("nothing to generate: give --train, --validation or --test")
    taken = [out / f"{name}.csv" for name in wanted if (out / f"{name}.csv").exists()]
    if taken:
        raise UserError(f"{taken[0]} exists; choose another folder with --out")
    sudoku = build_task(board)
    avoided = sources.read(avoid, sudoku) if avoid else None
    with bar(_console(stderr=True), "generating", sum(wanted.values())) as progress:
        splits = sources.generate(config, sudoku, seed, progress.at, avoided)
    with full_disk_is_a_user_error(f"not all of {out} was written"):
        out.mkdir(parents=True, exist_ok=True)
        for name in wanted:
            write_csv(out / f"{name}.csv", sudoku, splits[name], "generated")
            print(f"{out / name}.csv: {len(splits[name])} puzzles")
    return 0


def info(name: Positional[str] = "", /) -> int:
    """List recipes and bundled weights, or show one: `trm info mini`, `trm info runs/mini`.

    Args:
        name: A recipe, a model folder, a training run, or bundled weights.
    """
    from trm import pretrained

    if not name:
        print(f"trm {trm.__version__}")
        print("recipes:", ", ".join(recipe_names()))
        print("bundled weights:", ", ".join(pretrained.bundled_names()) or "none")
        return 0
    if name in recipe_names():
        print(dump_config(load_recipe(name)), end="")
    if name not in recipe_names() or name in pretrained.bundled_names():
        found = pretrained.load(name)
        count = sum(p.numel() for p in found.model.parameters())
        print(f"# weights in {found.folder}: {count:,} parameters")
        print(dump_config(found.config), end="")
    return 0


def _train_command(recipe: RunConfig, name: str = "mini") -> Callable[..., int]:
    """The command `train` with a recipe's values as the defaults of its options."""

    def train(
        recipe_name: Annotated[Positional[str], arg(name="recipe", metavar="RECIPE")] = "mini",
        /,
        *,
        out: Path | None = None,
        resume: Path | None = None,
        stop_after: int | None = None,
        device: Device = "auto",
        config: Annotated[RunConfig, arg(name=""), AvoidSubcommands] = recipe,
    ) -> int:
        """Train a model from a recipe; any of its values can be changed by an option.

        Ctrl-C or SIGTERM saves a checkpoint and stops; a resumed run ends with the same weights.

        For example:
          trm train mini
          trm train sudoku-fast --data.train train.csv --data.validation validation.csv
          trm train mini --model.width 96 --optimizer.lr 1e-3 --out runs/wide
          trm train --resume runs/wide

        Args:
            recipe_name: A recipe by name (see `trm info`) or a YAML file; it must come first.
            out: Folder of the run. Default: runs/RECIPE.
            resume: Go on with the run in this folder.
            stop_after: Stop, saved, once this many steps of the run are done.
            device: Where to compute.
            config: Values of the recipe.
        """
        from trm.train import train as run

        if recipe_name != name:
            raise UserError(f"the recipe must come first: trm train {recipe_name} [options]")
        _at_least(1, stop_after=stop_after)
        if resume is not None and (out is not None or config != recipe or recipe_name != "mini"):
            raise UserError(
                "--resume goes on with the run as it is: only --stop-after and --device go with it"
            )
        folder = resume or out or Path("runs") / Path(recipe_name).stem
        console = _console()
        outcome = run(None if resume else config, folder, stop_after, device, console)
        if outcome.finished:
            print(f"finished {outcome.step} steps; best validation exact {100 * outcome.best:.2f} %")
            print(f"weights: {outcome.folder / 'best'}; try `trm eval {outcome.folder} --data FILE`")
            return 0
        print(f"stopped at step {outcome.step}, saved; go on with `trm train --resume {outcome.folder}`")
        return 0 if outcome.signal is None else 128 + outcome.signal

    return train


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        command = _parse(arguments)
        return command()
    except UserError as error:
        print(f"trm: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader has gone; nothing to tell it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        print(f"trm: error: {error.filename or 'input or output'}: {error.strerror}", file=sys.stderr)
        return 2


def _parse(arguments: list[str]) -> Callable[[], int]:
    """The command to run, ready to be called. Exits for --help; UserError for wrong options."""
    recipe_given = arguments[:1] == ["train"] and len(arguments) > 1 and not arguments[1].startswith("-")
    recipe = arguments[1] if recipe_given else "mini"
    commands = {
        "solve": solve,
        "train": _train_command(load_recipe(recipe), recipe),
        "eval": eval_,
        "data": data,
        "info": info,
    }
    if not arguments:
        arguments = ["--help"]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.extras.subcommand_cli_from_dict(
                {name: _later(function) for name, function in commands.items()},
                prog="trm",
                description=_DESCRIPTION,
                args=arguments,
            )
    except ValidationError as error:  # of options that are not part of a group
        raise explain(error, Config, f"trm {arguments[0]}") from None
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_one_line(errors.getvalue(), arguments)) from None


def _later(function: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """The same signature, but the call only remembers its arguments: parsing ends before work begins."""

    @functools.wraps(function)
    def remember(*args: Any, **kwargs: Any) -> Callable[[], int]:
        return functools.partial(function, *args, **kwargs)

    return remember


def _one_line(report: str, arguments: list[str]) -> str:
    """The parser's framed report as one sentence: what was wrong, a near option, and where to look."""
    rows = [re.sub(r"[│╭╰╮╯|]", "", row).strip() for row in report.splitlines()]
    rows = [row for row in rows if row and not row.endswith(("──", "--"))]
    ends = [i for i, row in enumerate(rows) if re.match(r"─|---|Perhaps|Argument helptext|For full", row)]
    message = " ".join(rows[: ends[0]] if ends else rows)
    message = re.sub(
        r"__tyro-dummy-inner__.config.|1 validation error for \w+ |Value error, |\[type=.*", "", message
    )
    message = message.strip(" ,.")
    known = _known_options(arguments[0] if arguments else "")
    for given in (word.split("=")[0] for word in arguments if word.startswith("--")):
        near = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
        if given in message and given not in known and near:
            message += f"; did you mean {near[0]}?"
    command = arguments[0] if arguments[0] in _COMMANDS else ""
    return f"{message}; see `{' '.join(filter(None, ('trm', command, '--help')))}`"


def _known_options(command: str) -> list[str]:
    """Options of a command, as they are written."""
    functions = {"solve": solve, "train": _train_command(load_recipe("mini")), "eval": eval_, "data": data}
    if command not in functions:
        return []
    parameters = inspect.signature(functions[command]).parameters.values()
    names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    names += option_names({"train": RunConfig, "solve": Effort, "eval": Effort}.get(command, Config))
    return ["--" + name.replace("_", "-") for name in names]


def _at_least(least: int, **options: int | None) -> None:
    """Refuse options below the least sensible value."""
    for name, value in options.items():
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} is {value}: give at least {least}")


def _read_text(puzzle: str, file: str) -> tuple[str, str]:
    """The text with the puzzles, and its name for messages (empty for the command line)."""
    if puzzle and file:
        raise UserError("give a puzzle or --file, not both")
    if puzzle and puzzle != "-":
        return puzzle, ""
    name = "-" if puzzle == "-" else file
    if not name:
        raise UserError("give a puzzle, --file FILE, or `-` for standard input")
    try:
        if name == "-":
            return sys.stdin.read(), "standard input"
        return Path(name).read_text(encoding="utf-8-sig"), name
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from None


def _split(text: str, name: str, task: "Task") -> list[_Source]:
    """Puzzles of a text: a CSV file with a column `question`, or lines, or grids between blank lines."""
    if not name:
        return [_Source(text, "")]
    lines = text.splitlines()
    header = next(csv.reader(lines), [])
    sources: list[_Source] = []
    if "question" in header:
        column = header.index("question")
        for row in (reader := csv.reader(io.StringIO(text))):
            if row and reader.line_num > 1:
                place = f"{name}, line {reader.line_num}"
                if len(row) <= column:
                    raise UserError(f"{place}: no field for the column question")
                sources.append(_Source(row[column], place))
    else:
        block: list[tuple[int, str]] = []
        for number, line in enumerate([*lines, ""], start=1):
            if line.strip():
                block.append((number, line.strip()))
                continue
            # Rows of a grid, even drawn with frames, hold much fewer cells than a puzzle on one line.
            cells = [sum(char.isalnum() or char == "." for char in row) for _, row in block]
            if len(block) > 1 and max(cells) < 0.75 * task.length:
                place = f"{name}, lines {block[0][0]}-{block[-1][0]}"
                sources.append(_Source("".join(row for _, row in block), place))
            else:
                sources += [_Source(row, f"{name}, line {at}") for at, row in block]
            block = []
    if not sources:
        raise UserError(f"{name} holds no puzzles")
    return sources


def _bundled_model(text: str, name: str) -> str:
    """Bundled weights that know puzzles like the first of a text."""
    from trm import pretrained
    from trm.tasks import build_task

    tasks = {each: build_task(pretrained.bundled_config(each).task) for each in pretrained.bundled_names()}
    for each, task in tasks.items():
        first = _split(text, name, task)[0].text
        with contextlib.suppress(UserError):
            task.parse(first)
            return each
        if len("".join(first.split())) == task.length:  # the right size: its own message says what is wrong
            return each
    listed = ", ".join(f"{each} ({task.length} cells)" for each, task in tasks.items()) or "none"
    raise UserError(f"no bundled weights fit the first puzzle (bundled: {listed}); name some with --model")


def _variants(found: "Pretrained", wanted: str) -> dict[str, Any]:
    """The weights to evaluate, by name."""
    averaged = bool(found.config.about.get("recipe", {}).get("ema", {}).get("decay"))
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
    from trm.curve import measure
    from trm.evaluate import evaluate
    from trm.terminal import bar

    steps, console = effort.steps or solver.training_steps, _console(stderr=True)
    with bar(console, f"evaluating {name}", len(puzzles)) as progress:
        report = evaluate(solver.model, puzzles, steps, all_steps, progress.at)
    if effort == Effort(steps=effort.steps, seed=effort.seed):
        return report, None
    with bar(console, f"thinking longer {name}", len(puzzles)) as progress:
        return report, measure(solver, puzzles, [effort], progress.at)[0]


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
    from trm import curve
    from trm.files import full_disk_is_a_user_error
    from trm.terminal import bar

    groups = list(curve.sweep(base, depths, rollouts))
    points: list[Point] = []
    with bar(_console(stderr=True), "sweeping", len(groups) * len(puzzles)) as progress:
        for i, group in enumerate(groups):
            before = i * len(puzzles)
            progress.at(before, f"{group[0].steps} steps, {group[0].rollouts} rollouts, {group[0].select}")
            points += curve.measure(solver, puzzles, group, lambda k, before=before: progress.at(before + k))
    with full_disk_is_a_user_error(f"not all of {folder} was written"):
        written = curve.write(points, folder, title)
    if as_json:
        print(_dump([asdict(point) for point in points]))
    else:
        print(curve.table(points) + "\n" + "\n".join(map(str, written)))
    return 0


def _show(solver: "Solver", text: str, effort: Effort) -> "Answer":
    """Print a puzzle's answer after every step, side by side, and the verdict."""
    from rich.columns import Columns
    from rich.panel import Panel

    console = _console()
    tokens = solver.task.parse(text)
    panels = [Panel(solver.task.render(tokens, tokens), title="puzzle", expand=False)]
    previous = tokens
    if effort.rollouts == 1:
        refinement = None
        for refinement in solver.steps(text, effort):
            picture = solver.task.render(tokens, refinement.answer, previous)
            chance = f"{100 * refinement.halt_probability:.1f} %"
            panels.append(Panel(picture, title=f"step {refinement.step}", subtitle=chance, expand=False))
            previous = refinement.answer
        assert refinement is not None  # there is at least one step
        chance = refinement.halt_probability
        answer = solver.answer(tokens, refinement.answer, refinement.step, chance, effort)
    else:
        (answer,) = solver.solve(text, effort)
    if effort.rollouts > 1 or answer.by == "search":
        final = solver.task.parse(answer.answer.replace("?", "."))
        panels.append(
            Panel(solver.task.render(tokens, final, previous), title=f"by {answer.by}", expand=False)
        )
    console.print(Columns(panels))
    verdict = {
        True: "[green]solved, and the rules confirm it[/]",
        False: "[red]not solved: the answer breaks the rules[/]",
        None: "the rules cannot check this answer",
    }[answer.verified]
    by = "exact search after " if answer.by == "search" else ""
    many = f", best of {answer.rollouts} rollouts" if answer.rollouts > 1 else ""
    chance = f"halting probability {100 * answer.halt_probability:.1f} %"
    console.print(f"{verdict}; {by}{answer.steps} steps{many}, {chance}")
    console.print(answer.answer, highlight=False, soft_wrap=True)
    return answer


def _print_reports(results: "dict[str, tuple[Report, Point | None]]", title: str) -> None:
    """Figures as a table, one column per kind of weights."""
    from rich.table import Table

    reports = {name: report for name, (report, _) in results.items()}
    table = Table(title=title)
    table.add_column("")
    for name in reports:
        table.add_column(f"{name} weights", justify="right")

    def row(label: str, figure: "Callable[[Report], str]") -> None:
        table.add_row(label, *(figure(report) for report in reports.values()))

    row("exact, stopping early", lambda r: str(r.early_stop.exact))
    row("cells, stopping early", lambda r: str(r.early_stop.cells))
    row("mean steps to stop", lambda r: f"{r.early_stop.mean_steps:.2f}")
    if any(report.all_steps for report in reports.values()):
        row("exact, all steps", lambda r: str(r.all_steps and r.all_steps.exact))
        row("cells, all steps", lambda r: str(r.all_steps and r.all_steps.cells))
    for step in _milestones(len(next(iter(reports.values())).per_step)):
        row(f"exact after step {step}", lambda r, at=step - 1: f"{100 * r.per_step[at]:.2f} %")
    row("calibration error", lambda r: f"{r.calibration.error:.4f}")
    row("puzzles per second", lambda r: f"{(r.all_steps or r.early_stop).puzzles_per_second:.1f}")
    points = [point for _, point in results.values() if point is not None]
    if points:
        effort = f"{points[0].depth} steps, {points[0].rollouts} rollouts, {points[0].select}"
        table.add_row(f"exact, {effort}", *(str(point.exact) for point in points))
        table.add_row("steps per puzzle", *(f"{point.steps:.2f}" for point in points))
    _console().print(table)


def _counts(text: str) -> list[int]:
    """Positive whole numbers from a comma-separated list."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise UserError(f"{text!r} is no list of positive numbers; write for example 16,32,64")
    return [int(part) for part in text.split(",")]


def _milestones(steps: int) -> list[int]:
    """1, 2, 4, 8, ... and the last step."""
    return sorted({2**k for k in range(steps.bit_length()) if 2**k <= steps} | {steps})


def _console(stderr: bool = False) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def _dump(values: Any) -> str:
    return json.dumps(values)
