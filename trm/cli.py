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

import tyro
from pydantic import ValidationError

from trm.commands import arc, data, evaluate, info, solve, train
from trm.config import Config, explain, option_names
from trm.errors import UserError
from trm.recipe import load_recipe

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


def _commands(arguments: list[str]) -> dict[str, Any]:
    """All commands by name; a group of commands is a dictionary of its own."""
    recipe_given = arguments[:1] == ["train"] and len(arguments) > 1 and not arguments[1].startswith("-")
    recipe = arguments[1] if recipe_given else "mini"
    return {
        "solve": solve.solve,
        "train": train.command(load_recipe(recipe), recipe),
        "eval": evaluate.evaluate,
        "data": data.commands(),
        "arc": {"solve": arc.solve, "eval": arc.evaluate, "adapt": arc.adapt},
        "info": info.info,
    }


_GROUPS = {"data": "Make puzzles, or bring your own.", "arc": "Solve and evaluate ARC tasks, by votes."}


def _parse(arguments: list[str]) -> Callable[[], int]:
    """The command to run, ready to be called. Exits for --help; UserError for wrong options."""
    if arguments[:1] == ["solve"] and (
        "--task=arc" in arguments or ("--task", "arc") in itertools.pairwise(arguments)
    ):
        raise UserError("ARC has commands of its own: trm arc solve FILE --model RUN")
    found: Any = _commands(arguments)
    names: list[str] = []
    while isinstance(found, dict) and arguments and arguments[0] in found:
        names, found, arguments = [*names, arguments[0]], found[arguments[0]], arguments[1:]
    prog = " ".join(["trm", *names])
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            if not isinstance(found, dict):
                return tyro.cli(_later(found), prog=prog, args=arguments)
            tyro.extras.subcommand_cli_from_dict(
                {name: _listed(name, each) for name, each in found.items()},
                prog=prog,
                description=_GROUPS[names[0]] if names else _DESCRIPTION,
                args=arguments or ["--help"],
            )
            raise AssertionError("a known command is never parsed as part of a list")
    except ValidationError as error:  # of options that are not part of a group
        raise explain(error, Config, prog) from None
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_one_line(errors.getvalue(), arguments, prog, found)) from None


def _listed(name: str, command: Any) -> Callable[[], None]:
    """A stand-in that a list of commands describes in one line."""

    def listed() -> None: ...

    listed.__doc__ = _GROUPS[name] if isinstance(command, dict) else (command.__doc__ or "").splitlines()[0]
    return listed


def _later(function: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """The same signature, but the call only remembers its arguments: parsing ends before work begins."""

    @functools.wraps(function)
    def remember(*args: Any, **kwargs: Any) -> Callable[[], int]:
        return functools.partial(function, *args, **kwargs)

    return remember


def _one_line(report: str, arguments: list[str], prog: str, command: Any) -> str:
    """The parser's framed report as one sentence: what was wrong, a near option, and where to look."""
    rows = [re.sub(r"[│╭╰╮╯|]", "", row).strip() for row in report.splitlines()]
    rows = [row for row in rows if row and not row.endswith(("──", "--"))]
    ends = [i for i, row in enumerate(rows) if re.match(r"─|---|Perhaps|Argument helptext|For full", row)]
    message = " ".join(rows[: ends[0]] if ends else rows)
    message = re.sub(
        r"__tyro-dummy-inner__.config.|1 validation error for \w+ |Value error, |\[type=.*", "", message
    )
    message = message.strip(" ,.")
    known = [] if isinstance(command, dict) else _options(command)
    for given in (word.split("=")[0] for word in arguments if word.startswith("--")):
        near = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
        if given in message and given not in known and near:
            message += f"; did you mean {near[0]}?"
    return f"{message}; see `{prog} --help`"


def _options(command: Callable[..., int]) -> list[str]:
    """Options of a command, as they are written."""
    parameters = [p for p in inspect.signature(command).parameters.values() if p.kind is p.KEYWORD_ONLY]
    names = [p.name for p in parameters]
    for p in parameters:  # a configuration gives its fields as options
        if isinstance(p.default, Config):
            names += option_names(p.default)
    return ["--" + name.replace("_", "-") for name in names]
