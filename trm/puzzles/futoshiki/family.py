"""Futoshiki: fill a Latin square so that every sign between two neighbours tells the truth.

A puzzle is drawn on a canvas of 2 N - 1 rows: digits and blanks stand at even places, the signs of neighbours
between them, and what is left over is empty. `<` and `>` stand between the cells of a row, and `^` (the upper
one is smaller) and `v` between those of a column:

    .<.>.-.    tokens: 0 = pad, 1 = blank, 2 = no sign, 3.. = < > ^ v, 7.. = the digits 1..N
    ^---v--
    .-.>1-3    (the first rows of a board of 4)

No sign is `-`, or a space where a puzzle is not one of several in a file. In one line, rows are separated by
`/`.

Symmetries: the eight images of the square, with the signs that turn with them, and the complement (d becomes
N + 1 - d, and every sign its opposite).

Shapes: N side, L = (2 N - 1)^2 places of the canvas, B batch, V tokens, G = 16 symmetries, K inequalities.
"""

import re
from collections.abc import Callable, Iterable
from typing import final

import numpy as np
import torch
from rich.text import Text
from torch import Tensor

from trm import rng
from trm.errors import UserError
from trm.puzzles.deal import Different, cut
from trm.puzzles.family import Family, Sign
from trm.puzzles.futoshiki import rules
from trm.puzzles.futoshiki.config import FutoshikiConfig, FutoshikiGeneratorConfig
from trm.puzzles.futoshiki.rules import Board
from trm.puzzles.symmetry import Symmetry, dihedral_cells, images_that_keep, turn

_BLANK, _EMPTY, _LESS, _MORE, _UP, _DOWN, _ONE = range(1, 8)
_CHARS = "?.-<>^v123456789"
_OPPOSITE = {_LESS: _MORE, _MORE: _LESS, _UP: _DOWN, _DOWN: _UP}
_ROW_END = re.compile(r"[/\n]|\r\n")


