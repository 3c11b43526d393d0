"""Somebody's own grid puzzles: read them, see what they are, and split them without leaks.

Files are tables or JSON with `question` and `answer`, in any form that `puzzles.records` reads; a third
column, `puzzle`, names the puzzle (the rule) that a row belongs to, and others are ignored. A grid is text as
`family` reads it, and in JSON also a list of rows. Cells without rows are a square where their number is one
(of 4 or more), else one row, unless `height` is given.

    rows = read_rows(Path("mine.csv"))
    family = Grid(infer(rows, dihedral=True))
    check_answers(rows)
    splits = split(to_puzzles(rows, family), family, validation=100, test=100, seed=0)

Shapes: N puzzles, L cells of the canvas.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trm.config import parse
from trm.errors import UserError
from trm.puzzles import deal
from trm.puzzles.family import Family
from trm.puzzles.grid.config import MAX_CELLS, MAX_SYMBOLS, GridConfig, GridRules
from trm.puzzles.grid.family import Grid, check_symbol, split_cells
from trm.puzzles.records import records
from trm.puzzles.table import Puzzles


class Row(NamedTuple):
    """A puzzle as text, rows joined by `/` and cells by a space: a rectangle, of one size with its answer."""

    where: str
    """Where it comes from, for messages: `mine.csv, line 3`."""
    question: str
    answer: str
    puzzle: str | None = None
    """Name of the puzzle that it belongs to, if any."""


# --- reading


def read_rows(path: Path, height: int | None = None) -> list[Row]:
    """Read a file of puzzles; UserError names the line of the first fault.

    `height` is the number of rows in texts without row separators; where every text has some, it would do
    nothing and is refused.
    """
    given = list(records(path))
    rows = [
        _row(place, fields["question"], fields["answer"], fields.get("puzzle"), height)
        for place, fields in given
    ]
    if not rows:
        raise UserError(f"{path} holds no puzzles; give at least one")
    _refuse_idle(height, (fields[name] for _, fields in given for name in ("question", "answer")))
    return rows


def _refuse_idle(height: int | None, grids: Iterable[Any]) -> None:
    """Raise UserError for a height that no grid has a use for, as all of them have rows."""
    if height is not None and not any(map(_is_flat, grids)):
        raise UserError(f"height {height} would do nothing: all puzzles have rows already; leave it out")


def _is_flat(grid: Any) -> bool:
    """Whether the cells of a grid are given without rows."""
    if isinstance(grid, str):
        return len(split_cells(grid)) == 1
    return len(grid) > 0 and all(type(cell) is int for cell in grid)


def from_arrays(
    questions: np.ndarray | Sequence[Any],
    answers: np.ndarray | Sequence[Any],
    puzzles: Sequence[str | int] | None = None,
    height: int | None = None,
) -> list[Row]:
    """Rows of integer or string arrays [N, H, W] or [N, L], or of sequences of grids, also of mixed sizes.

    Symbols are the values as text. Cells without rows, as in [N, L], are laid out as in files (see above).
    `puzzles` names the puzzle of each row. UserError names the place of the first fault.
    """
    if len(questions) != len(answers):
        raise UserError(f"{len(questions)} questions but {len(answers)} answers: give one for each")
    if puzzles is not None and len(puzzles) != len(questions):
        raise UserError(f"{len(questions)} questions but {len(puzzles)} names in puzzles: give one for each")
    if not len(questions):
        raise UserError("there are no puzzles; give at least one")
    names = [None] * len(questions) if puzzles is None else np.asarray(puzzles).tolist()
    rows = []
    for i, (question, answer, name) in enumerate(zip(questions, answers, names, strict=True)):
        where = f"puzzles[{i}]"
        grids = [_plain(value) for value in (question, answer)]
        for side, value in enumerate((question, answer)):
            if isinstance(value, np.ndarray) and value.ndim == 1:  # [N, L]: cells, even where they are text
                grids[side] = _shaped(where, grids[side], height)
        rows.append(_row(where, *grids, puzzle=name, height=height))
    flat = any(isinstance(each, np.ndarray) and each.ndim == 1 for each in (*questions, *answers))
    if not flat:
        _refuse_idle(height, map(_plain, (*questions, *answers)))
    return rows


def _plain(value: Any) -> Any:
    """Arrays and sequences as JSON would hold them."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


# --- what a row is


