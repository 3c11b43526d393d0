"""The command `trm`: solve, train, eval, data, arc, info.

Each command (see `commands`) is a function whose signature is its options; tyro makes the parser from
them. Whatever a user can put right ends as one line on stderr and exit code 2.
"""

import difflib
import functools
import inspect
import io
import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from trm.errors import SaidElsewhere, UserError

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
    except SaidElsewhere:
        return 2
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
    from tyro._errors import on_parse_error

    from trm.config import Config, explain

    def refuse(event: Any) -> None:
        raise UserError(f"{_fault(event, command)}; see `{prog} --help`")

    try:
        with on_parse_error(refuse):
            return tyro.cli(_later(command), prog=prog, args=arguments)
    except ValidationError as error:  # of options that are not part of a group
        raise explain(error, Config, prog) from None


def _later(function: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """The same signature, but the call only remembers its arguments: parsing ends before work begins."""

    @functools.wraps(function)
    def remember(*args: Any, **kwargs: Any) -> Callable[[], int]:
        return functools.partial(function, *args, **kwargs)

    return remember


def _fault(event: Any, command: Callable[..., int]) -> str:
    """What the parser found wrong: the option as it is typed, the value given, and what is allowed."""
    from pydantic import ValidationError
    from tyro import _errors as found

    from trm.config import Config, explain

    match event:
        case found.InvalidChoice():
            return f"{_typed(event.argument)} is {event.value!r}: choose one of {', '.join(event.choices)}"
        case found.BadValue():
            return f"{_typed(event.argument)} needs a value: {event.argument.get_invocation_text()[1]}"
        case found.MissingArgs():
            missing = ", ".join(_typed(each.arg) for each in event.missing_arguments)
            return f"missing: {missing}" + "".join(f"; unknown: {word}" for word in event.unrecognized_tokens)
        case found.UnrecognizedArgs():
            word = event.tokens[0].split("=")[0]
            near = difflib.get_close_matches(word, _options(command), n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]}?" if near and word.startswith("--") else ""
            return f"{word} is no option, or stands where none is expected{hint}"
        case found.InstantiationFailure():
            error = sys.exception()
            while error is not None and not isinstance(error, ValidationError):
                error = error.__cause__ or error.__context__
            if error is not None:
                return str(explain(error, Config, error.title.removesuffix("Config").lower()))
            where = f"{_typed(event.argument)}: " if event.argument is not None else ""
            return where + event.message
    return str(event)


def _typed(argument: Any) -> str:
    """An option as it is written."""
    return argument.lowered.name_or_flags[0]


def _options(command: Callable[..., int]) -> list[str]:
    """Options of a command, as they are written."""
    from trm.config import Config, option_names

    parameters = [p for p in inspect.signature(command).parameters.values() if p.kind is p.KEYWORD_ONLY]
    names = [p.name for p in parameters]
    for p in parameters:  # a configuration gives its fields as options
        if isinstance(p.default, Config):
            names += option_names(p.default)
    return ["--" + name.replace("_", "-") for name in names]
