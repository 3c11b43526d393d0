"""What a run may say of grid puzzles of your own: size, symbols, and what may be turned or renamed."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, final

from pydantic import Field, model_validator

from trm.config import AugmentedDataConfig, Config, FamilyConfig

if TYPE_CHECKING:
    from trm.puzzles.grid.family import Grid

MAX_CELLS, MAX_SYMBOLS = 10_000, 254  # a token is a byte, and 0 is padding


@final
class GridRules(Config):
    """Which cells hold each of the symbols of `permute` once.

    What is said here makes an answer right, so it must be all that the puzzle asks for.
    """

    rows: Literal["any", "all_different"] = "any"
    """all_different: every row holds each symbol once."""
    columns: Literal["any", "all_different"] = "any"
    """The same for columns."""
    boxes: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """Rows and columns of a box, where boxes hold each symbol once."""

    @property
    def given(self) -> bool:
        """Whether there is any rule."""
        return self != GridRules()


@final
class GridConfig(FamilyConfig):
    """Grid puzzles of your own: question and answer are grids of one size, over one set of symbols."""

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
    blanks: tuple[str, ...] = ()
    """Symbols of cells that are to be filled: answers hold none of them, and keep all other cells. (Where
    puzzles of a file are like that, it is noticed.)"""
    rules: GridRules = GridRules()
    """What is known of the answers: then they can be verified, and a model of candidates can be trained."""

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
        for option in ("permute", "blanks"):
            if unknown := sorted(set(getattr(self, option)) - set(self.symbols)):
                raise ValueError(f"{option} names {', '.join(map(repr, unknown))}, which no puzzle uses")
        if self.rules.given:
            self._check_rules()
        return self

    def _check_rules(self) -> None:
        symbols, box = len(set(self.permute)), self.rules.boxes
        if not symbols:
            raise ValueError("rules are about symbols that may be renamed: name them in permute")
        sizes = {"rows": self.width, "columns": self.height}
        for name, cells in sizes.items():
            if getattr(self.rules, name) == "all_different" and cells != symbols:
                raise ValueError(f"{name} of {cells} cells cannot hold {symbols} symbols once each")
        if box is not None and box[0] * box[1] != symbols:
            raise ValueError(f"boxes of {box[0]}x{box[1]} cells cannot hold {symbols} symbols once each")
        if box is not None and (self.height % box[0] or self.width % box[1]):
            raise ValueError(f"boxes of {box[0]}x{box[1]} do not fill a grid of {self.height}x{self.width}")
        alike = self.rules.rows == self.rules.columns and (box is None or box[0] == box[1])
        if self.dihedral and self.height == self.width and not alike:
            raise ValueError("a quarter turn does not keep these rules: leave out dihedral")

    def build(self) -> "Grid":
        """The family of these grids."""
        from trm.puzzles.grid.family import Grid

        return Grid(self)