def _row(where: str, question: Any, answer: Any, puzzle: Any, height: int | None) -> Row:
    question_rows = _checked(f"{where}, question", question, height)
    answer_rows = _checked(f"{where}, answer", answer, height)
    sizes = [f"{len(rows)}x{len(rows[0])}" for rows in (question_rows, answer_rows)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{where}: the question has {sizes[0]} cells and the answer {sizes[1]}; give both the same size"
        )
    if puzzle is not None and type(puzzle) not in (str, int):
        raise UserError(f"{where}: the name in puzzle is {puzzle!r}; give text or an integer")
    name = None if puzzle in (None, "") else str(puzzle)
    return Row(where, _text(question_rows), _text(answer_rows), name)


def _text(rows: list[list[str]]) -> str:
    return "/".join(map(" ".join, rows))


def _checked(where: str, value: Any, height: int | None) -> list[list[str]]:
    """The cells of a question or an answer, which make a rectangle of proper symbols."""
    rows = _cells(where, value, height)
    for r, row in enumerate(rows, 1):
        if not row:
            raise UserError(f"{where}: row {r} has no cells; fill or remove it")
        if len(row) != len(rows[0]):
            raise UserError(
                f"{where}: row {r} has {len(row)} cells, but row 1 has {len(rows[0])}; "
                "write rows of one length"
            )
    for symbol in dict.fromkeys(symbol for row in rows for symbol in row):
        try:
            check_symbol(symbol)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    return rows


def _cells(where: str, value: Any, height: int | None) -> list[list[str]]:
    """Rows of cells, from text, a list of rows of text, a list of lists of cells, or a list of integers."""
    if isinstance(value, str):
        rows = split_cells(value)
        return rows if len(rows) > 1 else _shaped(where, rows[0], height)
    if isinstance(value, list) and value:
        if all(type(row) is str for row in value):
            return split_cells("/".join(value))
        if all(type(cell) is int for cell in value):
            return _shaped(where, list(map(str, value)), height)
        if all(type(row) is list for row in value):
            for cell in (cell for row in value for cell in row):
                if type(cell) not in (str, int):
                    raise UserError(f"{where}: the cell {str(cell)[:40]} is neither text nor an integer")
            return [list(map(str, row)) for row in value]
    raise UserError(f"{where}: {str(value)[:40]!r} is not a grid; give text, or a list of rows")


def _shaped(where: str, cells: list[Any], height: int | None) -> list[list[Any]]:
    """Cells without row separators as rows: `height` of them, or a square if there is one, or one row."""
    if height is None:
        side = math.isqrt(len(cells))
        height = side if side >= 2 and side * side == len(cells) else 1
    if height < 1 or len(cells) % height:
        raise UserError(f"{where}: {len(cells)} cells do not make {height} rows; separate rows with '/'")
    width = len(cells) // height
    return [cells[r * width : r * width + width] for r in range(height)]


# --- what all rows have in common


def infer(
    rows: Sequence[Row], dihedral: bool = False, permute: Iterable[str] = (), rules: GridRules | None = None
) -> GridConfig:
    """The grid that holds all rows: its size, and the symbols of all questions and answers, short ones first.

    `dihedral` and `permute` say which symmetries the puzzles have, and `rules` what their answers obey: data
    cannot tell. UserError: too many symbols or cells, a symbol in `permute` that no puzzle uses, or rules
    that do not fit the size.
    """
    if not rows:
        raise UserError("there are no puzzles; give at least one")
    tallest, widest, symbols = rows[0], rows[0], set()
    for row in rows:
        tallest = max(tallest, row, key=_height)
        widest = max(widest, row, key=_width)
        for text in (row.question, row.answer):
            symbols.update(text.replace("/", " ").split(" "))
        if len(symbols) > MAX_SYMBOLS:
            raise UserError(
                f"{row.where}: more than {MAX_SYMBOLS} different symbols up to here; use fewer, and write "
                "a space between all cells or none"
            )
    height, width = _height(tallest), _width(widest)
    if height * width > MAX_CELLS:
        raise UserError(
            f"{height} rows ({tallest.where}) of {width} cells ({widest.where}) are more than {MAX_CELLS:,} "
            "cells; leave out large puzzles"
        )
    chosen = tuple(dict.fromkeys(permute))
    if unknown := [symbol for symbol in chosen if symbol not in symbols]:
        raise UserError(f"permute names {', '.join(map(repr, unknown))}, which no puzzle uses; remove it")
    ordered = tuple(sorted(symbols, key=lambda symbol: (len(symbol), symbol)))
    values = {
        "height": height,
        "width": width,
        "symbols": ordered,
        "dihedral": dihedral,
        "permute": chosen,
        "blanks": _blanks(rows),
        "rules": rules or GridRules(),
    }
    return parse(GridConfig, values, "the grid")