@final
class Futoshiki(Family[FutoshikiConfig, FutoshikiGeneratorConfig]):
    """Futoshiki with N x N cells."""

    def __init__(self, config: FutoshikiConfig):
        self.config = config
        self.side = config.side
        self.width = 2 * config.side - 1
        self.board = (self.width, self.width)
        self.length = self.width**2
        self.vocab_size = _ONE + config.side
        place_WW = np.arange(self.length).reshape(self.width, self.width)
        self._cells_L = place_WW[::2, ::2].ravel()
        # The place of the sign between each pair of neighbours.
        pair_K2 = rules.neighbours(self.side)
        self._pair_K2 = pair_K2
        self._between_K = self._cells_L[pair_K2].sum(1) // 2
        images = images_that_keep(self.width, self.width)
        self._symbols_GV = np.stack(
            [self._symbols(image, complement) for complement in (False, True) for image in images]
        )
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def parse(self, text: str) -> np.ndarray:
        rows = [row.rstrip() for row in _ROW_END.split(text.strip("\r\n/"))]
        if len(rows) != self.width or max(map(len, rows)) > self.width:
            raise UserError(
                f"the puzzle has {len(rows)} rows of up to {max(map(len, rows))} characters, but a Futoshiki "
                f"of {self.side} digits has {self.width} rows of {self.width}: cells and signs between them"
            )
        digits = _CHARS[_ONE : self.vocab_size]
        tokens = []
        for r, row in enumerate(rows):
            for c, char in enumerate(row.ljust(self.width)):
                allowed = (f".{digits}", "-<>", "-^v", "-")[r % 2 * 2 + c % 2]
                plain = "-" if char == " " and allowed[0] == "-" else char
                if plain not in allowed:
                    raise UserError(
                        f"{char!r} in line {r + 1}, column {c + 1} of the drawing cannot stand there; "
                        f"use one of {' '.join(allowed)}"
                    )
                tokens.append(_CHARS.index(plain))
        return np.array(tokens, dtype=np.uint8)

    def text(self, tokens_L: np.ndarray) -> str:
        rows_WW = np.asarray(tokens_L).reshape(self.width, self.width)
        return "/".join("".join(map(self._char, row)) for row in rows_WW.tolist())

    def signs(self) -> list[Sign]:
        kinds = ["pad", "open", "empty", "less", "more", "up", "down"]
        kinds += ["symbol"] * (self.vocab_size - len(kinds))
        return [Sign(char, kind) for char, kind in zip(_CHARS, kinds, strict=False)]

    def cells(self, line: str) -> int:
        return sum(map(len, _ROW_END.split(line.strip("\r\n"))))

    def check(self, tokens_L: np.ndarray) -> None:
        found = rules.search(self._board(tokens_L), self.side, 2).solutions
        if len(found) == 0:
            raise UserError("the puzzle has no solution; check digits and signs for a typing error")
        if len(found) == 2:
            raise UserError("the puzzle has several solutions; add digits or signs until only one is left")

    def verify(self, tokens_L: np.ndarray, answer_L: np.ndarray) -> bool:
        signs = np.ones(self.length, bool)
        signs[self._cells_L] = False
        if not np.array_equal(np.asarray(tokens_L)[signs], np.asarray(answer_L)[signs]):
            return False
        grid_L = np.asarray(answer_L)[self._cells_L].astype(np.int64) - _ONE + 1
        return rules.holds(grid_L, self._board(tokens_L), self.side)

    def solve_exactly(self, tokens_L: np.ndarray) -> np.ndarray | None:
        found = rules.search(self._board(tokens_L), self.side, 1).solutions
        return self._drawn(self._board(tokens_L), found[0]) if len(found) else None

    def canonical(self, tokens_L: np.ndarray) -> bytes:
        canvas_WW = np.asarray(tokens_L).reshape(self.width, self.width)
        images = images_that_keep(self.width, self.width)
        turned = [turn(canvas_WW, image) for image in images] * 2
        return min(
            symbols_V[canvas].astype(np.uint8).tobytes()
            for symbols_V, canvas in zip(self._symbols_GV, turned, strict=True)
        )

    def symmetry(self, key_B: Tensor) -> Symmetry:
        device = key_B.device
        if device not in self._tables:  # copied there once: a copy in every step would make it wait
            symbols_GV = torch.from_numpy(self._symbols_GV).to(device)
            self._tables[device] = (dihedral_cells(self.width, self.width, device).repeat(2, 1), symbols_GV)
        cells_GL, symbols_GV = self._tables[device]
        drawn_B = rng.randint(key_B, 0, len(cells_GL))
        return Symmetry(cells_GL[drawn_B], symbols_GV[drawn_B])

    def generate(
        self,
        config: FutoshikiGeneratorConfig,
        seed: int,
        avoid: Iterable[np.ndarray],
        progress: Callable[[int], None],
    ) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        wanted = config.counts()
        different = Different(self.canonical(tokens_L) for tokens_L in avoid)
        tokens, answers, ratings, number = [], [], [], 0
        while len(tokens) < sum(wanted.values()):
            board, answer_L, guesses = rules.generate(self.side, seed, number, config.extra_clues)
            number += 1
            if board.digits_L.all():
                raise UserError(
                    f"extra_clues {config.extra_clues} fills a whole board, with nothing to solve: give fewer"
                )
            tokens_L = self._drawn(board, board.digits_L)
            if different.add(self.canonical(tokens_L)):
                tokens.append(tokens_L)
                answers.append(self._drawn(board, answer_L))
                ratings.append(guesses)
                progress(len(tokens))
        tokens_NL, answers_NL = np.array(tokens), np.array(answers)
        parts = cut(range(len(tokens)), wanted)
        rating_N = np.array(ratings, np.int32)
        return {name: (tokens_NL[part], answers_NL[part], rating_N[part]) for name, part in parts.items()}

    def render(
        self, tokens_L: np.ndarray, answer_L: np.ndarray, previous_L: np.ndarray | None = None
    ) -> Text:
        picture = Text()
        for place in range(self.length):
            col = place % self.width
            if place and col == 0:
                picture.append("\n")
            token, answer = int(tokens_L[place]), int(answer_L[place])
            changed = previous_L is not None and answer != previous_L[place]
            if token == _BLANK:
                style = "black on yellow" if changed else "cyan"
            elif token != answer:  # the model overwrote a clue
                style = "bold red"
            else:
                style = "bold" if token >= _ONE else "dim"
            picture.append(" " if answer == _EMPTY else self._char(answer), style=style)
            if col < self.width - 1:
                picture.append(" ")
        return picture

    def _char(self, token: int) -> str:
        """A token as text; tokens that this board does not have print as '?'."""
        return _CHARS[token] if token < self.vocab_size else "?"

    def _board(self, tokens_L: np.ndarray) -> Board:
        tokens_L = np.asarray(tokens_L).astype(np.int64)
        digits_L = (tokens_L[self._cells_L] - _ONE + 1).clip(0).astype(np.uint8)
        sign_K = tokens_L[self._between_K]
        first = np.isin(sign_K, (_LESS, _UP))  # the left or upper cell is the smaller one
        second = np.isin(sign_K, (_MORE, _DOWN))
        return Board(digits_L, np.concatenate((self._pair_K2[first], self._pair_K2[second][:, ::-1])))

    def _drawn(self, board: Board, grid_L: np.ndarray) -> np.ndarray:
        """Tokens of a grid (0 = blank) with the signs of a board, uint8 [L]."""
        tokens_L = np.full(self.length, _EMPTY, np.uint8)
        tokens_L[self._cells_L] = np.where(grid_L, grid_L + _ONE - 1, _BLANK)
        for small, large in board.less_K2.tolist():
            place = (self._cells_L[small] + self._cells_L[large]) // 2
            across = abs(small - large) == 1
            tokens_L[place] = (_LESS if across else _UP) if small < large else (_MORE if across else _DOWN)
        return tokens_L

    def _symbols(self, image: int, complement: bool) -> np.ndarray:
        """What each token becomes in an image, int64 [V]."""
        symbols_V = np.arange(self.vocab_size)
        turned_33 = turn(np.arange(9).reshape(3, 3), image)
        # A sign between the first cell and its right or lower neighbour, by where the two come to stand.
        for sign, larger in ((_LESS, 2), (_UP, 6)):
            (r1, c1), (r2, c2) = (np.argwhere(turned_33 == cell)[0] for cell in (0, larger))
            new = (_LESS if c1 < c2 else _MORE) if r1 == r2 else (_UP if r1 < r2 else _DOWN)
            symbols_V[sign], symbols_V[_OPPOSITE[sign]] = new, _OPPOSITE[new]
        if complement:
            symbols_V[_ONE:] = symbols_V[_ONE:][::-1].copy()
            for sign, other in ((_LESS, _MORE), (_UP, _DOWN)):
                symbols_V[[sign, other]] = symbols_V[[other, sign]]
        return symbols_V
