"""Where the figures of a run go: `metrics.jsonl` always, and what `train.loggers` names beside it.

A logger is one class and one line in `LOGGERS`. Figures are worth less than the run: a logger that fails is
left out from then on, and said once. What others keep of a run goes by a name that the run's folder keeps, so
that a resumed run goes on in the same place.
"""

import importlib
import json
import math
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, final

import numpy as np

import trm
from trm.config import TrainConfig
from trm.errors import UserError, first_line
from trm.files import git_commit, read_json, read_yaml, write_atomic

Kind = Literal["train", "eval"]


class Logger(ABC):
    """Made with the folder of a run and the step from which it goes on: later figures come again."""

    @abstractmethod
    def write(self, kind: Kind, step: int, values: Mapping[str, float]) -> None:
        """Take figures of training or of an evaluation after so many steps."""

    def picture(self, step: int, pixels_HWC: np.ndarray) -> None:  # noqa: B027 - not all show pictures
        """Show puzzles as they are refined after so many steps, uint8 [H, W, 3]."""

    def close(self, failed: bool = False) -> None:  # noqa: B027 - most have nothing to do
        """Finish what is still to be written; whether an error ended the run."""


@final
class JsonLines(Logger):
    """One JSON object per line: {"kind": "train" | "eval", "step": ...}."""

    def __init__(self, folder: Path, step: int):
        self.path = folder / "metrics.jsonl"
        lines = []
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        # A run that was killed may have logged steps past its last checkpoint.
        write_atomic(self.path, "".join(line for line in lines if _step_of(line) <= step))

    def write(self, kind: Kind, step: int, values: Mapping[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": step} | dict(values)) + "\n")


def _step_of(line: str) -> float:
    """Step of a line; one that was cut short, or says no step, belongs to none."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError):
        return math.inf


@final
class TensorBoard(Logger):
    """The folder `tensorboard` of a run; ImportError where the package is missing."""

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, kind: Kind, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"{kind}/{name}", value, step)

    def picture(self, step: int, pixels_HWC: np.ndarray) -> None:
        self.writer.add_image("refined", pixels_HWC, step, dataformats="HWC")

    def close(self, failed: bool = False) -> None:
        self.writer.close()


_LOGGED_AS = "logged-as.json"
_PATIENCE = 30.0  # seconds that a run waits for a server at its start


class Identity(NamedTuple):
    """What loggers outside the folder call a run."""

    id: str
    """Made once for every run, and kept in its folder."""
    name: str
    config: dict[str, Any]
    """The run's configuration, with the version and commit of the code that continues it."""

    @staticmethod
    def of(folder: Path) -> "Identity":
        """The identity of the run in a folder; the first call makes its id."""
        path = folder / _LOGGED_AS
        if not path.exists():
            write_atomic(path, json.dumps({"id": secrets.token_hex(4)}) + "\n")
        config = read_yaml(folder / "config.yaml")
        code = {"trm": trm.__version__, "commit": git_commit(Path(trm.__file__))}
        own = read_json(path)
        if not isinstance(own, dict) or not isinstance(own.get("id"), str):
            raise UserError(f"{path} is damaged: it does not say the id of the run; delete it for a new one")
        return Identity(own["id"], config["name"], config | code)


def _package(name: str) -> Any:
    """A package that is an extra of ours, by its own name."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(f"pip install 'trm[{name}]' adds it") from None


@final
class Wandb(Logger):
    """Weights & Biases, in the project of WANDB_PROJECT or else `trm`; ImportError without the package."""

    def __init__(self, folder: Path, step: int):
        wandb = _package("wandb")
        run = Identity.of(folder)
        self.image = wandb.Image
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "trm"),
            id=run.id,
            name=run.name,
            config=run.config,
            resume="allow",
            dir=str(folder),
            # The terminal belongs to the run: no questions that wait for ever, no capture of what it prints.
            settings=wandb.Settings(init_timeout=_PATIENCE, login_timeout=_PATIENCE, console="off"),
        )
        # Its own counter only rises: figures of a run that was killed come again with the same step.
        self.run.define_metric("*", step_metric="step")

    def write(self, kind: Kind, step: int, values: Mapping[str, float]) -> None:
        self.run.log({f"{kind}/{name}": value for name, value in values.items()} | {"step": step})

    def picture(self, step: int, pixels_HWC: np.ndarray) -> None:
        self.run.log({"refined": self.image(pixels_HWC), "step": step})

    def close(self, failed: bool = False) -> None:
        self.run.finish(exit_code=int(failed))


@final
class Trackio(Logger):
    """Trackio, in the project of TRACKIO_PROJECT or else `trm`; ImportError without the package."""

    def __init__(self, folder: Path, step: int):
        trackio = _package("trackio")
        run = Identity.of(folder)
        self.image = trackio.Image
        self.run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", "trm"),
            name=f"{run.name}-{run.id}",  # runs go by their names there
            config=run.config,
            resume="allow",
        )

    def write(self, kind: Kind, step: int, values: Mapping[str, float]) -> None:
        self.run.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def picture(self, step: int, pixels_HWC: np.ndarray) -> None:
        self.run.log({"refined": self.image(pixels_HWC)}, step=step)

    def close(self, failed: bool = False) -> None:
        self.run.finish()


LOGGERS: dict[str, Callable[[Path, int], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}


# Named by every run that says nothing else, whether they are installed or not.
_USUAL = TrainConfig().loggers


def check(names: Sequence[str]) -> None:
    """Raise UserError for a logger that there is not."""
    if unknown := [name for name in names if name not in LOGGERS]:
        raise UserError(f"train.loggers: unknown logger {unknown[0]!r}; known: {', '.join(LOGGERS)}")


@final
class Loggers:
    """All loggers of a run, as a context; silent where another process of the run has them."""

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        step: int,
        say: Callable[[str], object],
        silent: bool = False,
    ):
        self.say, self.pictures = say, True
        self.lines = None if silent else JsonLines(folder, step)
        self.others: dict[str, Logger] = {}
        for name in () if silent else names:
            try:
                self.others[name] = LOGGERS[name](folder, step)
            except ImportError as error:
                if name not in _USUAL:
                    say(f"logger {name} is not installed and is left out: {first_line(error)}")
            except Exception as error:
                self._gone(name, error)

    def __enter__(self) -> "Loggers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for name, logger in list(self.others.items()):
            self._try(name, lambda logger=logger: logger.close(kind is not None))

    def write(self, kind: Kind, step: int, values: Mapping[str, float]) -> None:
        """Give figures to all of them."""
        if self.lines is not None:
            self.lines.write(kind, step, values)
        for name, logger in list(self.others.items()):
            self._try(name, lambda logger=logger: logger.write(kind, step, values))

    def picture(self, step: int, draw: Callable[[], np.ndarray]) -> None:
        """Give a picture to all that show pictures; it is drawn only if there are any."""
        shown = {n: each for n, each in self.others.items() if type(each).picture is not Logger.picture}
        if not shown or not self.pictures:
            return
        try:
            pixels_HWC = draw()
        except Exception as error:
            self.pictures = False
            if not isinstance(error, ImportError):
                self._gone("pictures", error)
            elif not set(shown) <= set(_USUAL):
                self.say("pictures are left out: pip install 'trm[plot]' adds them")
            return
        for name, logger in shown.items():
            self._try(name, lambda logger=logger: logger.picture(step, pixels_HWC))

    def _try(self, name: str, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # any: it is a stranger's code, or the network
            del self.others[name]
            self._gone(name, error)

    def _gone(self, name: str, error: Exception) -> None:
        what = name if name == "pictures" else f"logger {name}"
        self.say(f"{what} failed and is left out: {first_line(error)}")
