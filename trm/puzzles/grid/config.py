"""What a run may say of grid puzzles of one's own: size, symbols, and what may be turned or renamed."""

from typing import TYPE_CHECKING, ClassVar, Self, final

from pydantic import Field, model_validator

from trm.config import AugmentedDataConfig, FamilyConfig

if TYPE_CHECKING:
    from trm.puzzles.grid.family import Grid

MAX_CELLS, MAX_SYMBOLS = 10_000, 254  # a token is a byte, and 0 is padding


@final
class GridConfig(FamilyConfig):
    """Grid puzzles of one's own: question and answer are grids of one size, over one set of symbols."""

    name: ClassVar = "grid"
    data: ClassVar = AugmentedDataConfig
    height: int = Field(ge=1)
    """Most rows; smaller puzzles are padded."""
    width: int = Field(ge=1)
    """Most columns."""
    symbols: tuple[str, ...]
    """All symbols of questions and answers; symbol i is token i + 1, as 0 is padding."""
    dihedral: bool = False
    """Rotations and reflections (where height and width differ: only those that keep the shape) make
    another puzzle of the same kind."""
    permute: tuple[str, ...] = ()
    """Symbols that may be renamed among each other, as the digits of a Sudoku may."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.height * self.width > MAX_CELLS:
            raise ValueError(
                f"a grid of {self.height}x{self.width} is too large: at most {MAX_CELLS:,} cells"
            )
        if not 1 <= len(self.symbols) <= MAX_SYMBOLS:
            raise ValueError(f"a grid needs 1 to {MAX_SYMBOLS} symbols, not {len(self.symbols)}")
        if len(set(self.symbols)) != len(self.symbols):
            raise ValueError("the symbols are not all different")
        if unknown := sorted(set(self.permute) - set(self.symbols)):
            raise ValueError(f"permute names {', '.join(map(repr, unknown))}, which no puzzle uses")
        return self

    def build(self) -> "Grid":
        """The family of these grids."""
        from trm.puzzles.grid.family import Grid

        return Grid(self)
