"""Puzzles as the network refines them: the question, the answer after some steps, the right answer.

`draw` makes a picture, or an animation, of answers and refinements; `refinements` one of many puzzles.
"""

import io
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.columns import Columns
from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table

from trm.errors import UserError
from trm.files import full_disk_is_a_user_error, write_atomic
from trm.inference.solver import Refinement
from trm.inference.think import think
from trm.models import RecursiveModel
from trm.puzzles.family import Family
from trm.puzzles.table import Puzzles
from trm.terminal import panel, pixels, svg

_PAUSE = 700  # milliseconds that a frame is shown


class Picture:
    """Drawings side by side. Notebooks show them; `save` writes them to a file."""

    def __init__(self, drawings: Iterable[RenderableType], title: str = ""):
        self.drawings, self.title = list(drawings), title

    def __rich__(self) -> RenderableType:
        """All drawings, as many in a row as there is room for."""
        return Columns(self.drawings)

    def _repr_html_(self) -> str:
        """The picture, for notebooks."""
        return self.svg()

    def svg(self) -> str:
        """The picture as SVG."""
        row = Table.grid(padding=(0, 1))
        row.add_row(*self.drawings)
        return svg(row, self.title)

    def save(self, path: str | Path) -> Path:
        """Write a file: .svg or .png side by side, .gif one after the other.

        PNG and GIF need matplotlib (`pip install 'trm[plot]'`). UserError where it is missing, or for another
        ending of the name.
        """
        path = Path(path)
        check_writable(path)
        with full_disk_is_a_user_error(f"{path} is not written"):
            if path.suffix == ".svg":
                write_atomic(path, self.svg())
            else:
                write_atomic(path, self._image(path.suffix))
        return path

    def _image(self, ending: str) -> bytes:
        from PIL import Image

        frames = [pixels(drawing) for drawing in self.drawings]
        height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
        sizes = [((0, height - len(frame)), (0, width - frame.shape[1]), (0, 0)) for frame in frames]
        padded = [np.pad(frame, size, constant_values=255) for frame, size in zip(frames, sizes, strict=True)]
        file = io.BytesIO()
        if ending == ".png":
            Image.fromarray(np.concatenate(padded, 1)).save(file, "PNG")
        else:
            first, *others = map(Image.fromarray, padded)
            pauses = [_PAUSE] * len(others) + [4 * _PAUSE]
            first.save(file, "GIF", save_all=True, append_images=others, duration=pauses, loop=0)
        return file.getvalue()


def check_writable(path: Path) -> None:
    """Raise UserError where no picture can be saved under a name: do so before long work."""
    if path.suffix not in (".svg", ".png", ".gif"):
        raise UserError(f"{path}: a picture is a file that ends in .svg, .png or .gif")
    if path.suffix != ".svg" and not (find_spec("matplotlib") and find_spec("PIL")):
        kind = path.suffix[1:].upper()
        raise UserError(f"a {kind} needs matplotlib: pip install 'trm[plot]', or write an .svg")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}")


def draw(what: Any, title: str = "") -> Picture:
    """A picture of an answer, of a refinement, or of several, such as `solver.steps(puzzle)`.

    Of refinements it begins with the puzzle.
    """
    several = isinstance(what, Iterable) and not isinstance(what, str)
    drawings = list(what) if several else [what]
    if not drawings:
        raise UserError("there is nothing to draw")
    if several and isinstance(first := drawings[0], Refinement):
        question = first.family.render(first.question, first.question)
        drawings = [panel(question, "puzzle"), *drawings]
    return Picture(drawings, title)


def refinements(model: RecursiveModel, family: Family, puzzles: Puzzles, steps: int) -> RenderableType:
    """A row for every puzzle, with its answer after 1, 2, 4, ... supervision steps and after the last.

    A puzzle ends as in an evaluation: when its halting logit is positive and its answer stood still. Where
    the halting probability is shown, it is the model's own belief that this answer is right.
    """
    trained = model.training
    try:
        model.eval()
        panels = _panels(model, family, puzzles, steps)
    finally:
        model.train(trained)
    table = Table.grid(padding=(0, 1))
    for row in panels:
        table.add_row(*row)
    return table


def _panels(model: RecursiveModel, family: Family, puzzles: Puzzles, steps: int) -> list[list[Panel]]:
    device = model.y_init.device
    tokens_NL = torch.from_numpy(np.array(puzzles.tokens_NL)).long().to(device)
    puzzle_N = torch.from_numpy(np.array(puzzles.puzzle_N)).long().to(device)
    rows = [[Panel.fit(family.render(t_L, t_L), title="puzzle")] for t_L in puzzles.tokens_NL]
    before_NL = np.array(puzzles.tokens_NL)
    for thought in think(model, tokens_NL, puzzle_N, steps, same_cells=family.same_cells):
        answers_AL = thought.answer_AL.cpu().numpy().astype(np.uint8)
        chance_A, done_A = thought.halt_A.sigmoid().tolist(), thought.done_A.tolist()
        for i, n in enumerate(thought.row_A.tolist()):
            if thought.step & (thought.step - 1) and not (done_A[i] or thought.step == steps):
                continue
            drawn = family.render(puzzles.tokens_NL[n], answers_AL[i], before_NL[n])
            belief = f"{100 * chance_A[i]:.1f} %"
            rows[n].append(Panel.fit(drawn, title=f"step {thought.step}", subtitle=belief))
            before_NL[n] = answers_AL[i]
    for n, answer_L in enumerate(puzzles.answers_NL):
        verified = family.verify(puzzles.tokens_NL[n], before_NL[n])  # there may be other right answers
        right = np.array_equal(before_NL[n], answer_L) if verified is None else verified
        drawn = family.render(puzzles.tokens_NL[n], answer_L, before_NL[n])
        rows[n].append(Panel.fit(drawn, title="solution", subtitle="solved" if right else "not yet"))
    return rows
