"""Figures against published intervals, numbers worked by hand, and a model that follows a script."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import ANSWER, PUZZLES, TASK, solver
from torch import nn

from trm.config import Effort
from trm.inference.evaluate import calibrate, evaluate, mean_share, wilson
from trm.models import State
from trm.models.layers import GatedUnit
from trm.puzzles.table import from_arrays


class Scripted(nn.Module):
    """Answers [N, steps, L] and halting logits [N, steps] by script; a puzzle's first token is its row."""

    def __init__(self, answers, halts):
        super().__init__()
        self.answers, self.halts = torch.tensor(answers), torch.tensor(halts)
        self.register_buffer("y_init", torch.zeros(1))
        self.unit, self.seq_len = GatedUnit(1, 1, "swiglu"), 4  # what the size of a chunk follows from

    def encode(self, tokens_BL, puzzle_B):
        return tokens_BL[:, 0]

    def initial_state(self, size):
        return State(torch.zeros(size, 1, 1), torch.zeros(size, 1, 0))

    def step(self, state, x):
        at = state.y_BSD[:, 0, 0].long()
        logits = nn.functional.one_hot(self.answers[x, at], 10)
        return State(state.y_BSD + 1, state.z_BSD), SimpleNamespace(
            logits_BLV=logits, halt_B=self.halts[x, at]
        )


