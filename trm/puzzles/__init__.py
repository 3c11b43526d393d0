"""Puzzle families: a folder each, and what they share.

A family says in `config.py` what a run may say of it, and in `family.py` how its puzzles are read, checked,
turned, made and drawn. To add one, write its folder and its line in `FAMILIES`: nothing else in the house
knows the families by name. Neither torch nor numpy is imported before a family is built.
"""

import importlib
from functools import cache
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from trm.config import FamilyConfig

FAMILIES = {  # by name: the module of its configuration, and the class; the first is the default of a run
    "sudoku": "trm.puzzles.sudoku.config.SudokuConfig",
    "maze": "trm.puzzles.maze.config.MazeConfig",
    "arc": "trm.puzzles.arc.config.ArcConfig",
    "grid": "trm.puzzles.grid.config.GridConfig",
    "futoshiki": "trm.puzzles.futoshiki.config.FutoshikiConfig",
}


@cache
def config_classes() -> dict[str, type[FamilyConfig]]:
    """The configuration class of every family, by the family's name."""
    found = {}
    for name, place in FAMILIES.items():
        module, _, kind = place.rpartition(".")
        found[name] = getattr(importlib.import_module(module), kind)
    return found


def _of_its_class(values: Any) -> Any:
    """Values that name a family as that family's configuration; ValueError names the families."""
    if isinstance(values, FamilyConfig):
        return values
    name = values.get("name") if isinstance(values, dict) else None
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(f"needs a name, one of {', '.join(FAMILIES)}")
    return config_classes()[name].model_validate(values)


AnyFamily = Annotated[SerializeAsAny[FamilyConfig], BeforeValidator(_of_its_class)]
"""The type of an option that holds the configuration of some family."""
