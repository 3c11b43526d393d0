"""Puzzle families: each says how its puzzles are read, checked, augmented and drawn."""

from collections.abc import Callable
from typing import Any

from trm.config import TaskConfig
from trm.tasks.arc import Arc
from trm.tasks.grid import Grid
from trm.tasks.maze import Maze
from trm.tasks.sudoku import Sudoku
from trm.tasks.task import Task

__all__ = ["Task", "build_task"]

_CLASSES: dict[str, Callable[[Any], Task]] = {"sudoku": Sudoku, "maze": Maze, "arc": Arc, "grid": Grid}


def build_task(config: TaskConfig) -> Task:
    """The task that a configuration describes."""
    return _CLASSES[config.name](config)
