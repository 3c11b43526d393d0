"""Puzzles in files as people have them: one reader for all of them.

A file is one of three kinds, which its first line tells, and may be packed with gzip:

- a table: the first line names the columns, separated by commas, tabs or semicolons;
- JSON: objects with these names, in an array or one per line (for questions alone also plain grids);
- text, which holds questions alone: one per line, or grids of several lines between blank lines.

Only `question` and `answer` matter (and what a reader asks for beside them). Names may have capitals, and
other common names are understood, such as Kaggle's `quizzes` and `solutions`. Lines before a table, and
torn rows in it, that begin with `#` are remarks.
"""

import csv
import gzip
import io
import itertools
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple, cast

from trm import files
from trm.errors import UserError
from trm.puzzles.family import Family

# What people call the two columns; where several stand in a table, the first of these counts.
_NAMES = {
    "question": [
        "question",
        "questions",
        "quiz",
        "quizzes",
        "puzzle",
        "puzzles",
        "problem",
        "input",
        "sudoku",
        "maze",
        "grid",
        "board",
    ],
    "answer": ["answer", "answers", "solution", "solutions", "solved", "output", "target", "label"],
}
_DELIMITERS = ",\t;"
_LOOK_AHEAD = 1000  # lines, at most, in which the first puzzle of a text is looked for
_MOST_AHEAD = 2**16  # lines that are remembered while looking ahead

csv.field_size_limit(2**22)  # a long field is for the family to refuse, which knows how long one may be

Bad = Callable[[UserError], None]  # what to do about a puzzle that cannot be read


class Record(NamedTuple):
    """A puzzle of a file."""

    place: str
    """Where it stands, for messages: `mine.csv, line 3`."""
    fields: dict[str, Any]
    """What is said of it, by name; in JSON a grid may be a list of rows."""


class Question(NamedTuple):
    """A puzzle without its answer, as text."""

    text: str
    place: str
    """Where it stands, for messages; empty on the command line."""
    fields: Mapping[str, Any] = MappingProxyType({})
    """What a table or JSON says of it, by name; empty in a text."""


class Lines:
    """The lines of a text, with their numbers, and a way to look ahead."""

    def __init__(self, lines: Iterable[str], name: str):
        self.name = name
        self.number = 0
        """Of the line that was read last."""
        self._lines = iter(lines)
        self._back: deque[str] = deque()
        self._seen: list[str] | None = None

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        if self._seen is not None and len(self._seen) >= _MOST_AHEAD:
            raise UserError(f"{self.name}: no puzzle within {_MOST_AHEAD:,} lines")
        try:
            line = self._back.popleft() if self._back else next(self._lines)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.name} is not a UTF-8 text file: {error.reason}; save it as UTF-8"
            ) from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{self.name}: damaged gzip file: {error}; pack it again") from None
        except OSError as error:
            raise UserError(f"cannot read {self.name}: {error.strerror or error}") from None
        self.number += 1
        if self.number == 1:
            line = line.removeprefix("\ufeff")
        if self._seen is not None:
            self._seen.append(line)
        return line

    @contextmanager
    def ahead(self) -> Iterator["Lines"]:
        """Lines that are read here are read again afterwards."""
        at, outer = self.number, self._seen
        seen: list[str] = []
        self._seen = seen
        try:
            yield self
        finally:
            self._back.extendleft(reversed(seen))
            self.number, self._seen = at, outer

    @property
    def place(self) -> str:
        """The line that was read last, for messages."""
        return f"{self.name}, line {self.number}"


