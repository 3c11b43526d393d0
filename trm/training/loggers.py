"""Where the figures of a run go: `metrics.jsonl` always, and what `train.loggers` names beside it.

A logger is one class and one line in `LOGGERS`. Figures are worth less than the run: a logger that fails is
left out from then on, and said once.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, final

from trm.errors import UserError, first_line
from trm.files import write_atomic

Kind = Literal["train", "eval"]


class Logger(ABC):
    """Made with the folder of a run and the step from which it goes on: later figures come again."""

    @abstractmethod
    def write(self, kind: Kind, step: int, values: Mapping[str, float]) -> None:
        """Take figures of training or of an evaluation after so many steps."""

    def close(self) -> None:  # noqa: B027 - most have nothing to do
        """Finish what is still to be written."""


@final
class JsonLines(Logger):
    """One JSON object per line: {"kind": "train" | "eval", "step": ...}."""

    def __init__(self, folder: Path, step: int):
        self.path = folder / "metrics.jsonl"
        lines = []
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        # A run that was killed may have logged steps past its last checkpoint.
        write_atomic(self.path, "".join(line for line in lines if _step_of(line) <= step))

    def write(self, kind: Kind, step: int, values: Mapping[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": step} | dict(values)) + "\n")


def _step_of(line: str) -> float:
    """Step of a line; one that was cut short belongs to no step."""
    try:
        return json.loads(line)["step"]
    except ValueError:
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

    def close(self) -> None:
        self.writer.close()


LOGGERS: dict[str, Callable[[Path, int], Logger]] = {"tensorboard": TensorBoard}


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
        self.say = say
        self.lines = None if silent else JsonLines(folder, step)
        self.others: dict[str, Logger] = {}
        for name in () if silent else names:
            try:
                self.others[name] = LOGGERS[name](folder, step)
            except ImportError:  # a package that is not installed: the lines have it all
                continue
            except Exception as error:
                self._gone(name, error)

    def __enter__(self) -> "Loggers":
        return self

    def __exit__(self, *_: object) -> None:
        for name, logger in list(self.others.items()):
            self._try(name, logger.close)

    def write(self, kind: Kind, step: int, values: Mapping[str, float]) -> None:
        """Give figures to all of them."""
        if self.lines is not None:
            self.lines.write(kind, step, values)
        for name, logger in list(self.others.items()):
            self._try(name, lambda logger=logger: logger.write(kind, step, values))

    def _try(self, name: str, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # any: it is a stranger's code, or the network
            del self.others[name]
            self._gone(name, error)

    def _gone(self, name: str, error: Exception) -> None:
        self.say(f"logger {name} failed and is left out: {first_line(error)}")