RIGHT, WRONG, WORSE = [3, 4, 5, 6], [3, 4, 5, 7], [3, 7, 7, 7]
SCRIPT = Scripted(
    [
        [RIGHT, RIGHT, RIGHT, RIGHT],  # stops, right, at 2: the first step always counts as a change
        [WORSE, WRONG, RIGHT, RIGHT],  # stops, right, at 4
        [WORSE, WRONG, WRONG, RIGHT],  # stops, wrong, at 3; right if it had gone on
        [WRONG, WORSE, WRONG, WORSE],  # never settles
    ],
    [[9.0, 9, 9, 9], [-1, -1, 1, 1], [-1, 1, 1, -1], [1, 1, 1, 0.5]],
)
ASKED = from_arrays(np.arange(4)[:, None].repeat(4, 1), np.array([RIGHT] * 4))


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [  # Newcombe, 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_against_published_intervals(right, n, low, high):
    share = wilson(right, n)
    assert share.value == right / n
    assert (share.low, share.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert 0 <= share.low <= share.value <= share.high <= 1


def test_share_prints_as_percent():
    assert str(wilson(15, 148)) == "10.14 % [6.24, 16.05]"


def test_mean_share_of_right_and_wrong_is_wilsons_interval():
    for right, n in ((0, 5), (5, 5), (2, 5), (0, 1), (1, 1), (40, 120)):
        share, expected = mean_share(np.arange(n) < right), wilson(right, n)
        for name in ("value", "low", "high"):
            assert getattr(share, name) == pytest.approx(getattr(expected, name), abs=1e-12), (right, n)
    assert str(mean_share(np.zeros(5))) == "0.00 % [0.00, 43.45]"
    assert str(mean_share(np.ones(5))) == "100.00 % [56.55, 100.00]"


def test_mean_share_by_hand():
    """Four shares around 3/4; 1.92 zeros and ones make it 7.84 values."""
    share, z2 = mean_share(np.array([1.0, 0.5, 0.75, 0.75])), 1.959964**2
    mean = (3 + z2 / 2) / (4 + z2)
    variance = (2.375 + z2 / 2) / (4 + z2) - mean**2
    n = 4 / (variance / (mean * (1 - mean)))  # 6.1 in place of 4
    centre, half = (0.75 + z2 / (2 * n)) / (1 + z2 / n), math.sqrt(0.1875 / n + z2 / (4 * n * n))
    half *= 1.959964 / (1 + z2 / n)
    assert (share.value, share.low, share.high) == pytest.approx((0.75, centre - half, centre + half))
    assert 6 < n < 7


def test_mean_share_narrows_with_the_spread():
    """For many shares it is the normal interval: the added values weigh nothing."""
    shares = np.random.default_rng(0).beta(5, 5, 20_000)
    share, half = mean_share(shares), 1.959964 * shares.std() / math.sqrt(len(shares))
    assert (share.value - share.low, share.high - share.value) == pytest.approx((half, half), rel=0.01)
    assert mean_share(np.full(5, 0.98)).high < 1 and mean_share(np.full(5, 0.98)).low < 0.7


DRAWS = {
    "one in fifty": lambda random, size: (random.random(size) < 0.02).astype(float),
    "halves": lambda random, size: (random.random((2, *size)) < 0.1).mean(0),
    "mostly all right": lambda random, size: np.where(random.random(size) < 0.9, 1, random.beta(4, 4, size)),
    "a rare failure": lambda random, size: np.where(random.random(size) < 0.99, 0.98, 0.2),
    "spread": lambda random, size: random.beta(5, 5, size),
}


@pytest.mark.parametrize("n", [5, 20, 100])
@pytest.mark.parametrize("name", DRAWS)
def test_mean_share_holds_the_truth(name: str, n: int):
    """At worst as often as Wilson's of a proportion; a handful's normal interval mostly does not."""
    random = np.random.default_rng(1)
    truth = DRAWS[name](random, (1_000_000,)).mean()
    shares = [mean_share(row) for row in DRAWS[name](random, (1000, n))]
    assert np.mean([each.low <= truth <= each.high for each in shares]) > (0.88 if n == 5 else 0.92)


def test_calibration_by_hand():
    found = calibrate(np.array([0.95, 0.91, 1.0, 0.25, 0.21]), np.array([True, True, False, False, True]))
    assert [b["n"] for b in found.bins] == [2, 3]
    assert [b["probability"] for b in found.bins] == pytest.approx([0.23, 2.86 / 3])
    assert [b["right"] for b in found.bins] == pytest.approx([0.5, 2 / 3])
    assert found.error == pytest.approx((2 * 0.27 + 3 * (0.86 / 3)) / 5)
    assert found.brier == pytest.approx((0.05**2 + 0.09**2 + 1 + 0.25**2 + 0.79**2) / 5)


def test_perfect_calibration():
    found = calibrate(np.array([1.0, 0.0]), np.array([True, False]))
    assert (found.error, found.brier) == (0, 0)


def test_script_with_early_stop():
    report = evaluate(SCRIPT, ASKED, 4)
    assert report.n == 4
    assert report.all_steps is None
    assert report.early_stop.exact == wilson(2, 4)
    assert report.early_stop.cells.value == pytest.approx((1 + 1 + 0.75 + 0.25) / 4)
    assert report.early_stop.mean_steps == (2 + 4 + 3 + 4) / 4
    assert report.per_step == [0.25, 0.25, 0.5, 0.5]  # who has left keeps the last outcome
    assert report.early_stop.puzzles_per_second > 0


def test_script_with_all_steps():
    report, early = evaluate(SCRIPT, ASKED, 4, all_steps=True), evaluate(SCRIPT, ASKED, 4)
    assert report.all_steps.exact == wilson(3, 4)
    assert report.all_steps.cells.value == pytest.approx((1 + 1 + 1 + 0.25) / 4)
    assert report.all_steps.mean_steps == 4
    assert report.per_step == [0.25, 0.25, 0.5, 0.75]
    for name in ("exact", "cells", "mean_steps"):
        assert getattr(report.early_stop, name) == getattr(early.early_stop, name)
    assert report.early_stop.puzzles_per_second is None
    assert report.calibration == early.calibration


def test_script_calibration_is_that_of_the_answers_given():
    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    brier = (sigmoid(-9) ** 2 + sigmoid(-1) ** 2 + sigmoid(1) ** 2 + sigmoid(0.5) ** 2) / 4
    assert evaluate(SCRIPT, ASKED, 4).calibration.brier == pytest.approx(brier)


def test_fewer_steps_cut_the_script():
    report = evaluate(SCRIPT, ASKED, 2)
    assert report.per_step == [0.25, 0.25]
    assert report.early_stop.mean_steps == 2


def test_padding_counts_neither_as_right_nor_as_wrong():
    answers_NL = np.array([[3, 4, 5, 0], [3, 4, 5, 0], [3, 4, 5, 0], [3, 0, 0, 0]])
    report = evaluate(SCRIPT, from_arrays(ASKED.tokens_NL, answers_NL), 4, all_steps=True)
    assert report.all_steps.exact.value == 1
    assert report.all_steps.cells.value == 1
    first = evaluate(SCRIPT, from_arrays(ASKED.tokens_NL, answers_NL), 1)
    assert first.early_stop.cells.value == pytest.approx((1 + 1 / 3 + 1 / 3 + 1) / 4)


def test_chunks_change_nothing_but_progress(monkeypatch):
    whole = evaluate(SCRIPT, ASKED, 4)
    monkeypatch.setattr("trm.inference.solver.CPU_CHUNK", 3)
    done = []
    parts = evaluate(SCRIPT, ASKED, 4, progress=done.append)
    assert done == [3, 4]
    assert (parts.per_step, parts.calibration) == (whole.per_step, whole.calibration)
    assert parts.early_stop.cells == whole.early_stop.cells


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_comes_back(training):
    SCRIPT.train(training)
    evaluate(SCRIPT, ASKED, 1)
    assert SCRIPT.training is training


@pytest.mark.parametrize("early_stop", [True, False])
def test_agrees_with_the_solver(early_stop):
    made = solver()
    tokens_NL = np.stack([TASK.parse(puzzle) for puzzle in PUZZLES])
    answers = made.solve(PUZZLES, Effort(early_stop=early_stop))
    # The model is untrained: half of its own answers stand in for the right ones.
    wanted_NL = [TASK.parse(ANSWER) for _ in PUZZLES]
    for i in range(0, 8, 2):
        wanted_NL[i] = list(made.steps(PUZZLES[i], Effort(early_stop=early_stop)))[-1].answer
    report = evaluate(made.model, from_arrays(tokens_NL, np.stack(wanted_NL)), 6, all_steps=not early_stop)
    figures = report.early_stop if early_stop else report.all_steps
    assert figures.exact == wilson(4, 8)
    assert figures.mean_steps == np.mean([answer.steps for answer in answers])


def test_as_dict_is_plain():
    values = evaluate(SCRIPT, ASKED, 4, all_steps=True).as_dict()
    assert set(values) == {"n", "early_stop", "all_steps", "per_step", "calibration"}
    assert values["early_stop"]["exact"]["value"] == 0.5
