"""`trm train`: from a recipe to weights."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from tyro.conf import AvoidSubcommands, Positional, arg

from trm.commands.common import at_least, console
from trm.errors import UserError
from trm.recipe import RunConfig

# Ways to get validation puzzles, of which a run has one.
_VALIDATION = ("validation", "hold_out", "hold_out_variants")


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

        Ctrl-C or SIGTERM saves a checkpoint and stops; a resumed run ends with the same weights.

        For example:
          trm train mini
          trm train sudoku-fast --data.train train.csv --data.validation validation.csv
          trm train mini --model.width 96 --optimizer.lr 1e-3 --out runs/wide
          trm train --resume runs/wide --device cpu
          trm train sudoku-paper --processes 4
          torchrun --nproc-per-node 8 -m trm train sudoku-paper

        Args:
            recipe_name: A recipe by name (see `trm info`) or a YAML file; it must come first.
            out: Folder of the run. Default: runs/RECIPE.
            resume: Go on with the run in this folder.
            stop_after: Stop, saved, once this many steps of the run are done.
            processes: Share the rows of every batch between so many processes of this machine, one for each
                GPU. torchrun and SLURM's srun start them on several machines. The result is the same, up to
                the order in which rounded numbers are added; a run may go on with another number.
            config: Values of the recipe.
        """
        from trm.training.loop import train as run

        if recipe_name != name:
            raise UserError(f"the recipe must come first: trm train {recipe_name} [options]")
        at_least(1, stop_after=stop_after, processes=processes)
        as_it_was = config.model_copy(update={"compute": recipe.compute}) == recipe
        if resume is not None and (out is not None or not as_it_was or recipe_name != "mini"):
            raise UserError(
                "--resume goes on with the run as it is: only --stop-after, --processes and how to compute "
                "(--device, --dtype, --compile, --kernels, --cuda-graph) go with it"
            )
        folder = resume or out or Path("runs") / Path(recipe_name).stem
        if processes > 1:
            return _start(processes, ["train", *_without(arguments, "--processes")], folder)
        asked = {option: value for option, value in config.compute if option in given} if resume else {}
        outcome = run(None if resume else config, folder, stop_after, asked, console())
        if not outcome.speaks:
            return 0 if outcome.signal is None else 128 + outcome.signal
        if outcome.finished:
            judged = outcome.best >= 0
            best = f"; best validation exact {100 * outcome.best:.2f} %" if judged else ""
            print(f"finished {outcome.step} steps{best}")
            weights = outcome.folder / ("best" if judged else "last")
            print(f"weights: {weights}; try `trm eval {outcome.folder} --data FILE`")
            return 0
        print(f"stopped at step {outcome.step}, saved; go on with `trm train --resume {outcome.folder}`")
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
            f"ended; what was saved is good: go on with `trm train --resume {folder} --processes {processes}`"
        ) from None
    return 0
