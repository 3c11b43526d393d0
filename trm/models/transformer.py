"""Plain baseline behind the same contract: one stack of blocks per supervision step, no inner recursion."""

from typing import final

from torch import Tensor

from trm.config import ComputeConfig, ModelConfig
from trm.models.layers import Network
from trm.models.recursive import RecursiveModel, State
from trm.problem import Problem


@final
class Transformer(RecursiveModel):
    """y = net(y + x), once per supervision step; T and n are not used, and there is no z."""

    def __init__(self, config: ModelConfig, problem: Problem, compute: ComputeConfig):
        super().__init__(config, problem, compute)
        self.answer_network = self.network(config.layers)
        self.z_init = self.z_init[:0]

    def applications(self) -> tuple[list[Network], list[Network]]:
        return [self.answer_network], [self.answer_network]

    def refine(self, state: State, x_BSD: Tensor) -> State:
        return State(self.answer_network(state.y_BSD + x_BSD), state.z_BSD)
