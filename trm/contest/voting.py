"""From many predictions of a test output to answers: votes, pass@k, and the file of a contest.

A task is predicted under many variants. Each prediction, turned back, is one vote for a grid; the grid with
most votes is the answer, and among grids with equally many the one that the network was surest of. ARC allows
two attempts per test input, so pass@2 is the score of the contest; votes never see the answer.

An answer is never empty, but a prediction may be: attempts are counted among the others alone, in the score
and in the submission alike.

Candidates and answers are kept by task name, one entry per test input, in the task's order.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trm.errors import UserError
from trm.puzzles.arc.readers import ArcTask, parse_grid

ATTEMPTS = ("attempt_1", "attempt_2")

Submission = dict[str, list[dict[str, list[list[int]]]]]


class Prediction(NamedTuple):
    """A grid, uint8 [H, W], in the task's own orientation and colours, and its halting probability."""

    grid: np.ndarray
    halt: float


class Candidate(NamedTuple):
    """A grid that was predicted, uint8 [H, W], its number of votes, and their mean halting probability."""

    grid: np.ndarray
    votes: int
    halt: float


def rank(predictions: Sequence[Prediction]) -> list[Candidate]:
    """The different grids among predictions of one test output, best first.

    Ordered by votes, then by mean halting probability, both descending, then by first appearance. The mean
    does not depend on the order of the votes.
    """
    halts: dict[tuple[tuple[int, ...], bytes], list[float]] = {}
    grids = {}
    for grid, halt in predictions:
        key = (grid.shape, grid.astype(np.uint8).tobytes())
        grids.setdefault(key, grid)
        halts.setdefault(key, []).append(halt)
    candidates = [
        Candidate(grids[key], len(votes), math.fsum(votes) / len(votes)) for key, votes in halts.items()
    ]
    return sorted(candidates, key=lambda each: (-each.votes, -each.halt))


def attempts(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that may be handed in, best first: all but an empty grid."""
    return [each for each in candidates if each.grid.size]


def pass_at(
    ranked: Mapping[str, Sequence[Sequence[Candidate]]],
    answers: Mapping[str, Sequence[np.ndarray | None]],
    ks: Sequence[int],
) -> dict[int, float]:
    """Share of tasks solved within k attempts, 0 to 1, for every k.

    A task scores the share of its test inputs of which one of the first k attempts (see `attempts`) is the
    answer. Tasks with an unknown answer are left out.

    Args:
        ranked: candidates, best first, per test input.
        answers: outputs per test input, None where unknown.
        ks: numbers of attempts.

    Raises:
        UserError: no task has known answers, a task was not predicted, or a k is below 1.
    """
    if min(ks, default=1) < 1:
        raise UserError(f"pass@{min(ks)} makes no sense: allow 1 attempt or more")
    known = {
        task: [output for output in outputs if output is not None]
        for task, outputs in answers.items()
        if outputs and all(output is not None for output in outputs)
    }
    if not known:
        raise UserError(f"the answers of {len(answers)} tasks are unknown: there is nothing to score")
    # The attempt that solves a test input, from 0 on, per task.
    solved_at = []
    for task, outputs in known.items():
        if len(ranked.get(task, ())) != len(outputs):
            raise UserError(
                f"task {task} has {len(outputs)} test inputs, but predictions for "
                f"{len(ranked.get(task, ()))}: predict all of them"
            )
        solved_at.append([_solved_at(*each) for each in zip(ranked[task], outputs, strict=True)])
    return {
        k: math.fsum(sum(at < k for at in each) / len(each) for each in solved_at) / len(known) for k in ks
    }


def submission(ranked: Mapping[str, Sequence[Sequence[Candidate]]]) -> Submission:
    """The two best candidates of every test input, as plain values in the form of the Kaggle contest.

    A single attempt is repeated; where there is none, it is one black cell, as a grid may not be empty.
    """

    def entry(candidates: Sequence[Candidate]) -> dict[str, list[list[int]]]:
        grids = [each.grid.tolist() for each in attempts(candidates)] or [[[0]]]
        return {name: grids[min(number, len(grids) - 1)] for number, name in enumerate(ATTEMPTS)}

    return {task: [entry(candidates) for candidates in inputs] for task, inputs in ranked.items()}


def check_submission(submission: Any, tasks: Sequence[ArcTask]) -> None:
    """Raise UserError, naming the first fault, unless a submission answers all tasks in the contest's form.

    Every task is there and no other, with one entry for each of its test inputs and two attempts in each; an
    attempt is a list of 1 to 30 rows of the same 1 to 30 cells, which are integers 0..9.
    """
    if not isinstance(submission, dict):
        raise UserError("a submission must map names of tasks to lists of attempts")
    for task in tasks:
        if task.name not in submission:
            raise UserError(f"the submission lacks task {task.name}: answer every task")
        entries, count = submission[task.name], len(task.test)
        if not isinstance(entries, list) or len(entries) != count:
            found = len(entries) if isinstance(entries, list) else "no list of"
            raise UserError(f"submission, task {task.name}: {found} entries for {count} test inputs")
        for number, entry in enumerate(entries, 1):
            where = f"submission, task {task.name}, test input {number}"
            if not isinstance(entry, dict) or sorted(entry) != sorted(ATTEMPTS):
                raise UserError(f"{where} must have {' and '.join(ATTEMPTS)} and nothing else")
            for name in ATTEMPTS:
                parse_grid(entry[name], f"{where}, {name}")
    if unknown := sorted(submission.keys() - {task.name for task in tasks}):
        raise UserError(f"the submission answers an unknown task {unknown[0]}: leave it out")


def _solved_at(candidates: Sequence[Candidate], output: np.ndarray) -> float:
    """How many attempts come before the first right one; infinite where all are wrong."""
    right = (number for number, each in enumerate(attempts(candidates)) if np.array_equal(each.grid, output))
    return next(right, math.inf)
