"""Hints: which cells are shown, how a puzzle's number of them moves, and runs with them that are resumed."""

import json
from pathlib import Path

import pytest
import tiny_arc
import torch
from tiny import ANSWER, TASK
from torch import Tensor

from trm import rng
from trm.config import SupervisionConfig, parse
from trm.data.batches import IGNORE, Batch
from trm.errors import UserError
from trm.models import Output, State
from trm.recipe import RunConfig
from trm.training import checkpoint
from trm.training.hints import Hints, random_hints
from trm.training.loop import train
from trm.training.supervision import Slots, Step

KEY = rng.stream("test")
PUZZLE = "1.34..1.2143...."  # 8 open cells
CANDIDATES = {"kind": "candidates", "mixing": "relations", "positions": "none", "halting": "every"}
SOLUTION_L = torch.from_numpy(TASK.parse(ANSWER)).long()


def keys(count: int, seed: int = 0) -> Tensor:
    return rng.fold(rng.fold(KEY, seed), torch.arange(count))


def offer(puzzle: str = PUZZLE, rows: int = 1, first: int = 0) -> Batch:
    """The same puzzle in every row, each a training puzzle of its own from `first` on."""
    tokens_BL = torch.from_numpy(TASK.parse(puzzle)).long().expand(rows, -1).clone()
    row_B = torch.arange(first, first + rows)
    return Batch(tokens_BL, SOLUTION_L.expand(rows, -1).clone(), torch.zeros(rows, dtype=torch.int64), row_B)


def hints(share: float, first: int, puzzles: int, batch: int = 1) -> Hints:
    return Hints(SupervisionConfig(hints=share, first_hints=first), puzzles, batch, "cpu")


# Which cells


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (1, 1), (5, 5), (8, 8), (9, 8), (100, 8)])
def test_as_many_open_cells_as_asked_for_or_as_there_are(count: int, shown: int):
    offered = offer(rows=200)
    hint_BL = random_hints(offered, torch.full((200,), count), keys(200))
    assert (hint_BL.sum(1) == shown).all()
    assert not (hint_BL & (offered.tokens_BL == SOLUTION_L)).any(), "clues are no hints"


def test_every_row_has_its_own_count():
    count_B = torch.arange(9)
    assert random_hints(offer(rows=9), count_B, keys(9)).sum(1).tolist() == list(range(9))


def test_cells_without_a_label_are_never_shown():
    offered = offer(rows=100)
    offered.labels_BL[:, [1, 4, 15]] = IGNORE
    hint_BL = random_hints(offered, torch.full((100,), 16), keys(100))
    assert (hint_BL.sum(1) == 5).all() and not hint_BL[:, [1, 4, 15]].any()


@pytest.mark.parametrize("count", [1, 3])
def test_all_open_cells_are_equally_likely(count: int):
    size = 20_000
    offered = offer(rows=size)
    hint_BL = random_hints(offered, torch.full((size,), count), keys(size))
    share_L = hint_BL.double().mean(0)[offered.tokens_BL[0] == 1]
    p = count / 8
    assert len(share_L) == 8
    assert ((share_L - p).abs() < 4 * (p * (1 - p) / size) ** 0.5).all()


def test_the_hints_of_a_row_depend_on_its_key_alone():
    few, many = (random_hints(offer(rows=rows), torch.full((rows,), 3), keys(50)[:rows]) for rows in (7, 50))
    assert torch.equal(few, many[:7])
    assert not torch.equal(few, random_hints(offer(rows=7), torch.full((7,), 3), keys(7, seed=1)))
    assert len(many.unique(dim=0)) > 25


# Adding them to a batch


