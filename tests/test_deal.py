"""Essentially different, then split: what all families share."""

import numpy as np
import pytest

from trm.errors import UserError
from trm.puzzles.deal import Different, among, classes, cut, split

FORMS = [b"a", b"b", b"a", b"c", b"b", b"a", b"d", b"e"]


def test_a_form_is_new_once_and_never_if_it_is_to_be_avoided():
    different = Different(avoid=[b"b"])
    assert [different.add(form) for form in FORMS] == [True, False, False, True, False, False, True, True]


def test_classes_come_in_order_of_appearance():
    assert classes(FORMS) == [[0, 2, 5], [1, 4], [3], [6], [7]]


def test_puzzles_among_others():
    assert among(FORMS, [b"b", b"e"]).tolist() == [form in (b"b", b"e") for form in FORMS]


def test_a_cut_order_gives_consecutive_parts():
    parts = cut([5, 3, 1, 0, 2], {"train": 2, "test": 0, "validation": 3})
    assert {name: part.tolist() for name, part in parts.items()} == {
        "train": [5, 3],
        "test": [],
        "validation": [1, 0, 2],
    }


@pytest.mark.parametrize("seed", range(5))
def test_a_split_keeps_classes_together_and_loses_nothing(seed: int):
    parts = split(FORMS, {"test": 2, "validation": 3}, seed)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(FORMS)))
    homes = [{FORMS[i] for i in part} for part in parts.values()]
    assert sum(map(len, homes)) == len(set(FORMS))
    assert len(parts["test"]) <= 2 and len(parts["validation"]) <= 3
    assert all(
        (parts[name] == each).all() for name, each in split(FORMS, {"test": 2, "validation": 3}, seed).items()
    )


def test_a_split_that_would_be_empty_is_refused():
    with pytest.raises(UserError, match="leave none for train, with 1 for validation and 2 for test"):
        split([b"a", b"b", b"c"], {"test": 2, "validation": 1}, 0)
