"""What a run may say of Futoshiki: the size of its boards, and where its puzzles come from."""

from typing import TYPE_CHECKING, ClassVar, final

from pydantic import Field

from trm.config import AugmentedDataConfig, FamilyConfig, GeneratorConfig

if TYPE_CHECKING:
    from trm.puzzles.futoshiki.family import Futoshiki


@final
class FutoshikiGeneratorConfig(GeneratorConfig):
    """Futoshikis to generate where no file is given."""

    about: ClassVar = """\
Generate Futoshikis with unique solutions; no two of them are equivalent.

For example:
  trm data futoshiki --side 5 --out data/futoshiki-5"""
    extra_clues: int = Field(0, ge=0)
    """Clues (digits and signs) put back on each minimal puzzle."""


@final
class FutoshikiDataConfig(AugmentedDataConfig):
    """Where the Futoshikis of a run come from."""

    generate: FutoshikiGeneratorConfig = FutoshikiGeneratorConfig()

    def generator(self) -> FutoshikiGeneratorConfig:
        """What to generate where no file is given."""
        return self.generate


@final
class FutoshikiConfig(FamilyConfig):
    """Futoshiki: a Latin square with signs between neighbours that say which one is smaller."""

    name: ClassVar = "futoshiki"
    data: ClassVar = FutoshikiDataConfig
    side: int = Field(5, ge=4, le=7)
    """Cells of a row, and digits."""

    def build(self) -> "Futoshiki":
        """The family of these boards."""
        from trm.puzzles.futoshiki.family import Futoshiki

        return Futoshiki(self)
