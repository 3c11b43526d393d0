"""`trm completion`: what a shell offers when Tab is pressed."""

import ast
import contextlib
import io
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union

import tyro
from tyro.conf import Positional, arg, subcommand

from trm.recipe import recipe_names

# A command, or a group of commands by name.
Commands = Mapping[str, Any]


def command(commands: Commands) -> Callable[..., int]:
    """The command `completion` for a tree of commands."""

    def completion(shell: Positional[Literal["bash", "zsh", "fish"]], /) -> int:
        """Print the script that completes commands, options and their choices in a shell.

        For example:
          trm completion bash > ~/.local/share/bash-completion/completions/trm
          trm completion zsh > ~/.zfunc/_trm      (with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc)
          trm completion fish > ~/.config/fish/completions/trm.fish

        Args:
            shell: The shell to write it for.
        """
        print(script({**commands, "completion": completion}, shell), end="")
        return 0

    return completion


def script(commands: Commands, shell: str) -> str:
    """The script that tyro writes for all commands at once, made to fit.

    Where a description takes several lines, the script would offer the second one as a word; and it
    does not know that a recipe follows `train`.
    """
    with contextlib.redirect_stdout(io.StringIO()) as written, contextlib.suppress(SystemExit):
        tyro.cli(_choice(commands), prog="trm", args=["--tyro-print-completion", shell])

    quoted = shell == "fish"  # where the Python code stands in quotes

    def fit(found: re.Match[str]) -> str:
        spec = re.sub(r"\\(.)", r"\1", found["spec"]) if quoted else found["spec"]
        code = (
            f"COMPLETION_SPEC = {_on_one_line(ast.literal_eval(spec))!r}\n"
            '_train = COMPLETION_SPEC["subcommands"]["train"]\n'
            f'_train["subcommands"] = dict.fromkeys({recipe_names()!r}, dict(_train))'
        )
        return re.sub(r"(['\\])", r"\\\1", code) if quoted else code

    return re.sub(r"^COMPLETION_SPEC = (?P<spec>.*)$", fit, written.getvalue(), flags=re.MULTILINE)


def _choice(commands: Commands) -> Any:
    """One of the commands, as a type."""
    union: Any = Union  # made here, where checkers of types expect them written out
    annotated: Any = Annotated

    def made(each: Any) -> Callable[..., Any]:
        if not isinstance(each, Mapping):
            return each

        def group(command: Any) -> Any:
            return command

        group.__annotations__["command"] = annotated[_choice(each), arg(name="")]
        return group

    return union[
        tuple(
            annotated[Any, subcommand(name, constructor=made(each), prefix_name=False)]
            for name, each in commands.items()
        )
    ]


def _on_one_line(spec: Any) -> Any:
    """The same nested values, with every text on one line."""
    if isinstance(spec, dict):
        return {key: _on_one_line(value) for key, value in spec.items()}
    if isinstance(spec, list):
        return [_on_one_line(value) for value in spec]
    return " ".join(spec.split()) if isinstance(spec, str) else spec
