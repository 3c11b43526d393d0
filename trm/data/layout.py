"""Puzzles of one's own laid out for training: their splits as files, and a recipe that names them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from trm.config import dump_config, parse
from trm.errors import UserError
from trm.files import full_disk_is_a_user_error, write_atomic
from trm.puzzles.grid import readers as grids
from trm.puzzles.grid.config import GridRules
from trm.puzzles.grid.family import Grid
from trm.puzzles.grid.readers import Row
from trm.puzzles.table import write_csv
from trm.recipe import RunConfig, located


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
    of `rows`. UserError where puzzles or options are wrong, or a file would be written over.
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
