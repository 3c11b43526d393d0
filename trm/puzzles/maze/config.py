"""What a run may say of mazes: their size, and where they come from."""

from typing import TYPE_CHECKING, Any, ClassVar, final

from pydantic import Field

from trm.config import AugmentedDataConfig, FamilyConfig, GeneratorConfig

if TYPE_CHECKING:
    from trm.puzzles.maze.family import Maze


@final
class MazeGeneratorConfig(GeneratorConfig):
    """Mazes to generate where no file is given."""

    about: ClassVar = """\
Generate mazes with long shortest paths, as in Maze-Hard; none is another one turned or mirrored.

For example:
  trm data maze --out data/maze
  trm data maze --height 10 --width 10 --min-path 18 --out data/maze-10x10
  trm data maze --like data/maze/train.csv --train 20000 --avoid data/maze/test.csv --out data/more"""
    for_command: ClassVar[dict[str, Any]] = GeneratorConfig.for_command | {"min_path": 110}
    min_path: int = Field(2, ge=2)
    """Least number of cells, S and G included, of a shortest path."""


@final
class MazeDataConfig(AugmentedDataConfig):
    """Where the mazes of a run come from."""

    augment: bool = False
    """Draw a random rotation or reflection for every maze offered. The label is one shortest path of many,
    and which one does not turn with the maze: on Maze-Hard this ruins training."""
    generate: MazeGeneratorConfig = MazeGeneratorConfig()

    def generator(self) -> MazeGeneratorConfig:
        """What to generate where no file is given."""
        return self.generate


@final
class MazeConfig(FamilyConfig):
    """Mazes with one start and one goal; the answer is a shortest path."""

    name: ClassVar = "maze"
    data: ClassVar = MazeDataConfig
    height: int = Field(30, ge=2, le=100)
    """Rows."""
    width: int = Field(30, ge=2, le=100)
    """Columns."""

    def build(self) -> "Maze":
        """The family of mazes of this size."""
        from trm.puzzles.maze.family import Maze

        return Maze(self)
