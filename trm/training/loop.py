"""The training loop.

Everything a step needs is a pure function of the configuration, the step number and the carried state,
and all carried state is in the checkpoint: a run that is interrupted anywhere and resumed ends with the
same weights, bit for bit on a CPU.

Several processes (see `processes`) train as one would: each has its share of the rows of every batch, all
have the same weights, and the first alone writes and speaks. A run may be resumed with another number.

A run is a folder:

    config.yaml       what was asked for
    metrics.jsonl     one JSON object per line: {"kind": "train" | "eval", "step": ...}
    data/             generated puzzles, if the recipe generates them
    data.json         numbers and hashes of the puzzles, which a resumed run must find again
    checkpoints/      state for resuming (see `checkpoint`)
    seen.json         what the weights have seen of ARC, those that the run started from included
    best/, last/      weights to use (see `pretrained`): best on validation, and newest
    tensorboard/      the same figures, if TensorBoard is installed
    logged-as.json    what loggers outside the folder call the run
    run.lock          held by the process that trains
"""

import json
import math
import signal
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

import trm
from trm import device, pretrained, processes
from trm.config import ComputeConfig, dump_config, parse
from trm.data import sources
from trm.data.batches import Batches
from trm.errors import UserError
from trm.files import (
    drafts,
    full_disk_is_a_user_error,
    git_commit,
    held,
    read_json,
    remove_drafts,
    write_atomic,
)
from trm.inference.evaluate import Report, evaluate
from trm.inference.picture import refinements
from trm.models import RecursiveModel, build
from trm.processes import Processes
from trm.puzzles.arc.readers import Seen
from trm.puzzles.family import Family, TrainingData
from trm.recipe import RunConfig, absent, load_config, located
from trm.terminal import bar, pixels
from trm.training import checkpoint, loggers
from trm.training.decisions import Decisions
from trm.training.hints import Hints
from trm.training.history import LOCK
from trm.training.loggers import Loggers
from trm.training.optim import Ema, Optimizer, learning_rate_factor
from trm.training.step import TrainingStep