@contextmanager
def opened(path: Path) -> Iterator[Lines]:
    """The lines of a file, unpacked where it is packed; UserError where it cannot be read."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    with file:
        packed = file.peek(2)[:2] == b"\x1f\x8b"
        raw = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file
        # Line ends are kept, as a quoted field may hold some.
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        yield Lines(files.lines(text, str(path)), str(path))


def records(path: Path, needed: Sequence[str] = ("question", "answer")) -> Iterator[Record]:
    """The puzzles of a table or of JSON; UserError names the place of the first fault."""
    with opened(path) as lines:
        kind = _kind(lines)
        if kind == "json":
            for place, value in _json(lines):
                yield Record(place, _object(place, value, needed))
        else:
            yield from _table(lines, "," if kind == "text" else kind, needed)


def refuse(error: UserError) -> None:
    """The usual way with a fault."""
    raise error


def questions(lines: Lines, family: Family, bad: Bad = refuse) -> Iterator[Question]:
    """The puzzles of a text of any kind, without answers, each as soon as its lines are read.

    Faults name their places. `bad` is called with each; where it returns, that puzzle is left out. Whether
    what is read is a puzzle of the family is not asked.
    """
    kind = _kind(lines)
    if kind == "json":
        yield from _json_questions(lines, family, bad)
    elif kind == "text":
        yield from _blocks(lines, family)
    else:
        for place, fields in _table(lines, kind, ["question"], bad):
            yield Question(fields["question"], place, fields)


def first_of(path: Path, family: Family) -> str:
    """The first question of a table or of JSON; empty where there is none."""
    rows = records(path, ["question"])
    return next((as_text(place, fields["question"], family) for place, fields in rows), "")


def first(lines: Lines, family: Family) -> list[str]:
    """What the first puzzle of a text may be, the likeliest first; the lines stay to be read."""
    with lines.ahead():
        kind = _kind(lines)
        if kind == "json":
            found = [
                as_text(place, _fields_of(place, value)["question"], family)
                for place, value in itertools.islice(_json(lines), 100)
            ]
            return [*found[:1], "\n".join(found)]
        if kind != "text":
            return [
                fields["question"] for _, fields in itertools.islice(_table(lines, kind, ["question"]), 1)
            ]
        rows = (line.rstrip("\r\n") for line in itertools.islice(lines, _LOOK_AHEAD))
        block = list(itertools.takewhile(str.strip, itertools.dropwhile(lambda row: not row.strip(), rows)))
    plain = [row for row in block if not row.startswith("#")]
    found = ["\n".join(block), *block[:1], "\n".join(plain), *plain[:1]]
    return list(dict.fromkeys(text for text in found if text))


def as_text(place: str, value: Any, family: Family) -> str:
    """A grid as text that a family reads; UserError where it is none."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        if all(type(row) is str for row in value):
            return "\n".join(value)
        rows = value if all(isinstance(row, list) for row in value) else [value]
        if all(type(cell) in (str, int) for row in rows for cell in row):
            if "" in itertools.chain(*rows):
                raise UserError(f"{place}: a cell is empty; write into it what stands for a blank")
            return family.written(rows)
    raise UserError(f"{place}: {str(value)[:40]!r} is not a grid; give text, or a list of rows")


# --- what a text is


def _kind(lines: Lines) -> str:
    """`json`, `text`, or the delimiter of a table; remarks before a table are read over."""
    remarks = 0
    with lines.ahead():
        for line in itertools.islice(lines, _LOOK_AHEAD):
            if not line.strip() or line.startswith("#"):
                remarks += 1
                continue
            if line.lstrip()[0] in "{[":
                kind = "json"
                break
            kind = next((mark for mark in _DELIMITERS if _column(_header(line, mark), "question")), "")
            kind = kind or next(
                (mark for mark in _DELIMITERS if _column(_header(line, mark), "answer")), "text"
            )
            break
        else:
            return "text"
    if kind != "text":
        for _ in itertools.islice(lines, remarks):
            pass
    return kind


