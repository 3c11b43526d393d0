"""Symmetries against an example worked by hand, a plain loop, and the inverse."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trm.puzzles.symmetry import Symmetry


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
