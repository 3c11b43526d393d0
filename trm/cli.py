"""The command `trm`; `_COMMANDS` lists its verbs.

Each command (see `commands`) is a function whose signature is its options; tyro makes the parser from
them. Whatever a user can fix ends as one line on stderr and exit code 2.
"""

import difflib
import functools
import inspect
import io
import itertools
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import trm
from trm.commands.common import Volume, detail
from trm.errors import SaidElsewhere, UserError, one_line

_DESCRIPTION = """Recursive reasoning models (TRM, HRM): solve puzzles, train, evaluate.

Examples:
  trm solve ..15....6.1.2......3.........3.6..21     solve a 6x6 Sudoku and watch it being refined
  trm train mini --out runs/mini                     train the 6x6 model on this computer
  trm train --resume runs/mini                       resume an interrupted run
  trm eval runs/mini --data runs/mini/data/test.csv  accuracy on held-out puzzles
  trm COMMAND --help                                 the options of a command

With every command:
  --quiet    no progress and no remarks: results and errors alone
  --verbose  say what is computed with, and where an error comes from
  --version  print the version

Exit codes:
  0  all went well            1  an answer is not verified, or work was stopped before its end
  2  something needs to be fixed: one line on stderr says what
  130, 143, 141  ended by Ctrl-C, by SIGTERM, or by a reader that left"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace", line_buffering=True)
    try:
        work = _parse(_shared(arguments))
        if Volume.verbose:
            from trm.commands.info import machine

            detail("; ".join(f"{name}: {value}" for name, value in machine().items()))
        return work()
    except SaidElsewhere:
        return 2
    except UserError as error:
        if Volume.verbose:
            traceback.print_exc()
        print(f"trm: error: {one_line(error)}", file=sys.stderr)
        return 2
    except MemoryError:
        print("trm: error: there is not enough memory for this", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:  # the reader has gone; nothing to tell it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        print(f"trm: error: {error.filename or 'input or output'}: {error.strerror}", file=sys.stderr)
        return 2
    except Exception as error:
        if _was_interrupted(error):
            return _interrupted()
        raise


def _interrupted() -> int:
    print("trm: interrupted", file=sys.stderr)
    return 128 + signal.SIGINT


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C came first: compiled code may answer it with an error of its own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _shared(arguments: list[str]) -> list[str]:
    """Take out the options that every command has. Exits for --version."""
    if "--version" in arguments:
        print(f"trm {trm.__version__}")
        raise SystemExit(0)
    Volume.quiet = Volume.verbose = False
    if {"--quiet", "--verbose"} <= set(arguments):
        raise UserError("give --quiet or --verbose, not both")
    Volume.quiet, Volume.verbose = "--quiet" in arguments, "--verbose" in arguments
    return [word for word in arguments if word not in ("--quiet", "--verbose")]


_HELP = frozenset(("-h", "--help", "--help-all"))
_COMMANDS = {  # what the list of commands says of each; its module is imported only if it is asked for
    "solve": "Solve puzzles and show how the answer was refined, step by step.",
    "train": "Train a model from a recipe; any of its values can be changed by an option.",
    "eval": "Measure accuracy on puzzles with known answers, with 95 % intervals.",
    "data": "Make puzzles, or bring your own.",
    "arc": "Solve and evaluate ARC tasks, by votes.",
    "push": "Upload a model to the Hugging Face hub, with a card that says what it is.",
    "pull": "Download a model from the Hugging Face hub into a folder.",
    "import": "Make a model folder of a checkpoint of the original TRM or HRM code.",
    "original": "Go back to the original code: export a model as a checkpoint that it loads.",
    "runs": "List the runs in a folder: state, step, best figures.",
    "plot": "Draw loss and accuracy of one or several runs beside each other.",
    "export": "Write a model as ONNX graphs, for callers without PyTorch; or for the original code.",
    "page": "Write a web page that runs models in the browser and shows them think.",
    "serve": "Answer puzzles over HTTP, and show the page; those of many clients are computed together.",
    "info": "List what there is, or say what something is: `trm info mini`, `trm info runs/mini`.",
    "completion": "Print the script that completes commands, options and their choices in a shell.",
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
    if name in ("import", "original"):
        from trm.commands import original

        return original.take_over if name == "import" else {"export": original.export}
    if name in ("push", "pull"):
        from trm.commands import hub

        return {"push": hub.push, "pull": hub.pull}[name]
    if name in ("runs", "plot"):
        from trm.commands import runs

        return {"runs": runs.runs, "plot": runs.plot}[name]
    if name == "completion":
        from trm.commands import completion

        return completion.command({each: _command(each, []) for each in _COMMANDS if each != name})
    if name == "export":
        from trm.commands.export import export

        return export
    if name == "page":
        from trm.commands.page import page

        return page
    if name == "serve":
        from trm.commands.serve import serve

        return serve
    from trm.commands.info import info

    return info


def _parse(arguments: list[str]) -> Callable[[], int]:
    """The command to run, ready to be called. Exits for --help; UserError for wrong options."""
    found: Any = _COMMANDS
    names: list[str] = []
    while isinstance(found, dict):
        if not arguments or arguments[0] in _HELP:
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
    if not _HELP.isdisjoint(arguments):
        from trm.commands import help, train

        few = prog == "trm train" and "--help-all" not in arguments
        print(help.text(command, prog, train.COMMON if few else ()))
        raise SystemExit(0)
    import tyro
    from pydantic import ValidationError
    from tyro._errors import on_parse_error

    def refuse(event: Any) -> None:
        raise UserError(f"{_fault(event, command, arguments)}; see `{prog} --help`")

    try:
        with on_parse_error(refuse):
            return tyro.cli(_later(command), prog=prog, args=arguments)
    except ValidationError as error:  # of options that are not part of a group
        raise UserError(f"{_invalid(error, arguments)}; see `{prog} --help`") from None


def _later(function: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """The same signature, but the call only remembers its arguments: parsing ends before work begins."""

    @functools.wraps(function)
    def remember(*args: Any, **kwargs: Any) -> Callable[[], int]:
        return functools.partial(function, *args, **kwargs)

    return remember


def _fault(event: Any, command: Callable[..., int], arguments: list[str]) -> str:
    """What the parser found wrong: the option as it is typed, the value given, and what is allowed."""
    from pydantic import ValidationError
    from tyro import _errors as found

    match event:
        case found.InvalidChoice():
            return f"{_typed(event.argument)} is {event.value!r}: choose one of {', '.join(event.choices)}"
        case found.BadValue():
            return f"{_typed(event.argument)} needs a value: {event.argument.get_invocation_text()[1]}"
        case found.MissingArgs():
            missing = ", ".join(_typed(each.arg) for each in event.missing_arguments)
            return f"missing: {missing}" + "".join(f"; unknown: {word}" for word in event.unrecognized_tokens)
        case found.UnrecognizedArgs():
            return _unknown(event.tokens[0].split("=")[0], _options(command))
        case found.InstantiationFailure():
            error = sys.exception()
            while error is not None and not isinstance(error, ValidationError):
                error = error.__cause__ or error.__context__
            if error is not None:
                return _invalid(error, arguments)
            if event.argument is None:
                return event.message
            option = _typed(event.argument)
            kinds = {"INT": "a whole number", "FLOAT": "a number"}
            kind = kinds.get(str(event.argument.lowered.metavar).removeprefix("{None}|"))
            value = _given(option.removeprefix("--").rpartition(".")[2], arguments)[1]
            return f"{option} is {value!r}: give {kind}" if kind else f"{option}: {event.message}"
    return str(event)


def _unknown(word: str, options: list[str]) -> str:
    """What to say of a word that is no option."""
    if group := [option for option in options if option.startswith(f"{word}.")]:
        return f"{word} is a group of options, such as {', '.join(group[:3])}"
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near and word.startswith("--") else ""
    return f"{word} is not an option, or is not expected here{hint}"


def _invalid(error: Any, arguments: list[str]) -> str:
    """What a configuration refused, by the option as it was typed, where it was."""
    from trm.config import Config, allowed, explain

    fault = error.errors()[0]
    option, value = _given(str(fault["loc"][-1]), arguments) if fault["loc"] else ("", "")
    if option and (instead := allowed(fault)):
        return f"{option} is {value}: {instead}"
    if option:
        return f"{option}: {fault['msg'].removeprefix('Value error, ')}"
    title = error.title.removesuffix("Config").lower()
    section = next((name for name in ("data", "generator") if title.endswith(name)), title)
    return str(explain(error, Config, section))


def _given(name: str, arguments: list[str]) -> tuple[str, str]:
    """The option of that name, in whatever section, as it was typed, and its value; empty if it was not."""
    for word, after in zip(arguments, [*arguments[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        last = option.removeprefix("--").rpartition(".")[2]
        if option.startswith("--") and last.replace("_", "-") == name.replace("_", "-"):
            return option, value if equals else after
    return "", ""


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
