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

from trm.config import dump_config, parse
from trm.errors import UserError
from trm.files import full_disk_is_a_user_error, write_atomic
from trm.inference.solver import Solver, load
from trm.puzzles.grid import readers as grids
from trm.puzzles.grid.config import GridRules
from trm.puzzles.grid.family import Confirm, Grid
from trm.puzzles.grid.readers import Row
from trm.puzzles.table import write_csv
from trm.recipe import RunConfig, load_recipe, located
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


def lay_out(
    rows: Sequence[Row],
    folder: Path,
    base: RunConfig,
    *,
    dihedral: bool = False,
    permute: Iterable[str] = (),
    rules: GridRules | None = None,
    validation: int | None = None,
    test: int | None = None,
    test_rows: Sequence[Row] = (),
    seed: int = 0,
) -> RunConfig:
    """Split puzzles and write them with a recipe: train.csv, validation.csv, test.csv, recipe.yaml.

    Puzzles that a symmetry maps to each other stay in one split. Default sizes: a tenth each, at most 500 for
    validation and 1,000 for the test. With `test_rows` these are the test, and none may be equivalent to one
    of `rows`. Raises UserError as `fit`, and where a file would be written over.
    """
    everyone = [*rows, *test_rows]
    family = Grid(grids.infer(everyone, dihedral, permute, rules))
    grids.check_splits({"training": rows, "test": test_rows}, family)
    ids, tenth = grids.puzzle_ids(everyone), max(1, len(rows) // 10)
    if test_rows:
        test = 0
    splits = grids.split(
        grids.to_puzzles(rows, family, ids),
        family,
        min(tenth, 500) if validation is None else validation,
        min(tenth, 1000) if test is None else test,
        seed,
    )
    if test_rows:
        splits["test"] = grids.to_puzzles(test_rows, family, ids)
    files = {name: folder / f"{name}.csv" for name, part in splits.items() if len(part)}
    if taken := [path for path in (*files.values(), folder / "recipe.yaml") if path.exists()]:
        raise UserError(f"{taken[0]} exists; choose another folder")
    values = base.model_dump()
    values["name"], values["family"] = "grid", family.config.model_dump()
    values["data"] = {"train": str(files["train"]), "augment": dihedral or bool(family.config.permute)}
    if "validation" in files:
        values["data"]["validation"] = str(files["validation"])
    if ids and not base.model.puzzle_width:  # the network must be told which rule it is
        values["model"] |= {"prefix": max(1, base.model.prefix), "puzzle_width": base.model.width}
    run = parse(RunConfig, values, "recipe")
    with full_disk_is_a_user_error(f"not all of {folder} was written"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in files.items():
            write_csv(path, family, splits[name], "own")
        write_atomic(folder / "recipe.yaml", dump_config(located(run, folder)))
    return run