def _blanks(rows: Sequence[Row]) -> tuple[str, ...]:
    """The symbols of questions that no answer holds, if answers keep all other cells; else none."""
    pairs: set[tuple[str, str]] = set()
    for row in rows:
        cells = (text.replace("/", " ").split(" ") for text in (row.question, row.answer))
        pairs.update(zip(*cells, strict=True))
    blanks = {asked for asked, _ in pairs} - {answered for _, answered in pairs}
    kept = all(asked == answered for asked, answered in pairs if asked not in blanks)
    return tuple(sorted(blanks)) if kept else ()


def _height(row: Row) -> int:
    return row.question.count("/") + 1


def _width(row: Row) -> int:
    return row.question.partition("/")[0].count(" ") + 1


def puzzle_ids(rows: Iterable[Row]) -> dict[str, int]:
    """Ids of named puzzles, from 1 in order of first appearance; 0 is for rows without a name."""
    names = dict.fromkeys(row.puzzle for row in rows if row.puzzle is not None)
    return {name: i for i, name in enumerate(names, 1)}


def to_puzzles(rows: Sequence[Row], family: Grid, ids: Mapping[str, int] | None = None) -> Puzzles:
    """Rows as arrays; UserError names the first that does not fit the family.

    Files that are read on their own need common `ids`: the `puzzle_ids` of all their rows.
    """
    if not rows:
        raise UserError("there are no puzzles; give at least one")
    ids = puzzle_ids(rows) if ids is None else ids
    tokens, answers, puzzles = [], [], []
    for row in rows:
        try:
            tokens.append(family.parse(row.question))
            answers.append(family.parse(row.answer))
        except UserError as error:
            raise UserError(f"{row.where}: {error}") from None
        if row.puzzle is not None and row.puzzle not in ids:
            raise UserError(
                f"{row.where}: the puzzle {row.puzzle!r} has no id; use one of {len(ids)} known ones"
            )
        puzzles.append(0 if row.puzzle is None else ids[row.puzzle])
    ratings_N = np.zeros(len(rows), dtype=np.int32)
    return Puzzles(np.stack(tokens), np.stack(answers), np.array(puzzles, dtype=np.int32), ratings_N)


# --- honest splits


def check_answers(rows: Iterable[Row]) -> None:
    """Raise UserError if a question of one puzzle stands in two rows with different answers."""
    first: dict[tuple[str | None, str], Row] = {}
    for row in rows:
        same = first.setdefault((row.puzzle, row.question), row)
        if same.answer != row.answer:
            raise UserError(
                f"{row.where}: the same question as in {same.where}, but another answer; remove one of them"
            )


def check_splits(splits: Mapping[str, Sequence[Row]], family: Family) -> None:
    """Raise UserError if two splits share a puzzle, up to a symmetry, or if two answers differ.

    Augmentation shows a model every image of a training puzzle, so an image says nothing in a test.
    """
    check_answers(row for rows in splits.values() for row in rows)
    first: dict[bytes, tuple[str, Row]] = {}
    for name, rows in splits.items():
        for row in rows:
            split_name, same = first.setdefault(family.canonical(family.parse(row.question)), (name, row))
            if split_name != name:
                raise UserError(
                    f"{row.where} ({name}): equivalent to the puzzle of {same.where} ({split_name}); "
                    "keep it in one of them only"
                )


def split(puzzles: Puzzles, family: Family, validation: int, test: int, seed: int) -> dict[str, Puzzles]:
    """Split at random (a pure function of the seed) into train, validation and test, in shuffled order.

    Puzzles that a symmetry maps to each other stay together. Where they leave no way to reach a size exactly,
    validation and test are a little smaller. UserError if a split that was asked for, or training, has none.
    """
    if validation < 0 or test < 0:
        raise UserError("the sizes of validation and test cannot be negative; give 0 for none")
    forms = [family.canonical(tokens_L) for tokens_L in puzzles.tokens_NL]
    parts = deal.split(forms, {"test": test, "validation": validation}, seed)
    return {name: puzzles.take(parts[name]) for name in ("train", "validation", "test")}
