"""Puzzle families: each says how its puzzles are read, checked, augmented and drawn."""

from collections.abc import Callable
from typing import Any

from trm.config import TaskConfig
from trm.puzzles.arc.family import Arc
from trm.puzzles.family import Task
from trm.puzzles.grid.family import Grid
from trm.puzzles.maze.family import Maze
from trm.puzzles.sudoku.family import Sudoku

__all__ = ["Task", "build_task"]

_CLASSES: dict[str, Callable[[Any], Task]] = {"sudoku": Sudoku, "maze": Maze, "arc": Arc, "grid": Grid}


def build_task(config: TaskConfig) -> Task:
    """The task that a configuration describes."""
    return _CLASSES[config.name](config)
