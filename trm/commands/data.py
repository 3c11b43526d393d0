"""`trm data`: puzzles, made or brought."""

from pathlib import Path
from typing import Any

from trm.commands.common import at_least, console
from trm.config import DataConfig, MazeConfig, SudokuConfig, TaskConfig, parse
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


def _counts(train: int, validation: int, test: int) -> dict[str, Any]:
    return {"generate_train": train, "generate_validation": validation, "generate_test": test}


def _generate(task: TaskConfig, options: dict[str, Any], out: Path, avoid: str, seed: int) -> int:
    """Generate the splits of a task and write them as CSV files."""
    from trm.data import sources
    from trm.data.puzzles import write_csv
    from trm.files import full_disk_is_a_user_error
    from trm.tasks import build_task
    from trm.terminal import bar

    at_least(0, seed=seed)
    config = parse(DataConfig, options, "trm data")
    wanted = {name: count for name, count in config.generated().items() if count}
    if not wanted:
        raise UserError("nothing to generate: give --train, --validation or --test")
    refuse_existing(out, wanted)
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


def refuse_existing(out: Path, names: Any) -> None:
    """Nothing is written over."""
    taken = [out / f"{name}.csv" for name in names if (out / f"{name}.csv").exists()]
    if taken:
        raise UserError(f"{taken[0]} exists; choose another folder with --out")
