"""Draws the pictures of these pages with the bundled weights, on a CPU in about a minute.

    python docs/pictures.py [NAME ...]

refinement: a 6x6 Sudoku after every supervision step, as `trm solve` shows it.
wave: a 30x30 maze after every cycle of the first two supervision steps.
depth: share of 500 new 6x6 Sudokus that are right after every supervision step, and that have halted.
slots: who is in the batch at every optimizer step, at the start of training and with trained weights.

Each is an SVG file without fonts: any font of the reader's will do.
"""

import itertools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch

import trm
from trm import rng
from trm.data import sources
from trm.data.batches import Batches, as_they_are
from trm.inference.solver import Solver
from trm.inference.think import never, think
from trm.models import build
from trm.models.recursive import LatentRecursion, RecursiveModel
from trm.puzzles.maze.config import MazeGeneratorConfig
from trm.puzzles.sudoku.config import SudokuGeneratorConfig
from trm.puzzles.table import Puzzles
from trm.training.supervision import empty_slots, supervise

FOLDER = Path(__file__).parent
PUZZLE = "..15....6.1.2......3.........3.6..21"
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#888888")


class Drawing:
    """Rectangles, lines and text as SVG, on white so that it reads on a dark page too."""

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.parts: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, fill: str) -> None:
        """A filled rectangle."""
        self.parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{fill}"/>')

    def boxes(self, fill: str, boxes: Iterable[tuple[float, float, float, float]]) -> None:
        """Rectangles (x, y, width, height) of one colour, as one path."""
        path = "".join(f"M{x} {y}h{width}v{height}h-{width}z" for x, y, width, height in boxes)
        self.parts.append(f'<path fill="{fill}" d="{path}"/>')

    def text(
        self, x: float, y: float, text: object, size: int = 12, fill: str = "#333", anchor: str = "middle"
    ) -> None:
        """A line of text."""
        self.parts.append(
            f'<text x="{x}" y="{y}" font-size="{size}" fill="{fill}" text-anchor="{anchor}">{text}</text>'
        )

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float = 2) -> None:
        """A line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')

    def save(self, name: str) -> None:
        """Write the file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            'font-family="sans-serif">\n'
            f'<rect width="{self.width}" height="{self.height}" fill="#fff"/>'
        )
        text = "\n".join([head, *self.parts, "</svg>\n"])
        (FOLDER / f"{name}.svg").write_text(text, encoding="utf-8")


def refinement() -> None:
    """The puzzle and its answer after every supervision step."""
    solver = trm.load("mini", device="cpu")
    trm.draw(solver.steps(PUZZLE), title="trm solve").save(FOLDER / "refinement.svg")


def wave(side: int = 30, steps: int = 2) -> None:
    """A maze after every cycle of the first supervision steps."""
    empty = "\n".join(["S" + " " * (side - 2) + "G", *[" " * side] * (side - 1)])
    solver = trm.load("maze-30x30", board=empty, device="cpu")
    tokens_1L = sources.generate(MazeGeneratorConfig(test=1, min_path=110), solver.family, seed=7)[
        "test"
    ].tokens_NL
    maze = solver.family.text(tokens_1L[0])
    answers = cycles(solver, tokens_1L, steps)
    cell, gap = 5, 14
    drawing = Drawing((side * cell + gap) * len(answers) + gap, side * cell + 2 * gap + 10)
    colours = {"#": "#333", "S": COLOURS[2], "G": COLOURS[1]}
    for i, (title, answer_L) in enumerate(answers):
        left, top = gap + i * (side * cell + gap), gap + 10
        drawing.text(left + side * cell / 2, gap, title)
        cells = zip(maze, solver.family.text(answer_L), strict=True)
        fills = [colours.get(asked) or (COLOURS[0] if said == "o" else "#eee") for asked, said in cells]
        runs: dict[str, list[tuple[float, float, float, float]]] = {}
        for row in range(side):
            column = 0
            for fill, same in itertools.groupby(fills[row * side : (row + 1) * side]):
                count = len(list(same))
                runs.setdefault(fill, []).append((left + column * cell, top + row * cell, count * cell, cell))
                column += count
        for fill, boxes in runs.items():
            drawing.boxes(fill, boxes)
    drawing.save("wave")


def cycles(solver: Solver, tokens_1L: np.ndarray, steps: int) -> list[tuple[str, np.ndarray]]:
    """The answer of one puzzle after every cycle; the head that reads it learned to do so after the last."""
    model = cast(LatentRecursion, solver.model)
    answers = []
    with torch.inference_mode():
        x_1SD = model.encode(torch.from_numpy(tokens_1L).long(), torch.zeros(1, dtype=torch.int64))
        state = model.initial_state(1)
        for step in range(1, steps + 1):
            for cycle in range(1, model.config.T + 1):
                state = model.cycle(state, x_1SD, model.config.n)
                answer_L = model.say(state.y_BSD).logits_BLV[0].argmax(-1).numpy().astype(np.uint8)
                answers.append((f"step {step}, cycle {cycle}", answer_L))
    return answers