def test_a_share_of_the_rows_is_hinted_and_nothing_else_changes():
    size = 20_000
    offered = offer(rows=size)
    before = [each.clone() for each in offered]
    shown, hinted_B = hints(0.3, 2, size).add(offered, KEY)
    assert abs(hinted_B.double().mean() - 0.3) < 4 * (0.3 * 0.7 / size) ** 0.5
    assert all(torch.equal(a, b) for a, b in zip(offered, before, strict=True)), "a new batch"
    assert all(torch.equal(a, b) for a, b in zip(shown[1:], before[1:], strict=True)), "tokens alone differ"
    new_BL = shown.tokens_BL != offered.tokens_BL
    assert torch.equal(new_BL.sum(1), 2 * hinted_B)
    assert torch.equal(shown.tokens_BL[new_BL], offered.labels_BL[new_BL])
    assert (offered.tokens_BL[new_BL] == 1).all()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_row_or_every_row(share: float):
    made = hints(share, 1, 100)
    shown, hinted_B = made.add(offer(rows=100), KEY)
    assert (hinted_B == bool(share)).all()
    assert ((shown.tokens_BL != 1).sum(1) == 8 + share).all()


def test_every_puzzle_gets_its_own_number():
    made = hints(1.0, 0, 30)
    made.level_N[10:15] = torch.tensor([0, 1, 4, 8, 16])
    shown, hinted_B = made.add(offer(rows=6, first=10), KEY)
    assert hinted_B.all(), "a puzzle that needs no hint is followed all the same"
    assert (shown.tokens_BL != 1).sum(1).tolist() == [8, 9, 12, 16, 16, 8]
    assert torch.equal(shown.tokens_BL[4], SOLUTION_L)


def test_hints_are_a_function_of_the_key():
    made = hints(0.5, 3, 100)
    (one, hinted), (again, _) = made.add(offer(rows=100), KEY), made.add(offer(rows=100), KEY)
    few, few_hinted = made.add(offer(rows=9), KEY)
    assert torch.equal(one.tokens_BL, again.tokens_BL)
    assert torch.equal(few.tokens_BL, one.tokens_BL[:9]) and torch.equal(few_hinted, hinted[:9])
    other, other_hinted = made.add(offer(rows=100), rng.fold(KEY, 1))
    assert not torch.equal(other.tokens_BL, one.tokens_BL) and not torch.equal(other_hinted, hinted)


# Learning how many


def taken(rows: list[int], halted: list[bool], solved: list[bool]) -> Step:
    """A supervision step of these training puzzles."""
    size = len(rows)
    batch = offer(rows=size)._replace(row_B=torch.tensor(rows))
    logits_BLV = torch.nn.functional.one_hot(batch.labels_BL, TASK.vocab_size).float()
    wrong_B = ~torch.tensor(solved)
    logits_BLV[wrong_B, 5] = logits_BLV[wrong_B, 5].roll(1, -1)  # one cell is enough
    empty = torch.zeros(size, 1, 0)
    slots = Slots(batch, State(empty, empty), torch.ones(size, dtype=torch.int32), torch.tensor(halted))
    zeros_B = torch.zeros(size)
    return Step(slots, Output(logits_BLV, zeros_B, zeros_B, zeros_B), None)


def test_a_number_falls_after_a_solution_and_rises_after_a_failure():
    """Row by row: solved, not solved, still at work (twice), and without hints (twice)."""
    made = hints(0.5, 5, 10, batch=6)
    step = taken([2, 3, 4, 5, 6, 7], [True, True, False, False, True, True], [True, False] * 3)
    fresh_B = torch.ones(6, dtype=torch.bool)
    made.learn(fresh_B, torch.tensor([True] * 4 + [False] * 2), step)
    assert made.level_N.tolist() == [5, 5, 4, 6, 5, 5, 5, 5, 5, 5]
    assert made.level_N.dtype == torch.int32


def test_a_puzzle_that_is_twice_in_a_batch_is_counted_twice():
    made = hints(1.0, 5, 4, batch=6)
    step = taken([0, 0, 1, 1, 2, 2], [True] * 6, [True, True, False, False, True, False])
    every_B = torch.ones(6, dtype=torch.bool)
    made.learn(every_B, every_B, step)
    assert made.level_N.tolist() == [3, 7, 5, 5]


def test_numbers_stay_between_none_and_all_cells():
    made = hints(1.0, 0, 4, batch=4)
    made.level_N.copy_(torch.tensor([0, 1, 15, 16]))
    every_B = torch.ones(4, dtype=torch.bool)
    for _ in range(2):
        made.learn(every_B, every_B, taken([0, 1, 2, 3], [True] * 4, [True, True, False, False]))
    assert made.level_N.tolist() == [0, 0, 16, 16]


