"""Decisions in training: what a row decides, when it is wrong, and that it goes back to where it was."""

import json
from pathlib import Path

import pytest
import torch
from tiny import ANSWER, TASK
from torch import Tensor

from trm import rng
from trm.config import LossConfig, ModelConfig, SupervisionConfig, parse
from trm.data.batches import Batch
from trm.inference.search import broken
from trm.models import Output, State, build
from trm.models.embedding import GIVEN, OPEN, OUT
from trm.recipe import RunConfig
from trm.training.decisions import MOST_SHOWN, Decisions
from trm.training.hints import Hints
from trm.training.loop import train
from trm.training.losses import step_loss
from trm.training.supervision import Slots, Step, empty_slots, supervise

CANDIDATES = {"kind": "candidates", "mixing": "relations", "positions": "none", "halting": "every"}
SMALL = {"width": 8, "inner": 8, "layers": 1, "T": 1, "n": 1, "conflict_head": True}
ROWS = 400
ANSWER_L = torch.from_numpy(TASK.parse(ANSWER)).long()
EMPTY_L = torch.ones(16, dtype=torch.int64)


def slots(value: float) -> Slots:
    """Rows that ask for all of ANSWER, with a state that can be told apart."""
    batch = Batch(EMPTY_L.repeat(ROWS, 1), ANSWER_L.repeat(ROWS, 1), *torch.zeros(2, ROWS, dtype=torch.int64))
    state = State(torch.full((ROWS, 64, 8), value), torch.full((ROWS, 64, 8), -value))
    return Slots(batch, state, torch.ones(ROWS), torch.zeros(ROWS, dtype=torch.bool))


def output(cell: int = 6, chance: float = 0.7) -> Output:
    """Undecided everywhere, and rather sure of the right symbol in one cell."""
    logits_BLV = torch.full((ROWS, 16, 6), -1e4)
    logits_BLV[..., 2:] = 0
    logits_BLV[:, cell, 2:] = torch.tensor((1 - chance) / 3).log()
    logits_BLV[:, cell, ANSWER_L[cell]] = torch.tensor(chance).log()
    never = torch.full((ROWS,), -torch.inf)
    return Output(logits_BLV, never, never, torch.zeros(ROWS, 16))


def decisions(share: float = 1.0, longest: int = 3, contradictions: float = 0.0) -> Decisions:
    torch.manual_seed(0)
    config = SupervisionConfig(decisions=share, longest_wrong=longest, contradictions=contradictions)
    model = build(ModelConfig(**CANDIDATES, **SMALL), TASK.problem())
    made = Decisions(config, model, range(ROWS))
    made.begin(torch.ones(ROWS, dtype=torch.bool), slots(0).batch, key(99))
    return made


def key(step: int) -> Tensor:
    return rng.fold(rng.stream("test"), step)


def test_rows_decide_once_they_rest_and_are_wrong_where_the_solution_says_so():
    made = decisions()
    made.follow(slots(1), output(), key(0))  # nothing to compare the answer with yet
    assert (made.kind_BLN == OPEN).all() and not made.wrong_B.any()
    made.follow(slots(2), output(), key(1))
    decided_BN = made.kind_BLN[:, 6]
    assert ((decided_BN == GIVEN).sum(1) == 1).all() and ((decided_BN == OUT).sum(1) == 3).all()
    others = made.kind_BLN.clone()
    others[:, 6] = OPEN
    assert (others == OPEN).all()
    assert torch.equal(made.wrong_B, decided_BN[:, ANSWER_L[6] - 2] == OUT)
    assert made.wrong_B.float().mean().item() == pytest.approx(0.3, abs=0.08), "drawn from the distribution"


