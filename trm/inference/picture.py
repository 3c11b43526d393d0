"""Puzzles as the network refines them: the question, the answer after some steps, the right answer."""

import numpy as np
import torch
from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table

from trm.inference.think import think
from trm.models import RecursiveModel
from trm.puzzles.family import Family
from trm.puzzles.table import Puzzles


def refinements(model: RecursiveModel, family: Family, puzzles: Puzzles, steps: int) -> RenderableType:
    """A row for every puzzle, with its answer after 1, 2, 4, ... supervision steps and after the last.

    A puzzle ends as in an evaluation: when its halting logit is positive and its answer stood still. Where
    the halting probability is shown, it is the model's own belief that this answer is right.
    """
    trained = model.training
    try:
        model.eval()
        panels = _panels(model, family, puzzles, steps)
    finally:
        model.train(trained)
    table = Table.grid(padding=(0, 1))
    for row in panels:
        table.add_row(*row)
    return table


def _panels(model: RecursiveModel, family: Family, puzzles: Puzzles, steps: int) -> list[list[Panel]]:
    device = model.y_init.device
    tokens_NL = torch.from_numpy(np.array(puzzles.tokens_NL)).long().to(device)
    puzzle_N = torch.from_numpy(np.array(puzzles.puzzle_N)).long().to(device)
    rows = [[Panel.fit(family.render(t_L, t_L), title="puzzle")] for t_L in puzzles.tokens_NL]
    before_NL = np.array(puzzles.tokens_NL)
    for thought in think(model, tokens_NL, puzzle_N, steps, same_cells=family.same_cells):
        answers_AL = thought.answer_AL.cpu().numpy().astype(np.uint8)
        chance_A, done_A = thought.halt_A.sigmoid().tolist(), thought.done_A.tolist()
        for i, n in enumerate(thought.row_A.tolist()):
            if thought.step & (thought.step - 1) and not (done_A[i] or thought.step == steps):
                continue
            drawn = family.render(puzzles.tokens_NL[n], answers_AL[i], before_NL[n])
            belief = f"{100 * chance_A[i]:.1f} %"
            rows[n].append(Panel.fit(drawn, title=f"step {thought.step}", subtitle=belief))
            before_NL[n] = answers_AL[i]
    for n, answer_L in enumerate(puzzles.answers_NL):
        verified = family.verify(puzzles.tokens_NL[n], before_NL[n])  # there may be other right answers
        right = np.array_equal(before_NL[n], answer_L) if verified is None else verified
        drawn = family.render(puzzles.tokens_NL[n], answer_L, before_NL[n])
        rows[n].append(Panel.fit(drawn, title="solution", subtitle="solved" if right else "not yet"))
    return rows
