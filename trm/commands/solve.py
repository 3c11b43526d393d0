"""`trm solve`: puzzles in, answers out, and the way there."""

import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

import trm
from trm import files
from trm.commands.common import console, dump, shared, to_lower
from trm.config import Device, Dtype, Effort
from trm.errors import UserError, out_of_memory_is_a_user_error

if TYPE_CHECKING:
    from trm.inference.solver import Answer, Solver
    from trm.puzzles.family import Family
    from trm.puzzles.records import Lines

_EFFORT = Effort()
_DECISIONS = 2000  # of a model that can search, where nothing is said of effort
_LISTED = 20  # skipped puzzles that are named one by one


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
    skip_bad: bool = False,
    gif: Path | None = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    effort: Annotated[Effort, arg(name="")] = _EFFORT,
) -> int:
    """Solve puzzles and show how the answer was refined, step by step.

    Every puzzle is first checked: a Sudoku for its one solution, a maze for a way through. Answers come as
    soon as they are found. Exit code 0 when no answer breaks the rules, 1 when one does or a puzzle was
    skipped, 2 when the input is wrong. (A model of ARC learns a task before it answers: trm arc solve
    --help.)

    For example:
      trm solve ..15....6.1.2......3.........3.6..21
      trm solve ..15....6.1.2......3.........3.6..21 --gif solved.gif
      trm solve --file puzzles.txt --brief
      cat puzzles.txt | trm solve - --json
      trm solve --file hard.csv --steps 64 --rollouts 16 --select verify --exact
      torchrun --nproc-per-node 4 -m trm solve --file many.csv --out answers.jsonl
      trm solve 8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4..

    Args:
        puzzle: One puzzle, row by row, with `.` or `0` for a blank; `-` reads puzzles from standard input.
        file: Read puzzles from a file: one per line, grids separated by blank lines, a table (CSV, TSV) with
            a column `question`, or JSON; also packed (.gz). `-` is standard input.
        puzzle_id: Which rule the puzzles follow, for a model that was trained on several (`trm data grid`
            prints their ids).
        model: Weights: a model folder, a training run, bundled weights by name, or a hub repository.
            Default: the bundled weights for the size of the puzzle.
        brief: One line per puzzle: the answer, with a remark where it is not verified.
        json: One JSON object per puzzle and line.
        out: Write these objects to a file. One that holds the first answers already, of a command that was
            interrupted, is continued.
        skip_bad: Leave out puzzles of a file that cannot be read or solved, and name them at the end.
        gif: Write an animation of one puzzle's refinement (.gif), or its steps side by side (.svg, .png).
        device: Where to compute.
        dtype: Precision of the forward pass.
        effort: How long, and in how many ways, to think. A model of candidates searches unless something else
            is asked for: `--steps 16` is the network alone.
    """
    if json and brief:
        raise UserError("give --json or --brief, not both")
    if out is not None and (json or brief):
        raise UserError("--out writes JSON: leave out --json and --brief")
    if skip_bad and not (file or puzzle == "-"):
        raise UserError("--skip-bad is for puzzles of a file: with one puzzle it would do nothing")
    if gif is not None:
        _check_gif(gif, one=not (file or puzzle == "-" or json or brief or out))
    with (
        _opened(puzzle, file) as lines,
        shared(device) as group,
        out_of_memory_is_a_user_error(to_lower(effort)),
    ):
        if group.count > 1:
            if "-" in (puzzle, file):
                raise UserError("standard input is for one process: give --file FILE")
            if not (json or brief or out):
                raise UserError("pictures of the way are for one process: give --json, --brief or --out")
        weights, board = _weights(model, puzzle, lines)
        solver = trm.load(weights, board=board, device=device, dtype=dtype)
        solver.processes = group
        effort = solver.by_itself(effort, _DECISIONS)
        solver.check_effort(effort)
        asked = _Asked(puzzle, lines, solver.family, skip_bad)
        if out is not None:
            tally = _write(out, iter(asked), solver, effort, puzzle_id)
        else:
            tally = _nothing()
            shown = (_show(solver, text, effort, puzzle_id, gif) for text in asked)
            for answer in solver.answers(asked, effort, puzzle_id) if json or brief else shown:
                tally[answer.verified] += 1
                if json or brief:
                    print(dump(answer.as_dict()) if json else _brief(answer), flush=True)
        if not json:
            _summarize(tally, solver, effort)
        asked.report()
        return 1 if tally[False] or asked.skipped else 0


def _nothing() -> dict[bool | None, int]:
    """A count of answers by verdict, before the first."""
    return {True: 0, None: 0, False: 0}


