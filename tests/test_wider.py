"""Twice as wide: the same said by every step, and copies that part when they are trained."""

from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from trm import pretrained
from trm.config import ModelConfig
from trm.errors import UserError
from trm.models import Problem, RecursiveModel, build
from trm.models.wider import widened
from trm.puzzles.maze.config import MazeConfig

CANDIDATES = {"kind": "candidates", "mixing": "relations", "conflict_head": True}
CONVOLUTION = {"mixing": "convolution"}
COMMON = {"positions": "none", "halting": "every", "layers": 2, "T": 2, "n": 2}
MAZE = MazeConfig(height=4, width=5)
BOTH = pytest.mark.parametrize("options", [CANDIDATES, CONVOLUTION], ids=["candidates", "convolution"])


def model(options: dict, width: int) -> RecursiveModel:
    torch.manual_seed(width)
    family = (MAZE if options is CONVOLUTION else tiny.CONFIG).build()
    config = ModelConfig(**COMMON, **options, width=width, inner=2 * width)
    made = build(config, family.problem(1), tiny.EXACT).double()
    for head in (made.halting_head, getattr(made, "conflict_head", None)):
        if head is not None:
            torch.nn.init.normal_(head.weight, std=0.1)
    return made


def says(model: RecursiveModel, steps: int = 3) -> list[Tensor]:
    """All that some supervision steps say of random boards."""
    problem: Problem = model.problem
    tokens_BL = torch.randint(
        1, problem.vocab_size, (3, problem.length), generator=torch.Generator().manual_seed(0)
    )
    state, said = model.initial_state(3), []
    for _ in range(steps):
        state, out = model(tokens_BL, torch.zeros(3, dtype=torch.int64), state)
        said += [out.logits_BLV, out.halt_B, out.conflict_BL]
    return said


@BOTH
def test_a_wider_model_says_the_same_and_its_copies_part(options: dict):
    narrow, wide = model(options, 8), model(options, 16)
    wide.load_state_dict(widened(narrow.state_dict()))
    for ours, theirs in zip(says(wide), says(narrow), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    says(wide)[0].pow(2).mean().backward()
    for name, weight in wide.named_parameters():
        if ".blocks." in name:
            # The gradients of two copies of an output; a gate and its values are two parts.
            one, other = weight.grad.chunk(4 if name.endswith("up.weight") else 2)[:2]
            assert (one - other).abs().max() > 1e-3 * weight.grad.abs().max(), name


@BOTH
def test_a_run_starts_from_weights_of_half_the_width(options: dict, tmp_path: Path):
    narrow, wide = model(options, 8), model(options, 16)
    boards = MAZE if options is CONVOLUTION else tiny.CONFIG
    config = pretrained.PretrainedConfig(family=boards, model=narrow.config, steps=4)
    pretrained.save(tmp_path / "narrow", config, narrow.float().state_dict())
    pretrained.start_from(wide, str(tmp_path / "narrow"), boards.build(), None)
    for ours, theirs in zip(says(wide), says(narrow.double()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0.01)
    with pytest.raises(UserError, match="another architecture"):
        pretrained.start_from(model(options, 24), str(tmp_path / "narrow"), boards.build(), None)
