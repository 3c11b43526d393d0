"""What a family of puzzles is: its tokens, its symmetries, its rules, and how it looks.

Token 0 is padding in every family. Puzzles and answers are uint8 arrays of `length` tokens. A family must say
how its puzzles are read, written and drawn; what it cannot say (it has no rules, no symmetries, no generator)
it leaves out, and the defaults here stand.

Shapes: N puzzles, L tokens, B batch, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from trm.config import DataConfig, FamilyConfig, GeneratorConfig
from trm.errors import UserError
from trm.problem import Problem, Relations
from trm.puzzles.symmetry import Symmetry

if TYPE_CHECKING:
    from rich.console import RenderableType

    from trm.puzzles.arc.readers import Seen
    from trm.puzzles.arc.variants import Variants
    from trm.puzzles.table import Puzzles

# From keys [B] and puzzles drawn (rows of the data [B], tokens and answers [B, L]) to tokens, answers, ids.
Augment = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class TrainingData(NamedTuple):
    """What a run trains on and is judged by."""

    train: "Puzzles"
    validation: "Puzzles"
    puzzles: int
    """Number of puzzle ids."""
    augment: Callable[[torch.device], Augment]
    """How batches are augmented, given the device."""
    variants: "Variants | None" = None
    """What the puzzle ids mean, where they mean something."""
    seen: "Seen | None" = None
    """What training sees, where evaluation must know it."""
    chance_N: np.ndarray | None = None
    """Chances of the training puzzles to be drawn, float64 [N], where they are not all alike."""
    remark: str = ""
    """What the user should know of the data."""


class Sign(NamedTuple):
    """How a token is shown."""

    text: str
    kind: str
    """What it is: pad, open (to be filled in), symbol (what a cell may hold), or a word of the family."""


C = TypeVar("C", bound=FamilyConfig)
G = TypeVar("G", bound=GeneratorConfig)


class Family(ABC, Generic[C, G]):
    """Puzzles of one family and one size."""

    config: C
    """What a run says of the family."""
    vocab_size: int
    """V, the number of tokens, padding included."""
    length: int
    """L, the number of tokens of a puzzle and of an answer."""
    same_cells: bool = True
    """Question and answer have the same cells, so that the padding of one is the padding of the other."""
    named_ids: bool = False
    """A puzzle id stands for a named puzzle under a variant; weights carry the table that says which."""
    commands: str = ""
    """The group of commands that solves and evaluates this family, where it needs ways of its own."""
    comment: str = "#"
    """What a line begins with that is a remark; empty where a row of a puzzle may begin with it."""
    board: tuple[int, int] | None = None
    """Rows and columns of the cells, where they lie on a board."""
    relations: Relations | None = None
    """Which candidates (a cell and a symbol) belong together; None where symbols are not alike."""

    def problem(self, puzzles: int = 1) -> Problem:
        """What the family asks of a model that knows so many puzzle ids."""
        return Problem(self.vocab_size, self.length, puzzles, self.board, self.relations)

    # What every family must say.

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
    def render(
        self, tokens_L: np.ndarray, answer_L: np.ndarray, previous_L: np.ndarray | None = None
    ) -> "RenderableType":
        """The answer as a picture for the terminal: clues, guesses, and what changed since `previous`."""

    def written(self, rows: Sequence[Sequence[Any]]) -> str:
        """The text for `parse` of a board that is given as rows of cells, such as numbers or characters."""
        between = " " if any(len(str(cell)) > 1 for row in rows for cell in row) else ""
        return "\n".join(between.join(map(str, row)) for row in rows)

    def signs(self) -> list[Sign]:
        """How every token is shown, by token, for pictures elsewhere than on a terminal."""
        return [Sign("", "pad"), *(Sign(str(token), "symbol") for token in range(1, self.vocab_size))]

    def resized(self, text: str) -> FamilyConfig | None:
        """Boards of this family in the size of a puzzle in a text; None where it shows no such board.

        By default: boards of this size, and no others.
        """
        try:
            self.parse(text)
        except UserError:
            return None
        return self.config

    def misfit(self, text: str) -> str:
        """What keeps a text from being a puzzle of this family, in one of the sizes that `resized` knows."""
        try:
            self.parse(text)
        except UserError as error:
            return str(error)
        return ""

    # Rules.

    def check(self, tokens_L: np.ndarray) -> None:
        """Raise UserError if the puzzle has no solution, or more than one where there should be one."""

    def verify(self, tokens_L: np.ndarray, answer_L: np.ndarray) -> bool | None:
        """Whether the answer solves the puzzle; None where the rules cannot tell. Never raises.

        By default: False where the answer lacks a cell that the puzzle has, or has one more.
        """
        filled = np.array_equal(np.asarray(tokens_L) == 0, np.asarray(answer_L) == 0)
        return False if self.same_cells and not filled else None

    @property
    def verifies(self) -> bool:
        """Whether `verify` knows something of answers; by default, where a family has its own."""
        return type(self).verify is not Family.verify

    @property
    def solves(self) -> bool:
        """Whether there is an exact solver."""
        return type(self).solve_exactly is not Family.solve_exactly

    def grade(self, tokens_L: np.ndarray, answer_L: np.ndarray) -> dict[str, bool]:
        """What evaluation reports beside "every cell is right", by name; the same names for every puzzle."""
        return {}

    def solve_exactly(self, tokens_L: np.ndarray) -> np.ndarray | None:
        """The answer by exact search, uint8 [L]; None where the search is too long or there is none."""
        return None

    # Symmetries.

    def symmetry(self, key_B: Tensor) -> Symmetry:
        """A uniformly drawn symmetry for every key (see `rng`)."""
        cells_L, symbols_V = (torch.arange(n, device=key_B.device) for n in (self.length, self.vocab_size))
        size = (len(key_B), -1)
        return Symmetry(cells_L.expand(size), symbols_V.expand(size))

    def canonical(self, tokens_L: np.ndarray) -> bytes:
        """A form that two puzzles share if and only if a symmetry of `symmetry` maps one to the other."""
        return np.asarray(tokens_L, np.uint8).tobytes()

    # Data.

    def generate(
        self, config: G, seed: int, avoid: Iterable[np.ndarray], progress: Callable[[int], None]
    ) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """New puzzles by split: tokens, answers and ratings.

        `config` is the generator section of the family. No two puzzles are equivalent, nor the
        same as one to `avoid` (tokens, [L]). UserError where the family has no generator.
        """
        raise UserError(f"puzzles of the family {self.config.name} cannot be generated: give data.train")

    def more_like(
        self,
        tokens_NL: np.ndarray,
        answers_NL: np.ndarray,
        count: int,
        seed: int,
        avoid: Iterable[np.ndarray],
        progress: Callable[[int], None],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Other puzzles made from given ones, about as hard: tokens, answers and ratings.

        What they have in common is the family's choice. No two puzzles are equivalent, nor the same as a
        given one or one to `avoid` (tokens, [L]). UserError where the family cannot make such puzzles.
        """
        raise UserError(
            f"puzzles of the family {self.config.name} are not made like others: leave --like out"
        )

    def prepare(self, config: DataConfig, seed: int) -> TrainingData | None:
        """Training and validation data of a run, for a family whose puzzles are no rows of a file.

        None, the default, for the usual way: rows of a file, or of the generator.
        """
        return None

    def check_rows(self, config: DataConfig) -> None:
        """Raise UserError for options that do nothing where the rows to train on are given as they are."""

    # Going on from other weights.

    def check_tokens(self, other: "Family") -> None:
        """Raise UserError if the tokens of another family of this kind mean something else."""

    def shared_ids(
        self, variants: "Variants", other: "Family", known: "Variants"
    ) -> Iterable[tuple[Tensor, Tensor]]:
        """Puzzle ids that mean the same puzzles, in a table that another family knows and in one's own.

        Yields pairs of int64 tensors: ids of `known` and those of `variants`. UserError where the tables are
        of different kinds.
        """
        return ()
