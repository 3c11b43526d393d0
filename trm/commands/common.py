"""What the commands share: where they print, and how they refuse."""

import contextlib
import json
import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from trm.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from trm.config import Device
    from trm.processes import Processes


def at_least(least: int, **options: int | None) -> None:
    """Refuse options below the least sensible value, and numbers that no integer of 64 bits holds."""
    for name, value in options.items():
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} is {value}: give at least {least}")
        if value is not None and value >= 2**63:
            raise UserError(f"--{name.replace('_', '-')} is {value}: that is too large")


def console(stderr: bool = False) -> "Console":
    """Where to print: results on stdout, bars and remarks on stderr."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def dump(values: Any) -> str:
    """Values as JSON on one line."""
    return json.dumps(values)


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