_SEEN, _DATA = "seen.json", "data.json"
_PICTURED = 3  # puzzles of the pictures that loggers show
# What a run writes into its folder: nothing else there is touched.
_FILES = ("config.yaml", _SEEN, _DATA, "metrics.jsonl", "data", "best", "last")


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended."""

    folder: Path
    step: int
    finished: bool
    signal: int | None
    best: float
    """Best exact accuracy on validation; negative where nothing was validated."""
    start: int = 0
    """Step from which it trained."""
    speaks: bool = True
    """Whether this is the process to say so, where several train together."""


def train(
    config: RunConfig | None,
    folder: Path,
    stop_after: int | None = None,
    compute: Mapping[str, Any] | None = None,
    console: Console | None = None,
    steps: int | None = None,
) -> Outcome:
    """Train from a configuration into a new folder, or resume the run in `folder` (config None).

    `steps` is a new length for a run that is resumed, finished or not. `stop_after` ends this call once that
    many steps of the run are done; the run can be resumed later. The same happens on SIGINT and SIGTERM.
    `compute` changes options of that section: a run that is resumed may be on another machine. What this one
    cannot do, a run does without, and says so. A new run that torchrun starts again, as a process had died,
    is resumed. Raises UserError for anything the user can fix; the last checkpoint stays good.
    """
    console = console or Console(quiet=True)
    with full_disk_is_a_user_error(f"the run in {folder} stopped"):
        resume = config is None or (processes.restarted() and (folder / "config.yaml").exists())
        if config is None or resume:
            config = _reopen(folder)
        chosen = config.compute
        if compute:
            values = config.model_dump()
            values["compute"] |= compute
            chosen = parse(RunConfig, values, "options").compute
        loggers.check(config.train.loggers)
        settled, changes = device.pick(chosen, fall_back=resume and "device" not in (compute or {}))
        with processes.joined(settled.device) as group, ExitStack() as holding:
            if not group.first:
                console = Console(quiet=True)
            if changes:
                console.print(f"computing {', '.join(changes)}")
            with group.first_ahead():
                if group.first:
                    if not resume:
                        _check_new(folder)  # before anything is put there
                    holding.enter_context(_alone(folder))
                if resume and steps is not None:
                    config = _longer(config, folder, steps, console)
                run = _prepare(config, chosen, settled, folder, resume, console, group)
            if resume:
                run.restore()
            run.begin_alike()
            group.by_first(lambda: _lay_out(run, config if not resume or steps is not None else None))
            say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
            with (
                _signals(group.first) as caught,
                Loggers(config.train.loggers, folder, run.step, say, silent=not group.first) as metrics,
            ):
                start = run.step
                number = _loop(run, metrics, caught, stop_after, console)
    finished = run.step >= config.train.steps
    return Outcome(folder, run.step, finished, number or None, run.best[0], start, group.first)


def _prepare(
    config: RunConfig,
    chosen: ComputeConfig,
    settled: ComputeConfig,
    folder: Path,
    resume: bool,
    console: Console,
    group: Processes,
) -> "_Run":
    """A run at its beginning: its data there, its model built; `chosen` is how it was asked to compute."""
    if group.first and not resume:
        _check_new(folder)  # once more: another may have had it until now
    if group.first:
        checkpoint.tidy(folder / "checkpoints")
    family, generator = config.family.build(), config.data.generator()
    total = sum(generator.counts().values()) if generator else 0
    begun = resume and bool(checkpoint.steps_saved(folder / "checkpoints"))
    # Earlier versions kept no record, and held out the first rows.
    recorded = (folder / _DATA).exists() or not begun
    there = begun or not group.first  # what is generated was
    with bar(console, "generating", total) as generating:
        data = sources.prepare(
            config.data, family, config.seed, folder / "data", generating.at, there, not recorded
        )
    if data.remark:
        console.print(data.remark)
    if begun:
        if group.first:
            remove_drafts(folder, *_FILES)
        _check_data(folder, data)
    run = _Run(config.model_copy(update={"compute": chosen}), settled, family, data, folder, group)
    if group.first:
        remove_drafts(folder, *_FILES)  # of a new run only now, as all checks have passed
        if not begun:
            write_atomic(folder / _DATA, json.dumps(_records(data), indent=1) + "\n")
    return run


def _lay_out(run: "_Run", config: RunConfig | None) -> None:
    """Write what a run keeps of itself: how it was asked for, where that is new, and what it has seen."""
    if config is not None:
        write_atomic(run.folder / "config.yaml", dump_config(located(config, run.folder)))
    if run.seen is not None:  # before anything is learned: no later state may lack it
        run.seen.save(run.folder / _SEEN)


def _loop(run: "_Run", metrics: Loggers, caught: list[int], stop_after: int | None, console: Console) -> int:
    """Train until the run is finished, `stop_after` is reached, or a signal asks for an end.

    A signal to any of the processes ends all of them after the same step. Returns its number, or 0.
    """
    config = run.config.train
    end = min(config.steps, config.steps if stop_after is None else stop_after)
    with bar(console, run.config.name, config.steps, run.step) as progress:
        while not (number := run.group.largest(max(caught, default=0))) and run.step < end:
            run.one_step()
            evaluating = run.step % config.eval_every == 0 or run.step == config.steps
            evaluating &= len(run.validation) > 0
            saving = run.step % config.checkpoint_every == 0
            note = None
            if run.step % config.log_every == 0 or evaluating or saving:
                line = run.read_meters()
                metrics.write("train", run.step, line)
                note = f"loss {line['loss']:.3f}  exact {100 * line['exact_accuracy']:.1f} %"
            progress.at(run.step, note)
            if evaluating:
                report = run.evaluate()
                metrics.write("eval", run.step, _summary(report) | {"seconds": run.seconds()})
                metrics.picture(run.step, run.picture)
                exact, cells = report.early_stop.exact, report.early_stop.cells
                better = (exact.value, cells.value) > run.best
                if better:
                    run.best = exact.value, cells.value
                    run.export("best", report)
                progress.say(
                    f"step {run.step:>6}  {run.seconds():6.0f} s  validation exact {exact}  "
                    f"cells {100 * cells.value:.2f} %  "
                    f"steps {report.early_stop.mean_steps:.2f}" + ("  best" if better else "")
                )
            if saving:
                run.save()
    if run.step != run.saved:  # the end, wherever it came
        if run.training_step.steps_since_reading:
            metrics.write("train", run.step, run.read_meters())
        run.save()
    return number


class _Run:
    """The state of a run: everything that changes from step to step."""

    def __init__(
        self,
        config: RunConfig,
        compute: ComputeConfig,
        family: Family,
        data: TrainingData,
        folder: Path,
        group: Processes,
    ):
        self.config, self.family, self.data, self.folder = config, family, data, folder
        self.group, self.rows = group, group.share(config.train.batch)
        self.validation = data.validation.take(slice(config.train.eval_puzzles))
        self.problem = family.problem(data.puzzles)
        own = [group.local_rank] if compute.device == "cuda" else 1
        self.fabric = Fabric(accelerator=compute.device, devices=own)
        if compute.device == "mps" and config.loss.tokens == "stablemax64":
            raise UserError("this device has no float64: use --loss.tokens stablemax")
        torch.manual_seed(config.seed)
        self.module = build(config.model, self.problem, compute)
        self.seen = self._take_weights()
        self.model = cast(RecursiveModel, self.fabric.setup_module(self.module))  # the same, wrapped
        self.module.train()
        self.device = self.fabric.device
        graph = compute.cuda_graph
        self.optimizer = Optimizer(
            config.optimizer, self.module, config.train.steps, graph, group, config.train.batch
        )
        self.ema = Ema(config.ema, self.module, capturable=graph) if config.ema.decay else None
        self.hints, self.decisions = self._hints(), self._decisions()
        self.training_step = self._training_step(graph)
        self.commit, self.trained_on = "", None  # the first process writes them
        if group.first:
            self.commit, self.trained_on = git_commit(Path(trm.__file__)), self._marks()
        self.step = self.saved = 0
        self.best = (-1.0, -1.0)  # exact and cell accuracy on validation; cells decide between equals
        self._seconds_before, self._start = 0.0, time.perf_counter()

    def _take_weights(self) -> Seen | None:
        """Start from other weights and freeze what is not to be learned; what training will have seen."""
        seen, start = self.data.seen, self.config.train.start_from
        if start:
            # Once there is a checkpoint, the run holds all that it took from there.
            if checkpoint.steps_saved(self.folder / "checkpoints"):
                before = _seen_before(self.folder)
            else:
                before = pretrained.start_from(self.module, start, self.family, self.data.variants)
            seen = before if seen is None else before | seen
        if self.config.optimizer.only_puzzles:
            if self.module.embed.puzzle is None:
                raise UserError("optimizer.only_puzzles needs puzzle embeddings: set model.puzzle_width")
            self.module.requires_grad_(False)
        return seen

    def _marks(self) -> np.ndarray | None:
        """Marks of the training puzzles and of those that the weights it started from had seen."""
        if self.family.named_ids:  # which say by name what was seen
            return None
        known = pretrained.trained_on(self.folder / "last")
        if known is not None:
            return known
        train, start = self.data.train, self.config.train.start_from
        first_N = slice(None) if train.group_N is None else np.unique(train.group_N, return_index=True)[1]
        own = pretrained.marks(self.family, train.tokens_NL[first_N])
        before = pretrained.trained_on(pretrained.find(start)[0]) if start else None
        return np.unique(own if before is None else np.concatenate((own, before)))

    def _hints(self) -> Hints | None:
        config = self.config
        if not config.supervision.hints:
            return None
        if not self.family.same_cells:
            raise UserError("supervision.hints needs questions and answers with the same cells")
        puzzles = len(self.data.train)
        return Hints(config.supervision, puzzles, config.train.batch, self.device, self.group)

    def _decisions(self) -> Decisions | None:
        config = self.config
        if not config.supervision.conflicts:
            return None
        return Decisions(config.supervision, self.module, self.rows)

    def _training_step(self, graph: bool) -> TrainingStep:
        config, data = self.config, self.data
        augment = data.augment(self.device)
        batches = Batches(data.train, self.rows, augment, self.device, data.chance_N)
        return TrainingStep(
            config,
            self.model,
            self.optimizer,
            self.ema,
            draw=lambda number: batches.batch(config.seed, number),
            backward=self.fabric.backward,
            graph=graph,
            hints=self.hints,
            decisions=self.decisions,
            processes=self.group,
        )

    def begin_alike(self) -> None:
        """Start from the weights of the first process: machines may differ in the last bit of a new one."""
        averages = self.ema.averages if self.ema else {}
        self.group.copy_from_first([*self.module.state_dict().values(), *averages.values()])

    def one_step(self) -> None:
        """One supervision step of the batch in flight, which is one optimizer step."""
        self.training_step(self.step)
        self.step += 1

    def read_meters(self) -> dict[str, float]:
        """Means since the last reading, which they end; a loss that is not finite is a UserError."""
        sums = self.training_step.read()
        rows, halted = sums.pop("rows"), sums.pop("count")
        losses = {name: value / rows for name, value in sums.items() if name.endswith("loss")}
        if not math.isfinite(losses["loss"]):
            raise self.group.everywhere(self._not_finite())
        counts = {name: sums.pop(name) / rows for name in ("wrong", "alarms", "right_alarms") if name in sums}
        others = {name: value / max(halted, 1) for name, value in sums.items() if name not in losses} | counts
        if self.hints is not None:
            others["hints"] = self.hints.level_N.float().mean().item()
        return losses | others | {"halted": halted / rows, "seconds": self.seconds()}

    def _not_finite(self) -> UserError:
        saved = checkpoint.steps_saved(self.folder / "checkpoints")
        where = f"the last good checkpoint is step {saved[-1]}" if saved else "there is no checkpoint yet"
        return UserError(
            f"the loss was not finite at step {self.step}; {where}. "
            "Lower optimizer.lr or set optimizer.clip, and train into a new folder"
        )

    def evaluate(self) -> Report:
        """Accuracy of the average (or of the weights, where there is none) on validation puzzles."""
        with self.ema.applied() if self.ema else nullcontext():
            steps = self.config.supervision.steps
            return evaluate(self.module, self.validation, steps, family=self.family, processes=self.group)

    def picture(self) -> np.ndarray:
        """The first validation puzzles being refined, uint8 [H, W, 3]; ImportError without matplotlib."""
        with self.ema.applied() if self.ema else nullcontext():
            first, steps = self.validation.take(slice(_PICTURED)), self.config.supervision.steps
            return pixels(refinements(self.module, self.family, first, steps))

    def export(self, name: str, report: Report | None = None) -> None:
        """Write the weights for use: the average with the raw ones beside it, or just the raw ones."""
        self.group.by_first(lambda: self._export(name, report))

    def _export(self, name: str, report: Report | None = None) -> None:
        raw = pretrained.weights(self.module)
        averages = {n: w.cpu() for n, w in self.ema.averages.items()} if self.ema else {}
        about = {
            "trm": trm.__version__,
            "commit": self.commit,
            "recipe": self.config.model_dump(mode="json"),
            "step": self.step,
            "training_seconds": round(self.seconds(), 1),
        }
        if report is not None:
            about["validation"] = _summary(report)
        config = pretrained.PretrainedConfig(
            family=self.config.family,
            model=self.config.model,
            puzzles=self.problem.puzzles,
            puzzle_ids=self.data.variants.digest() if self.data.variants else "",
            steps=self.config.supervision.steps,
            about=about,
        )
        originals = {n: raw[n] for n in averages}
        variants, seen = self.data.variants, self.seen
        pretrained.save(
            self.folder / name, config, raw | averages, originals or None, variants, seen, self.trained_on
        )

    def seconds(self) -> float:
        """Seconds spent in the loop, those before a resume included."""
        return self._seconds_before + time.perf_counter() - self._start

    def save(self) -> None:
        """Write a checkpoint, and the newest weights for use; weights that are not finite are refused."""
        state = self._state()
        weights = [*state["model"].values(), *state["ema"].values()]
        if not all(w.isfinite().all() for w in weights):
            raise self.group.everywhere(self._not_finite())
        if not self.group.alike(weights):
            apart = UserError(
                f"at step {self.step} the processes no longer have the same weights: one of their machines "
                "computes wrongly or otherwise; resume from the last checkpoint with machines of one kind"
            )
            raise self.group.everywhere(apart)
        folder, keep = self.folder / "checkpoints", self.config.train.keep
        self.group.by_first(lambda: checkpoint.save(folder, self.step, state, keep))
        self.saved = self.step
        self.export("last")

    def restore(self) -> None:
        """Load the newest checkpoint; a run that has none yet starts from its beginning."""
        if not checkpoint.steps_saved(self.folder / "checkpoints"):
            return
        state = self._state()
        with self.group.first_ahead():
            self.step = self.saved = checkpoint.load(self.folder / "checkpoints", state)
        for each, saved in zip(self.optimizer.optimizers, state["optimizers"].values(), strict=True):
            groups = get_optimizer_state_dict(self.module, each)["param_groups"]
            set_optimizer_state_dict(self.module, each, {"state": saved, "param_groups": groups})
        for section, tensors in self._rows_in_flight().items():
            for name, own in tensors.items():
                own.copy_(state[section][name][self.rows.start : self.rows.stop])
        self.best = tuple(state["counters"]["best"].tolist())
        self._seconds_before = state["counters"]["seconds"].item()
        self._start = time.perf_counter()
        self.group.by_first(self._catch_up)

    def _catch_up(self) -> None:
        if pretrained.step_of(self.folder / "last") != self.step:
            self._export("last")  # a kill came between the checkpoint and these weights

    def _state(self) -> dict[str, Any]:
        """All of the run as nested dictionaries of tensors, those of the rows of all processes included.

        So it does not depend on their number. Learning rates and the like are left out: they follow from the
        configuration and the step. The meters are left out, as a checkpoint is written right after they are
        read.
        """
        batch = self.config.train.batch
        rows = {
            section: {name: self.group.whole(own, batch) for name, own in tensors.items()}
            for section, tensors in self._rows_in_flight().items()
        }
        hints = {"level": self.hints.level_N} if self.hints else {}
        return rows | {
            "model": self.module.state_dict(),
            "ema": self.ema.averages if self.ema else {},
            "optimizers": {
                str(i): get_optimizer_state_dict(self.module, each)["state"]
                for i, each in enumerate(self.optimizer.optimizers)
            },
            "hints": hints | rows["hints"],
            "counters": {
                "best": torch.tensor(self.best, dtype=torch.float64),
                "seconds": torch.tensor(self.seconds(), dtype=torch.float64),
            },
        }

    def _rows_in_flight(self) -> dict[str, dict[str, torch.Tensor]]:
        """What is kept of each row in flight, of this process's own ones."""
        slots = self.training_step.slots
        return {
            "slots": slots.batch._asdict()
            | slots.state._asdict()
            | {"steps": slots.steps_B, "halted": slots.halted_B},
            "hints": {"hinted": self.hints.hinted_B} if self.hints else {},
            "decisions": self.decisions.tensors() if self.decisions else {},
        }