def _write(
    out: Path, texts: Iterator[str], solver: "Solver", effort: Effort, puzzle_id: int
) -> dict[bool | None, int]:
    """Append the answers that a file lacks, and show how far it is; how many are verified, by verdict."""
    from trm.terminal import bar

    group = solver.processes
    tally = group.by_first(lambda: _answered(out, texts, solver.family))
    known = sum(tally.values())
    if not group.first:  # it has passed by the puzzles that are answered
        for _ in itertools.islice(texts, known):
            pass
    with (
        files.full_disk_is_a_user_error(f"not all answers are in {out}; run the command again to resume"),
        out.open("a", buffering=1, encoding="utf-8") if group.first else nullcontext() as file,
        bar(console(stderr=True), "solving", None, known) as progress,
    ):
        for done, answer in enumerate(solver.answers(texts, effort, puzzle_id), start=known + 1):
            if file is not None:
                file.write(dump(answer.as_dict()) + "\n")
            tally[answer.verified] += 1
            progress.at(done)
    print(f"{out}: {sum(tally.values())} answers")
    return tally


def _answered(out: Path, texts: Iterator[str], family: "Family") -> dict[bool | None, int]:
    """How many answers a file holds, by verdict; UserError where they are not to these puzzles.

    A last line that was cut short is taken away.
    """
    tally = _nothing()
    out.parent.mkdir(parents=True, exist_ok=True)
    if not out.exists():
        return tally
    size = 0
    with out.open(encoding="latin-1", newline="\n") as file:  # a character is a byte
        for number, line in enumerate(files.lines(file, str(out)), start=1):
            if not line.endswith("\n"):
                break
            size += len(line)
            try:
                answer = loads(line)
                same = answer["puzzle"] == family.text(family.parse(next(texts, "")))
                tally[answer["verified"]] += 1
            except (ValueError, KeyError, TypeError, UserError):
                same = False
            if not same:
                raise UserError(
                    f"{out}, line {number} does not answer puzzle {number}: it was written for others; "
                    "choose another file"
                )
    os.truncate(out, size)
    return tally


def _check_gif(gif: Path, one: bool) -> None:
    from trm.inference.picture import check_writable

    if not one:
        raise UserError("--gif shows one puzzle from the command line, without --json, --brief and --out")
    check_writable(gif)


@contextmanager
def _opened(puzzle: str, file: str) -> "Iterator[Lines | None]":
    """The lines that hold the puzzles; None where the puzzle stands on the command line."""
    from trm.puzzles import records

    if puzzle and file:
        raise UserError("give a puzzle or --file, not both")
    name = "-" if puzzle == "-" else file
    if not (puzzle or name):
        raise UserError("give a puzzle, --file FILE, or `-` for standard input")
    if name == "-":
        yield records.Lines(files.lines(sys.stdin, "standard input"), "standard input")
    elif name:
        with records.opened(Path(name)) as lines:
            yield lines
    else:
        if _is_path(puzzle):
            raise UserError(f"{puzzle} is a file: to read puzzles from it, write --file {puzzle}")
        if re.fullmatch(r"\S+\.(csv|tsv|txt|json|jsonl|ndjson|gz)", puzzle):
            raise UserError(f"there is no file {puzzle}, and it is not a puzzle either: check the name")
        yield None


