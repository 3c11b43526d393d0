"""Mixing layers: how positions exchange information in a block, one class each.

    attention     self-attention, with RoPE or without
    mixer         a gated unit over a fixed number of tokens
    convolution   3 x 3 over the board: for rules that are local and the same everywhere
    relations     means over candidates that belong together, a gated unit for each relation, spread back

A layer is built from the model's configuration and its problem. The last two hold nothing that depends on
the size of the board, so their weights serve boards of every size.

Shapes: B batch, S positions, D width, H rows and W columns of the board.
"""

from collections.abc import Callable
from typing import cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trm.config import ModelConfig
from trm.errors import UserError
from trm.kernels import plain
from trm.models.layers import Attention, GatedUnit, Rope, inner_width, trunc_normal_
from trm.problem import Problem, Relations


@final
class Convolution(nn.Module):
    """A 3 x 3 convolution of the board; beyond its edge are zeros, which no state inside ever is."""

    def __init__(self, width: int, board: tuple[int, int]):
        super().__init__()
        self.board = board
        weight = nn.Conv2d(width, width, 3, bias=False).weight
        self.weight = nn.Parameter(trunc_normal_(weight.data, std=(9 * width) ** -0.5))

    def forward(self, h_BSD: Tensor) -> Tensor:
        # A view whose channels lie last in memory, as the fast convolutions want it: nothing is copied.
        h_BDHW = h_BSD.unflatten(1, self.board).permute(0, 3, 1, 2)
        mixed_BDHW = F.conv2d(h_BDHW, self.weight.to(h_BSD.dtype), padding=1)
        return mixed_BDHW.permute(0, 2, 3, 1).flatten(1, 2)


@final
class RelationMixing(nn.Module):
    """For every relation: the mean over its members through a gated unit, given back to each of them."""

    def __init__(self, width: int, relations: Relations):
        super().__init__()
        self.relations = relations
        names = dict.fromkeys(relation.name for relation in relations.members)
        # One unit for each name; the order decides how fresh weights are drawn.
        self.units = nn.ModuleDict({name: GatedUnit(width, width, "swiglu") for name in names})

    def weights(self) -> tuple[Tensor, Tensor]:
        """The units of all relations in one tensor each: up [R, 2 D, D] and down [R, D, D]."""
        units = [cast(GatedUnit, self.units[name]) for name, _ in self.relations.members]
        return torch.stack([u.up.weight for u in units]), torch.stack([u.down.weight for u in units])

    def forward(self, h_BSD: Tensor) -> Tensor:
        shape = self.relations.shape
        h = h_BSD.unflatten(1, shape)
        mixed = torch.zeros_like(h)
        for name, axes in self.relations.members:
            mixed = mixed + self.units[name](h.mean([1 + axis for axis in axes], keepdim=True))
        return mixed.flatten(1, len(shape))


@final
class CandidateBlock(nn.Module):
    """Mixing over relations, then the gated unit over channels, each followed by its norm."""

    def __init__(self, width: int, inner: int, relations: Relations):
        super().__init__()
        self.mix = RelationMixing(width, relations)
        self.mlp = GatedUnit(width, inner, "swiglu")

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weights as native code takes them: up and down of the relations, up and down of `mlp`."""
        return (*self.mix.weights(), self.mlp.up.weight, self.mlp.down.weight)

    def forward(self, h_BSD: Tensor) -> Tensor:
        h_BSD = plain.add_rms_norm(h_BSD, self.mix(h_BSD))
        return plain.mix_channels(h_BSD, self.mlp.up.weight, self.mlp.down.weight, "swiglu")


def group_numbers(relations: Relations) -> Tensor:
    """Which set of each relation every candidate is in, numbered from 0, int32 [R, S]."""
    place = torch.arange(relations.candidates, device="cpu").view(
        relations.shape
    )  # numbers are computed here
    groups_R = []
    for _, axes in relations.members:
        first = place.amin(axes, keepdim=True).expand(relations.shape).flatten()
        groups_R.append(torch.unique(first, return_inverse=True)[1])
    return torch.stack(groups_R).int()


def _attention(config: ModelConfig, problem: Problem, rope: Rope | None) -> nn.Module:
    del problem
    return Attention(config.width, config.heads, config.width_of_a_head, rope)


def _mixer(config: ModelConfig, problem: Problem, rope: Rope | None) -> nn.Module:
    del rope
    tokens = config.prefix + problem.length
    return GatedUnit(tokens, inner_width(tokens, config.expansion), config.gate)


def _convolution(config: ModelConfig, problem: Problem, rope: Rope | None) -> nn.Module:
    del rope
    if problem.board is None:
        raise UserError("mixing convolution needs a board of rows and columns, and this family has none")
    return Convolution(config.width, problem.board)


MIXINGS: dict[str, Callable[[ModelConfig, Problem, Rope | None], nn.Module]] = {
    "attention": _attention,
    "mixer": _mixer,
    "convolution": _convolution,
}
