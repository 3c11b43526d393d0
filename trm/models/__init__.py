"""Models: one contract (`RecursiveModel`), a few final classes, one function that builds them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from trm.config import ComputeConfig, ModelConfig
from trm.errors import UserError, first_line
from trm.models.candidates import Candidates
from trm.models.hrm import Hrm
from trm.models.recursive import Output, RecursiveModel, State
from trm.models.transformer import Transformer
from trm.models.trm import Trm
from trm.problem import Problem

__all__ = [
    "Output",
    "Problem",
    "RecursiveModel",
    "State",
    "build",
    "check_weights",
    "load_weights",
    "rebuild",
]

_CLASSES = {"trm": Trm, "candidates": Candidates, "hrm": Hrm, "transformer": Transformer}


def build(config: ModelConfig, problem: Problem, compute: ComputeConfig | None = None) -> RecursiveModel:
    """Build the configured model with fresh weights from torch's global generator.

    `compute` says how it computes; UserError where a model of this kind cannot, or the family has no such
    model, or memory does not hold one of its size.
    """
    compute = compute or ComputeConfig()
    try:
        compute.check(config)
    except ValueError as error:
        raise UserError(str(error)) from None
    try:
        return _CLASSES[config.kind](config, problem, compute)
    except (MemoryError, RuntimeError) as error:
        raise UserError(f"no model of this size can be made here: {first_line(error)}") from None


def rebuild(
    config: ModelConfig,
    problem: Problem,
    weights: Mapping[str, Tensor],
    where: str,
    compute: ComputeConfig | None = None,
) -> RecursiveModel:
    """`build`, then `load_weights`; the weights are checked first, by a model that takes no memory.

    A configuration may claim any size, and so no model is made that is larger than its weights.
    """
    with torch.device("meta"):
        check_weights(build(config, problem), weights, where)
    model = build(config, problem, compute)
    model.load_state_dict(dict(weights))
    return model


def load_weights(model: RecursiveModel, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy weights into a model; a missing, extra or misshapen tensor is a UserError that names it."""
    check_weights(model, weights, where)
    model.load_state_dict(dict(weights))


def check_weights(model: RecursiveModel, weights: Mapping[str, Tensor], where: str) -> None:
    """Raise UserError unless the weights are exactly those that the model needs."""
    own = model.state_dict()
    faults = [f"{n} is missing" for n in own.keys() - weights.keys()]
    faults += [f"{n} is not part of this model" for n in weights.keys() - own.keys()]
    faults += [
        f"{n} has shape {tuple(weights[n].shape)}, not {tuple(own[n].shape)}"
        for n in own.keys() & weights.keys()
        if weights[n].shape != own[n].shape
    ]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UserError(f"{where} is of another architecture: {min(faults)}{more}")