def _is_path(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # much too long for a name
        return False


class _Asked:
    """The texts of the puzzles, each checked when it is its turn.

    A fault ends them, so that what was asked before is answered first; `report` raises it then. With `skip`
    such puzzles are left out instead.
    """

    def __init__(self, puzzle: str, lines: "Lines | None", family: "Family", skip: bool):
        self.puzzle, self.lines, self.family, self.skip = puzzle, lines, family, skip
        self.skipped: list[str] = []
        self.fault: UserError | None = None
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        from trm.puzzles.records import Question, questions

        asked: Iterable[Question] = [Question(self.puzzle, "")]
        if self.lines is not None:
            asked = questions(self.lines, self.family, self._bad)
        try:
            for each in asked:
                try:
                    self.family.check(self.family.parse(each.text))
                except UserError as error:
                    self._bad(UserError(f"{each.place}: {error}" if each.place else str(error)))
                else:
                    self.count += 1
                    yield each.text
        except UserError as error:
            self.fault = error

    def _bad(self, error: UserError) -> None:
        if not self.skip:
            raise error
        self.skipped.append(str(error))

    def report(self) -> None:
        """Raise the fault that has ended the puzzles, if any; say what was left out."""
        if self.fault is not None:
            done = ""
            if self.lines is not None and self.count:
                done = f"; answered before it: {self.count}; --skip-bad leaves bad ones out"
            raise UserError(f"{self.fault}{done}") from None
        if not self.count and not self.skipped and self.lines is not None:
            raise UserError(f"{self.lines.name} holds no puzzles")
        if self.skipped:
            screen = console(stderr=True)
            screen.print(f"skipped {len(self.skipped)} of {len(self.skipped) + self.count} puzzles:")
            more = len(self.skipped) - _LISTED
            for fault in [*self.skipped[:_LISTED], *([f"and {more} more"] if more > 0 else [])]:
                screen.print(f"  {fault}", markup=False, soft_wrap=True)


def _brief(answer: "Answer") -> str:
    remark = {True: "", None: "  # not verified", False: "  # breaks the rules"}[answer.verified]
    return answer.answer + remark


def _summarize(tally: dict[bool | None, int], solver: "Solver", effort: Effort) -> None:
    """Say how many answers are verified, and what to try for the others; a single good one says it itself."""
    count = sum(tally.values())
    if count == tally[True] < 2:
        return
    ways = []
    if effort.search or (solver.searches and effort.rollouts == 1):
        ways.append(f"--search {10 * (effort.search or _DECISIONS // 10)}")
    elif solver.family.verifies:
        ways.append(f"--rollouts {8 * effort.rollouts} --select verify")
    if solver.family.solves and not effort.exact:
        ways.append("--exact")
    unknown = f", {tally[None]} that cannot be" if tally[None] else ""
    remedy = f"; try {', or '.join(ways)}" if ways and count > tally[True] else ""
    console(stderr=True).print(f"{tally[True]} of {count} verified{unknown}{remedy}", soft_wrap=True)


def _weights(model: str, puzzle: str, lines: "Lines | None") -> tuple[str, str]:
    """Weights that solve puzzles like the first of a text, and that puzzle: those asked for, or bundled ones.

    Of the bundled ones that fit, those are taken that learned on boards most like it.
    """
    from trm import pretrained
    from trm.puzzles import records

    configs = {each: pretrained.find(each)[1] for each in ([model] if model else pretrained.bundled_names())}
    for config in configs.values():
        if model and (commands := config.family.build().commands):
            raise UserError(f"models of this family have commands of their own: trm {commands} solve --help")
    families = {each: config.family.build() for each, config in configs.items()}
    shown = {
        each: [puzzle] if lines is None else records.first(lines, family) for each, family in families.items()
    }
    if lines is not None and not any(shown.values()):
        raise UserError(f"{lines.name} holds no puzzles")
    for each, (_, text) in pretrained.that_fit(configs, shown).items():
        return each, text
    if model and not configs[model].model.any_board:  # the check of every puzzle says what is wrong
        return model, ""
    where = "" if lines is None else f"{lines.name}, first puzzle: "
    others = "" if model else f" (bundled weights: {', '.join(configs)}; name others with --model)"
    raise UserError(f"{where}{_misfit([(families[each], texts) for each, texts in shown.items()])}{others}")


def _misfit(shown: "list[tuple[Family, list[str]]]") -> str:
    """What is wrong with a puzzle that no weights fit, by the family that it resembles most.

    With each family comes what the puzzle may be in its writing.
    """
    found = []
    for family, texts in shown:
        known = _alphabet(family)
        for text in texts:
            chars = "".join(text.split()) or " "
            strange = sum(char not in known for char in chars) / len(chars)
            away = abs(family.cells(text) - family.length)
            fault = family.misfit(text) or "these weights are for other sizes"
            found.append((round(strange, 1), away, fault, texts[-1]))
    strange, _, fault, text = min(found)
    if any(mark in text for mark in ",;\t"):
        fault += "; if this is a table, name its columns in the first line: question,answer"
    return fault if strange < 0.5 else f"{text[:40]!r} is not a puzzle that the weights know: {fault}"


def _alphabet(family: "Family") -> set[str]:
    """Characters that puzzles of a family are written with."""
    import numpy as np

    texts = (family.text(np.full(family.length, token, np.uint8)) for token in range(1, family.vocab_size))
    return {*".0", *"".join(texts)}


def _show(solver: "Solver", text: str, effort: Effort, puzzle_id: int, gif: Path | None) -> "Answer":
    """Print a puzzle's answer after every step, side by side, and the verdict.

    Of several rollouts these are the steps of the chosen one. A search begins with the plain rollout, and
    where that is right, it ends with it.
    """
    from trm.inference.picture import draw
    from trm.terminal import panel

    screen, family = console(), solver.family
    tokens = family.parse(text)
    plain = effort
    if effort.search:
        plain = Effort(steps=min(effort.budget or solver.training_steps, solver.training_steps))
    (answer,) = solver.solve(text, plain, puzzle_id)
    refinements = list(solver.replay(answer, plain, puzzle_id))
    picture = draw(refinements)
    if effort.search and not answer.verified:
        (answer,) = solver.solve(text, effort, puzzle_id)
    if answer.decisions or answer.by == "exact":
        drawn = family.render(tokens, answer.answer_L, refinements[-1].answer)
        picture.drawings.append(panel(drawn, f"by {'search' if answer.by == 'model' else answer.by}"))
    screen.print(picture)
    if gif is not None:
        picture.save(gif)
    verdict = {
        True: "[green]solved, and the rules confirm it[/]",
        False: "[red]not solved: the answer breaks the rules[/]",
        None: "the rules cannot check this answer",
    }[answer.verified]
    by = "exact search after " if answer.by == "exact" else ""
    many = f", rollout {answer.rollout + 1} of {answer.rollouts}" if answer.rollouts > 1 else ""
    chance = f"halting probability {100 * answer.halt_probability:.1f} %"
    if answer.decisions:
        many = f", {answer.decisions} decisions, {answer.take_backs} taken back"
        if answer.verified is False:
            verdict = "[red]no answer was found[/]"
    screen.print(f"{verdict}; {by}{answer.steps} steps{many}, {chance}")
    screen.print(answer.answer, highlight=False, soft_wrap=True, markup=False)
    return answer
