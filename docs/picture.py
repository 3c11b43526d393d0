"""Draws docs/refinement.svg: the bundled model refining a 6x6 Sudoku.

python docs/picture.py PUZZLE
"""

import re
import sys
from pathlib import Path

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel

import trm


def main(puzzle: str) -> None:
    """Draw the puzzle and its answer after every supervision step."""
    solver = trm.load("mini", device="cpu")
    previous = tokens = solver.family.parse(puzzle)
    panels = [Panel(solver.family.render(tokens, tokens), title="puzzle", expand=False)]
    for refinement in solver.steps(puzzle):
        picture = solver.family.render(tokens, refinement.answer, previous)
        chance = f"{100 * refinement.halt_probability:.1f} %"
        panels.append(Panel(picture, title=f"step {refinement.step}", subtitle=chance, expand=False))
        previous = refinement.answer
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=19 * len(panels) + 3, file=nowhere, force_terminal=True)
        console.print(Columns(panels))
    svg = console.export_svg(title="trm solve")
    # No fonts from the network: any monospaced font of the reader's will do.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    (Path(__file__).parent / "refinement.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
