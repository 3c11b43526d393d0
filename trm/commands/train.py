"""`trm train`: from a recipe to weights."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import AvoidSubcommands, Positional, arg

from trm.commands.common import Volume, at_least, console
from trm.errors import UserError, out_of_memory_is_a_user_error
from trm.recipe import RunConfig

if TYPE_CHECKING:
    from trm.training.loop import Outcome

# Ways to get validation puzzles, of which a run has one.
_VALIDATION = ("validation", "hold_out", "hold_out_variants")
# Options that `--help` shows; all others are rarely needed, and `--help-all` shows them too.
COMMON = frozenset(
    {"out", "resume", "stop_after", "processes", "seed", "device", "dtype"}
    | {f"family.{name}" for name in ("box_rows", "box_cols", "height", "width", "side")}
    | {f"data.{name}" for name in ("train", "validation", "hold_out", "augment", "demonstrations", "tasks")}
    | {f"data.generate.{name}" for name in ("train", "validation", "test")}
    | {f"model.{name}" for name in ("kind", "width", "layers", "T", "n", "mixing")}
    | {"supervision.steps", "optimizer.name", "optimizer.lr", "optimizer.warmup", "optimizer.schedule"}
    | {"ema.decay", "train.start_from", "train.batch", "train.steps", "train.eval_every"}
)
_LOW = 0.5  # share of validation puzzles below which a finished run says how to continue


def command(recipe: RunConfig, name: str = "mini", arguments: Sequence[str] = ()) -> Callable[..., int]:
    """The command `train` with a recipe's values as the defaults of its options.

    Where the arguments say how validation puzzles are got, the recipe's own way is not in their way.
    """
    words = (word.split("=")[0] for word in arguments if word.startswith("--"))
    given = {word.removeprefix("--").removeprefix("no-").replace("-", "_") for word in words}
    if ways := {way for way in _VALIDATION if f"data.{way}" in given}:
        fields = type(recipe.data).model_fields
        replaced = {way: fields[way].default for way in _VALIDATION if way in fields and way not in ways}
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update=replaced)})

    def train(
        recipe_name: Annotated[Positional[str], arg(name="recipe", metavar="RECIPE")] = "mini",
        /,
        *,
        out: Path | None = None,
        resume: Path | None = None,
        stop_after: int | None = None,
        processes: int = 1,
        config: Annotated[RunConfig, arg(name=""), AvoidSubcommands] = recipe,
    ) -> int:
        """Train a model from a recipe; any of its values can be changed by an option.

        Ctrl-C or SIGTERM saves a checkpoint and stops; a resumed run ends with the same weights. A run can be
        made longer, finished or not.

        For example:
          trm train mini
          trm train sudoku-fast --data.train train.csv --data.validation validation.csv
          trm train mini --model.width 96 --optimizer.lr 1e-3 --out runs/wide
          trm train --resume runs/wide --device cpu
          trm train --resume runs/wide --train.steps 3000
          trm train sudoku-paper --processes 4
          torchrun --nproc-per-node 8 -m trm train sudoku-paper

        Args:
            recipe_name: A recipe by name (see `trm info`) or a YAML file; it must come first.
            out: Folder of the run. Default: runs/RECIPE.
            resume: Resume the run in this folder, as it was; with --train.steps, up to that many steps.
            stop_after: Stop, saved, once this many steps of the run are done.
            processes: Share the rows of every batch between so many processes of this machine, one for each
                GPU. torchrun and SLURM's srun start them on several machines. The result is the same, up to
                the order in which rounded numbers are added; a run may be resumed with another number.
            config: Values of the recipe.
        """
        from trm.training.loop import train as run

        if recipe_name != name:
            raise UserError(f"the recipe must come first: trm train {recipe_name} [options]")
        at_least(1, stop_after=stop_after, processes=processes)
        longer = "train.steps" in given
        changed = {
            "compute": recipe.compute,
            "train": config.train.model_copy(update={"steps": recipe.train.steps}),
        }
        as_it_was = config.model_copy(update=changed) == recipe
        if resume is not None and (out is not None or not as_it_was or recipe_name != "mini"):
            raise UserError(
                "--resume takes the run as it is: only --train.steps, --stop-after, --processes and how to "
                "compute (--device, --dtype, --compile, --kernels, --cuda-graph) go with it"
            )
        if "model.heads" in given and config.model.mixing != "attention":
            raise UserError(
                f"--model.heads is for mixing attention, and would do nothing for {config.model.mixing}"
            )
        folder = resume or out or Path("runs") / Path(recipe_name).stem
        if processes > 1:
            said = [f"--{name}" for name in ("quiet", "verbose") if getattr(Volume, name)]
            return _start(processes, ["train", *_without(arguments, "--processes"), *said], folder)
        asked = {option: value for option, value in config.compute if option in given} if resume else {}
        steps = config.train.steps if resume and longer else None
        with out_of_memory_is_a_user_error("lower --train.batch, or start with a smaller model"):
            outcome = run(None if resume else config, folder, stop_after, asked, console(work=True), steps)
        if not outcome.speaks:
            return 0 if outcome.signal is None else 128 + outcome.signal
        if outcome.finished:
            print("\n".join(_finished(outcome)))
            return 0
        print(f"stopped at step {outcome.step}, saved; resume it with `trm train --resume {outcome.folder}`")
        return 0 if outcome.signal is None else 128 + outcome.signal

    return train


def _without(arguments: Sequence[str], option: str) -> list[str]:
    """Arguments without an option and its value."""
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == option:
            next(words, None)
        elif not word.startswith(option + "="):
            kept.append(word)
    return kept


def _start(processes: int, arguments: list[str], folder: Path) -> int:
    """Run `trm` with arguments in so many processes of this machine, as torchrun does; the exit code."""
    import logging
    import os
    import signal
    import sys
    import uuid

    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise UserError("torchrun has started several processes already: leave out --processes")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    logging.disable()  # what went wrong is said here, in a line
    how = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        elastic_launch(how, sys.executable)("-m", "trm", *arguments)
    except SignalException as error:
        return 128 + error.sigval
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        killed = {rank: -code for rank, code in codes.items() if code < 0}
        if not killed:  # they have said why
            return max(codes.values())
        rank, number = next(iter(killed.items()))
        raise UserError(
            f"process {rank} of {processes} was killed ({signal.Signals(number).name}) and the others were "
            "ended; what was saved is good: "
            f"resume with `trm train --resume {folder} --processes {processes}`"
        ) from None
    return 0


def _finished(outcome: "Outcome") -> list[str]:
    """What to say of a run that has all its steps: what came of it, and what to do next."""
    judged, folder = outcome.best >= 0, outcome.folder
    best = f"; best validation exact {100 * outcome.best:.2f} %" if judged else ""
    longer = f"`trm train --resume {folder} --train.steps {2 * outcome.step}`"
    lines = [f"finished {outcome.step} steps{best}"]
    if outcome.start == outcome.step:
        lines = [f"the run has all its {outcome.step} steps{best}; to make it longer: {longer}"]
    elif judged and outcome.best < _LOW:
        lines.append(f"that is low: if the loss was still falling, make the run longer: {longer}")
    weights = folder / ("best" if judged else "last")
    return [*lines, f"weights: {weights}; try `trm eval {folder} --data FILE`"]
