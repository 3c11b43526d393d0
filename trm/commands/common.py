"""What the commands share: where they print, and how they refuse."""

import contextlib
import json
import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from trm.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from trm.config import Device, Effort
    from trm.processes import Processes


def at_least(least: int, **options: int | None) -> None:
    """Refuse options below the least sensible value, and numbers that no integer of 64 bits holds."""
    for name, value in options.items():
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} is {value}: give at least {least}")
        if value is not None and value >= 2**63:
            raise UserError(f"--{name.replace('_', '-')} is {value}: that is too large")


class Volume:
    """How much the command says beside its results: set once, by --quiet and --verbose."""

    quiet = False
    verbose = False


def console(stderr: bool = False, work: bool = False) -> "Console":
    """Where to print: results on stdout, bars and remarks on stderr.

    With `work`, the progress of work is the output itself; --quiet leaves it out as it does bars and remarks.
    """
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, quiet=Volume.quiet and (stderr or work))


def detail(text: str) -> None:
    """Say what only --verbose is to show."""
    if Volume.verbose:
        console(stderr=True).print(text, style="dim", soft_wrap=True, markup=False)


def dump(values: Any) -> str:
    """Values as JSON on one line."""
    return json.dumps(values)


def to_lower(effort: "Effort") -> str:
    """What to do about an effort for which memory is not enough."""
    if effort.search:
        return "lower --search, or choose --dtype bfloat16"
    if effort.rollouts > 1:
        return "lower --rollouts, or choose --dtype bfloat16"
    return "choose --dtype bfloat16 or another --device, or give smaller puzzles"


@contextlib.contextmanager
def shared(device: "Device") -> "Generator[Processes]":
    """The processes that a command was started with (see `processes`); all but the first are silent."""
    from trm import processes
    from trm.config import ComputeConfig
    from trm.device import pick

    settled, _ = pick(ComputeConfig(device=device))
    with processes.joined(settled.device) as group, contextlib.ExitStack() as silent:
        if not group.first:
            nowhere = silent.enter_context(open(os.devnull, "w"))  # noqa: PTH123 - no path of anybody's
            silent.enter_context(contextlib.redirect_stdout(nowhere))
            silent.enter_context(contextlib.redirect_stderr(nowhere))
        yield group
