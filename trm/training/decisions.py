"""Decisions in training: some rows decide and are taken back, as in a search (see `inference.search`).

The network learns three things that a search needs: to go on from what was decided, to notice that a
decision was wrong, and to go on after it was taken back. A row decides by the policy of the search. If the
decision contradicts its solution, the conflict takes the place of the solution as the row's target, until
the decision is taken back after a random number of steps: training never acts on the alarms of a head that
is still learning.

Wrong decisions are rare and hard to see through. So other rows are posed with a contradiction from the start:
a wrong symbol that no single rule forbids, and from none to most of the solution, which makes all of it from
hard to easy. Such a row ends when its conflict is noticed.

Shapes: B batch, L cells, N symbols, S = L * N candidates, D width.
"""

import torch
from torch import Tensor

from trm import rng
from trm.config import SupervisionConfig
from trm.data.batches import IGNORE, Batch
from trm.inference.search import Policy, decided, excluded, ruled_out, surest
from trm.models import Output, RecursiveModel, State
from trm.models.candidates import Candidates
from trm.models.embedding import OPEN
from trm.training.losses import correctness
from trm.training.supervision import Slots

# The largest share of the open cells that a row with a contradiction shows; it draws its own.
MOST_SHOWN = 0.6


class Decisions:
    """What is given and ruled out in every row in flight, and the state before its last sound decision.

    `rows` are the numbers of these rows in the global batch.
    """

    def __init__(self, config: SupervisionConfig, model: RecursiveModel, rows: range):
        assert isinstance(model, Candidates)
        self.config, self.model, self.policy, self.rows = config, model, Policy(), rows
        cells, symbols = model.relations.candidates // model.relations.symbols, model.relations.symbols
        device = model.y_init.device

        def whole(fill: int, *shape: int) -> Tensor:
            return torch.full((len(rows), *shape), fill, dtype=torch.int64, device=device)

        self.kind_BLN, self.saved_kind_BLN = whole(0, cells, symbols), whole(0, cells, symbols)
        self.answer_BL = whole(-1, cells)
        self.candidate_B, self.wait_B, self.since_B = whole(0), whole(0), whole(0)
        self.decides_B, self.wrong_B = whole(0).bool(), whole(0).bool()
        self.saved = State(*(part.clone() for part in model.initial_state(len(rows))))

    def tensors(self) -> dict[str, Tensor]:
        """All state, by name."""
        own = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return own | {f"saved_{name}": part for name, part in self.saved._asdict().items()}

    @property
    def posed_wrong_B(self) -> Tensor:
        """Rows that were posed with a contradiction: there is no decision to take back."""
        return self.wrong_B & (self.candidate_B < 0)

    def begin(self, fresh_B: Tensor, batch: Batch, key: Tensor) -> Tensor:
        """Start fresh rows anew; the kinds of all candidates, [B, S]."""
        row_B = rng.rows(key, self.rows)
        decides_B, contradicts_B = rng.uniform(row_B, 2).unbind(1)
        decides_B, contradicts_B = (
            decides_B < self.config.decisions,
            contradicts_B < self.config.contradictions,
        )
        asked_BLN = self.model.kinds_of(batch.tokens_BL).view_as(self.kind_BLN)
        if self.config.contradictions:
            wrong_BLN = self._contradiction(batch, rng.fold(row_B, 1))
            asked_BLN = torch.where(contradicts_B.view(-1, 1, 1), wrong_BLN, asked_BLN)
        self.kind_BLN.copy_(torch.where(fresh_B.view(-1, 1, 1), asked_BLN, self.kind_BLN))
        self.answer_BL.masked_fill_(fresh_B.unsqueeze(1), -1)
        self.candidate_B.masked_fill_(fresh_B, -1)
        self.since_B.masked_fill_(fresh_B, 0)
        self.wrong_B.copy_(torch.where(fresh_B, contradicts_B, self.wrong_B))
        self.decides_B.copy_(torch.where(fresh_B, decides_B, self.decides_B))
        return self.kind_BLN.flatten(1).clone()  # the gradient of the embedding needs it unchanged

    def _contradiction(self, batch: Batch, key_B: Tensor) -> Tensor:
        """The kinds of every row with some more of its solution and one wrong candidate given, [B, L, N]."""
        labels_BL = batch.labels_BL
        share_B1 = MOST_SHOWN * rng.uniform(rng.fold(key_B, 1), 1)
        shown_BL = (rng.uniform(rng.fold(key_B, 2), labels_BL.shape[1]) < share_B1) & (labels_BL != IGNORE)
        shown_BLN = self.model.kinds_of(torch.where(shown_BL, labels_BL, batch.tokens_BL))
        shown_BLN = shown_BLN.view_as(self.kind_BLN)
        true_BLN = labels_BL.unsqueeze(-1) == self.model.token_N
        wrong_BLN = (shown_BLN == OPEN) & ~true_BLN
        hidden_BLN = wrong_BLN & ~excluded(shown_BLN.flatten(1), self.model.relations).view_as(wrong_BLN)
        # Any of those that no rule forbids; without one, any that is wrong.
        draw_BS = rng.uniform(rng.fold(key_B, 3), wrong_BLN[0].numel())
        order_BS = draw_BS + wrong_BLN.flatten(1) + hidden_BLN.flatten(1)
        return decided(shown_BLN, order_BS.argmax(1))

    def follow(self, slots: Slots, output: Output, key: Tensor) -> Slots:
        """Take back and decide after a supervision step; the slots with the states that follow."""
        token_N = self.model.token_N
        answer_BL = output.logits_BLV.argmax(-1)
        chance_BLN = self.model.chances(output.logits_BLV)
        row_B = rng.rows(key, self.rows)
        candidate_B, undecided_B = surest(chance_BLN, self.kind_BLN, self.policy, row_B)

        back_B = self.wrong_B & (self.wait_B <= 0) & ~self.posed_wrong_B
        _, exact_B = correctness(output.logits_BLV.detach(), slots.batch.labels_BL)
        self.since_B.add_(1)
        rests_B = (answer_BL == self.answer_BL).all(-1) | (self.since_B >= self.policy.patience)
        decide_B = self.decides_B & undecided_B & rests_B & ~exact_B & ~back_B & ~slots.halted_B

        # Wrong rows decide on, as they would unnoticed, but go back to where the first error was made.
        save_B = decide_B & ~self.wrong_B
        label_B = slots.batch.labels_BL.gather(1, (candidate_B // len(token_N)).unsqueeze(1)).squeeze(1)
        errs_B = save_B & (token_N[candidate_B % len(token_N)] != label_B)
        state, saved = slots.state, slots.state.where(save_B, self.saved)
        for own, new in zip(self.saved, saved, strict=True):
            own.copy_(new)
        self.saved_kind_BLN.copy_(torch.where(save_B.view(-1, 1, 1), self.kind_BLN, self.saved_kind_BLN))
        self.candidate_B.copy_(torch.where(save_B, candidate_B, self.candidate_B))
        wait_B = rng.randint(rng.fold(row_B, 1), 0, self.config.longest_wrong)
        self.wait_B.copy_(torch.where(errs_B, wait_B, self.wait_B - 1))

        kind_BLN = torch.where(decide_B.view(-1, 1, 1), decided(self.kind_BLN, candidate_B), self.kind_BLN)
        before_BLN = ruled_out(self.saved_kind_BLN, self.candidate_B)
        self.kind_BLN.copy_(torch.where(back_B.view(-1, 1, 1), before_BLN, kind_BLN))
        self.wrong_B.copy_((self.wrong_B & ~back_B) | errs_B)
        self.since_B.masked_fill_(decide_B | back_B, 0)
        self.answer_BL.copy_(answer_BL.masked_fill(back_B.unsqueeze(1), -1))
        return slots._replace(state=self.saved.where(back_B, state))