def test_what_a_row_was_given_counts_until_it_halts():
    """`hinted` of a step is about the puzzles offered: a row that is not free did not take its own."""
    made = hints(0.5, 5, 4, batch=2)
    rows, solved = [0, 1], [True, True]
    free_B, given_B = torch.tensor([True, True]), torch.tensor([True, False])
    made.learn(free_B, given_B, taken(rows, [False, False], solved))
    for _ in range(2):  # other puzzles are offered, and refused
        made.learn(~free_B, ~given_B, taken(rows, [False, False], solved))
    assert made.level_N.tolist() == [5, 5, 5, 5]
    made.learn(~free_B, ~given_B, taken(rows, [True, True], solved))
    assert made.level_N.tolist() == [4, 5, 5, 5]
    made.learn(free_B, ~given_B, taken([2, 3], [True, True], solved))
    assert made.level_N.tolist() == [4, 5, 5, 4]


# Whole runs


def recipe(**changes: dict) -> RunConfig:
    values = {
        "task": {"name": "sudoku", "box_rows": 2, "box_cols": 2},
        "data": {"generate_train": 12, "generate_validation": 6, "generate_test": 2, "extra_clues": 0},
        "model": CANDIDATES | {"width": 8, "inner": 8, "layers": 1, "T": 2, "n": 1},
        "supervision": {"steps": 2, "start_noise": 0.5, "noise": 0.1, "hints": 0.5, "first_hints": 3},
        "optimizer": {"name": "adamw", "lr": 1e-3, "warmup": 2, "schedule": "wsd", "decay_steps": 3},
        "train": {"batch": 8, "steps": 8, "log_every": 2, "eval_every": 8, "checkpoint_every": 8},
    }
    return parse(RunConfig, {k: v | changes.get(k, {}) for k, v in values.items()}, "test")


def levels(folder: Path) -> dict[str, Tensor]:
    """What the newest checkpoint of a run says of hints."""
    state = {
        "hints": {"level": torch.zeros(12, dtype=torch.int32), "hinted": torch.zeros(8, dtype=torch.bool)}
    }
    checkpoint.load(folder / "checkpoints", state)
    return state["hints"]


def weights(folder: Path) -> bytes:
    return (folder / "last" / "raw.safetensors").read_bytes()


@pytest.mark.parametrize("stop", [3, 4])
def test_a_run_with_hints_and_noise_is_resumed_exactly(tmp_path: Path, stop: int):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(recipe(), whole).finished
    assert not train(recipe(), parts, stop_after=stop).finished
    middle = levels(parts)
    assert train(None, parts).finished
    assert weights(parts) == weights(whole)
    ours, theirs = levels(parts), levels(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in ("level", "hinted"))
    assert (middle["level"] != 3).any() and (ours["level"] != middle["level"]).any(), (
        "they moved before and after"
    )
    assert middle["hinted"].any() and not middle["hinted"].all()
    logged = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in logged if line["kind"] == "train"][-1]
    assert last["hints"] == pytest.approx(theirs["level"].float().mean().item())


@pytest.mark.parametrize("option", ["hints", "noise", "start_noise"])
def test_every_option_changes_what_is_learned(tmp_path: Path, option: str):
    train(recipe(), tmp_path / "with", stop_after=2)
    train(recipe(supervision={option: 0.0}), tmp_path / "without", stop_after=2)
    assert weights(tmp_path / "with") != weights(tmp_path / "without")


def test_without_hints_a_checkpoint_holds_none(tmp_path: Path):
    train(recipe(supervision={"hints": 0.0}), tmp_path / "run", stop_after=1)
    with pytest.raises(UserError, match="does not fit this run"):
        levels(tmp_path / "run")


def test_hints_need_questions_and_answers_with_the_same_cells(tmp_path: Path):
    path = tiny_arc.write(tmp_path / "train.json", [tiny_arc.made("a")])
    settings = tiny_arc.config(data={"train": path}, supervision={"hints": 0.5})
    with pytest.raises(
        UserError, match=r"supervision\.hints needs questions and answers with the same cells"
    ):
        train(settings, tmp_path / "run")