def test_a_wrong_decision_is_taken_back_to_the_state_before_it_and_ruled_out():
    made = decisions(longest=3)
    made.follow(slots(1), output(), key(0))
    made.follow(slots(2), output(), key(1))
    pending_B, chosen_B = made.wrong_B.clone(), (made.kind_BLN[:, 6] == GIVEN).int().argmax(1)
    steps = 0
    while pending_B.any():
        after = made.follow(slots(10), output(), key(2 + steps))
        now_B = pending_B & ~made.wrong_B
        assert (after.state.y_BSD[now_B] == 2).all() and (after.state.z_BSD[now_B] == -2).all()
        assert (after.state.y_BSD[pending_B & ~now_B] == 10).all()
        kind_BN = made.kind_BLN[now_B, 6]
        assert (kind_BN.gather(1, chosen_B[now_B].unsqueeze(1)) == OUT).all()
        assert ((kind_BN == OPEN).sum(1) == 3).all() and (made.kind_BLN[now_B][:, :6] == OPEN).all()
        pending_B &= ~now_B
        steps += 1
    assert 1 < steps <= 3, "after one to three steps"


def test_a_share_of_the_rows_decides():
    made = decisions(share=0.25)
    for step in range(2):
        made.follow(slots(1), output(), key(step))
    decided_B = (made.kind_BLN != OPEN).flatten(1).any(1)
    assert torch.equal(decided_B, made.decides_B)
    assert decided_B.float().mean().item() == pytest.approx(0.25, abs=0.07)


def test_a_row_that_moves_decides_when_its_patience_ends():
    made = decisions()
    for step in range(made.policy.patience):
        assert (made.kind_BLN == OPEN).all()
        moving = output(cell=step)
        moving.logits_BLV[..., 2 + step % 4] += 0.01  # another answer in every step
        made.follow(slots(1), moving, key(step))
    assert (made.kind_BLN != OPEN).flatten(1).any(1).all()


def test_a_fresh_row_forgets_all():
    made = decisions()
    for step in range(2):
        made.follow(slots(1), output(), key(step))
    fresh_B = torch.arange(ROWS) < 100
    clue_BL = EMPTY_L.repeat(ROWS, 1)
    clue_BL[:, 0] = ANSWER_L[0]
    kind_BS = made.begin(fresh_B, slots(0).batch._replace(tokens_BL=clue_BL), key(7))
    assert torch.equal(kind_BS[fresh_B], made.model.kinds_of(clue_BL)[fresh_B])
    assert not made.wrong_B[fresh_B].any() and made.wrong_B[~fresh_B].any()
    assert (kind_BS[~fresh_B] == GIVEN).sum(1).eq(1).all()


def test_a_wrong_row_learns_of_its_conflict_and_not_of_its_solution():
    said = output()
    logits_BLV, conflict_BL = (each.clone().requires_grad_() for each in (said.logits_BLV, said.conflict_BL))
    wrong_B = torch.arange(ROWS) % 4 == 0
    said = Output(logits_BLV, torch.zeros(ROWS), said.continue_B, conflict_BL)
    step = Step(slots(1), said, None, wrong_B)
    loss, sums = step_loss(LossConfig(tokens="softmax", conflict_weight=2.0), step)
    loss.total.backward()
    assert logits_BLV.grad is not None and conflict_BL.grad is not None
    assert (logits_BLV.grad[wrong_B] == 0).all() and (logits_BLV.grad[~wrong_B] != 0).flatten(1).any(1).all()
    assert torch.allclose(conflict_BL.grad, (2 / 16 * (0.5 - wrong_B.float())).unsqueeze(1))
    assert sums["wrong"] == ROWS / 4 and sums["alarms"] == ROWS and sums["right_alarms"] == ROWS / 4


def test_a_contradiction_is_one_wrong_symbol_and_some_of_the_solution():
    made = decisions(contradictions=1.0)
    assert made.posed_wrong_B.all() and made.wrong_B.all()
    given_BLN = made.kind_BLN == GIVEN
    true_BLN = torch.nn.functional.one_hot(ANSWER_L - 2, 4).bool()
    wrong_B = (given_BLN & ~true_BLN).flatten(1).sum(1)
    assert (wrong_B == 1).all()
    shown_B = (given_BLN & true_BLN).flatten(1).sum(1)
    assert shown_B.min() == 0 and 8 <= shown_B.max() <= 15
    assert shown_B.float().mean().item() == pytest.approx(16 * MOST_SHOWN / 2, abs=0.6)
    hidden_B = ~broken(made.kind_BLN.flatten(1), TASK.relations)
    assert hidden_B[shown_B < 2].all(), "no rule forbids the symbol where there is a choice"
    assert len({tuple(kinds.flatten().tolist()) for kinds in given_BLN & ~true_BLN}) > 30


