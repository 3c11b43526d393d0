"""Mazes: the answer is a shortest path from S to G, drawn with `o`.

Tokens: 0 = pad, 1 = wall `#`, 2 = free ` `, 3 = start `S`, 4 = goal `G`, 5 = path `o`. In text a `.` is a
free cell too, and rows may be separated by line breaks; one line holds the rows one after the other, as
in the public Maze-Hard files.

A maze has many shortest paths. The label is one of them (see `maze_paths`), so evaluation reports three
shares: exact (the label), valid (a path), shortest (a path as short as the label).

Symmetries: rotations and reflections that keep the shape. The label's choice among ties does not follow
them, so they suit rollouts, and training only with care: on Maze-Hard they hurt.

Shapes: H height, W width, L = H * W cells, B batch.
"""

import itertools
import math
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
from trm.puzzles.maze import paths
from trm.puzzles.maze.config import MazeConfig, MazeGeneratorConfig
from trm.puzzles.symmetry import Symmetry, dihedral_cells, images_that_keep, turn

_CHARS = "?# SGo"
_PATIENCE = 5_000  # tries in a row without a new maze before mazes like others are given up
_WALL, _FREE, _START, _GOAL, _PATH = range(1, 6)


@final
class Maze(Family[MazeConfig, MazeGeneratorConfig]):
    """Mazes of one size."""

    comment = ""

    def __init__(self, config: MazeConfig):
        self.config = config
        self.shape = (config.height, config.width)
        self.board = self.shape
        self.length = config.height * config.width
        self.vocab_size = len(_CHARS)

    def parse(self, text: str) -> np.ndarray:
        height, width = self.shape
        rows = text.strip("\r\n").splitlines()
        if len(rows) > 1:  # editors cut spaces at the end of a line
            if len(rows) != height or max(map(len, rows)) > width:
                raise UserError(
                    f"the maze has {len(rows)} rows of up to {max(map(len, rows))} cells, "
                    f"but this one needs {height} rows of {width}"
                )
            text = "".join(row.ljust(width) for row in rows)
        else:
            text = text.strip("\r\n")
        if len(text) != self.length:
            raise UserError(
                f"the maze has {len(text)} cells, but {height} rows of {width} are {self.length}; "
                "write one character per cell"
            )
        chars = text.replace(".", " ")
        for cell, char in enumerate(chars):
            if char not in _CHARS[1:]:
                raise UserError(
                    f"{char!r} in row {cell // width + 1}, column {cell % width + 1} is not a cell of a "
                    "maze; use # for walls, a space or . for free cells, S, G, and o for a path"
                )
        return np.array([_CHARS.index(char) for char in chars], dtype=np.uint8)

    def text(self, tokens_L: np.ndarray) -> str:
        return "".join(_CHARS[token] if token < len(_CHARS) else "?" for token in tokens_L)

    def cells(self, line: str) -> int:
        return len(line)

    def signs(self) -> list[Sign]:
        kinds = ("pad", "wall", "free", "start", "goal", "path")
        return [Sign(char, kind) for char, kind in zip(_CHARS, kinds, strict=True)]

    def resized(self, text: str) -> MazeConfig | None:
        rows = text.strip("\r\n").splitlines()
        if any(char not in _CHARS[1:] + "." for row in rows for char in row) or not {"S", "G"} <= set(text):
            return None  # of dots alone there are other puzzles
        height, width = len(rows), max(map(len, rows), default=0)
        if height == 1:  # a square, row after row
            height = width = math.isqrt(len(rows[0]))
            if height**2 != len(rows[0]):
                return None
        try:
            return MazeConfig(height=height, width=width)
        except ValueError:
            return None

    def misfit(self, text: str) -> str:
        rows = text.strip("\r\n").splitlines() or [""]
        odd = next((char for row in rows for char in row if char not in _CHARS[1:] + "."), None)
        if odd is not None:
            return f"{odd!r} is not a cell of a maze; use # for walls, space or . for free cells, S, G, and o"
        if missing := [mark for mark in "SG" if mark not in text]:
            return f"the maze has no {' and no '.join(missing)}; mark where the path starts (S) and ends (G)"
        if len(rows) == 1 and math.isqrt(len(rows[0])) ** 2 != len(rows[0]):
            return f"{len(rows[0])} cells on one line are not a square; write every row on its own line"
        return f"the maze has {len(rows)} rows of up to {max(map(len, rows))} cells; give 2 to 100 of each"

    def check(self, tokens_L: np.ndarray) -> None:
        if not paths.path_length(self._grid(tokens_L)):
            raise UserError("no path joins S and G: open a wall")

    def verify(self, tokens_L: np.ndarray, answer_L: np.ndarray) -> bool:
        return self.grade(tokens_L, answer_L)["shortest"]

    def grade(self, tokens_L: np.ndarray, answer_L: np.ndarray) -> dict[str, bool]:
        try:
            return paths.check_path(self._grid(tokens_L), self._grid(answer_L))._asdict()
        except UserError:  # a malformed maze has no right answer
            return {"valid": False, "shortest": False}

    def solve_exactly(self, tokens_L: np.ndarray) -> np.ndarray | None:
        try:
            answer_HW = paths.shortest_path(self._grid(tokens_L))
        except UserError:
            return None
        return None if answer_HW is None else answer_HW.ravel()

    def canonical(self, tokens_L: np.ndarray) -> bytes:
        maze_HW = self._grid(tokens_L)
        return min(turn(maze_HW, image).astype(np.uint8).tobytes() for image in images_that_keep(*self.shape))

    def symmetry(self, key_B: Tensor) -> Symmetry:
        cells_GL = dihedral_cells(*self.shape, key_B.device)
        cells_BL = cells_GL[rng.randint(key_B, 0, len(cells_GL))]
        symbols_BV = torch.arange(self.vocab_size, device=key_B.device).expand(len(key_B), -1)
        return Symmetry(cells_BL, symbols_BV)

    def generate(
        self,
        config: MazeGeneratorConfig,
        seed: int,
        avoid: Iterable[np.ndarray],
        progress: Callable[[int], None],
    ) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        wanted = config.counts()
        total = count = sum(wanted.values())
        avoided = [self.canonical(tokens_L) for tokens_L in avoid]
        while True:
            mazes_NHW, answers_NHW, lengths_N = paths.generate(
                *self.shape, count, seed, min_path=config.min_path, progress=progress
            )
            mazes_NL, answers_NL = mazes_NHW.reshape(count, -1), answers_NHW.reshape(count, -1)
            different = Different(avoided)
            chosen = [i for i, maze_L in enumerate(mazes_NL) if different.add(self.canonical(maze_L))]
            if len(chosen) >= total:
                break
            count += total - len(chosen)  # a larger count only appends
        parts = cut(chosen[:total], wanted)
        return {name: (mazes_NL[part], answers_NL[part], lengths_N[part]) for name, part in parts.items()}

    def more_like(
        self,
        tokens_NL: np.ndarray,
        answers_NL: np.ndarray,
        count: int,
        seed: int,
        avoid: Iterable[np.ndarray],
        progress: Callable[[int], None],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mazes with the walls of given ones, turned or mirrored, and other S and G.

        S and G are at least as far apart as in the given maze with the shortest path. The answers are made
        anew, as the label among shortest paths does not turn with the maze.
        """
        for tokens_L in tokens_NL:
            self.check(tokens_L)
        least = min(paths.path_length(self._grid(tokens_L)) for tokens_L in tokens_NL)
        images = images_that_keep(*self.shape)
        draw = np.random.default_rng(seed)
        different = Different(self.canonical(tokens_L) for tokens_L in itertools.chain(tokens_NL, avoid))
        mazes_NL, lengths_N = np.empty((count, self.length), np.uint8), np.empty(count, np.int32)
        labels_NL = np.empty_like(mazes_NL)
        found = number = last_find = 0
        while found < count:
            if number - last_find == _PATIENCE:
                raise UserError(
                    f"only {found} of {count} other mazes were found before {_PATIENCE} tries in a row "
                    "gave nothing new: ask for fewer, or give more mazes"
                )
            given_HW = self._grid(tokens_NL[number % len(tokens_NL)])
            other_HW = paths.other_ends(given_HW, least, seed, number)
            number += 1
            if other_HW is None:
                continue
            other_HW = turn(other_HW, images[draw.integers(len(images))])
            if not different.add(self.canonical(other_HW.ravel())):
                continue
            answer_HW = paths.shortest_path(other_HW)
            assert answer_HW is not None  # S and G were drawn by how far apart they are
            mazes_NL[found], labels_NL[found] = other_HW.ravel(), answer_HW.ravel()
            lengths_N[found] = (answer_HW == _PATH).sum() + 2  # S and G count
            found += 1
            last_find = number
            progress(found)
        return mazes_NL, labels_NL, lengths_N

    def render(
        self, tokens_L: np.ndarray, answer_L: np.ndarray, previous_L: np.ndarray | None = None
    ) -> Text:
        picture = Text()
        for cell in range(self.length):
            if cell and cell % self.config.width == 0:
                picture.append("\n")
            token, answer = int(tokens_L[cell]), int(answer_L[cell])
            changed = previous_L is not None and answer != previous_L[cell]
            if token == _FREE and answer in (_FREE, _PATH):
                mark = "● " if answer == _PATH else "  "
                picture.append(mark, style="black on yellow" if changed else "cyan")
            elif token != answer:  # the model broke a wall, or lost S or G
                picture.append(_CHARS[answer] * 2, style="bold red")
            elif answer == _WALL:
                picture.append("██", style="dim")
            else:
                picture.append(_CHARS[answer] + " ", style="bold green")
        return picture

    def _grid(self, tokens_L: np.ndarray) -> np.ndarray:
        return np.asarray(tokens_L).reshape(self.shape)
