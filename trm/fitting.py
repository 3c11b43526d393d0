"""From puzzles of your own to a solver, in one call.

    solver = trm.fit("mine.csv", permute="12345")
    print(solver.solve("1.../..../.2../....")[0].answer)

See `puzzles.grid.readers` for the forms that puzzles may have, and `docs/TUTORIAL.md` for the same by
command.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from trm.config import parse
from trm.data.layout import lay_out
from trm.errors import UserError
from trm.inference.solver import Solver, load
from trm.puzzles.grid import readers as grids
from trm.puzzles.grid.config import GridRules
from trm.puzzles.grid.family import Confirm, Grid
from trm.puzzles.grid.readers import Row
from trm.recipe import RunConfig, load_recipe
from trm.training.loop import train


def fit(
    puzzles: str | Path | tuple[Sequence[Any], Sequence[Any]],
    recipe: str | RunConfig = "mini",
    out: str | Path | None = None,
    *,
    dihedral: bool = False,
    permute: Iterable[str] = (),
    rules: Mapping[str, Any] | None = None,
    verify: Confirm | None = None,
    height: int | None = None,
    changes: dict[str, dict[str, Any]] | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> Solver:
    """Train on puzzles of your own and return a solver with the weights that were best on held-out ones.

    Args:
        puzzles: a CSV or JSON-lines file, or a pair (questions, answers) of arrays or nested lists.
        recipe: where model, optimizer and length of the run come from.
        out: folder to keep the puzzles' splits and the run in. Default: nothing is kept.
        dihedral: rotated and mirrored puzzles are puzzles of the same kind.
        permute: symbols that may be renamed among each other.
        rules: what makes an answer right, such as {"rows": "all_different", "boxes": (2, 3)}: each symbol of
            `permute` once.
        verify: whether an answer is right, a function of question and answer, each rows of symbols (text).
            The solver uses it for `Answer.verified` and `Effort(select="verify")`; it must accept all answers
            that are given here.
        height: rows of puzzles that are given as cells without rows.
        changes: values of the recipe to change, such as {"train": {"steps": 500}}.
        device: where to compute.
        console: where to show progress.

    Raises:
        UserError: the puzzles are malformed or too few, or the options do not fit them.
    """
    rows = (
        grids.read_rows(Path(puzzles), height)
        if isinstance(puzzles, str | Path)
        else grids.from_arrays(*puzzles, height=height)
    )
    if verify is not None:
        _check_answers(rows, verify)
    base = load_recipe(recipe) if isinstance(recipe, str) else recipe
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch if out is None else out)
        known = parse(GridRules, rules or {}, "rules")
        values = lay_out(
            rows, folder / "puzzles", base, dihedral=dihedral, permute=permute, rules=known
        ).model_dump()
        for section, options in (changes or {}).items():
            if not isinstance(values.get(section), dict):
                raise UserError(f"changes names {section!r}, which is not a section of a recipe")
            values[section] |= options
        values["compute"]["device"] = device
        outcome = train(parse(RunConfig, values, "changes"), folder / "run", console=console)
        if not outcome.finished:
            raise UserError(f"training was stopped at step {outcome.step}")
        solver = load(folder / "run", device=device)
        family = solver.family
        if verify is None or not isinstance(family, Grid):
            return solver
        return Solver(solver.model, Grid(family.config, verify), solver.training_steps)


def _check_answers(rows: Sequence[Row], verify: Confirm) -> None:
    """Raise UserError for a known answer that a function does not accept."""
    for row in rows:
        question, answer = (
            [line.split(" ") for line in text.split("/")] for text in (row.question, row.answer)
        )
        if not verify(question, answer):
            raise UserError(f"{row.where}: verify does not accept this answer; correct one of the two")
