"""Hints: in training, some rows get further cells of their solution as clues.

A network that cannot solve a puzzle yet learns little from being asked again. So a row is given as many
hints as its puzzle needs at present: one fewer after it was solved with them, one more after it was not.
The number is kept for every training puzzle, and is part of the state of a run.

Shapes: B batch, L cells, N training puzzles.
"""

import torch
from torch import Tensor

from trm import rng
from trm.config import SupervisionConfig
from trm.data.batches import IGNORE, Batch
from trm.processes import ALONE, Processes
from trm.training.losses import correctness
from trm.training.supervision import Step


class Hints:
    """How many hints each puzzle needs, and which rows in flight have some.

    `batch` is the number of rows of all processes. Every process knows what became of all of them.
    """

    def __init__(
        self,
        config: SupervisionConfig,
        puzzles: int,
        batch: int,
        device: torch.device | str,
        processes: Processes = ALONE,
    ):
        self.share, self.processes = config.hints, processes
        rows = processes.share(batch)
        self.first = rows.start
        self.level_N = torch.full((puzzles,), config.first_hints, dtype=torch.int32, device=device)
        self.hinted_B = torch.zeros(len(rows), dtype=torch.bool, device=device)

    def add(self, offered: Batch, key: Tensor) -> tuple[Batch, Tensor]:
        """The batch with hints in some of its rows, and which rows these are, bool [B]."""
        row_B = rng.rows(key, range(self.first, self.first + len(offered.row_B)))
        hinted_B = rng.uniform(row_B, 1).squeeze(-1) < self.share
        hint_BL = random_hints(offered, self.level_N[offered.row_B] * hinted_B, rng.fold(row_B, 1))
        return offered._replace(
            tokens_BL=torch.where(hint_BL, offered.labels_BL, offered.tokens_BL)
        ), hinted_B

    def learn(self, free_B: Tensor, hinted_B: Tensor, step: Step) -> None:
        """Follow what became of the rows: `free_B` and `hinted_B` are of the step's refill."""
        self.hinted_B.copy_(torch.where(free_B, hinted_B, self.hinted_B))
        slots = step.slots
        _, exact_B = correctness(step.output.logits_BLV.detach(), slots.batch.labels_BL)
        learned_B = slots.halted_B & self.hinted_B
        if step.posed_wrong_B is not None:
            learned_B &= ~step.posed_wrong_B
        change_B = (1 - 2 * exact_B.int()) * learned_B
        change_N = torch.zeros_like(self.level_N)
        change_N.index_add_(0, slots.batch.row_B, change_B.to(change_N.dtype))
        self.processes.add_up([change_N])
        self.level_N.add_(change_N).clamp_(0, slots.batch.tokens_BL.shape[1])


def random_hints(offered: Batch, count_B: Tensor, key_B: Tensor) -> Tensor:
    """That many cells of each row whose answer the question does not show, drawn at random, bool [B, L]."""
    open_BL = (offered.labels_BL != IGNORE) & (offered.labels_BL != offered.tokens_BL)
    # Cells that are not open come last in the order, and are cut off by the mask in any case.
    draw_BL = rng.uniform(key_B, open_BL.shape[1]).masked_fill(~open_BL, 2.0)
    rank_BL = draw_BL.argsort(dim=1).argsort(dim=1)
    return open_BL & (rank_BL < count_B.unsqueeze(1))
