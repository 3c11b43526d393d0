"""Halting heads: from y to two logits, that the answer is right and that another step may improve it.

    first   a linear map of y at position 0, as in the original
    every   an answer is right when every position is: the product of probabilities, one for each position,
            so that one wrong cell in a thousand shows

Shapes: B batch, S positions, D width.
"""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trm.models.layers import Linear

# Halting starts at "almost surely not yet", so that no row stops before the model has learned.
_FIRST_LOGIT = -5.0
# Below 0 by enough that 1 - p is not 0 in float32.
HIGHEST_LOG_P = -1e-6


@final
class FirstPosition(Linear):
    """Logits [B, 2], float32, from position 0."""

    def __init__(self, width: int, positions: int):
        del positions
        super().__init__(width, 2)
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.bias, _FIRST_LOGIT)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input[:, 0]).float()


@final
class EveryPosition(Linear):
    """Logits [B, 2], float32: p = product over positions of sigmoid(linear(y)), as log(p / (1 - p)).

    At the start they are the same for every number of positions.
    """

    def __init__(self, width: int, positions: int):
        super().__init__(width, 2)
        nn.init.zeros_(self.weight)
        # A number, wherever the model is made.
        first = torch.tensor(_FIRST_LOGIT, dtype=torch.float64, device="cpu")
        log_p = F.logsigmoid(first) / positions
        nn.init.constant_(self.bias, (log_p - torch.log(-torch.expm1(log_p))).item())

    def forward(self, input: Tensor) -> Tensor:
        log_p_BK = F.logsigmoid(super().forward(input).float()).sum(1).clamp(max=HIGHEST_LOG_P)
        return log_p_BK - torch.log(-torch.expm1(log_p_BK))


HALTING_HEADS = {"first": FirstPosition, "every": EveryPosition}
