"""The command `trm`: solve, train, eval, data, arc, info.

Each command (see `commands`) is a function whose signature is its options; tyro makes the parser from
them. Whatever a user can put right ends as one line on stderr and exit code 2.
"""

import contextlib
import difflib
import functools
import inspect
import io
import itertools
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

from trm.errors import UserError

_DESCRIPTION = """Recursive reasoning models (TRM, HRM): solve puzzles, train, evaluate.

Examples:
  trm solve ..15....6.1.2......3.........3.6..21     solve a 6x6 Sudoku and watch it being refined
  trm train mini --out runs/mini                     train the 6x6 model on this computer
  trm train --resume runs/mini                       go on with an interrupted run
  trm eval runs/mini --data runs/mini/data/test.csv  accuracy on held-out puzzles
  trm COMMAND --help                                 all options of a command"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        return _parse(arguments)()
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


_COMMANDS = {  # what the list of commands says of each; its module is imported only if it is asked for
    "solve": "Solve puzzles and show how the answer was refined, step by step.",
    "train": "Train a model from a recipe; any of its values can be changed by an option.",
    "eval": "Measure accuracy on puzzles with known answers, with 95 % intervals.",
    "data": "Make puzzles, or bring your own.",
    "arc": "Solve and evaluate ARC tasks, by votes.",
    "info": "List recipes and bundled weights, or show one: `trm info mini`, `trm info runs/mini`.",
}


def _command(name: str, arguments: list[str]) -> Any:
    """The function of a command; of a group of commands, a dictionary of them by name."""
    if name == "solve":
        if "--task=arc" in arguments or ("--task", "arc") in itertools.pairwise(arguments):
            raise UserError("ARC has commands of its own: trm arc solve FILE --model RUN")
        from trm.commands.solve import solve

        return solve
    if name == "train":
        from trm.commands import train
        from trm.recipe import load_recipe

        recipe = next((word for word in arguments[:1] if not word.startswith("-")), "mini")
        return train.command(load_recipe(recipe), recipe, arguments)
    if name == "eval":
        from trm.commands.evaluate import evaluate

        return evaluate
    if name == "data":
        from trm.commands import data

        return data.commands()
    if name == "arc":
        from trm.commands import arc

        return {"solve": arc.solve, "eval": arc.evaluate, "adapt": arc.adapt}
    from trm.commands.info import info

    return info


def _parse(arguments: list[str]) -> Callable[[], int]:
    """The command to run, ready to be called. Exits for --help; UserError for wrong options."""
    found: Any = _COMMANDS
    names: list[str] = []
    while isinstance(found, dict):
        if not arguments or arguments[0] in ("-h", "--help"):
            _print_list(names, found)
            raise SystemExit(0)
        name, *arguments = arguments
        if name not in found:
            near = difflib.get_close_matches(name, found, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            prog = " ".join(["trm", *names])
            raise UserError(f"no command {name!r}{hint}; see `{prog} --help`")
        found = found[name] if names else _command(name, arguments)
        names.append(name)
    return _parse_options(found, " ".join(["trm", *names]), arguments)


def _print_list(names: list[str], commands: dict[str, Any]) -> None:
    """What there is to choose from, with a line on each."""
    prog = " ".join(["trm", *names])
    abouts = {name: each if isinstance(each, str) else each.__doc__ for name, each in commands.items()}
    widest = max(map(len, abouts))
    print(f"usage: {prog} [-h] {{{','.join(commands)}}} ...\n")
    print(_COMMANDS[names[0]] if names else _DESCRIPTION, end="\n\n")
    for name, about in abouts.items():
        print(f"  {name:<{widest}}  {about.splitlines()[0]}")


def _parse_options(command: Callable[..., int], prog: str, arguments: list[str]) -> Callable[[], int]:
    """The options of a command, which tyro reads off its signature."""
    import tyro
    from pydantic import ValidationError

    from trm.config import Config, explain

    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(_later(command), prog=prog, args=arguments)
    except ValidationError as error:  # of options that are not part of a group
        raise explain(error, Config, prog) from None
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_one_line(errors.getvalue(), arguments, prog, command)) from None


def _later(function: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """The same signature, but the call only remembers its arguments: parsing ends before work begins."""

    @functools.wraps(function)
    def remember(*args: Any, **kwargs: Any) -> Callable[[], int]:
        return functools.partial(function, *args, **kwargs)

    return remember


def _one_line(report: str, arguments: list[str], prog: str, command: Callable[..., int]) -> str:
    """The parser's framed report as one sentence: what was wrong, a near option, and where to look."""
    rows = [re.sub(r"[│╭╰╮╯|]", "", row).strip() for row in report.splitlines()]
    rows = [row for row in rows if row and not row.endswith(("──", "--"))]
    ends = [i for i, row in enumerate(rows) if re.match(r"─|---|Perhaps|Argument helptext|For full", row)]
    message = " ".join(rows[: ends[0]] if ends else rows)
    message = re.sub(
        r"__tyro-dummy-inner__.config.|1 validation error for \w+ |Value error, |\[type=.*", "", message
    )
    message = message.strip(" ,.")
    known = _options(command)
    for given in (word.split("=")[0] for word in arguments if word.startswith("--")):
        near = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
        if given in message and given not in known and near:
            message += f"; did you mean {near[0]}?"
    return f"{message}; see `{prog} --help`"


def _options(command: Callable[..., int]) -> list[str]:
    """Options of a command, as they are written."""
    from trm.config import Config, option_names

    parameters = [p for p in inspect.signature(command).parameters.values() if p.kind is p.KEYWORD_ONLY]
    names = [p.name for p in parameters]
    for p in parameters:  # a configuration gives its fields as options
        if isinstance(p.default, Config):
            names += option_names(p.default)
    return ["--" + name.replace("_", "-") for name in names]
