"""Votes and pass@k against plain slow implementations, submissions by hand, and their faults by message."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm.contest.voting import Candidate, Prediction, attempts, check_submission, pass_at, rank, submission
from trm.errors import UserError
from trm.puzzles.arc.readers import ArcTask, Pair

GRIDS = [
    np.array(each, np.uint8)
    for each in ([[0]], [[1]], [[0, 1]], [[0], [1]], [[1, 0]], np.zeros((0, 0)), [[0, 0], [0, 0]])
]
EMPTY = 5  # of GRIDS
ONES = np.ones((2, 2), np.uint8)

votes = st.lists(
    st.builds(
        lambda grid, halt: Prediction(GRIDS[grid], halt),
        st.integers(0, len(GRIDS) - 1),
        st.sampled_from([0.0, 0.25, 0.5, 0.1, 0.2, 0.3, 1.0]),
    ),
    max_size=12,
)


def plain_rank(predictions: list[Prediction]) -> list[tuple]:
    """Pick the best of the grids that are left, one after the other, comparing all with all."""
    from fractions import Fraction

    groups: list[list[Prediction]] = []
    for each in predictions:
        for group in groups:
            if each.grid.shape == group[0].grid.shape and (each.grid == group[0].grid).all():
                group.append(each)
                break
        else:
            groups.append([each])

    def mean(group: list[Prediction]) -> float:
        return float(sum(Fraction(each.halt) for each in group)) / len(group)

    ranked = []
    while groups:
        best = groups[0]
        for group in groups[1:]:
            if len(group) > len(best) or (len(group) == len(best) and mean(group) > mean(best)):
                best = group
        groups = [group for group in groups if group is not best]
        ranked.append((best[0].grid.tolist(), best[0].grid.shape, len(best), mean(best)))
    return ranked


@settings(deadline=None, max_examples=500)
@given(votes)
def test_rank_is_what_a_plain_count_says(predictions):
    found = rank(predictions)
    assert [(each.grid.tolist(), each.grid.shape, each.votes, each.halt) for each in found] == plain_rank(
        predictions
    )
    assert sum(each.votes for each in found) == len(predictions)


@settings(deadline=None, max_examples=200)
@given(votes, st.randoms(use_true_random=False))
def test_the_order_of_votes_only_breaks_ties(predictions, random):
    shuffled = predictions.copy()
    random.shuffle(shuffled)
    one, other = rank(predictions), rank(shuffled)
    assert [each[1:] for each in one] == [each[1:] for each in other]


def test_rank_by_hand():
    a, b, c, d = GRIDS[:4]
    found = rank(
        [
            Prediction(d, 0.5),
            Prediction(a, 0.2),
            Prediction(c, 0.5),
            Prediction(b, 0.9),
            Prediction(a.copy(), 0.4),
            Prediction(b, 0.7),
        ]
    )
    assert [(each.grid.tolist(), each.votes) for each in found] == [
        (b.tolist(), 2),
        (a.tolist(), 2),
        (d.tolist(), 1),
        (c.tolist(), 1),
    ]
    assert [each.halt for each in found] == pytest.approx([0.8, 0.3, 0.5, 0.5])
    assert rank([]) == []


def test_grids_of_other_types_and_layouts_are_the_same_grid():
    x = np.arange(6, dtype=np.uint8).reshape(2, 3)
    found = rank(
        [Prediction(x, 0.0), Prediction(x.astype(np.int64), 0.0), Prediction(np.asfortranarray(x), 0.0)]
    )
    assert [each.votes for each in found] == [3]


def candidates(*grids) -> list[Candidate]:
    return [Candidate(np.array(each, np.uint8), 1, 0.5) for each in grids]


grid_numbers = st.integers(0, len(GRIDS) - 1)
# Tasks: test inputs of an answer (or None) and candidates, all different, each.
scored = st.lists(
    st.lists(
        st.tuples(st.none() | grid_numbers, st.lists(grid_numbers, max_size=5, unique=True)),
        min_size=1,
        max_size=3,
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, max_examples=300)
@given(scored, st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_pass_at_by_brute_force(tasks, ks):
    ranked = {
        f"t{i}": [candidates(*(GRIDS[n] for n in numbers)) for _, numbers in task]
        for i, task in enumerate(tasks)
    }
    answers = {
        f"t{i}": [None if answer is None else GRIDS[answer] for answer, _ in task]
        for i, task in enumerate(tasks)
    }
    known = [task for task in tasks if None not in [answer for answer, _ in task]]
    if not known:
        with pytest.raises(UserError, match="unknown"):
            pass_at(ranked, answers, ks)
        return
    expected = {}
    for k in ks:
        scores = []
        for task in known:
            solved = 0
            for answer, numbers in task:
                for number in [number for number in numbers if number != EMPTY][:k]:
                    if number == answer:
                        solved += 1
            scores.append(solved / len(task))
        expected[k] = sum(scores) / len(scores)
    assert pass_at(ranked, answers, ks) == pytest.approx(expected)


def test_pass_at_by_hand():
    a, b, c = GRIDS[:3]
    ranked = {
        "half": [candidates(a, b), candidates(b, a)],
        "second": [candidates(b, c)],
        "never": [[]],
        "unknown": [candidates(a), candidates(a)],
        "not asked": [],
    }
    answers = {"half": [a, a], "second": [c], "never": [a], "unknown": [a, None]}
    assert pass_at(ranked, answers, [1, 2, 100]) == pytest.approx({1: 0.5 / 3, 2: 2 / 3, 100: 2 / 3})
    assert pass_at(ranked, answers, []) == {}


def test_the_score_and_the_submission_count_the_same_attempts():
    """A prediction may be empty, an answer never is: it costs no attempt."""
    empty, wrong, right = np.zeros((0, 0)), [[1]], [[2]]
    ranked = {"a": [candidates(empty, wrong, right)], "b": [candidates(empty)]}
    answers = {"a": [np.array(right)], "b": [np.array(right)]}
    assert pass_at(ranked, answers, [1, 2]) == {1: 0.0, 2: 0.5}
    assert submission(ranked)["a"] == [{"attempt_1": wrong, "attempt_2": right}]
    assert [each.grid.tolist() for each in attempts(ranked["a"][0])] == [wrong, right]
    assert attempts(ranked["b"][0]) == []


def test_pass_at_refuses_what_would_bend_the_score():
    a = GRIDS[0]
    with pytest.raises(UserError, match="the answers of 2 tasks are unknown"):
        pass_at({"a": [[]]}, {"a": [None], "b": []}, [1])
    with pytest.raises(UserError, match="task b has 1 test inputs, but predictions for 0"):
        pass_at({"a": [[]]}, {"a": [a], "b": [a]}, [1])
    with pytest.raises(UserError, match="task a has 2 test inputs, but predictions for 1"):
        pass_at({"a": [[]]}, {"a": [a, a]}, [1])
    with pytest.raises(UserError, match="pass@0"):
        pass_at({"a": [[]]}, {"a": [a]}, [2, 0])


TASKS = [
    ArcTask("a", (Pair(ONES, ONES),), (Pair(ONES, None), Pair(ONES, ONES))),
    ArcTask("b", (Pair(ONES, ONES),), (Pair(ONES, None),)),
]


def test_a_submission():
    ranked = {
        "a": [candidates([[1, 2]], [[3], [4]], [[5]]), candidates([[6]])],
        "b": [candidates(np.zeros((0, 0)), [[7]])],
    }
    found = submission(ranked)
    assert found == {
        "a": [
            {"attempt_1": [[1, 2]], "attempt_2": [[3], [4]]},
            {"attempt_1": [[6]], "attempt_2": [[6]]},
        ],
        "b": [{"attempt_1": [[7]], "attempt_2": [[7]]}],  # an answer is never empty
    }
    check_submission(found, TASKS)
    assert json.loads(json.dumps(found)) == found
    assert submission({"c": [[]]}) == {"c": [{"attempt_1": [[0]], "attempt_2": [[0]]}]}


GOOD = {"attempt_1": [[1]], "attempt_2": [[1, 2], [3, 4]]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": ...}, "lacks task b"),
        ({"c": [GOOD]}, "unknown task c"),
        ({"a": [GOOD]}, "task a: 1 entries for 2 test inputs"),
        ({"b": [GOOD, GOOD]}, "task b: 2 entries for 1"),
        ({"b": GOOD}, "task b: no list of entries"),
        ({"b": [[[1]]]}, "task b, test input 1 must have attempt_1 and attempt_2"),
        ({"b": [{"attempt_1": [[1]]}]}, "must have attempt_1 and attempt_2 and nothing else"),
        ({"b": [GOOD | {"attempt_3": [[1]]}]}, "and nothing else"),
        ({"a": [GOOD, GOOD | {"attempt_2": []}]}, "task a, test input 2, attempt_2 is a grid of 0 x 0"),
        ({"b": [GOOD | {"attempt_1": [[1, 2], [3]]}]}, "attempt_1: row 2 has 1 cells and row 1 has 2"),
        ({"b": [GOOD | {"attempt_1": [[0] * 31]}]}, "1 x 31, but sides must be 1 to 30"),
        ({"b": [GOOD | {"attempt_1": [[0]] * 31}]}, "31 x 1"),
        ({"b": [GOOD | {"attempt_1": [[10]]}]}, "row 1 holds '10'"),
        ({"b": [GOOD | {"attempt_1": [[-1]]}]}, "row 1 holds '-1'"),
        ({"b": [GOOD | {"attempt_1": [[1.5]]}]}, r"row 1 holds '1\.5'"),
        ({"b": [GOOD | {"attempt_1": np.array([[1]])}]}, "attempt_1 is not a grid"),
        ({"b": [GOOD | {"attempt_1": None}]}, "attempt_1 is not a grid"),
    ],
)
def test_every_fault_of_a_submission_is_named(change, message):
    good = {"a": [GOOD, GOOD], "b": [GOOD]}
    check_submission(good, TASKS)
    broken = {name: each for name, each in (good | change).items() if each is not ...}
    with pytest.raises(UserError, match=message):
        check_submission(broken, TASKS)


def test_a_submission_is_a_mapping():
    with pytest.raises(UserError, match="must map"):
        check_submission([], TASKS)
