"""`trm import`, `trm original export`, `trm data original`: from the original code and back."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from trm.commands.common import console, dump
from trm.config import Dtype
from trm.errors import UserError
from trm.recipe import load_recipe

if TYPE_CHECKING:
    from trm.puzzles.family import Family

_CHECKED = 1000  # answers of a split that are asked of the rules


def take_over(
    checkpoint: Positional[Path],
    /,
    *,
    out: Path,
    config: Path | None = None,
    data: Path | None = None,
    recipe: str = "",
) -> int:
    """Make a model folder of a checkpoint of the original TRM or HRM code.

    It is then a model like any other: for trm eval, solve, arc eval, arc adapt, and train --train.start-from.
    Nothing in the checkpoint is run: it is read as tensors alone.

    For example:
      trm import checkpoints/sudoku/step_65104 --out models/sudoku
      trm import step_155718 --config all_config.yaml --data data/arc1concept-aug-1000 --out models/arc

    Args:
        checkpoint: The file, such as step_65104.
        out: The new model folder.
        config: Its configuration, all_config.yaml. Default: beside the checkpoint.
        data: The data folder that it was trained on. ARC needs it, for the names of its puzzle ids; others
            only where the sizes of the puzzles are not in the checkpoint.
        recipe: Puzzles of a fork: a recipe (by name, or a YAML file) of their family.
    """
    from trm import pretrained

    made = pretrained.import_original(checkpoint, out, config, data, recipe)
    found = pretrained.load(out)
    count = sum(p.numel() for p in found.model.parameters())
    kind, name, steps = made.model.kind, made.family.name, made.steps
    print(f"{out}: {kind} for {name}, {count:,} parameters, {steps} supervision steps")
    if made.puzzle_ids:
        ids = found.variants()
        print(f"{len(ids.names)} ARC tasks by name, {len(ids) - 1} puzzle ids")
    group = f"{found.family.commands} " if found.family.commands else ""
    print(f"now: trm {group}eval {out} --data FILE")
    return 0


def export(
    model: Positional[str],
    /,
    *,
    out: Path,
    dtype: Dtype | None = None,
    compiled: bool = True,
) -> int:
    """Write a model as a checkpoint that the original TRM or HRM code loads.

    all_config.yaml is written beside it: the architecture, and how the weights were trained.

    For example:
      trm original export runs/sudoku --out original/step_65104

    Args:
        model: Weights: a model folder, a training run, bundled weights by name, or a hub repository.
        out: The checkpoint, in a folder that has none yet.
        dtype: Precision of the original's forward pass. Default: that in which the weights were trained.
        compiled: Names for its usual, compiled model; without, for one with DISABLE_COMPILE.
    """
    from trm import pretrained
    from trm.original.models import CONFIG

    pretrained.export_original(model, out, dtype, compiled)
    print(f"{out}, {out.parent / CONFIG}")
    print(f"there: python pretrain.py ... +load_checkpoint={out.resolve()}")
    return 0


def data(
    folders: Positional[list[Path]],
    /,
    *,
    out: Path | None = None,
    recipe: str = "",
    json: bool = False,
) -> int:
    """Check data folders of the original code, and say what they hold; several can be made one.

    Every array is checked against the others and against the family. Where the family has rules, the first
    answers of every split are asked of them, too.

    For example:
      trm data original data/sudoku-extreme-1k-aug-1000
      trm data original data/arc1 data/arc2 --out data/both
      trm train sudoku-paper --data.train data/sudoku-extreme-1k-aug-1000/train --data.hold-out 100

    Args:
        folders: Data folders, as the original's builders write them.
        out: Write the rows of all of them as one data folder, test_puzzles.json included. A puzzle id must
            not have two names.
        recipe: Puzzles of a fork: a recipe (by name, or a YAML file) of their family.
        json: Print what was found as JSON.
    """
    from trm.original import folders as original
    from trm.original import models

    if not folders:
        raise UserError("give a data folder, or several: trm data original FOLDER...")
    for folder in folders:
        if not original.is_folder(folder):
            raise UserError(f"{folder} is not a data folder of the original: it holds no SPLIT/dataset.json")
    config = load_recipe(recipe).family if recipe else models.family_of(folders[0])
    family = config.build()
    reports = [_report(folder, family) for folder in folders]
    made = ""
    if out is not None:
        merged = original.merge(folders, family)
        original.write(out, merged.splits, family, merged.groups, merged.identifiers, merged.test_puzzles)
        made = f"{out}: {', '.join(f'{len(rows):,} rows in {name}' for name, rows in merged.splits.items())}"
    if json:
        where = None if out is None else str(out)
        print(dump({"family": config.model_dump(), "folders": reports, "out": where}))
        return 0
    _print(reports, config.name)
    if made:
        print(made)
    return 0


def _report(folder: Path, family: "Family") -> dict[str, Any]:
    """What a folder holds, as plain values; UserError, naming the file, where something is damaged."""
    from trm.original import arc
    from trm.original import folders as original
    from trm.puzzles.arc import readers

    found: dict[str, Any] = {"folder": str(folder), "splits": {}}
    for split in original.splits(folder):
        rows = original.read(folder, split, family)
        assert rows.group_N is not None
        verdicts = [
            family.verify(tokens_L, answer_L)
            for tokens_L, answer_L in zip(rows.tokens_NL[:_CHECKED], rows.answers_NL[:_CHECKED], strict=True)
        ]
        found["splits"][split] = {
            "rows": len(rows),
            "puzzles": len(original.first_examples(rows.puzzle_N)) - 1,
            "groups": int(rows.group_N[-1]) + 1,
            "ids": len(set(rows.puzzle_N.tolist())),
            "without_answer": int((~rows.answers_NL.any(axis=1)).sum()),
            "checked": sum(verdict is not None for verdict in verdicts),
            "wrong": sum(verdict is False for verdict in verdicts),
        }
    if family.named_ids:
        table = arc.variants(folder)
        found |= {"tasks": len(table.names), "puzzle_ids": len(table) - 1}
        if (folder / readers.TEST_PUZZLES).exists():
            asked = [task.name for task in readers.read(str(folder))]
            if unknown := sorted(set(asked) - set(table.names)):
                raise UserError(
                    f"{folder / readers.TEST_PUZZLES} asks for {unknown[0]}, which no puzzle id stands for: "
                    "build the folder again"
                )
            found["to_predict"] = len(asked)
    return found


def _print(reports: list[dict[str, Any]], name: str) -> None:
    from rich.table import Table

    table = Table("folder", "split", box=None, pad_edge=False, title=f"family {name}", title_justify="left")
    for title in ("rows", "puzzles", "groups", "ids", "no answer", "wrong by the rules"):
        table.add_column(title, justify="right")
    for report in reports:
        for split, found in report["splits"].items():
            counts = (f"{found[each]:,}" for each in ("rows", "puzzles", "groups", "ids", "without_answer"))
            wrong = f"{found['wrong']:,} of {found['checked']:,}" if found["checked"] else "-"
            table.add_row(report["folder"], split, *counts, wrong)
    screen = console()
    if not screen.is_terminal:
        screen.width = 300
    screen.print(table)
    for report in reports:
        if "tasks" in report:
            tasks, ids = f"{report['tasks']:,} ARC tasks", f"{report['puzzle_ids']:,} puzzle ids"
            asked = f", {report['to_predict']} of them to be predicted" if "to_predict" in report else ""
            print(f"{report['folder']}: {ids} of {tasks}{asked}")
