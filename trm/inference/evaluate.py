"""Accuracy with intervals, per supervision step, and whether the halting head knows what it knows.

Two figures answer two questions. `early_stop` stops rows that are done (see `inference`), which is how
the model is used; `all_steps` runs every row to the end, which is how the paper evaluates. The second
is asked for, as it costs several times the first.

`grades` are what a family measures beside exactness, for example whether a path is a shortest one.

Intervals are 95 %: Wilson's for shares of puzzles, and its form for means of shares (see `mean_share`) for
cells, since the cells of one puzzle are not independent.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from trm.data.batches import IGNORE, labels
from trm.inference.solver import chunk_size
from trm.inference.think import never, think, when_settled
from trm.models import RecursiveModel
from trm.processes import ALONE, Processes
from trm.puzzles.family import Family
from trm.puzzles.table import Puzzles

_Z = 1.959964  # two-sided 95 % of the normal distribution
_BINS = 10


@dataclass(frozen=True)
class Share:
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.2f} % [{100 * self.low:.2f}, {100 * self.high:.2f}]"


@dataclass(frozen=True)
class Figures:
    """The figures of one way of stopping."""

    exact: Share
    """Puzzles with every cell right."""
    cells: Share
    """Cells right."""
    mean_steps: float
    """Mean supervision steps per puzzle."""
    puzzles_per_second: float | None
    """Speed; None where this way of stopping was not run by itself."""
    grades: dict[str, Share]
    """Shares of puzzles by the family's own measures (see `Family.grade`)."""


@dataclass(frozen=True)
class Calibration:
    """How well the halting probability predicts that the answer is right."""

    error: float
    """Expected calibration error over ten bins."""
    brier: float
    """Mean squared difference between probability and outcome."""
    bins: list[dict[str, float]]
    """Per bin that is not empty: n, mean probability, share right."""


@dataclass(frozen=True)
class Report:
    """An evaluation.

    `per_step` holds exact accuracy after 1, 2, ... supervision steps; where rows stop early, one that has
    stopped counts with the answer it stopped at.
    """

    n: int
    early_stop: Figures
    all_steps: Figures | None
    per_step: list[float]
    calibration: Calibration

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def shares(grades: Sequence[dict[str, bool]]) -> dict[str, Share]:
    """Share of puzzles per grade."""
    return {name: wilson(sum(each[name] for each in grades), len(grades)) for name in grades[0]}


def wilson(right: int, n: int) -> Share:
    """Share right / n with Wilson's score interval."""
    return _score(right / n, n)


def _score(p: float, n: float) -> Share:
    """Wilson's score interval of a share p of n, which need not be whole."""
    spread = 1 + _Z**2 / n
    centre = (p + _Z**2 / (2 * n)) / spread
    half = _Z / spread * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return Share(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)))


def mean_share(shares_N: np.ndarray) -> Share:
    """Mean of per-puzzle shares, 0 to 1 each, with Wilson's score interval at an effective sample size.

    The method of survey statistics (Korn and Graubard, 1998; Dean and Pagano, 2015): shares that vary less
    than right and wrong do, whose variance is p (1 - p), count as so many more. Both variances are those of
    the shares with z^2 / 2 zeros and z^2 / 2 ones added, as Agresti and Coull (1998) add them, so that a few
    equal shares do not look like certainty. For shares that are 0 or 1 this is Wilson's interval itself.
    """
    n, added = len(shares_N), _Z**2 / 2
    mean = (float(shares_N.sum()) + added) / (n + 2 * added)
    variance = (float((shares_N**2).sum()) + added) / (n + 2 * added) - mean**2
    ratio = min(1.0, variance / (mean * (1 - mean)))
    return _score(float(shares_N.mean()), n / ratio)


def calibrate(probability_N: np.ndarray, right_N: np.ndarray) -> Calibration:
    """Compare halting probabilities with outcomes."""
    right_N = right_N.astype(float)
    bin_N = np.minimum((probability_N * _BINS).astype(int), _BINS - 1)
    bins = [
        {
            "n": int(members.sum()),
            "probability": float(probability_N[members].mean()),
            "right": float(right_N[members].mean()),
        }
        for members in (bin_N == b for b in range(_BINS))
        if members.any()
    ]
    error = sum(b["n"] * abs(b["probability"] - b["right"]) for b in bins) / len(right_N)
    return Calibration(error, float(((probability_N - right_N) ** 2).mean()), bins)