def _summary(report: Report) -> dict[str, float]:
    """The figures of an evaluation that are logged."""
    figures = report.early_stop
    return {
        "n": report.n,
        "exact_accuracy": figures.exact.value,
        "exact_low": figures.exact.low,
        "exact_high": figures.exact.high,
        "cell_accuracy": figures.cells.value,
        "mean_steps": figures.mean_steps,
        "calibration_error": report.calibration.error,
    } | {name: share.value for name, share in figures.grades.items()}


@contextmanager
def _signals(speaks: bool) -> Generator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one does what it always did."""
    caught: list[int] = []
    previous = {}

    def note(number: int, _frame: object) -> None:
        caught.append(number)
        if speaks:
            print("stopping after this step; once more stops at once, without saving", file=sys.stderr)
        signal.signal(number, previous[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread: signals stay as they are
        pass
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _seen_before(folder: Path) -> Seen:
    """What a run that is going on has seen so far; UserError where no record is left."""
    # Earlier versions kept it beside the newest weights alone.
    for path in (folder / _SEEN, folder / "last" / _SEEN):
        if path.exists():
            return Seen.load(path)
    raise UserError(
        f"{folder / _SEEN} is missing: it says what the weights have seen, and without it nothing would keep "
        "them from being scored on what they were trained on; put it back, or train into a new folder"
    )


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Hold the folder of a run, which is trained once at a time, making it if it is not there.

    A run that does not begin leaves no mark, and no folder of its own if that is empty.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / LOCK, f"the run in {folder} is being trained"):
        try:
            yield
        finally:
            with suppress(OSError):
                if not (folder / "config.yaml").exists():
                    (folder / LOCK).unlink()
                    if made:
                        folder.rmdir()


def _check_new(folder: Path) -> None:
    """Raise UserError unless a new run may have the folder: it is not there, or empty, or left by a run.

    A run that was killed before it had begun leaves its generated puzzles and drafts of its own.
    """
    if (folder / "config.yaml").exists():
        raise UserError(
            f"{folder} holds another run; resume it with `trm train --resume {folder}`, "
            "or choose another folder with --out"
        )
    if not folder.exists():
        return
    own = {folder / "data", folder / _DATA, folder / LOCK, *drafts(folder, *_FILES)}
    if not folder.is_dir() or any(path not in own for path in folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no run; choose another folder with --out")


def _longer(config: RunConfig, folder: Path, steps: int, console: Console) -> RunConfig:
    """The run with another number of steps; says what becomes of the learning rate."""
    done = max(checkpoint.steps_saved(folder / "checkpoints"), default=0)
    if steps <= done:
        raise UserError(f"{folder} has done {done} steps: give more with --train.steps, such as {2 * done}")
    new = config.model_copy(update={"train": config.train.model_copy(update={"steps": steps})})
    then, now = (learning_rate_factor(config.optimizer, done, n) for n in (config.train.steps, steps))
    words = f"{config.train.steps} steps are now {steps}"
    if config.optimizer.schedule == "constant":
        console.print(f"{words}; the learning rate stays constant")
    else:
        console.print(
            f"{words}; the schedule {config.optimizer.schedule} is that of the whole: at step {done} the "
            f"learning rate goes from {100 * then:.3g} % to {100 * now:.3g} % of its peak",
            soft_wrap=True,
        )
    return new


def _records(data: TrainingData) -> dict[str, Any]:
    return {name: record._asdict() for name, record in sources.records(data).items()}


def _check_data(folder: Path, data: TrainingData) -> None:
    """Raise UserError unless the data are those that the run was started with."""
    if data.variants is not None and (folder / "last").exists():
        remedy = "restore the data, or train into a new folder"
        pretrained.check_ids(folder / "last", data.variants, remedy)
    path = folder / _DATA
    if not path.exists():  # a run of an earlier version, which kept no record
        return
    before = read_json(path, "it says what the run is trained on")
    for name, now in _records(data).items():
        then = before.get(name) if isinstance(before, dict) else None
        if then != now:
            rows = then.get("rows", "no") if isinstance(then, dict) else "no"
            raise UserError(
                f"the {name} puzzles are not those that this run was started with ({rows} then, "
                f"{now['rows']} now): put the data back as they were, or train into a new folder"
            )


def _reopen(folder: Path) -> RunConfig:
    """The configuration of the run in a folder."""
    path = folder / "config.yaml"
    if not path.exists():
        raise UserError(f"{folder} holds no run (no config.yaml); start one with `trm train RECIPE --out`")
    config = load_config(path)
    for option, name in absent(config.data):
        beside = "" if Path(name).is_absolute() else f", neither from {folder} nor from here"
        raise UserError(
            f"{path} names the file {name} (data.{option}), and it is not there{beside}: put it back, or "
            f"correct the path in {path}"
        )
    return config
