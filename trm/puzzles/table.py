"""Puzzles as arrays, and the CSV schema of the public data sets: `source,question,answer,rating`.

Only `question` and `answer` are needed; a column `puzzle` holds puzzle ids. Files are read in every form that
`records` knows. Reading checks every row against the family and names the line of the first fault, so that a
broken file never becomes a strange accuracy.

Shapes: N puzzles, L tokens.
"""

import csv
import hashlib
import io
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trm.errors import UserError
from trm.files import write_atomic
from trm.puzzles.family import Family
from trm.puzzles.records import as_text, records


@dataclass(frozen=True)
class Puzzles:
    """Questions and answers as tokens, uint8 [N, L]; puzzle ids and ratings, int32 [N]."""

    tokens_NL: np.ndarray
    answers_NL: np.ndarray
    puzzle_N: np.ndarray
    rating_N: np.ndarray
    group_N: np.ndarray | None = None
    """Number of the group of every puzzle, whose members are variants of one another, ascending, int32 [N];
    None where every puzzle stands for itself."""

    def __len__(self) -> int:
        return len(self.tokens_NL)

    def take(self, index: slice | np.ndarray) -> "Puzzles":
        """The chosen puzzles."""
        return Puzzles(
            self.tokens_NL[index],
            self.answers_NL[index],
            self.puzzle_N[index],
            self.rating_N[index],
            None if self.group_N is None else self.group_N[index],
        )

    def digest(self) -> str:
        """Hash of all that training sees of them, in hexadecimal."""
        found = hashlib.sha256()
        for array, kind in ((self.tokens_NL, "u1"), (self.answers_NL, "u1"), (self.puzzle_N, "<i4")):
            found.update(f"{array.shape}".encode())
            found.update(np.ascontiguousarray(array, kind).data)
        return found.hexdigest()


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


def read_puzzles(path: Path, family: Family, limit: int | None = None) -> Puzzles:
    """Read puzzles of a family; UserError names the line of a missing column or a broken row."""
    tokens, answers, ratings, puzzles = [], [], [], []
    for place, fields in itertools.islice(records(path), limit):
        question, answer = (as_text(place, fields[name], family) for name in ("question", "answer"))
        try:
            tokens.append(family.parse(question))
            answers.append(family.parse(answer))
            ratings.append(np.int32(fields.get("rating") or 0))
            puzzles.append(np.int32(fields.get("puzzle") or 0))
            if puzzles[-1] < 0:
                raise UserError(f"the puzzle id {puzzles[-1]} is negative")
            if family.verify(tokens[-1], answers[-1]) is False:
                raise UserError("the answer does not solve the question")
        except (UserError, ValueError, TypeError, OverflowError) as error:
            raise UserError(f"{place}: {error}") from None
    if not tokens:
        raise UserError(f"{path} holds no puzzles")
    return from_arrays(np.stack(tokens), np.stack(answers), np.array(ratings), np.array(puzzles))


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
