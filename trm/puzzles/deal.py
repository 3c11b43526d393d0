"""Essentially different puzzles, and their splits: written once for generators and readers.

Two puzzles are equivalent where a symmetry of the family maps one to the other, and essentially different
otherwise. Augmentation shows a model every image of a training puzzle, so no two splits may share a puzzle
up to a symmetry. A puzzle is known by its form, `Family.canonical`: equal for two puzzles exactly when they
are equivalent.

Shapes: N puzzles, D different ones.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from trm import rng
from trm.errors import UserError


class Different:
    """Puzzles that are all essentially different: those met so far, by their forms."""

    def __init__(self, avoid: Iterable[bytes] = ()):
        self._forms = set(avoid)

    def add(self, form: bytes) -> bool:
        """Whether this puzzle is a new one; from now on it is none."""
        new = form not in self._forms
        self._forms.add(form)
        return new


def classes(forms: Iterable[bytes]) -> list[list[int]]:
    """Numbers of the puzzles that are equivalent, by class, in order of appearance."""
    found: dict[bytes, list[int]] = {}
    for number, form in enumerate(forms):
        found.setdefault(form, []).append(number)
    return list(found.values())


def among(forms: Iterable[bytes], others: Iterable[bytes]) -> np.ndarray:
    """Which puzzles are equivalent to one of others, bool [N]."""
    known = set(others)
    return np.array([form in known for form in forms], bool)


def cut(order: Sequence[int] | np.ndarray, counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Consecutive parts of an order of puzzles, one for every split: int64."""
    ends = np.cumsum([0, *counts.values()])
    order = np.asarray(order, np.int64)
    return {name: order[start:end] for name, start, end in zip(counts, ends[:-1], ends[1:], strict=True)}


def split(forms: Sequence[bytes], counts: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """Deal puzzles at random into `train` and the splits of `counts`, in shuffled order; int64 numbers.

    A pure function of the seed. Equivalent puzzles stay together. Where they leave no way
    to reach a size exactly, a split is a little smaller. UserError if a wanted split, or training,
    has none.
    """
    members = classes(forms)
    order = rng.permutation(rng.fold(rng.stream("split"), seed), len(members)).tolist()
    wanted = {**counts, "train": len(forms)}
    parts: dict[str, list[int]] = {name: [] for name in wanted}
    for which in order:
        same = members[which]
        name = next(name for name, size in wanted.items() if len(parts[name]) + len(same) <= size)
        parts[name] += same
    if short := [name for name, part in parts.items() if wanted[name] and not part]:
        sizes = " and ".join(f"{size} for {name}" for name, size in reversed(list(counts.items())))
        raise UserError(
            f"{len(forms)} puzzles ({len(members)} essentially different) leave none for {short[0]}, with "
            f"{sizes}; ask for fewer, or give more puzzles"
        )
    return {name: np.array(part, np.int64) for name, part in parts.items()}
