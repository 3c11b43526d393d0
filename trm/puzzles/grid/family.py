"""Grid puzzles of your own: question and answer are grids of one size, over one set of symbols.

Tokens: 0 = pad, i + 1 = symbol i of the configuration. A puzzle smaller than the canvas stands at its top
left. Text has one row after the other, separated by `/` or line breaks; in a row every character is a
cell, or, where there are spaces or a symbol has several characters, cells are separated by spaces.

The rules are not known, unless the configuration says some: an answer is right when it is the one in the
data, and nothing can be solved exactly or generated. Where `blanks` says which cells are to be filled, an
answer that changes another cell or leaves one open is known to be wrong. Rules (each symbol once in every
row, column or box) verify answers and check clues, and they relate candidates as in a Sudoku, which is a
model of candidates all it needs; every puzzle has the size of the canvas then.

Symmetries, where the configuration names them: rotations and reflections that keep the canvas's shape, and
renamings of some symbols among each other. They act on the whole canvas, so they move padding too.

Shapes: H height, W width, L = H * W cells of the canvas; B batch, G symmetries of the canvas, P symbols
that may be renamed, V = symbols + 1 tokens.
"""

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, final

import numpy as np
import torch
from rich.cells import cell_len
from rich.text import Text
from torch import Tensor

from trm import rng
from trm.config import GeneratorConfig
from trm.errors import UserError
from trm.problem import Relation, Relations
from trm.puzzles.family import Family, Sign
from trm.puzzles.grid.config import GridConfig
from trm.puzzles.symmetry import Symmetry, dihedral_cells, images_that_keep, turn

Confirm = Callable[[list[list[str]], list[list[str]]], bool]

PAD = 0
_LINE_END = re.compile(r"[\r\n]")
_SHOWN = 20  # symbols listed in a message


def split_cells(text: str, spaced: bool = False) -> list[list[str]]:
    """Rows of cells of a text; with `spaced`, also a row without spaces is one cell and not many.

    There is always a row; it holds no cell where nothing stands between two separators.
    """
    rows = []
    # An empty line between two rows is drawing; two slashes in a row are a row without cells.
    parts = (list(filter(str.strip, _LINE_END.split(part))) or [""] for part in text.split("/"))
    for row in itertools.chain.from_iterable(parts):
        cells = row.split()
        rows.append(cells if spaced or len(cells) != 1 else list(cells[0]))
    return rows


def check_symbol(symbol: str) -> None:
    """Raise UserError for a symbol that would not survive being written and read back."""
    if not symbol or "/" in symbol or any(map(_unprintable, symbol)):
        raise UserError(
            f"{symbol!r} cannot be a symbol: it is empty, or holds a space, a '/' or a control character; "
            "choose another, such as '.' for a blank"
        )


def _unprintable(char: str) -> bool:
    return char.isspace() or unicodedata.category(char) in ("Cc", "Cs")


