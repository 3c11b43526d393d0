"""What the commands share: where they print, and how they refuse."""

import json
from typing import TYPE_CHECKING, Any

from trm.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from trm.config import Effort


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
