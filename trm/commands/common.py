"""What the commands share: where they print, and how they refuse."""

import json
from typing import TYPE_CHECKING, Any

from trm.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console


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
