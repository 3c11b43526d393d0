"""What a puzzle family is: its tokens, its symmetries, its rules, and how it looks.

Token 0 is padding in every task. Puzzles and answers are uint8 arrays of `length` tokens.

Shapes: L tokens, B batch, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from trm.config import DataConfig
from trm.problem import Problem, Relations

if TYPE_CHECKING:  # torch and rich are imported only by those who need them
    from rich.console import RenderableType
    from torch import Tensor

    from trm.puzzles.symmetry import Symmetry


class Task(ABC):
    """A puzzle family of one size."""

    vocab_size: int
    length: int
    same_cells: bool = True
    """Question and answer have the same cells, so that the padding of one is the padding of the other."""

    board: tuple[int, int] | None = None
    """Rows and columns of the cells, where they lie on a board."""
    relations: Relations | None = None
    """Which candidates (a cell and a symbol) belong together; None where symbols are not alike."""

    def problem(self, puzzles: int = 1) -> Problem:
        """What the family asks of a model that knows so many puzzle ids."""
        return Problem(self.vocab_size, self.length, puzzles, self.board, self.relations)

    @abstractmethod
    def parse(self, text: str) -> np.ndarray:
        """Tokens of a puzzle or an answer, uint8 [L]; UserError says what is wrong with the text."""

    @abstractmethod
    def text(self, tokens_L: np.ndarray) -> str:
        """One line that `parse` reads back."""

    @abstractmethod
    def cells(self, line: str) -> int:
        """How many cells a line of text holds, whatever it is drawn with."""

    @abstractmethod
    def check(self, tokens_L: np.ndarray) -> None:
        """Raise UserError if the puzzle has no solution, or more than one where there should be one."""

    @abstractmethod
    def verify(self, tokens_L: np.ndarray, answer_L: np.ndarray) -> bool | None:
        """Whether the answer solves the puzzle; None where the rules cannot tell. Never raises."""

    @abstractmethod
    def grade(self, tokens_L: np.ndarray, answer_L: np.ndarray) -> dict[str, bool]:
        """What evaluation reports beside "every cell is right", by name; the same names for every puzzle."""

    @abstractmethod
    def solve_exactly(self, tokens_L: np.ndarray) -> np.ndarray | None:
        """The answer by exact search, uint8 [L]; None where the search is too long or there is none."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """The task as plain values."""

    @abstractmethod
    def canonical(self, tokens_L: np.ndarray) -> bytes:
        """A form that two puzzles share if and only if a symmetry of `symmetry` maps one to the other."""

    @abstractmethod
    def symmetry(self, key_B: "Tensor") -> "Symmetry":
        """A uniformly drawn symmetry for every key (see `rng`)."""

    @abstractmethod
    def generate(
        self, config: DataConfig, seed: int, avoid: Iterable[np.ndarray], progress: Callable[[int], None]
    ) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """New puzzles by split: tokens, answers and ratings.

        No two of them are essentially the same, nor the same as a puzzle to `avoid` (tokens, [L]).
        """

    @abstractmethod
    def render(
        self, tokens_L: np.ndarray, answer_L: np.ndarray, previous_L: np.ndarray | None = None
    ) -> "RenderableType":
        """The answer as a picture for the terminal: clues, guesses, and what changed since `previous`."""
