"""`trm solve`: puzzles in, answers out, and the way there."""

import csv
import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from tyro.conf import Positional, arg

import trm
from trm.commands.common import console, dump, shared
from trm.config import Device, Dtype, Effort
from trm.errors import UserError

if TYPE_CHECKING:
    from trm.inference.solver import Answer, Solver
    from trm.puzzles.family import Family

_EFFORT = Effort()
_DECISIONS = 1000  # of a model that can search, where nothing is said of effort


class _Source(NamedTuple):
    """A puzzle and where it stands, for messages."""

    text: str
    place: str


def solve(
    puzzle: Positional[str] = "",
    /,
    *,
    file: str = "",
    puzzle_id: int = 0,
    model: str = "",
    brief: bool = False,
    json: bool = False,
    out: Path | None = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    effort: Annotated[Effort, arg(name="")] = _EFFORT,
) -> int:
    """Solve puzzles and show how the answer was refined, step by step.

    Every puzzle is first checked: a Sudoku for its one solution, a maze for a way through.
    Exit code 0 when every answer is verified, 1 when one is not, 2 when the input is wrong. (A model of ARC
    learns a task before it answers: trm arc solve --help.)

    For example:
      trm solve ..15....6.1.2......3.........3.6..21
      trm solve --file puzzles.txt --brief
      cat puzzles.txt | trm solve - --json
      trm solve --file hard.csv --steps 64 --rollouts 16 --select verify --exact
      torchrun --nproc-per-node 4 -m trm solve --file many.csv --out answers.jsonl
      trm solve 8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4..

    Args:
        puzzle: One puzzle, row by row, with `.` or `0` for a blank; `-` reads puzzles from standard input.
        file: Read puzzles from a file: one per line, grids separated by blank lines, or a CSV file with
            a column `question`. `-` is standard input.
        puzzle_id: Which rule the puzzles follow, for a model that was trained on several (`trm data grid`
            prints their ids).
        model: Weights: a model folder, a training run, bundled weights by name, or a hub repository.
            Default: the bundled weights for the size of the puzzle.
        brief: One line per puzzle: the answer.
        json: One JSON object per puzzle and line.
        out: Write these objects to a file. One that holds the first answers already, of a command that was
            interrupted, is gone on with.
        device: Where to compute.
        dtype: Precision of the forward pass.
        effort: How long, and in how many ways, to think. A model of candidates searches unless something else
            is asked for: `--steps 16` is the network alone.
    """
    if out is not None and (json or brief):
        raise UserError("--out writes JSON: leave out --json and --brief")
    with shared(device) as group:
        text, name = group.by_first(lambda: _read_text(puzzle, file))
        weights, board = _weights(model, text, name)
        solver = trm.load(weights, board=board, device=device, dtype=dtype)
        solver.processes = group
        if solver.searches and effort == _EFFORT:
            effort = Effort(search=_DECISIONS)
        sources = _split(text, name, solver.family)
        for source in sources:
            try:
                solver.family.check(solver.family.parse(source.text))
            except UserError as error:
                raise UserError(f"{source.place}: {error}" if source.place else str(error)) from None
        texts = [source.text for source in sources]
        if out is not None:
            return _write(out, texts, solver, effort, puzzle_id)
        if group.count > 1 and not (json or brief):
            raise UserError("pictures of the way are for one process: give --json, --brief or --out")
        shown = (_show(solver, text, effort, puzzle_id) for text in texts)
        unsolved = 0
        for answer in solver.answers(texts, effort, puzzle_id) if json or brief else shown:
            unsolved += answer.verified is False
            if json or brief:
                print(dump(answer.as_dict()) if json else answer.answer, flush=True)
        return 1 if unsolved else 0


def _write(out: Path, texts: list[str], solver: "Solver", effort: Effort, puzzle_id: int) -> int:
    """Append the answers that a file lacks, and show how far it is; the exit code.

    Of a file that an interrupted command has left, a last line that was cut short is written again.
    """
    from trm.files import full_disk_is_a_user_error
    from trm.terminal import bar

    group = solver.processes
    known = group.by_first(lambda: _answered(out, texts, solver.family))
    right, total = sum(known), len(texts)
    with (
        full_disk_is_a_user_error(f"not all answers are in {out}; the same command goes on"),
        out.open("a", buffering=1, encoding="utf-8") if group.first else nullcontext() as file,
        bar(console(stderr=True), "solving", total, len(known)) as progress,
    ):
        for done, answer in enumerate(
            solver.answers(texts[len(known) :], effort, puzzle_id), start=len(known) + 1
        ):
            if file is not None:
                file.write(dump(answer.as_dict()) + "\n")
            right += answer.verified is not False
            progress.at(done, f"{total - done} left")
    wrong = f", of which {total - right} break the rules" if right < total else ""
    print(f"{out}: {total} answers{wrong}")
    return 0 if right == total else 1


