"""What a run may say of Sudoku: its boards, and where its puzzles come from."""

from typing import TYPE_CHECKING, ClassVar, Self, final

from pydantic import Field, model_validator

from trm.config import AugmentedDataConfig, FamilyConfig, GeneratorConfig

if TYPE_CHECKING:
    from trm.puzzles.sudoku.family import Sudoku


@final
class SudokuGeneratorConfig(GeneratorConfig):
    """Sudokus to generate where no file is given."""

    about: ClassVar = """Generate Sudokus with unique solutions; no two of them are equivalent.

For example:
  trm data sudoku --box-rows 2 --box-cols 3 --out data/sudoku-6x6
  trm data sudoku --train 0 --validation 0 --test 500 --min-guesses 5 --avoid train.csv --out data/hard
  trm data sudoku --like train.csv --train 10000 --avoid validation.csv,test.csv --out data/more"""
    extra_clues: int = Field(0, ge=0)
    """Clues put back on each minimal puzzle."""
    min_guesses: int = Field(0, ge=0)
    """Least difficulty: guesses that the exact solver needs."""
    max_guesses: int = Field(1_000_000, ge=0)
    """Greatest difficulty."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_guesses > self.max_guesses:
            raise ValueError("min_guesses is above max_guesses")
        return self


@final
class SudokuDataConfig(AugmentedDataConfig):
    """Where the Sudokus of a run come from."""

    generate: SudokuGeneratorConfig = SudokuGeneratorConfig()

    def generator(self) -> SudokuGeneratorConfig:
        """What to generate where no file is given."""
        return self.generate


@final
class SudokuConfig(FamilyConfig):
    """Sudoku of any box shape; a board has box_rows x box_cols symbols."""

    name: ClassVar = "sudoku"
    data: ClassVar = SudokuDataConfig
    box_rows: int = Field(3, ge=1, le=5)
    """Rows of a box."""
    box_cols: int = Field(3, ge=1, le=5)
    """Columns of a box."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not 2 <= self.box_rows * self.box_cols <= 25:
            raise ValueError("a Sudoku needs 2 to 25 symbols")
        return self

    def build(self) -> "Sudoku":
        """The family of these boards."""
        from trm.puzzles.sudoku.family import Sudoku

        return Sudoku(self)
