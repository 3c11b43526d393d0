"""Symmetries against an example worked by hand, a plain loop, and the inverse."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trm.puzzles.symmetry import INVERSE, Symmetry, dihedral_cells, images_that_keep, turn


@st.composite
def symmetries(draw):
    """A symmetry and tokens for it, some of them negative like ignored labels."""
    rows, cells, symbols = draw(st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 7)))
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)

    def permutations(n):
        return torch.stack([torch.randperm(n, generator=generator) for _ in range(rows)])

    tokens_BL = torch.randint(0, symbols, (rows, cells), generator=generator)
    ignored_BL = torch.rand((rows, cells), generator=generator) < 0.3
    return Symmetry(permutations(cells), permutations(symbols)), tokens_BL.masked_fill(ignored_BL, -100)


def test_hand_worked_example():
    symmetry = Symmetry(torch.tensor([[2, 0, 1], [0, 2, 1]]), torch.tensor([[0, 3, 1, 2], [0, 1, 2, 3]]))
    tokens_BL = torch.tensor([[1, 2, 3], [1, 2, 3]])
    assert symmetry.apply(tokens_BL).tolist() == [[2, 3, 1], [1, 3, 2]]


def test_negative_labels_are_moved_and_not_renamed():
    symmetry = Symmetry(torch.tensor([[1, 2, 0]]), torch.tensor([[2, 0, 1]]))
    assert symmetry.apply(torch.tensor([[-100, 0, 1]])).tolist() == [[2, 0, -100]]


@settings(max_examples=200, deadline=None)
@given(symmetries())
def test_apply_is_its_definition(case):
    symmetry, tokens_BL = case
    for row, tokens_L in enumerate(tokens_BL.tolist()):
        moved = [tokens_L[cell] for cell in symmetry.cells_BL[row]]
        renamed = [t if t < 0 else symmetry.symbols_BV[row, t].item() for t in moved]
        assert symmetry.apply(tokens_BL)[row].tolist() == renamed


@settings(max_examples=200, deadline=None)
@given(symmetries())
def test_inverse_undoes_on_either_side(case):
    symmetry, tokens_BL = case
    assert torch.equal(symmetry.inverse().apply(symmetry.apply(tokens_BL)), tokens_BL)
    assert torch.equal(symmetry.apply(symmetry.inverse().apply(tokens_BL)), tokens_BL)


@pytest.mark.parametrize("shape", [(3, 3), (2, 4)])
def test_images_are_numbered_once_for_numpy_and_torch(shape):
    grid_HW = np.arange(math.prod(shape)).reshape(shape)
    flips = (np.fliplr, np.flipud, np.transpose, lambda x: np.fliplr(np.rot90(x)))
    images = [np.rot90(grid_HW, turns) for turns in range(4)] + [flip(grid_HW) for flip in flips]
    for number, image_HW in enumerate(images):
        assert np.array_equal(turn(grid_HW, number), image_HW)
        assert np.array_equal(turn(image_HW, INVERSE[number]), grid_HW)
    kept = [images[number] for number in images_that_keep(*shape)]
    assert all(image.shape == shape for image in kept) and len(kept) == (8 if shape[0] == shape[1] else 4)
    assert dihedral_cells(*shape).tolist() == [image.ravel().tolist() for image in kept]
    # The order of drawing is part of what a seed gives: quarter turns, each as it is and mirrored.
    turned = [np.rot90(grid_HW, turns) for turns in (range(4) if shape[0] == shape[1] else (0, 2))]
    drawn = [image for each in turned for image in (each, np.fliplr(each))]
    assert dihedral_cells(*shape).tolist() == [image.ravel().tolist() for image in drawn]
