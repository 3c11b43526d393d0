"""What a puzzle family asks of a model: plain numbers, so that neither has to know the other.

Shapes: L cells, N symbols, S = L * N candidates, R relations.
"""

import math
from typing import NamedTuple


class Relation(NamedTuple):
    """Candidates that belong together, as the axes of a factored shape along which they lie."""

    name: str
    """Relations of one name share their weights, in a model and between models."""
    axes: tuple[int, ...]


class Relations(NamedTuple):
    """The candidates of a board, one for every cell and symbol, and which of them belong together.

    `shape` factors the candidates, cells before symbols, so that the members of every relation are whole
    axes of it: for a Sudoku (bands, rows of a band, stacks, columns of a stack, symbols). A relation is then
    a partition of the candidates, and a mean over its members is a mean over axes.
    """

    shape: tuple[int, ...]
    members: tuple[Relation, ...]
    tokens: tuple[int, ...]
    """The token of every symbol; all other tokens mean that the cell is open."""

    @property
    def symbols(self) -> int:
        """N, the symbols."""
        return len(self.tokens)

    @property
    def candidates(self) -> int:
        """S, the candidates."""
        return math.prod(self.shape)


class Problem(NamedTuple):
    """What a family asks of a model: size of the vocabulary, cells of a puzzle, number of puzzle ids."""

    vocab_size: int
    length: int
    puzzles: int = 1
    board: tuple[int, int] | None = None
    """Rows and columns of the cells, where they lie on a board."""
    relations: Relations | None = None
    """Which candidates belong together, where the family says so."""
