"""Batches as a pure function: of what they depend, of what not, and that they hold puzzles with answers."""

import numpy as np
import pytest
import torch
from tiny import ANSWER, PUZZLES, TASK

from trm.data.batches import Batches, as_they_are, labels, random_symmetry
from trm.puzzles.table import Puzzles

N = len(PUZZLES)


def batches(
    size: int = 8, augment: bool = True, answers_NL: np.ndarray | None = None, rows: range | None = None
) -> Batches:
    """Batches of the tiny puzzles, where the puzzle id is the row."""
    tokens_NL = np.stack([TASK.parse(puzzle) for puzzle in PUZZLES])
    if answers_NL is None:
        answers_NL = np.stack([TASK.parse(ANSWER)] * N)
    ids_N = np.arange(N, dtype=np.int32)
    puzzles = Puzzles(tokens_NL, answers_NL, ids_N, ids_N)
    way = random_symmetry(puzzles, TASK, "cpu") if augment else as_they_are(puzzles, "cpu")
    return Batches(puzzles, rows or range(size), way, "cpu")


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_same_again():
    assert equal(batches().batch(3, 5), batches().batch(3, 5))


@pytest.mark.parametrize("other", [(4, 5), (3, 6), (5, 3)])
def test_seed_and_step_matter(other):
    a, b = batches(64).batch(3, 5), batches(64).batch(*other)
    assert (a.puzzle_B == b.puzzle_B).float().mean() < 0.5  # 1 / 8 expected
    assert not torch.equal(a.tokens_BL, b.tokens_BL)


def test_rows_do_not_depend_on_the_size_of_the_batch():
    small, large = batches(5).batch(0, 7), batches(50).batch(0, 7)
    assert equal(small, [part[:5] for part in large])


def test_a_share_of_a_batch_is_those_rows_of_it():
    whole = batches(50).batch(2, 7)
    assert equal(batches(rows=range(13, 31)).batch(2, 7), [part[13:31] for part in whole])


def test_every_puzzle_is_drawn_about_equally_often():
    drawn = torch.cat([batches(100, augment=False).batch(0, step).puzzle_B for step in range(80)])
    counts = torch.bincount(drawn, minlength=N)
    assert ((counts - 1000).abs() < 4 * 30).all()  # 8000 draws: standard deviation 30


def test_without_augmentation_rows_are_the_puzzles():
    batch = batches(30, augment=False).batch(0, 0)
    for tokens_L, labels_L, puzzle, _ in zip(*batch, strict=True):
        assert TASK.text(tokens_L.numpy()) == PUZZLES[puzzle]
        assert TASK.text(labels_L.numpy()) == ANSWER


def test_augmented_rows_are_puzzles_with_their_answers():
    batch = batches(300).batch(0, 0)
    for tokens_L, labels_L, puzzle, _ in zip(*batch, strict=True):
        assert TASK.verify(tokens_L.numpy(), labels_L.numpy())
        assert (tokens_L == 1).sum() == PUZZLES[puzzle].count(".")
    assert len(batch.tokens_BL.unique(dim=0)) > 250


def test_augmentation_is_fresh_for_every_row_and_step():
    first, second = (batches(100).batch(0, step).labels_BL for step in (0, 1))
    for others in (second, first.roll(1, 0)):
        assert (first == others).all(-1).float().mean() < 0.05  # there are 288 boards


def test_padding_is_ignored():
    assert labels(torch.tensor([[0, 1, 2]])).tolist() == [[-100, 1, 2]]
    answers_NL = np.zeros((N, 16), np.uint8)
    answers_NL[:, :4] = 2, 3, 4, 5
    made = batches(50, answers_NL=answers_NL).batch(0, 0)
    assert ((made.labels_BL == -100).sum(1) == 12).all()
    assert (made.labels_BL != 0).all()
