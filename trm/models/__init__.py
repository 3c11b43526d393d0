"""Models: one contract (`RecursiveModel`), a few final classes, one function that builds them."""

from trm.config import ModelConfig
from trm.models.hrm import Hrm
from trm.models.recursive import Output, Problem, RecursiveModel, State
from trm.models.transformer import Transformer
from trm.models.trm import Trm

__all__ = ["Output", "Problem", "RecursiveModel", "State", "build"]

_CLASSES = {"trm": Trm, "hrm": Hrm, "transformer": Transformer}


def build(config: ModelConfig, problem: Problem) -> RecursiveModel:
    """Build the configured model with fresh weights from torch's global generator."""
    return _CLASSES[config.kind](config, problem)