def new_sudokus(solver: Solver, count: int) -> Puzzles:
    """Generated puzzles."""
    return sources.generate(SudokuGeneratorConfig(test=count), solver.family, seed=7)["test"]


def refinements(solver: Solver, tokens_NL: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers and halting logits after every supervision step, [steps, N, L] and [steps, N]."""
    tokens = torch.from_numpy(np.array(tokens_NL)).long()
    puzzle_N = torch.zeros(len(tokens), dtype=torch.int64)
    thoughts = list(think(solver.model, tokens, puzzle_N, steps, never))
    answers, logits = (torch.stack([t[i] for t in thoughts]).numpy() for i in (2, 3))
    return answers, logits


def depth(count: int = 500, steps: int = 16) -> None:
    """What every further supervision step is worth."""
    solver = trm.load("mini", device="cpu")
    puzzles = new_sudokus(solver, count)
    answers_TNL, halt_TN = refinements(solver, puzzles.tokens_NL, steps)
    right_T = (answers_TNL == puzzles.answers_NL).all(-1).mean(-1)
    still_TN = np.zeros_like(halt_TN, dtype=bool)
    still_TN[1:] = (answers_TNL[1:] == answers_TNL[:-1]).all(-1)
    halted_T = np.logical_or.accumulate((halt_TN > 0) & still_TN).mean(-1)
    drawing = Drawing(640, 300)
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = 250 - 220 * share
        drawing.line([(60, y), (480, y)], "#ddd", 1)
        drawing.text(52, y + 4, f"{100 * share:.0f} %", anchor="end")
    at = [60 + 420 * (step - 1) / (steps - 1) for step in range(1, steps + 1)]
    for step in (1, 2, 4, 8, 12, 16):
        drawing.text(at[step - 1], 270, step)
    drawing.text(270, 292, f"supervision steps ({count} new 6x6 Sudokus)")
    for values, colour, name in (
        (right_T, COLOURS[0], "every cell right"),
        (halted_T, COLOURS[1], "halted"),
    ):
        drawing.line([(x, 250 - 220 * value) for x, value in zip(at, values, strict=True)], colour)
        drawing.text(
            490, 254 - 220 * values[-1] + (14 if name == "halted" else -6), name, fill=colour, anchor="start"
        )
    drawing.save("depth")
    for name, values in (("right", right_T), ("halted", halted_T)):
        print(f"{name}: {' '.join(f'{100 * value:.1f}' for value in values)} %")


def slots(rows: int = 8, steps: int = 24) -> None:
    """The batch in flight: a change of colour is a new puzzle, a number its supervision step."""
    solver = trm.load("mini", device="cpu")
    config = trm.load_recipe("mini")
    torch.manual_seed(0)
    untrained = build(
        config.model, solver.family.problem(), config.compute.model_copy(update={"device": "cpu"})
    )
    puzzles = new_sudokus(solver, 200)
    cell, left, top = 22, 70, 34
    drawing = Drawing(left + steps * cell + 10, 2 * (rows * cell + 64) + 20)
    for half, (model, title) in enumerate(
        ((untrained, "at the start of training"), (solver.model, "trained weights"))
    ):
        above = top + half * (rows * cell + 64)
        drawing.text(left, above - 10, title, anchor="start")
        met = list(range(rows))  # puzzles that a row has had, which gives their colours
        for step, steps_B in enumerate(flight(model, puzzles, rows, steps)):
            for row, count in enumerate(steps_B):
                met[row] += count == 1
                x, y = left + step * cell, above + row * cell
                drawing.box(x, y, cell - 1, cell - 1, COLOURS[met[row] % len(COLOURS)])
                drawing.text(x + cell / 2, y + 15, count, fill="#fff")
        for row in range(rows):
            drawing.text(left - 8, above + row * cell + 15, f"row {row + 1}", anchor="end")
        drawing.text(left + steps * cell / 2, above + rows * cell + 16, "optimizer steps")
    drawing.save("slots")


def flight(model: RecursiveModel, puzzles: Puzzles, rows: int, steps: int) -> list[list[int]]:
    """For every optimizer step, which supervision step each row gets; the weights stay as they are."""
    supervision = trm.load_recipe("mini").supervision
    batches = Batches(puzzles, range(rows), as_they_are(puzzles, "cpu"), "cpu")
    slots = empty_slots(model, batches.batch(0, torch.tensor(0)))
    counts = []
    for number in range(steps):
        key = rng.fold(rng.stream("explore", torch.device("cpu")), number)
        with torch.no_grad():
            slots = supervise(model, slots, batches.batch(0, torch.tensor(number)), supervision, key).slots
        counts.append(slots.steps_B.tolist())
    return counts


PICTURES = {"refinement": refinement, "wave": wave, "depth": depth, "slots": slots}

if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        PICTURES[name]()