def _header(line: str, delimiter: str) -> list[str]:
    try:
        return [column.strip() for column in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def _column(names: Iterable[str], wanted: str) -> str | None:
    """The column that is meant by a name, as it is written."""
    there = {name.casefold(): name for name in reversed(list(names))}
    return next((there[name] for name in _NAMES.get(wanted, (wanted,)) if name in there), None)


def _by_name(values: dict[str, Any]) -> dict[str, Any]:
    """Fields by the names that this house has for them, others in small letters."""
    meant = {column: name for name in _NAMES if (column := _column(values, name)) is not None}
    return {meant.get(name, name.casefold()): value for name, value in values.items()}


# --- tables


def _table(lines: Lines, delimiter: str, needed: Sequence[str], bad: Bad = refuse) -> Iterator[Record]:
    """Rows of a table; blank lines are none."""
    first = lines.number
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    last = 0  # a quoted field may hold line breaks: name the line where its row starts
    try:
        header = [column.strip() for column in next(filter(None, reader), [])]
        last = reader.line_num
        for column in needed:
            if _column(header, column) is None:
                there = ", ".join(header)[:80] or "an empty file"
                raise UserError(
                    f"{lines.name}, line {first + 1}: no column {column!r} ({there}); "
                    f"name the columns: {','.join(needed)}"
                )
        for fields in reader:
            place, last = f"{lines.name}, line {first + last + 1}", reader.line_num
            if not fields or (fields[0].startswith("#") and len(fields) != len(header)):
                continue
            if len(fields) != len(header):
                fault = f"{len(fields)} fields where the first line has {len(header)}"
                bad(UserError(f"{place}: {fault}; check the commas and quotes"))
                continue
            yield Record(place, _by_name(dict(zip(header, fields, strict=True))))
    except csv.Error as error:
        place = f"{lines.name}, line {first + last + 1}"
        if "unexpected end of data" in str(error):
            raise UserError(f"{place}: a quote that opens here is never closed; close or remove it") from None
        raise UserError(f"{place}: not CSV: {error}; correct the line") from None


# --- JSON


def _json(lines: Lines, bad: Bad = refuse) -> Iterator[tuple[str, Any]]:
    """Values of an array, or one per line, and where each stands."""
    with lines.ahead():
        start = next(line for line in lines if line.strip())
        alone = not any(line.strip() for line in lines)
    try:
        value = json.loads(start)
        whole = alone and not (isinstance(value, dict) and _column(value, "question"))
    except (ValueError, RecursionError):
        # A line that is broken says more by itself than what follows from it.
        whole = not (start.startswith("{") and start.rstrip().endswith("}"))
    if whole:
        offset, text = lines.number, _all(lines)
        value = _loaded(text, lines.name, offset)
        if isinstance(value, dict):
            lists = [each for each in value.values() if isinstance(each, list)]
            value = lists[0] if len(value) == len(lists) == 1 and not _column(value, "question") else [value]
        for number, each in enumerate(value if isinstance(value, list) else [value], 1):
            yield f"{lines.name}, item {number}", each
        return
    for line in filter(str.strip, lines):
        try:
            value = _loaded(line.rstrip(), lines.name, lines.number - 1, "; write one object per line")
        except UserError as error:
            bad(error)
        else:
            yield lines.place, value


def _all(lines: Lines) -> str:
    """What is left of a text; UserError where that is more than memory should hold."""
    parts, size = [], 0
    for line in lines:
        parts.append(line)
        size += len(line)
        if size > files.LISTING:
            raise UserError(
                f"{lines.name}: larger than {files.LISTING >> 20} MiB: write one JSON object per line"
            )
    return "".join(parts)


def _loaded(text: str, name: str, offset: int, remedy: str = "") -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{name}, line {offset + error.lineno}, column {error.colno}: not JSON: {error.msg}{remedy}"
        ) from None
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond all reason
        raise UserError(f"{name}, line {offset + 1}: not JSON: {error}{remedy}") from None


def _object(place: str, value: Any, needed: Sequence[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{place}: not a JSON object; write one object per line")
    for key in needed:
        if _column(value, key) is None:
            found = ", ".join(value)[:80] or "no key at all"
            raise UserError(f"{place}: no key {key!r} ({found}); give {' and '.join(needed)}")
    return _by_name(value)


def _fields_of(place: str, value: Any) -> dict[str, Any]:
    """The fields of an object, or of a grid alone."""
    return _object(place, value, ["question"]) if isinstance(value, dict) else {"question": value}


def _json_questions(lines: Lines, family: Family, bad: Bad) -> Iterator[Question]:
    """Questions of objects, and plain grids; rows in an array, of which none is a puzzle, are one grid."""
    values = _json(lines, bad)
    for place, value in values:
        try:
            fields = _fields_of(place, value)
            text = as_text(place, fields["question"], family)
        except UserError as error:
            bad(error)
            continue
        flat = isinstance(value, str) or (isinstance(value, list) and not isinstance(value[0], list))
        if flat and "item" in place and _is_row(text, family):
            rest = [as_text(where, each, family) for where, each in values]
            yield Question("\n".join([text, *rest]), lines.name)
            return
        yield Question(text, place, fields)


# --- lines


def _is_row(line: str, family: Family) -> bool:
    """Whether a line is a row of a grid, and not a whole puzzle.

    Rows of a grid, even drawn with frames, hold much fewer cells than a puzzle on one line. A slash separates
    rows: a line that has one is a whole puzzle.
    """
    return "/" not in line and family.cells(line) < 0.75 * family.length


def _blocks(lines: Lines, family: Family) -> Iterator[Question]:
    """Lines, or grids between blank lines; a block of lines one of which is a whole puzzle is no grid."""
    block: list[tuple[int, str]] = []
    grid = True

    def ended() -> Iterator[Question]:
        if grid and len(block) > 1:
            place = f"{lines.name}, lines {block[0][0]}-{block[-1][0]}"
            yield Question("\n".join(row for _, row in block), place)
        else:
            yield from (Question(row, f"{lines.name}, line {at}") for at, row in block)

    for line in lines:
        row = line.rstrip("\r\n")
        if family.comment and row.startswith(family.comment):
            continue
        if not row.strip():
            yield from ended()
            block, grid = [], True
            continue
        block.append((lines.number, row))
        grid = grid and _is_row(row, family)
        if not grid:  # then nothing has to wait for the end of the block
            yield from ended()
            block = []
    yield from ended()
