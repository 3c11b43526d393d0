"""Hierarchical Reasoning Model (arXiv 2506.21734): two networks, gradient through one update of each.

Its low level is our z and its high level our y; T and n are its H and L cycles.
"""

from typing import final

from torch import Tensor

from trm.config import ComputeConfig, ModelConfig
from trm.models.layers import Network
from trm.models.recursive import LatentRecursion, State
from trm.problem import Problem


@final
class Hrm(LatentRecursion):
    """HRM. Its continue logit and second forward pass are `SupervisionConfig.continue_loss`."""

    graded = 1

    def __init__(self, config: ModelConfig, problem: Problem, compute: ComputeConfig):
        super().__init__(config, problem, compute)
        self.latent_network = self.network(config.layers)
        self.answer_network = self.network(config.answer_layers or config.layers)

    @property
    def answering_network(self) -> Network:
        return self.answer_network

    def update_latent(self, state: State, x_BSD: Tensor) -> State:
        y, z = state
        return State(y, self.latent_network(z + (y + x_BSD)))

    def update_answer(self, state: State) -> State:
        y, z = state
        return State(self.answering_network(y + z), z)
