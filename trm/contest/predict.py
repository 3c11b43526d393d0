"""Answers to ARC tasks: predicted under many variants, turned back, put to the vote; and learning new tasks.

A trained model answers the test inputs of tasks that it has puzzle embeddings for. Every variant of a task
(see `data.variants`) gives one prediction. Votes start afresh at every call: they are of this model alone.

A task without embeddings is learned first: `adapt` trains a copy of the model on the demonstrations of new
tasks, the whole network or their embeddings alone.

Shapes: R rows, L tokens.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from trm import pretrained
from trm.config import parse
from trm.contest.voting import Candidate, Prediction, pass_at, rank
from trm.errors import UserError
from trm.inference.evaluate import Share, mean_share
from trm.inference.solver import chunk_size
from trm.inference.think import never, think, when_settled
from trm.pretrained import Pretrained
from trm.processes import ALONE, Processes
from trm.puzzles.arc.canvas import to_canvas
from trm.puzzles.arc.family import Arc
from trm.puzzles.arc.readers import ArcTask
from trm.puzzles.arc.rows import puzzle_id
from trm.puzzles.arc.variants import transform, undo
from trm.recipe import RunConfig
from trm.training import loop

if TYPE_CHECKING:
    from rich.console import Console

    from trm.training.loop import Outcome

KS = (1, 2, 5, 10, 100, 1000)


class Answers(NamedTuple):
    """What a model says of every test input, by task name, in the task's order."""

    ranked: dict[str, list[list[Candidate]]]
    """Candidates by vote, best first."""
    single: dict[str, list[list[Candidate]]]
    """The one prediction for the task as it stands, without voting."""


