"""Generated mazes beside published ones: path length, walls, labels, and the time to make them.

    python benchmarks/mazes.py [FILES ...] [--n 1000]

FILES are CSV files of 30 x 30 mazes, such as those of Maze-Hard. Every label of a file is compared with the
one that our rule gives.
"""

import time
from pathlib import Path

import numpy as np
import tyro
from tyro.conf import Positional

from trm.puzzles.maze.config import MazeConfig, MazeGeneratorConfig
from trm.puzzles.maze.family import Maze
from trm.puzzles.maze.paths import PATH, WALL, shortest_path
from trm.puzzles.table import Puzzles, from_arrays, read_puzzles


def describe(name: str, mazes: Puzzles) -> None:
    """Print mean and standard deviation of path length (cells, S and G included) and number of walls."""
    length_N = (mazes.answers_NL == PATH).sum(1) + 2
    walls_N = (mazes.tokens_NL == WALL).sum(1)
    print(
        f"{name:<12}{len(mazes):>7}{length_N.mean():>9.1f} +- {length_N.std():.1f}"
        f"{length_N.min():>6}..{length_N.max()}{walls_N.mean():>9.1f} +- {walls_N.std():.1f}"
    )


def main(files: Positional[tuple[Path, ...]] = (), /, n: int = 1000, seed: int = 0) -> None:
    """Compare.

    Args:
        files: CSV files of mazes.
        n: Mazes to generate.
        seed: Seed of the generator.
    """
    family = Maze(MazeConfig())
    family.generate(MazeGeneratorConfig(test=1, min_path=10), 0, (), lambda found: None)  # compile
    print(f"{'mazes':<12}{'n':>7}{'path length':>17}{'range':>10}{'walls':>16}")
    for file in files:
        mazes = read_puzzles(file, family)
        describe(file.stem, mazes)
        ours = [shortest_path(maze_L.reshape(family.shape)) for maze_L in mazes.tokens_NL]
        same = sum(
            our is not None and np.array_equal(our.ravel(), label_L)
            for our, label_L in zip(ours, mazes.answers_NL, strict=True)
        )
        print(f"{'':<12}{same} of {len(mazes)} labels reproduced")
    start = time.process_time()
    made = family.generate(MazeGeneratorConfig(test=n, min_path=110), seed, (), lambda found: None)["test"]
    seconds = time.process_time() - start
    describe("generated", from_arrays(*made))
    print(f"{'':<12}{seconds:.1f} s of one core")


if __name__ == "__main__":
    tyro.cli(main)
