"""Tiny Recursive Model (arXiv 2510.04871): one small network updates both the latent and the answer.

repeat T times, with gradient in the last cycle only:
    repeat n times:  z = net(x + y + z)
    y = net(y + z)
"""

from typing import final

from torch import Tensor

from trm.config import ComputeConfig, ModelConfig
from trm.models.layers import Network
from trm.models.recursive import LatentRecursion, State
from trm.problem import Problem


@final
class Trm(LatentRecursion):
    """TRM and the rows of its ablation table: see `ModelConfig`."""

    def __init__(self, config: ModelConfig, problem: Problem, compute: ComputeConfig):
        super().__init__(config, problem, compute)
        self.latent_network = self.network(config.layers)
        self.answer_network = (
            self.network(config.answer_layers or config.layers) if config.separate_networks else None
        )
        if config.single_latent:
            self.z_init = self.z_init[:0]

    @property
    def graded(self) -> int:
        return self.config.n if self.config.gradient == "last_cycle" else 1

    @property
    def answering_network(self) -> Network:
        return self.latent_network if self.answer_network is None else self.answer_network

    def update_latent(self, state: State, x_BSD: Tensor) -> State:
        y, z = state
        if self.config.single_latent:
            return State(self.latent_network(y + x_BSD), z)
        return State(y, self.latent_network(z + (y + x_BSD)))

    def update_answer(self, state: State) -> State:
        y, z = state
        return State(self.answering_network(y if self.config.single_latent else y + z), z)