@dataclass(frozen=True)
class Score:
    """Scores on tasks with known answers: the mean over tasks of the share of test inputs solved."""

    tasks: int
    """Tasks with known answers."""
    single_pass: Share
    """One prediction per test input, without variants and votes."""
    pass_at: dict[int, Share]
    """With k attempts per test input, chosen by vote."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


class _Row(NamedTuple):
    """One question to the network: a test input under a variant."""

    task: str
    test: int
    grid: np.ndarray
    puzzle: int
    dihedral: int
    colours_C: np.ndarray


def predict(
    found: Pretrained,
    tasks: Sequence[ArcTask],
    votes: int | None = None,
    steps: int | None = None,
    all_steps: bool = False,
    progress: Callable[[int], None] = lambda done: None,
    processes: Processes = ALONE,
) -> Answers:
    """Answer all test inputs of tasks that the model has puzzle embeddings for.

    Args:
        found: an ARC model.
        tasks: what to answer; outputs of test pairs are not looked at.
        votes: most variants per task, the task itself first. Default: all.
        steps: most supervision steps. Default: as many as in training.
        all_steps: run every row to the last step, as the paper does.
        progress: called with the number of rows done, of `count_rows`.
        processes: deal the rows between them; all get the same answers.

    Raises:
        UserError: the model has no embeddings for a task, or a grid does not fit its canvas.
    """
    rows, steps = _rows(found, tasks, votes), steps or found.config.steps
    answered = _answered(found, rows, steps, all_steps, progress, processes)
    answers = Answers({}, {})
    for (task, _), voters in itertools.groupby(answered, lambda each: (each[0].task, each[0].test)):
        ballot = [prediction for _, prediction in voters]
        answers.ranked.setdefault(task, []).append(rank(ballot))
        answers.single.setdefault(task, []).append(rank(ballot[:1]))
    return answers


def count_rows(found: Pretrained, tasks: Sequence[ArcTask], votes: int | None = None) -> int:
    """Number of rows that `predict` runs."""
    known = found.variants()
    return sum(len(_voters(known.ids(task.name), votes)) * len(task.test) for task in tasks)


def score(answers: Answers, tasks: Sequence[ArcTask]) -> Score:
    """Score answers, with intervals over tasks; UserError where no task has known answers."""
    outputs = {task.name: [pair.output for pair in task.test] for task in tasks}
    known = {name: grids for name, grids in outputs.items() if all(grid is not None for grid in grids)}
    if not known:
        raise UserError(f"the answers of {len(tasks)} tasks are unknown: there is nothing to score")

    def shares(ranked: dict[str, list[list[Candidate]]], ks: Sequence[int]) -> dict[int, Share]:
        each = [pass_at(ranked, {name: grids}, ks) for name, grids in known.items()]
        return {k: mean_share(np.array([scores[k] for scores in each])) for k in ks}

    return Score(len(known), shares(answers.single, (1,))[1], shares(answers.ranked, KS))


def adapt(
    model: str,
    source: str,
    folder: Path,
    steps: int,
    variants: int = 100,
    only_puzzles: bool = False,
    device: str = "auto",
    console: "Console | None" = None,
) -> "Outcome":
    """Train a copy of an ARC model on the demonstrations of new tasks; the result is a run in `folder`.

    Args:
        model: weights, as for `pretrained.load`.
        source: the tasks (see `data.arc.read`); outputs of their test pairs are not looked at.
        folder: a new run.
        steps: optimizer steps.
        variants: most variants per task.
        only_puzzles: learn the puzzle embeddings of the new tasks and leave the network as it is.
        device: where to compute.
        console: where to show progress.

    Raises:
        UserError: it is not an ARC model, has no puzzle embeddings, or does not say how it was trained.
    """
    start, config = pretrained.find(model)
    recipe = config.about.get("recipe")
    if config.family.name != "arc" or not (config.puzzle_ids and config.model.puzzle_width):
        raise UserError(f"{start} is not an ARC model with puzzle embeddings: train one with a recipe arc...")
    if recipe is None:
        raise UserError(f"{start} does not say how it was trained, so it cannot be trained on")
    base = parse(RunConfig, recipe, str(start))
    values = base.model_dump()
    values["name"] = f"adapt {base.name}"
    values["family"]["variants"] = variants
    parts = [part.strip() for part in source.split(",")]
    values["data"] = {
        "demonstrations": ",".join(str(Path(p).resolve()) if Path(p).exists() else p for p in parts)
    }
    values["model"] = config.model.model_dump()
    values["compute"] = {"device": device}  # how the first machine computed does not matter here
    values["optimizer"] |= {
        "only_puzzles": only_puzzles,
        "schedule": "constant",
        "warmup": min(base.optimizer.warmup, steps // 10),
    }
    # The average looks back over a part of this short run, not over all that came before.
    values["ema"] = {"decay": min(base.ema.decay, max(0.0, 1 - 10 / steps))}
    values["train"] |= {
        "start_from": str(start.resolve()),
        "steps": steps,
        "log_every": max(1, min(base.train.log_every, steps // 10)),
        "checkpoint_every": steps,
    }
    return loop.train(parse(RunConfig, values, "adapt"), folder, console=console)


def _rows(found: Pretrained, tasks: Sequence[ArcTask], votes: int | None) -> Iterator[_Row]:
    family, known = found.family, found.variants()
    assert isinstance(family, Arc)
    index = {name: i for i, name in enumerate(known.names)}
    for each in tasks:
        for test, pair in enumerate(each.test):
            for variant, at in enumerate(_voters(known.ids(each.name), votes)):
                puzzle = puzzle_id(family, known, index[each.name], variant)
                if puzzle >= found.config.puzzles:
                    raise UserError(
                        f"{found.folder} names more puzzle ids than it has embeddings: it is damaged"
                    )
                way = int(known.dihedral_P[at]), known.colours_PC[at]
                yield _Row(each.name, test, transform(pair.input, *way), puzzle, *way)


def _voters(ids: range, votes: int | None) -> range:
    return ids if votes is None else ids[:votes]


def _chunks(rows: Iterable[_Row], size: int) -> Iterator[list[_Row]]:
    part: list[_Row] = []
    for row in rows:
        part.append(row)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _answered(
    found: Pretrained,
    rows: Iterable[_Row],
    steps: int,
    all_steps: bool,
    progress: Callable[[int], None],
    processes: Processes,
) -> Iterator[tuple[_Row, Prediction]]:
    """Every row with what the network predicts for it, computed chunk by chunk."""

    def answered(part: list[_Row]) -> list[list[tuple[_Row, Prediction]]]:
        return [list(zip(part, _answer(found, part, steps, all_steps), strict=True))]

    done = 0
    for part in processes.deal(_chunks(rows, chunk_size(found.model)), answered):
        yield from part
        done += len(part)
        progress(done)


def _answer(found: Pretrained, rows: Sequence[_Row], steps: int, all_steps: bool) -> list[Prediction]:
    """The network's answers, turned back into each task's own orientation and colours."""
    family, device = found.family, found.model.y_init.device
    assert isinstance(family, Arc)
    tokens_RL = (
        torch.from_numpy(np.stack([to_canvas(row.grid, family.side) for row in rows])).long().to(device)
    )
    puzzle_R = torch.tensor([row.puzzle for row in rows], device=device)
    answer_RL = np.zeros(tokens_RL.shape, np.uint8)
    halt_R = np.zeros(len(rows))
    for thought in think(found.model, tokens_RL, puzzle_R, steps, never if all_steps else when_settled):
        leaving = thought.row_A[thought.done_A].cpu().numpy()
        answer_RL[leaving] = thought.answer_AL[thought.done_A].cpu().numpy()
        # In float32 the probability is 1 from a logit of 17 on, and ties would be broken by chance.
        halt_R[leaving] = thought.halt_A[thought.done_A].cpu().double().sigmoid().numpy()
    return [
        Prediction(undo(family.grid(answer_L), row.dihedral, row.colours_C), float(halt))
        for row, answer_L, halt in zip(rows, answer_RL, halt_R, strict=True)
    ]
