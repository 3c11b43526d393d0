"""Sudoku of any box shape: 4x4, 6x6 (boxes of 2 x 3), 9x9, 16x16.

Tokens: 0 = pad, 1 = blank, 2.. = the digits 1... In text, `.` or `0` is a blank, and the digits past 9
are letters (A = 10), in either case.

Symmetries: relabelled digits; permuted bands, stacks, rows within a band, columns within a stack; and
the transpose where boxes are square.

Shapes: L = N * N cells, N symbols, B batch, V = N + 2 tokens.
"""

import math
import string
from collections.abc import Callable, Iterable, Sequence
from typing import Any, final

import numpy as np
import torch
from rich.text import Text
from torch import Tensor

from trm import rng
from trm.errors import UserError
from trm.problem import Relation, Relations
from trm.puzzles.family import Family, Sign
from trm.puzzles.sudoku import generator, solver
from trm.puzzles.sudoku.config import SudokuConfig, SudokuGeneratorConfig
from trm.puzzles.symmetry import Symmetry

BLANK = 1
_DIGITS = "123456789" + string.ascii_uppercase
# Characters that people draw boards with; they carry no information.
_DRAWING = str.maketrans("", "", "|+-_ \t\r\n│┃─━┼╋┌┐└┘├┤┬┴╔╗╚╝║═╬╠╣╦╩")
# Guesses after which a board's number of solutions is left open (16x16 boards with few clues).
_CHECK_BUDGET = 2_000_000


