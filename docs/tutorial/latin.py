"""Write Latin square puzzles: fill the blanks so that every row and every column holds each symbol once.

    python latin.py --count 3000 --size 5 --seed 0 --out latin.csv

Each puzzle has one solution, and loses it if any more cells are removed. The file has the columns
`question` and `answer`; rows of a grid are separated by `/`, and a blank is a dot.
"""

import argparse
import csv
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

SYMBOLS = "123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def solutions(grid: list[int], size: int, chance: random.Random) -> Iterator[list[int]]:
    """All ways to fill the blanks (zeros), in random order; a symbol is one bit."""
    rows, cols = [0] * size, [0] * size  # what each row and column holds already
    for cell, symbol in enumerate(grid):
        rows[cell // size] |= symbol
        cols[cell % size] |= symbol
    grid, blanks, whole = grid.copy(), [i for i, symbol in enumerate(grid) if not symbol], (1 << size) - 1

    def fill() -> Iterator[list[int]]:
        if not blanks:
            yield grid.copy()
            return
        # The blank with the fewest choices comes first: wrong turns end early.
        choices, cell = min(((whole & ~(rows[i // size] | cols[i % size])).bit_count(), i) for i in blanks)
        row, col = divmod(cell, size)
        free = whole & ~(rows[row] | cols[col])
        blanks.remove(cell)
        for symbol in chance.sample([1 << k for k in range(size) if free >> k & 1], choices):
            grid[cell], rows[row], cols[col] = symbol, rows[row] | symbol, cols[col] | symbol
            yield from fill()
            grid[cell], rows[row], cols[col] = 0, rows[row] & ~symbol, cols[col] & ~symbol
        blanks.append(cell)

    return fill()


def make_puzzle(size: int, chance: random.Random) -> tuple[list[int], list[int]]:
    """A random Latin square, and the puzzle left when cells go one by one while one solution remains."""
    answer = next(solutions([0] * size**2, size, chance))
    question = answer.copy()
    for cell in chance.sample(range(size**2), size**2):
        question[cell] = 0
        if len(list(islice(solutions(question, size, chance), 2))) > 1:
            question[cell] = answer[cell]
    return question, answer


def text(grid: list[int], size: int) -> str:
    """Rows separated by `/`; `.` is a blank."""
    chars = [SYMBOLS[symbol.bit_length() - 1] if symbol else "." for symbol in grid]
    return "/".join("".join(chars[i : i + size]) for i in range(0, size**2, size))


def main() -> None:
    """Write `count` different puzzles."""
    parser = argparse.ArgumentParser(description="Write Latin square puzzles.")
    parser.add_argument("--count", type=int, default=3000, help="puzzles")
    parser.add_argument("--size", type=int, default=5, help="rows, columns and symbols")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other puzzles")
    parser.add_argument("--out", type=Path, default=Path("latin.csv"), help="file to write")
    args = parser.parse_args()
    if not 2 <= args.size <= len(SYMBOLS):
        parser.error(f"a size of 2 to {len(SYMBOLS)}, please")
    chance, found, tries = random.Random(args.seed), {}, 0
    while len(found) < args.count:
        question, answer = (text(grid, args.size) for grid in make_puzzle(args.size, chance))
        tries = tries + 1 if question in found else 0
        if tries == 1000:
            parser.error(f"there seem to be only {len(found)} puzzles of this size")
        found[question] = answer
    with args.out.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("question", "answer"), *found.items()])


if __name__ == "__main__":
    main()
