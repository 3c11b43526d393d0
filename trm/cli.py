"""The command `trm`: solve, train, eval, data, info.

Each command is a function whose signature is its options; tyro makes the parser from them. Torch is
imported inside the commands, so that `--help` answers at once. Whatever a user can put right ends as
one line on stderr and exit code 2.
"""

import contextlib
import csv
import difflib
import functools
import io
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro
from tyro.conf import Positional, arg

import trm
from trm.config import RunConfig, SudokuConfig, dump_config, load_recipe, option_names, recipe_names
from trm.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from trm.evaluate import Report
    from trm.pretrained import Pretrained
    from trm.solver import Answer, Solver

Device = Literal["auto", "cpu", "cuda", "mps"]

_DESCRIPTION = """Recursive reasoning models (TRM, HRM): solve puzzles, train, evaluate.

Examples:
  trm solve 1....4..2.....6..5..3..1....2......     solve a 6x6 Sudoku and watch it being refined
  trm train mini --out runs/mini                     train the 6x6 model on this computer
  trm train --resume runs/mini                       go on with an interrupted run
  trm eval runs/mini --data runs/mini/data/test.csv  accuracy on held-out puzzles
  trm COMMAND --help                                 all options of a command"""


# A row of a grid is shorter than any one-line puzzle: 4x4 is the smallest board, 25x25 the largest.
_LINE = 16


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
    steps: int | None = None,
    all_steps: bool = False,
    brief: bool = False,
    json: bool = False,
    device: Device = "auto",
) -> int:
    """Solve puzzles and show how the answer was refined, step by step.

    Every puzzle is first checked for a unique solution. Exit code 0 when every answer is verified, 1 when
    one is not, 2 when the input is wrong.

    For example:
      trm solve 1....4..2.....6..5..3..1....2......
      trm solve --file puzzles.txt --brief
      cat puzzles.txt | trm solve - --json

    Args:
        puzzle: One puzzle, row by row, with `.` or `0` for a blank; `-` reads puzzles from standard input.
        file: Read puzzles from a file: one per line, grids separated by blank lines, or a CSV file with
            a column `question`. `-` is standard input.
        model: Weights: a model folder, a training run, bundled weights by name, or a hub repository.
            Default: the bundled weights for the size of the puzzle.
        steps: Most supervision steps. Default: as many as in training.
        all_steps: Run all steps, even when the answer is done before.
        brief: One line per puzzle: the answer.
        json: One JSON object per puzzle and line.
        device: Where to compute.
    """
    sources = list(_read_puzzles(puzzle, file))
    solver = trm.load(model or _bundled_model(sources[0]), device)
    for source in sources:
        try:
            solver.task.check(solver.task.parse(source.text))
        except UserError as error:
            raise UserError(f"{source.place}: {error}" if source.place else str(error)) from None
    if json or brief:
        answers = solver.solve([source.text for source in sources], steps, early_stop=not all_steps)
        for answer in answers:
            print(_dump(answer.as_dict()) if json else answer.answer)
        return 0 if all(answer.verified is not False for answer in answers) else 1
    answers = [_show(solver, source.text, steps, not all_steps) for source in sources]
    return 0 if all(answer.verified is not False for answer in answers) else 1