@final
class Grid(Family[GridConfig, GeneratorConfig]):
    """Puzzles on a canvas of height x width cells; UserError for symbols that text cannot hold.

    `confirm` says of question and answer, rows of symbols each, whether the answer is right.
    """

    def __init__(self, config: GridConfig, confirm: Confirm | None = None):
        for symbol in config.symbols:
            check_symbol(symbol)
        self.config, self.confirm = config, confirm
        self.comment = "" if any(symbol.startswith("#") for symbol in config.symbols) else "#"
        self.shape = (config.height, config.width)
        self.board = self.shape
        self.length = config.height * config.width
        self.vocab_size = len(config.symbols) + 1
        self._token = {symbol: token for token, symbol in enumerate(config.symbols, 1)}
        self._spaced = any(len(symbol) > 1 for symbol in config.symbols)
        self._blanks = [self._token[symbol] for symbol in config.blanks]
        self._permute_P = sorted(self._token[symbol] for symbol in set(config.permute))
        self.relations = _relations(config, tuple(self._permute_P)) if config.rules.given else None
        self._permute_on: dict[Any, Tensor] = {}  # by device

    def parse(self, text: str) -> np.ndarray:
        height, width = self.shape
        rows = split_cells(text, self._spaced)
        if len(rows) == 1 and len(rows[0]) == self.length:
            rows = [rows[0][first : first + width] for first in range(0, self.length, width)]
        if rows == [[]]:
            raise UserError("the puzzle is empty; write its rows, separated by '/' or line breaks")
        try:
            tokens = [[self._token[symbol] for symbol in row] for row in rows]
        except KeyError:
            raise UserError(self._unknown(rows)) from None
        for r, row in enumerate(rows, 1):
            if len(row) != len(rows[0]):
                raise UserError(
                    f"row {r} has {len(row)} cells, but row 1 has {len(rows[0])}; write rows of one length"
                )
        if len(rows) > height or len(rows[0]) > width:
            raise UserError(
                f"the puzzle has {len(rows)} rows of {len(rows[0])} cells, but this grid has at most "
                f"{height} rows of {width}; give a smaller puzzle"
            )
        if self.relations is not None and (len(rows), len(rows[0])) != self.shape:
            raise UserError(
                f"the puzzle has {len(rows)} rows of {len(rows[0])} cells, but by its rules this grid has "
                f"{height} rows of {width}"
            )
        tokens_HW = np.full(self.shape, PAD, dtype=np.uint8)
        tokens_HW[: len(rows), : len(rows[0])] = tokens
        return tokens_HW.ravel()

    def text(self, tokens_L: np.ndarray) -> str:
        """One line that `parse` reads back, without padding around it.

        Padding inside, which only a model's answer can have, is '?'; an answer of padding is an empty line.
        """
        grid_HW = self._canvas(tokens_L)
        between = " " if self._spaced else ""
        return "/".join(between.join(map(self._char, row)) for row in grid_HW[_box(grid_HW)].tolist())

    def signs(self) -> list[Sign]:
        return [Sign("", "pad"), *(Sign(symbol, "symbol") for symbol in self.config.symbols)]

    def cells(self, line: str) -> int:
        return sum(map(len, split_cells(line, self._spaced)))

    def written(self, rows: Sequence[Sequence[Any]]) -> str:
        return "/".join((" " if self._spaced else "").join(map(str, row)) for row in rows)

    def check(self, tokens_L: np.ndarray) -> None:
        if not np.any(tokens_L):
            raise UserError("the puzzle is empty; give at least one cell")
        if self.relations is None:
            return
        given_S = self._candidates(tokens_L)
        for relation in self.relations.members:
            twice_S = given_S & (given_S.sum(relation.axes, keepdims=True) > 1)
            if twice_S.any():
                first, *others = np.flatnonzero(twice_S)
                near_S = np.zeros_like(given_S)
                near_S.flat[first] = True
                same_S = twice_S & np.any(near_S, relation.axes, keepdims=True)
                second = next(each for each in others if same_S.flat[each])
                places = [divmod(at // self.relations.symbols, self.shape[1]) for at in (first, second)]
                (r1, c1), (r2, c2) = places
                symbol = self.config.symbols[self._permute_P[first % self.relations.symbols] - 1]
                raise UserError(
                    f"contradictory clues: {symbol} stands in row {r1 + 1}, column {c1 + 1} and in row "
                    f"{r2 + 1}, column {c2 + 1}; correct one of them"
                )

    @property
    def verifies(self) -> bool:
        return bool(self.relations or self._blanks or self.confirm)

    def verify(self, tokens_L: np.ndarray, answer_L: np.ndarray) -> bool | None:
        if super().verify(tokens_L, answer_L) is False or not self._filled_in(tokens_L, answer_L):
            return False
        if self.confirm is not None:
            box = _box(self._canvas(tokens_L))
            question, answer = (
                [[self._char(token) for token in row] for row in self._canvas(each)[box].tolist()]
                for each in (tokens_L, answer_L)
            )
            return bool(self.confirm(question, answer))
        if self.relations is None:
            return None
        given_S, answer_S = self._candidates(tokens_L), self._candidates(answer_L)
        sets = (answer_S.sum(relation.axes) for relation in self.relations.members)
        return bool(np.all(answer_S >= given_S)) and all(bool(np.all(count == 1)) for count in sets)

    def canonical(self, tokens_L: np.ndarray) -> bytes:
        """A form that two puzzles share if and only if a symmetry maps one to the other.

        Where a puzzle stands on the canvas makes no difference: images are those of its own rectangle, and
        its height and width are a part of the form.
        """
        grid_HW = self._canvas(tokens_L)
        image_HW = grid_HW[_box(grid_HW)]
        images = [image_HW]
        if self.config.dihedral:
            images = [turn(image_HW, image) for image in images_that_keep(*self.shape)]
        return min(b"%dx%d:" % image.shape + self._renamed(image) for image in images)

    def symmetry(self, key_B: Tensor) -> Symmetry:
        batch, device = len(key_B), key_B.device
        cells_GL = dihedral_cells(*self.shape, device)
        if not self.config.dihedral:
            cells_GL = cells_GL[:1]
        cells_BL = cells_GL[rng.randint(rng.fold(key_B, 1), 0, len(cells_GL))]
        symbols_BV = torch.arange(self.vocab_size, device=device).repeat(batch, 1)
        if device not in self._permute_on:  # copied there once: a copy in every step would make it wait
            self._permute_on[device] = torch.tensor(self._permute_P, dtype=torch.int64, device=device)
        permute_P = self._permute_on[device]
        symbols_BV[:, permute_P] = permute_P[rng.permutation(rng.fold(key_B, 2), len(permute_P))]
        return Symmetry(cells_BL, symbols_BV)

    def generate(
        self, config: GeneratorConfig, seed: int, avoid: Iterable[np.ndarray], progress: Callable[[int], None]
    ) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        raise UserError(
            "grid puzzles of your own cannot be generated, as its rules are not known: give data.train"
        )

    def check_tokens(self, other: Family) -> None:
        if not isinstance(other, Grid) or other.config.symbols != self.config.symbols:
            raise UserError("the weights know other symbols: their tokens mean something else")

    def render(
        self, tokens_L: np.ndarray, answer_L: np.ndarray, previous_L: np.ndarray | None = None
    ) -> Text:
        """The answer as a picture: what stands in the question too is bold, all else is a guess.

        Which symbol is a blank is not known, so a clue that was overwritten looks like a guess.
        """
        question_HW, answer_HW = self._canvas(tokens_L), self._canvas(answer_L)
        previous_HW = answer_HW if previous_L is None else self._canvas(previous_L)
        box = _box(question_HW | answer_HW)  # with what the model wrote outside of the puzzle
        widest = max(map(cell_len, self.config.symbols))
        picture = Text()
        for r, row in enumerate(zip(question_HW[box], answer_HW[box], previous_HW[box], strict=True)):
            if r > 0:
                picture.append("\n")
            for c, (question, answer, previous) in enumerate(zip(*map(np.ndarray.tolist, row), strict=True)):
                char = " " if question == answer == PAD else self._char(answer)
                guess = "cyan" if answer == previous else "black on yellow"
                picture.append(" " * (c > 0))
                picture.append(" " * (widest - cell_len(char)))
                picture.append(char, style="bold" if answer == question else guess)
        return picture

    def _filled_in(self, tokens_L: np.ndarray, answer_L: np.ndarray) -> bool:
        """Whether an answer keeps the clues and leaves nothing open, as far as `blanks` tells."""
        if not self._blanks:
            return True
        open_L, left_L = (np.isin(each, self._blanks) for each in (tokens_L, answer_L))
        return not left_L.any() and np.array_equal(
            np.asarray(tokens_L)[~open_L], np.asarray(answer_L)[~open_L]
        )

    def _candidates(self, tokens_L: np.ndarray) -> np.ndarray:
        """Which candidates stand on the canvas, in the factored shape of the relations, bool."""
        assert self.relations is not None
        return (np.asarray(tokens_L)[:, None] == self._permute_P).reshape(self.relations.shape)

    def _canvas(self, tokens_L: np.ndarray) -> np.ndarray:
        return np.asarray(tokens_L).reshape(self.shape)

    def _char(self, token: int) -> str:
        """A token as text; padding, and tokens that this grid does not have, print as '?'."""
        return self.config.symbols[token - 1] if 1 <= token < self.vocab_size else "?"

    def _unknown(self, rows: list[list[str]]) -> str:
        """What to say about the first unknown symbol."""
        cells = ((r, c, cell) for r, row in enumerate(rows, 1) for c, cell in enumerate(row, 1))
        r, c, symbol = next(cell for cell in cells if cell[2] not in self._token)
        symbols = self.config.symbols
        known = " ".join(symbols[:_SHOWN]) + (" ..." if len(symbols) > _SHOWN else "")
        spaces = ", with a space between cells" if self._spaced else ""
        return f"{symbol!r} in row {r}, column {c} is not a symbol of this grid; use {known}{spaces}"

    def _renamed(self, image_HW: np.ndarray) -> bytes:
        """Tokens row by row, with the symbols that may be renamed numbered in order of appearance."""
        data = image_HW.astype(np.uint8).tobytes()
        seen = [token for token in dict.fromkeys(data) if token in self._permute_P]
        names = bytearray(range(256))
        for name, token in zip(self._permute_P, seen, strict=False):
            names[token] = name
        return data.translate(names)


def _relations(config: GridConfig, tokens: tuple[int, ...]) -> Relations:
    """Axes: bands, rows of a band, stacks, columns of a stack, symbols."""
    rules = config.rules
    box_rows, box_cols = rules.boxes or (1, 1)
    known = {
        Relation("row", (2, 3)): rules.rows == "all_different",
        Relation("column", (0, 1)): rules.columns == "all_different",
        Relation("box", (1, 3)): rules.boxes is not None,
        Relation("cell", (4,)): True,
    }
    return Relations(
        shape=(config.height // box_rows, box_rows, config.width // box_cols, box_cols, len(tokens)),
        members=tuple(relation for relation, holds in known.items() if holds),
        tokens=tokens,
    )


def _box(grid_HW: np.ndarray) -> tuple[slice, slice]:
    """The smallest rectangle around all that is not padding."""
    filled_HW = grid_HW != PAD
    sides = []
    for axis in (1, 0):
        line = np.flatnonzero(filled_HW.any(axis=axis))
        sides.append(slice(line[0], line[-1] + 1) if len(line) else slice(0))
    return sides[0], sides[1]
