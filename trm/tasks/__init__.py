"""Puzzle families: each says how its puzzles are read, checked, augmented and drawn."""

from trm.config import SudokuConfig
from trm.tasks.sudoku import Sudoku
from trm.tasks.task import Task

__all__ = ["Task", "build_task"]

_CLASSES = {"sudoku": Sudoku}


def build_task(config: SudokuConfig) -> Task:
    """The task that a configuration describes."""
    return _CLASSES[config.name](config)