class _Outcomes(NamedTuple):
    """Answers of all puzzles, and how right they are; memory follows the puzzles, not the steps."""

    answers_NL: np.ndarray
    exact_N: np.ndarray
    cells_N: np.ndarray
    """Share of cells that are right."""
    chance_N: np.ndarray
    """Halting probability."""
    steps_N: np.ndarray

    @staticmethod
    def empty(answers_NL: np.ndarray) -> "_Outcomes":
        n = len(answers_NL)
        return _Outcomes(
            np.zeros_like(answers_NL), np.zeros(n, bool), np.zeros(n), np.zeros(n), np.zeros(n, int)
        )

    def put(self, rows: np.ndarray, chosen: np.ndarray, *values: np.ndarray) -> None:
        """Note the values of the chosen ones among the rows at work."""
        for column, value in zip(self, values, strict=True):
            column[rows[chosen]] = value[chosen]


@dataclass
class _Trace:
    """What a pass over all puzzles shows."""

    stopped: _Outcomes
    """When the rule for stopping held, or at the end."""
    last: _Outcomes
    """After the last step that was run."""
    per_step: list[float]
    seconds: float


def evaluate(
    model: RecursiveModel,
    puzzles: Puzzles,
    steps: int,
    all_steps: bool = False,
    progress: Callable[[int], None] = lambda done: None,
    family: Family | None = None,
    processes: Processes = ALONE,
) -> Report:
    """Evaluate a model on puzzles with at most `steps` supervision steps.

    With `all_steps` every row runs to the end, and the early-stop figures are read off the same pass.
    `progress` is called with the number of puzzles done. The family says what else to grade. Processes deal
    the batches of puzzles between them, and all get the same report.
    """
    trained = model.training
    try:
        same_cells = family is not None and family.same_cells
        trace = _trace(model.eval(), puzzles, steps, all_steps, same_cells, progress, processes)
    finally:
        model.train(trained)

    def figures(outcomes: _Outcomes, timed: bool) -> Figures:
        pairs = zip(puzzles.tokens_NL, outcomes.answers_NL, strict=True)
        return Figures(
            exact=wilson(int(outcomes.exact_N.sum()), len(puzzles)),
            cells=mean_share(outcomes.cells_N),
            mean_steps=float(outcomes.steps_N.mean()),
            puzzles_per_second=len(puzzles) / trace.seconds if timed else None,
            grades=shares([family.grade(*pair) for pair in pairs]) if family is not None else {},
        )

    return Report(
        n=len(puzzles),
        early_stop=figures(trace.stopped, timed=not all_steps),
        all_steps=figures(trace.last, timed=True) if all_steps else None,
        per_step=trace.per_step,
        calibration=calibrate(trace.stopped.chance_N, trace.stopped.exact_N),
    )


def _trace(
    model: RecursiveModel,
    puzzles: Puzzles,
    steps: int,
    all_steps: bool,
    same_cells: bool,
    progress: Callable[[int], None],
    processes: Processes,
) -> _Trace:
    n, device, chunk = len(puzzles), model.y_init.device, chunk_size(model)
    leave = never if all_steps else when_settled
    # Zeros, which add up with what the other processes find out.
    stopped, last = (_Outcomes.empty(puzzles.answers_NL) for _ in range(2))
    going_N = np.ones(n, bool)
    # Right answers of the rows at work in every step, and of those that had left before it.
    right_S, left_S = np.zeros(steps, int), np.zeros(steps + 1, int)
    start = time.perf_counter()
    for first in range(0, n, chunk)[processes.rank :: processes.count]:
        part = puzzles.take(slice(first, first + chunk))
        tokens_BL = torch.from_numpy(part.tokens_NL).long().to(device)
        labels_BL = labels(torch.from_numpy(part.answers_NL).long().to(device))
        puzzle_B = torch.from_numpy(part.puzzle_N).long().to(device)
        for thought in think(model, tokens_BL, puzzle_B, steps, leave, same_cells=same_cells):
            labels_AL = labels_BL[thought.row_A]
            valid_AL = labels_AL != IGNORE
            right_AL = (thought.answer_AL == labels_AL) | ~valid_AL
            rows, done = first + thought.row_A.cpu().numpy(), thought.done_A.cpu().numpy()
            exact_A = right_AL.all(-1).cpu().numpy()
            values = (
                thought.answer_AL.cpu().numpy(),
                exact_A,
                ((right_AL & valid_AL).sum(-1) / valid_AL.sum(-1)).cpu().numpy(),
                thought.halt_A.sigmoid().cpu().numpy(),
                np.full(len(rows), thought.step),
            )
            stops = (thought.settled_A.cpu().numpy() | done) & going_N[rows]
            stopped.put(rows, stops, *values)
            going_N[rows[stops]] = False
            last.put(rows, done, *values)
            right_S[thought.step - 1] += exact_A.sum()
            left_S[thought.step] += exact_A[done].sum()
        progress(min(first + chunk, n))
    processes.add_up_arrays(*stopped, *last, right_S, left_S)
    per_step = ((right_S + left_S[:-1].cumsum()) / n).tolist()
    return _Trace(stopped, last, per_step, time.perf_counter() - start)