@final
class Sudoku(Family[SudokuConfig, SudokuGeneratorConfig]):
    """Sudoku with boxes of box_rows x box_cols cells."""

    def __init__(self, config: SudokuConfig):
        self.config = config
        self.box = (config.box_rows, config.box_cols)
        self.side = config.box_rows * config.box_cols
        self.length = self.side**2
        self.vocab_size = self.side + 2
        self.board = (self.side, self.side)
        self.relations = _relations(*self.box)

    def parse(self, text: str) -> np.ndarray:
        chars = text.translate(_DRAWING)
        if len(chars) != self.length:
            raise UserError(
                f"the puzzle has {len(chars)} cells, but a {self.side}x{self.side} Sudoku has {self.length}; "
                "write one character per cell, '.' for a blank"
            )
        symbols = _DIGITS[: self.side]
        for i, char in enumerate(chars):
            if char.upper() not in symbols and char not in ".0":
                raise UserError(
                    f"{char!r} in row {i // self.side + 1}, column {i % self.side + 1} is not a digit of a "
                    f"{self.side}x{self.side} Sudoku; use {symbols[0]}-{symbols[-1]} and '.' for a blank"
                )
        return np.array([BLANK if c in ".0" else symbols.index(c.upper()) + 2 for c in chars], dtype=np.uint8)

    def text(self, tokens_L: np.ndarray) -> str:
        return "".join(self._char(token) for token in tokens_L)

    def cells(self, line: str) -> int:
        return len(line.translate(_DRAWING))

    def written(self, rows: Sequence[Sequence[Any]]) -> str:
        """Numbers past 9 are letters in text; 0 is a blank."""
        digits = {str(number): digit for number, digit in enumerate(_DIGITS, 1)}
        return "\n".join("".join(digits.get(str(cell), str(cell)) for cell in row) for row in rows)

    def signs(self) -> list[Sign]:
        return [Sign("", "pad"), Sign(".", "open"), *(Sign(char, "symbol") for char in _DIGITS[: self.side])]

    def resized(self, text: str) -> SudokuConfig | None:
        rows = [cells for line in text.splitlines() if (cells := self.cells(line))]
        side = math.isqrt(sum(rows))
        if side**2 != sum(rows) or (len(rows) > 1 and rows != [side] * side):
            return None
        if side == self.side:
            return self.config
        return _of_side(side)

    def misfit(self, text: str) -> str:
        rows = [cells for line in text.splitlines() if (cells := self.cells(line))]
        sides = {side: config for side in range(4, 26) if (config := _of_side(side)) is not None}
        near = min(sides, key=lambda side: abs(side**2 - sum(rows)))
        if sum(rows) == near**2 and rows in ([near**2], [near] * near):
            return super().misfit(text) if near == self.side else Sudoku(sides[near]).misfit(text)
        odd = [f"row {r} has {cells}" for r, cells in enumerate(rows, 1) if len(rows) > 1 and cells != near]
        return (
            f"the puzzle has {sum(rows)} cells, but a {near}x{near} Sudoku has {near**2}"
            f"{f' ({odd[0]})' if odd else ''}; write one character per cell, '.' for a blank"
        )

    def check(self, tokens_L: np.ndarray) -> None:
        board_L = _digits(tokens_L)
        if pair := solver.conflict(board_L, *self.box):
            (r1, c1), (r2, c2) = (divmod(cell, self.side) for cell in pair)
            raise UserError(
                f"contradictory clues: {self._char(tokens_L[pair[0]])} stands in row {r1 + 1}, column "
                f"{c1 + 1} and in row {r2 + 1}, column {c2 + 1}; correct one of them"
            )
        found = solver.search(board_L, *self.box, limit=2, max_guesses=_CHECK_BUDGET)
        if len(found.solutions) == 2:
            raise UserError("the puzzle has several solutions; add clues until only one is left")
        if found.complete and len(found.solutions) == 0:
            raise UserError("the puzzle has no solution; check the clues for a typing error")

    def verify(self, tokens_L: np.ndarray, answer_L: np.ndarray) -> bool:
        return solver.is_solution(_digits(tokens_L), _digits(answer_L), *self.box)

    def solve_exactly(self, tokens_L: np.ndarray) -> np.ndarray | None:
        found = solver.search(_digits(tokens_L), *self.box, limit=1, max_guesses=_CHECK_BUDGET).solutions
        return found[0] + np.uint8(1) if len(found) else None

    def canonical(self, tokens_L: np.ndarray) -> bytes:
        return generator.canonical(_digits(tokens_L).astype(np.uint8), *self.box)

    def symmetry(self, key_B: Tensor) -> Symmetry:
        box_rows, box_cols = self.box
        side = self.side

        def lines(stream: int, groups: int, size: int) -> Tensor:
            """Permuted lines [B, N]: groups (bands or stacks) of `size` lines, and lines in each."""
            key = rng.fold(key_B, stream)
            group_BG1 = rng.permutation(key, groups).unsqueeze(-1)
            within_BGS = rng.permutation(
                rng.fold(key.unsqueeze(-1), torch.arange(1, groups + 1, device=key.device)), size
            )
            return (group_BG1 * size + within_BGS).flatten(1)

        row_BN = lines(1, box_cols, box_rows)
        col_BN = lines(2, box_rows, box_cols)
        cells_BNN = row_BN.unsqueeze(2) * side + col_BN.unsqueeze(1)
        if box_rows == box_cols:
            flip_B11 = (rng.randint(rng.fold(key_B, 3), 0, 2) == 1).view(-1, 1, 1)
            cells_BNN = torch.where(flip_B11, cells_BNN.transpose(1, 2), cells_BNN)
        digit_BN = rng.permutation(rng.fold(key_B, 4), side) + 2
        fixed_B2 = torch.arange(2, device=key_B.device).expand(len(key_B), 2)
        return Symmetry(cells_BNN.flatten(1), torch.cat((fixed_B2, digit_BN), dim=1))

    def generate(
        self,
        config: SudokuGeneratorConfig,
        seed: int,
        avoid: Iterable[np.ndarray],
        progress: Callable[[int], None],
    ) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        splits = generator.generate(
            *self.box,
            config.counts(),
            seed,
            extra_clues=config.extra_clues,
            guesses=(config.min_guesses, config.max_guesses),
            avoid=[_digits(tokens_L).astype(np.uint8) for tokens_L in avoid],
            progress=progress,
        )
        return {
            name: (split.puzzles + 1, split.solutions + 1, split.ratings) for name, split in splits.items()
        }

    def more_like(
        self,
        tokens_NL: np.ndarray,
        answers_NL: np.ndarray,
        count: int,
        seed: int,
        avoid: Iterable[np.ndarray],
        progress: Callable[[int], None],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        puzzles_NL, solutions_NL = (_digits(each).astype(np.uint8) for each in (tokens_NL, answers_NL))
        found = generator.more_like(
            puzzles_NL,
            solutions_NL,
            *self.box,
            count,
            seed,
            avoid=[_digits(tokens_L).astype(np.uint8) for tokens_L in avoid],
            progress=progress,
        )
        return found.puzzles + 1, found.solutions + 1, found.ratings

    def render(
        self, tokens_L: np.ndarray, answer_L: np.ndarray, previous_L: np.ndarray | None = None
    ) -> Text:
        box_rows, box_cols = self.box
        bar = "┼".join(["─" * (2 * box_cols + 1)] * box_rows)[1:-1]
        picture = Text()
        for cell in range(self.length):
            row, col = divmod(cell, self.side)
            if col == 0 and row > 0:
                picture.append("\n")
                if row % box_rows == 0:
                    picture.append(bar + "\n", style="dim")
            if col > 0:
                picture.append("│ " if col % box_cols == 0 else "", style="dim")
            changed = previous_L is not None and answer_L[cell] != previous_L[cell]
            if tokens_L[cell] != BLANK:
                style = "bold" if answer_L[cell] == tokens_L[cell] else "bold red"
            else:
                style = "black on yellow" if changed else "cyan"
            picture.append(self._char(answer_L[cell]), style=style)
            if col < self.side - 1:
                picture.append(" ")
        return picture

    def _char(self, token: int) -> str:
        """A token as text; tokens that are no digit of this board print as '?'."""
        if token == BLANK:
            return "."
        return _DIGITS[token - 2] if 2 <= token < self.vocab_size else "?"


def _of_side(side: int) -> SudokuConfig | None:
    """Boards of a side; boxes are as near to squares as they can be, wider than high, as people draw them."""
    box_rows = next((n for n in range(math.isqrt(side), 1, -1) if side % n == 0), None)
    if box_rows is None or side // box_rows > 5:
        return None
    return SudokuConfig(box_rows=box_rows, box_cols=side // box_rows)


def _relations(box_rows: int, box_cols: int) -> Relations:
    """Axes: bands, rows of a band, stacks, columns of a stack, digits."""
    side = box_rows * box_cols
    return Relations(
        shape=(box_cols, box_rows, box_rows, box_cols, side),
        members=(
            Relation("row", (2, 3)),
            Relation("column", (0, 1)),
            Relation("box", (1, 3)),
            Relation("cell", (4,)),
        ),
        tokens=tuple(range(BLANK + 1, BLANK + 1 + side)),
    )


def _digits(tokens_L: np.ndarray) -> np.ndarray:
    """The solver's boards: 0 = blank, 1.. = digits; padding becomes -1, which is no digit."""
    return np.asarray(tokens_L).astype(np.int16) - 1