def _answered(out: Path, texts: list[str], family: "Family") -> list[bool]:
    """Which answers in a file do not break the rules; UserError where they are not to these puzzles."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        return []
    lines = out.read_bytes().split(b"\n")
    whole, cut = lines[:-1], lines[-1]
    good: list[bool] = []
    for number, line in enumerate(whole, start=1):
        try:
            answer = loads(line)
            asked = answer["puzzle"]
            good.append(answer["verified"] is not False)
        except (ValueError, KeyError, TypeError):
            asked = None
        if number > len(texts) or asked != family.text(family.parse(texts[number - 1])):
            raise UserError(
                f"{out}, line {number} is no answer to puzzle {number}: it was written for others; "
                "choose another file"
            )
    os.truncate(out, out.stat().st_size - len(cut))
    return good


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


def _split(text: str, name: str, family: "Family") -> list[_Source]:
    """Puzzles of a text: a CSV file with a column `question`, or lines, or grids between blank lines."""
    if not name:
        return [_Source(text, "")]
    from trm.puzzles.table import csv_rows

    lines = text.splitlines()
    sources: list[_Source] = []
    if "question" in next(csv.reader(lines), []):
        rows = csv_rows(text.splitlines(keepends=True), name, ["question"])
        sources += [_Source(fields["question"], place) for place, fields in rows]
    else:
        block: list[tuple[int, str]] = []
        for number, line in enumerate([*lines, ""], start=1):
            if line.strip():
                block.append((number, line))
                continue
            # Rows of a grid, even drawn with frames, hold much fewer cells than a puzzle on one line.
            # A slash separates rows: a line that has one is a whole puzzle.
            whole = any("/" in row for _, row in block)
            if (
                len(block) > 1
                and not whole
                and max(family.cells(row) for _, row in block) < 0.75 * family.length
            ):
                place = f"{name}, lines {block[0][0]}-{block[-1][0]}"
                sources.append(_Source("\n".join(row for _, row in block), place))
            else:
                sources += [_Source(row, f"{name}, line {at}") for at, row in block]
            block = []
    if not sources:
        raise UserError(f"{name} holds no puzzles")
    return sources


def _weights(model: str, text: str, name: str) -> tuple[str, str]:
    """Weights that solve puzzles like the first of a text, and that puzzle: those asked for, or bundled ones.

    Of the bundled ones those for boards of just this size come before those for every size.
    """
    from trm import pretrained

    names = [model] if model else pretrained.bundled_names()
    configs = {each: pretrained.find(each)[1] for each in names}
    families = {each: config.family.build() for each, config in configs.items()}
    for family in families.values():
        if model and family.commands:
            raise UserError(
                f"models of this family have commands of their own: trm {family.commands} solve --help"
            )
    found = {
        each: (boards, shown)
        for each, config in configs.items()
        for shown in reversed(list(_first(text, name)))
        if (boards := pretrained.fitting(config, shown)) is not None
    }
    for each, (boards, shown) in found.items():
        if boards == configs[each].family:
            return each, shown
    for each, (_, shown) in found.items():
        return each, shown
    for each, family in families.items():
        first = _split(text, name, family)[0].text
        if model or len("".join(first.split())) == family.length:  # its own message says what is wrong
            return each, ""
    listed = ", ".join(f"{each} ({family.length} cells)" for each, family in families.items()) or "none"
    raise UserError(f"no bundled weights fit the first puzzle (bundled: {listed}); name some with --model")


def _first(text: str, name: str) -> Iterator[str]:
    """What the first puzzle of a text may be: a grid of several lines, or the first line."""
    if not name:
        yield text
        return
    from trm.puzzles.table import csv_rows

    lines = text.strip("\r\n").splitlines()
    if "question" in next(csv.reader(lines), []):
        for _, fields in csv_rows(lines, name, ["question"]):
            yield fields["question"]
            return
    else:
        block = list(itertools.takewhile(str.strip, lines))
        yield "\n".join(block)
        yield from block[:1]


def _show(solver: "Solver", text: str, effort: Effort, puzzle_id: int) -> "Answer":
    """Print a puzzle's answer after every step, side by side, and the verdict."""
    from rich.columns import Columns
    from rich.panel import Panel

    screen = console()
    tokens = solver.family.parse(text)
    panels = [Panel(solver.family.render(tokens, tokens), title="puzzle", expand=False)]
    previous = tokens
    plain = (
        Effort(steps=min(effort.budget or solver.training_steps, solver.training_steps))
        if effort.search
        else effort
    )
    answer = None
    if effort.rollouts == 1:
        refinement = None
        for refinement in solver.steps(text, plain, puzzle_id):
            picture = solver.family.render(tokens, refinement.answer, previous)
            chance = f"{100 * refinement.halt_probability:.1f} %"
            panels.append(Panel(picture, title=f"step {refinement.step}", subtitle=chance, expand=False))
            previous = refinement.answer
        assert refinement is not None  # there is at least one step
        chance = refinement.halt_probability
        answer = solver.answer(tokens, refinement.answer, refinement.step, chance, plain)
    if answer is None or (effort.search and not answer.verified):
        (answer,) = solver.solve(text, effort, puzzle_id)
    if effort.rollouts > 1 or answer.decisions or answer.by == "exact":
        panels.append(
            Panel(
                solver.family.render(tokens, answer.answer_L, previous), title=f"by {answer.by}", expand=False
            )
        )
    screen.print(Columns(panels))
    verdict = {
        True: "[green]solved, and the rules confirm it[/]",
        False: "[red]not solved: the answer breaks the rules[/]",
        None: "the rules cannot check this answer",
    }[answer.verified]
    by = "exact search after " if answer.by == "exact" else ""
    many = f", best of {answer.rollouts} rollouts" if answer.rollouts > 1 else ""
    chance = f"halting probability {100 * answer.halt_probability:.1f} %"
    if answer.decisions:
        many = f", {answer.decisions} decisions, {answer.take_backs} taken back"
        if answer.verified is False:
            verdict = "[red]no answer was found[/]"
    screen.print(f"{verdict}; {by}{answer.steps} steps{many}, {chance}")
    screen.print(answer.answer, highlight=False, soft_wrap=True)
    return answer