def eval_(
    model: Positional[str] = "",
    /,
    *,
    data: str = "",
    limit: int | None = None,
    steps: int | None = None,
    all_steps: bool = False,
    weights: Literal["all", "ema", "raw"] = "all",
    json: bool = False,
    device: Device = "auto",
) -> int:
    """Measure accuracy on puzzles with known answers, with 95 % intervals.

    Rows stop when the halting logit is positive and the answer did not change in the last step.

    For example:
      trm eval mini --data test.csv
      trm eval runs/mini --data test.csv --limit 500 --all-steps --json

    Args:
        model: Weights: a model folder, a training run, bundled weights by name, or a hub repository.
        data: CSV file with the columns `question` and `answer`, or hub:sudoku-extreme/test.
        limit: Use only the first puzzles of the file.
        steps: Most supervision steps. Default: as many as in training.
        all_steps: Also run every puzzle to the last step, as the paper does; slower.
        weights: Which weights: the moving average, the raw ones, or all that the model has.
        json: Print the report as JSON.
        device: Where to compute.
    """
    from trm import pretrained
    from trm.data import sources
    from trm.evaluate import evaluate
    from trm.interop import load_weights
    from trm.solver import pick_device
    from trm.terminal import bar

    if not model or not data:
        raise UserError("give a model and data: trm eval MODEL --data FILE")
    found = pretrained.load(model, pick_device(device))
    variants = _variants(found, weights)
    puzzles = sources.read(data, found.task, limit)
    reports: dict[str, Report] = {}
    for name, tensors in variants.items():
        load_weights(found.model, tensors, str(found.folder))
        with bar(_console(stderr=True), f"evaluating {name}", len(puzzles)) as progress:
            reports[name] = evaluate(
                found.model, puzzles, steps or found.config.steps, all_steps, progress.at
            )
    if json:
        figures = {name: report.as_dict() for name, report in reports.items()}
        print(_dump({"model": str(found.folder), "data": data, "n": len(puzzles), "weights": figures}))
    else:
        _print_reports(reports, f"{model} on {data}, n = {len(puzzles)}")
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
    seed: int = 0,
) -> int:
    """Generate puzzles with unique solutions; no two of them are essentially the same.

    For example:
      trm data sudoku --box-rows 2 --box-cols 3 --out data/sudoku-6x6

    Args:
        task: The puzzle family.
        out: Folder for train.csv, validation.csv and test.csv.
        box_rows: Rows of a box.
        box_cols: Columns of a box; a board has box_rows x box_cols symbols.
        train: Training puzzles.
        validation: Validation puzzles.
        test: Test puzzles.
        extra_clues: Clues put back on each minimal puzzle.
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
    config = parse(DataConfig, counts | {"extra_clues": extra_clues}, "trm data")
    wanted = {name: n for name, n in {"train": train, "validation": validation, "test": test}.items() if n}
    taken = [out / f"{name}.csv" for name in wanted if (out / f"{name}.csv").exists()]
    if taken:
        raise UserError(f"{taken[0]} exists; choose another folder with --out")
    sudoku, console = build_task(board), _console(stderr=True)
    with bar(console, "generating", sum(wanted.values())) as progress:
        splits = sources.generate(config, sudoku, seed, progress.at)
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


def _train_command(recipe: RunConfig) -> Callable[..., int]:
    """The command `train` with a recipe's values as the defaults of its options."""

    def train(
        recipe_name: Annotated[Positional[str], arg(name="recipe", metavar="RECIPE")] = "mini",
        /,
        *,
        out: Path | None = None,
        resume: Path | None = None,
        stop_after: int | None = None,
        device: Device = "auto",
        config: Annotated[RunConfig, arg(name="")] = recipe,
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

        if resume is not None and (out is not None or config != load_recipe("mini")):
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


def _parse(arguments: list[str]) -> Callable[[], int]:
    """The command to run, ready to be called. Exits for --help; UserError for wrong options."""
    recipe_given = arguments[:1] == ["train"] and len(arguments) > 1 and not arguments[1].startswith("-")
    commands = {
        "solve": solve,
        "train": _train_command(load_recipe(arguments[1] if recipe_given else "mini")),
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
    rows = [re.sub(r"[│╭╰╮╯]", "", row).strip() for row in report.splitlines()]
    rows = [row for row in rows if row and not row.endswith("──")]
    ends = [i for i, row in enumerate(rows) if re.match(r"─|Perhaps|Argument helptext|For full", row)]
    message = " ".join(rows[: ends[0]] if ends else rows)
    message = re.sub(
        r"__tyro-dummy-inner__.config.|1 validation error for \w+ |Value error, |\[type=.*", "", message
    )
    message = message.strip(" ,")
    known = ["--" + name.replace("_", "-") for name in option_names(RunConfig)]
    for given in (word.split("=")[0] for word in arguments if word.startswith("--")):
        near = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
        if given in message and given not in known and near:
            message += f"; did you mean {near[0]}?"
    command = arguments[0] if arguments[0] in ("solve", "train", "eval", "data", "info") else ""
    return f"{message}; see `{' '.join(filter(None, ('trm', command, '--help')))}`"


def _read_puzzles(puzzle: str, file: str) -> Iterator[_Source]:
    """Puzzles from the command line, a file or standard input, with their places for messages."""
    if puzzle and file:
        raise UserError("give a puzzle or --file, not both")
    if puzzle and puzzle != "-":
        yield _Source(puzzle, "")
        return
    name = "-" if puzzle == "-" else file
    if not name:
        raise UserError("give a puzzle, --file FILE, or `-` for standard input")
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from None
    found = False
    for source in _split(text, "standard input" if name == "-" else name):
        found = True
        yield source
    if not found:
        raise UserError(f"{name} holds no puzzles")


def _split(text: str, name: str) -> Iterator[_Source]:
    """Puzzles of a text: a CSV file with a column `question`, or lines, or grids between blank lines."""
    lines = text.splitlines()
    header = lines[0].split(",") if lines else []
    if "question" in header:
        column = header.index("question")
        for row in (reader := csv.reader(io.StringIO(text))):
            if reader.line_num > 1:
                if len(row) <= column:
                    raise UserError(f"{name}, line {reader.line_num}: no field for the column question")
                yield _Source(row[column], f"{name}, line {reader.line_num}")
        return
    block: list[tuple[int, str]] = []
    for number, line in enumerate([*lines, ""], start=1):
        if line.strip():
            block.append((number, line.strip()))
            continue
        if len(block) > 1 and len(block[0][1]) < _LINE:
            yield _Source("".join(row for _, row in block), f"{name}, lines {block[0][0]}-{block[-1][0]}")
        else:
            yield from (_Source(row, f"{name}, line {at}") for at, row in block)
        block = []


def _bundled_model(source: _Source) -> str:
    """Bundled weights for the size of a puzzle."""
    from trm import pretrained

    sizes = {}
    for name in pretrained.bundled_names():
        task = pretrained.load(name).task
        with contextlib.suppress(UserError):
            task.parse(source.text)
            return name
        sizes[name] = task.length
    cells = len("".join(source.text.split()))
    listed = ", ".join(f"{name} ({length} cells)" for name, length in sizes.items())
    if cells in sizes.values():  # the right size: let its own message say what is wrong
        return next(name for name, length in sizes.items() if length == cells)
    place = f"{source.place}: " if source.place else ""
    raise UserError(f"{place}no bundled weights for {cells} cells, only {listed}; name others with --model")


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


def _show(solver: "Solver", text: str, steps: int | None, early_stop: bool) -> "Answer":
    """Print a puzzle's answer after every step, side by side, and the verdict."""
    from rich.columns import Columns
    from rich.panel import Panel

    console = _console()
    tokens = solver.task.parse(text)
    panels = [Panel(solver.task.render(tokens, tokens), title="puzzle", expand=False)]
    previous, refinement = tokens, None
    for refinement in solver.steps(text, steps, early_stop):
        picture = solver.task.render(tokens, refinement.answer, previous)
        title = f"step {refinement.step}"
        panels.append(
            Panel(picture, title=title, subtitle=f"{100 * refinement.halt_probability:.1f} %", expand=False)
        )
        previous = refinement.answer
    assert refinement is not None
    console.print(Columns(panels))
    answer = solver.answer(tokens, refinement)
    verdict = {
        True: "[green]solved, and the rules confirm it[/]",
        False: "[red]not solved: the answer breaks the rules[/]",
        None: "the rules cannot check this answer",
    }[answer.verified]
    console.print(
        f"{verdict}; {answer.steps} steps, halting probability {100 * answer.halt_probability:.1f} %"
    )
    console.print(answer.answer, highlight=False, soft_wrap=True)
    return answer


def _print_reports(reports: "dict[str, Report]", title: str) -> None:
    """Figures as a table, one column per kind of weights."""
    from rich.table import Table

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
    _console().print(table)


def _milestones(steps: int) -> list[int]:
    """1, 2, 4, 8, ... and the last step."""
    return sorted({2**k for k in range(steps.bit_length()) if 2**k <= steps} | {steps})


def _console(stderr: bool = False) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def _dump(values: Any) -> str:
    return json.dumps(values)