def test_a_contradiction_is_never_taken_back_and_ends_when_it_is_noticed():
    made = decisions(share=0.0, contradictions=1.0)
    before = made.kind_BLN.clone()
    for step in range(10):
        made.follow(slots(1), output(), key(step))
    assert torch.equal(made.kind_BLN, before) and made.posed_wrong_B.all()
    model, config = made.model, SupervisionConfig(steps=8, exploration=0, contradictions=1.0)
    model.conflict_head.weight.data.zero_()
    for bias, noticed in ((-20.0, False), (20.0, True)):
        model.conflict_head.bias.data.fill_(bias)
        step = supervise(model, empty_slots(model, slots(0).batch), slots(0).batch, config, key(3), made)
        assert step.posed_wrong_B.all() and step.slots.halted_B.all().item() is noticed
    _, sums = step_loss(LossConfig(tokens="softmax"), step)
    assert sums["count"] == 0, "it has no answer that could be right"
    assert sums["token_loss"] == 0 and sums["wrong"] == ROWS


def test_a_share_of_the_rows_is_posed_with_a_contradiction_and_needs_no_hints():
    made = decisions(contradictions=0.25)
    posed_B = made.posed_wrong_B
    assert posed_B.float().mean().item() == pytest.approx(0.25, abs=0.07)
    assert (made.kind_BLN[~posed_B] == OPEN).all()
    hints = Hints(SupervisionConfig(hints=1.0), ROWS, ROWS, "cpu")
    batch = slots(0).batch._replace(row_B=torch.arange(ROWS))
    ended = slots(0)._replace(batch=batch, halted_B=torch.ones(ROWS, dtype=torch.bool))
    level_N = hints.level_N.clone()
    hints.learn(ended.halted_B, ended.halted_B, Step(ended, output(), None, made.wrong_B, posed_B))
    assert torch.equal(hints.level_N != level_N, ~posed_B)


def recipe(**changes: dict) -> RunConfig:
    values = {
        "family": {"name": "sudoku", "box_rows": 2, "box_cols": 2},
        "data": {"generate": {"train": 12, "validation": 6, "test": 2}},
        "model": CANDIDATES | SMALL,
        "supervision": {"steps": 8, "noise": 0.1, "decisions": 0.7, "hints": 0.3, "contradictions": 0.2},
        "optimizer": {"name": "adamw", "lr": 1e-3, "warmup": 2},
        "train": {"batch": 8, "steps": 30, "log_every": 5, "eval_every": 30, "checkpoint_every": 30},
    }
    return parse(RunConfig, {k: v | changes.get(k, {}) for k, v in values.items()}, "test")


@pytest.mark.parametrize("stop", [11, 18])
def test_a_run_with_decisions_is_resumed_exactly(tmp_path: Path, stop: int):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(recipe(), whole).finished
    assert not train(recipe(), parts, stop_after=stop).finished
    assert train(None, parts).finished
    ours, theirs = ((run / "last" / "raw.safetensors").read_bytes() for run in (parts, whole))
    assert ours == theirs
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert sum(line.get("wrong", 0) for line in lines) > 0, "some rows were wrong"


def test_a_conflict_head_is_new_in_a_run_that_starts_from_weights_without_one(tmp_path: Path):
    plain = {"model": {"conflict_head": False}, "supervision": {"decisions": 0.0, "contradictions": 0.0}}
    train(recipe(**plain), tmp_path / "plain", stop_after=2)
    options = {"train": {"start_from": str(tmp_path / "plain")}}
    train(recipe(**options), tmp_path / "run", stop_after=1)
    assert (tmp_path / "run" / "last" / "config.json").exists()
