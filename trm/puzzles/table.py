"""Puzzles as arrays, and the CSV schema of the public data sets: `source,question,answer,rating`.

Only `question` and `answer` are needed; a column `puzzle` holds puzzle ids. Reading checks every row
against the family and names the line of the first fault, so that a broken file never becomes a strange
accuracy.

Shapes: N puzzles, L tokens.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trm.errors import UserError
from trm.files import write_atomic
from trm.puzzles.family import Family


@dataclass(frozen=True)
class Puzzles:
    """Questions and answers as tokens, uint8 [N, L]; puzzle ids and ratings, int32 [N]."""

    tokens_NL: np.ndarray
    answers_NL: np.ndarray
    puzzle_N: np.ndarray
    rating_N: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens_NL)

    def take(self, index: slice | np.ndarray) -> "Puzzles":
        """The chosen puzzles."""
        return Puzzles(
            self.tokens_NL[index], self.answers_NL[index], self.puzzle_N[index], self.rating_N[index]
        )


def from_arrays(
    tokens_NL: np.ndarray,
    answers_NL: np.ndarray,
    rating_N: np.ndarray | None = None,
    puzzle_N: np.ndarray | None = None,
) -> Puzzles:
    """Puzzles from integer arrays; ratings and puzzle ids are 0 if not given."""
    zeros = np.zeros(len(tokens_NL), dtype=np.int32)
    puzzles, ratings = (zeros if n is None else n.astype(np.int32) for n in (puzzle_N, rating_N))
    return Puzzles(tokens_NL.astype(np.uint8), answers_NL.astype(np.uint8), puzzles, ratings)


def read_csv(path: Path, family: Family, limit: int | None = None) -> Puzzles:
    """Read puzzles of a family; UserError names the line of a missing column or a broken row."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _read(csv.reader(file), str(path), family, limit)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV text file: {error}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _read(rows, path: str, family: Family, limit: int | None) -> Puzzles:
    header = next(rows, [])
    for column in ("question", "answer"):
        if column not in header:
            there = ", ".join(header)[:80] or "an empty file"
            raise UserError(f"{path}: no column {column!r} in the first line ({there}); need question,answer")
    question, answer = header.index("question"), header.index("answer")
    numbers = {name: header.index(name) for name in ("rating", "puzzle") if name in header}
    tokens, answers = [], []
    found: dict[str, list[np.int32]] = {name: [] for name in numbers}
    for row in rows:
        if limit is not None and len(tokens) >= limit:
            break
        if not row:  # a blank line
            continue
        try:
            if len(row) != len(header):
                raise UserError(f"{len(row)} fields where the header has {len(header)}")
            tokens.append(family.parse(row[question]))
            answers.append(family.parse(row[answer]))
            for name, column in numbers.items():
                found[name].append(np.int32(row[column] or 0))
                if name == "puzzle" and found[name][-1] < 0:
                    raise UserError(f"the puzzle id {row[column]} is negative")
            if family.verify(tokens[-1], answers[-1]) is False:
                raise UserError("the answer does not solve the question")
        except (UserError, ValueError, OverflowError) as error:
            raise UserError(f"{path}, line {rows.line_num}: {error}") from None
    if not tokens:
        raise UserError(f"{path} holds no puzzles")
    arrays = {f"{name}_N": np.array(values) for name, values in found.items()}
    return from_arrays(np.stack(tokens), np.stack(answers), **arrays)


def write_csv(path: Path, family: Family, puzzles: Puzzles, source: str) -> None:
    """Write puzzles in the same schema, with their ids where they have any; the file appears as a whole."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ids = [[int(puzzle)] if puzzles.puzzle_N.any() else [] for puzzle in puzzles.puzzle_N]
    writer.writerow(["source", "question", "answer", "rating", *["puzzle" for _ in ids[:1] if ids[0]]])
    rows = zip(puzzles.tokens_NL, puzzles.answers_NL, puzzles.rating_N, ids, strict=True)
    for tokens, answer, rating, puzzle in rows:
        writer.writerow([source, family.text(tokens), family.text(answer), int(rating), *puzzle])
    write_atomic(path, text.getvalue())
