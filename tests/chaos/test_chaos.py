"""Whatever happens to a run, it goes on from what it had saved and ends in the same bytes.

`make chaos` does this very often; by itself it is a short form of the same, for every day.

    KILLS     how often a run is killed, by one process and by two
    EVERY     of the file operations of a run, every one or every so many-th fails in turn
"""

import errno
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import together
import torch
from test_train import config, metrics, weights

from trm import pretrained, processes
from trm.config import dump_config
from trm.errors import UserError
from trm.inference import evaluate
from trm.training import checkpoint, history, loop
from trm.training.loop import train

KILLS = int(os.environ.get("KILLS", "3"))
EVERY = int(os.environ.get("EVERY", "61"))
SETTINGS = config(
    train={"steps": 8, "log_every": 1, "eval_every": 4, "checkpoint_every": 1, "loggers": ()},
)


@pytest.fixture(scope="module", autouse=True)
def forks_inherit_what_is_compiled(tmp_path_factory) -> None:
    train(SETTINGS, tmp_path_factory.mktemp("first") / "run", stop_after=1)
    processes.MEETING = timedelta(seconds=20)  # one may be killed before it has met the other


def go_on(folder: Path) -> None:
    """Train to the end: a run that had begun goes on, another starts."""
    assert train(None if (folder / "config.yaml").exists() else SETTINGS, folder).finished


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Callable[[int], tuple[dict[str, bytes], float]]:
    """The weights that a run by so many processes ends with, and how many seconds it takes."""
    known: dict[int, tuple[dict[str, bytes], float]] = {}

    def run(count: int) -> tuple[dict[str, bytes], float]:
        if count not in known:
            folder = tmp_path_factory.mktemp("undisturbed") / "run"
            started = time.monotonic()
            together.together(count, lambda: go_on(folder), folder.with_suffix(".log"))
            known[count] = weights(folder), time.monotonic() - started
        return known[count]

    return run


def nothing_is_left_over(folder: Path) -> bool:
    return not [path for path in folder.glob("**/.*") if path.name != ".metadata"]


@pytest.mark.parametrize("count", [1, 2])
def test_killed_at_random_moments(tmp_path: Path, undisturbed, count: int):
    """Every kill hits one process; the others end by themselves, and all go on together."""
    wanted, seconds = undisturbed(count)
    chance = random.Random(count)
    kills = runs = early = 0
    while kills < KILLS:
        folder, runs = tmp_path / f"run{runs}", runs + 1
        step, codes = 0, [1]
        while codes != [0] * count:
            ids = together.start(count, lambda folder=folder: go_on(folder), tmp_path / "log")
            if kills < KILLS:
                time.sleep(chance.uniform(0, 0.6 * seconds))
                victim = chance.randrange(count)
                if os.waitpid(ids[victim], os.WNOHANG)[0] == 0:
                    os.kill(ids[victim], signal.SIGKILL)
                    kills += 1
                    early += not (folder / "config.yaml").exists()
                    codes = together.join(ids)
                    reached = checkpoint.steps_saved(folder / "checkpoints")[-1:] or [0]
                    assert reached[0] >= step, "what was saved is lost"
                    (step,) = reached
                    continue
                ids.remove(ids[victim])
                together.join(ids)
                break
            codes = together.join(ids)
            said = [(tmp_path / f"log{rank}").read_text() for rank in range(count)]
            assert codes == [0] * count, said
        assert weights(folder) == wanted, f"after {kills} kills"
        logged = [line["step"] for line in metrics(folder, "train")]
        assert logged == list(range(1, SETTINGS.train.steps + 1)), "every step is logged once"
        assert nothing_is_left_over(folder)
        shutil.rmtree(folder)
        print(f"{count} processes: {kills} kills in {runs} runs, {early} before they had begun; 0 lost")


_TOUCHES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "os.fsync")


class Faulty:
    """Makes the n-th operation on files below a folder fail, and all later ones where the fault stays."""

    def __init__(self, folder: Path, at: int, number: int, stays: bool):
        self.folder, self.at, self.number, self.stays, self.count = str(folder), at, number, stays, 0
        sys.addaudithook(self.watch)
        fsync, save_file = os.fsync, pretrained.save_file

        def faulty_fsync(handle: int) -> None:
            self.watch("os.fsync", (f"/proc/self/fd/{handle}",))
            fsync(handle)

        def faulty_save_file(tensors: object, path: Path) -> None:
            self.watch("os.mkdir", (str(path),))
            save_file(tensors, path)

        os.fsync, pretrained.save_file = faulty_fsync, faulty_save_file

    def watch(self, event: str, arguments: tuple) -> None:
        if event not in _TOUCHES or not isinstance(arguments[0], str | Path):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        path = str(arguments[0])
        if event == "os.fsync":
            path = str(Path(path).readlink())
        if path.startswith(self.folder):
            self.count += 1
            if self.count == self.at or (self.stays and self.count > self.at):
                raise OSError(self.number, os.strerror(self.number), path)


@pytest.mark.parametrize(("number", "stays"), [(errno.ENOSPC, False), (errno.EROFS, True)])
def test_every_operation_on_files_may_fail(tmp_path: Path, undisturbed, number: int, stays: bool):
    """The command says so in one line and with exit code 2; once there is room, the run goes on."""
    from trm import cli

    short = config(train={"steps": 3, "eval_every": 2, "checkpoint_every": 1, "loggers": (), "keep": 1})
    (tmp_path / "short.yaml").write_text(dump_config(short))
    whole = tmp_path / "whole"
    together.together(1, lambda: train(short, whole) and None, tmp_path / "log")
    wanted, at, failed = weights(whole), 1, 0
    while True:
        folder = tmp_path / "run"

        def work(folder: Path = folder, at: int = at) -> int:
            fault = Faulty(folder, at, number, stays)
            code = cli.main(["train", str(tmp_path / "short.yaml"), "--out", str(folder)])
            return code or (3 if fault.count < at else 0)

        (code,) = together.join(together.start(1, work, tmp_path / "log"))
        said = (tmp_path / "log0").read_text()
        if code == 3:  # so many operations there are not
            break
        if code:
            failed += 1
            errors = [line for line in said.splitlines() if line.startswith("trm: error: ")]
            assert (code, len(errors)) == (2, 1) and "Traceback" not in said, (
                f"operation {at}: {code}, {said}"
            )

        def go(folder: Path = folder) -> None:
            train(None if (folder / "config.yaml").exists() else short, folder)

        together.together(1, go, tmp_path / "log")
        assert weights(folder) == wanted, f"operation {at}"
        assert nothing_is_left_over(folder), f"operation {at}"
        shutil.rmtree(folder)
        print(f"{os.strerror(number)}: operation {at}, {failed} ended the run; 0 lost")
        at += EVERY
    assert failed > 1


def _when(monkeypatch, where: object, name: str, then: Callable[[], None]) -> None:
    """Let something happen once when a function is called."""
    real, happened = getattr(where, name), []

    def call(*arguments: object, **options: object) -> object:
        if not happened:
            happened.append(True)
            then()
        return real(*arguments, **options)

    monkeypatch.setattr(where, name, call)


@pytest.mark.parametrize(
    ("where", "name", "saves"),
    [
        (loop.sources, "generate", False),
        (checkpoint, "sha256", True),
        (pretrained, "save_file", True),
        (evaluate, "_trace", True),
    ],
    ids=["generation", "checkpoint", "export", "evaluation"],
)
def test_a_request_to_stop_comes_at_a_bad_moment(
    tmp_path: Path, undisturbed, monkeypatch, where: object, name: str, saves: bool
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        _when(patch, where, name, lambda: os.kill(os.getpid(), signal.SIGTERM))
        ids = together.start(1, lambda: train(SETTINGS, folder).signal or 0, tmp_path / "log")
    assert together.join(ids) == [signal.SIGTERM if saves else -signal.SIGTERM]
    assert bool(checkpoint.steps_saved(folder / "checkpoints")) == saves
    together.together(1, lambda: go_on(folder), tmp_path / "log")
    assert weights(folder) == undisturbed(1)[0] and nothing_is_left_over(folder)


@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore::DeprecationWarning")  # of torch's compiler
def test_a_request_to_stop_comes_while_torch_compiles(tmp_path: Path, undisturbed, monkeypatch):
    """The step that had begun is taken, compiled, and saved."""
    folder, compile_, asked = tmp_path / "run", torch.nn.Module.compile, []

    def as_it_is(graph: torch.fx.GraphModule, _: object) -> Callable:
        if not asked:  # a second request would end it at once
            asked.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_(self, backend=as_it_is))
    settings = SETTINGS.model_copy(
        update={"compute": SETTINGS.compute.model_copy(update={"compile": "block"})}
    )
    ids = together.start(1, lambda: train(settings, folder).signal or 0, tmp_path / "log")
    assert together.join(ids) == [signal.SIGTERM], (tmp_path / "log0").read_text()
    assert checkpoint.steps_saved(folder / "checkpoints") == [1]
    plainly = {"compile": "none"}
    together.together(1, lambda: train(None, folder, compute=plainly) and None, tmp_path / "log")
    assert weights(folder) == undisturbed(1)[0] and nothing_is_left_over(folder)


def test_the_clock_jumps(tmp_path: Path, undisturbed, monkeypatch):
    """Whenever it is read, it is another day; and what was written last looks oldest."""
    folder, real, day = tmp_path / "run", time.time, 86_400
    chance = random.Random(0)
    monkeypatch.setattr(time, "time", lambda: real() + chance.randint(-10_000, 10_000) * day)
    together.together(1, lambda: train(SETTINGS, folder, stop_after=4) and None, tmp_path / "log")
    for age, path in enumerate(sorted(folder.rglob("*"), key=lambda each: each.stat().st_mtime_ns)):
        os.utime(path, (real() + (50 - age) * day,) * 2)
    together.together(1, lambda: go_on(folder), tmp_path / "log")
    assert weights(folder) == undisturbed(1)[0]
    monkeypatch.setattr(time, "time", lambda: real() - 100 * day)
    run = history.read(folder)
    assert (run.state, run.step, run.changed) == ("finished", 8, 0)


def test_two_runs_in_one_folder(tmp_path: Path, undisturbed):
    """The second is refused, at whatever moment it comes, and the first does not notice."""
    folder = tmp_path / "run"
    ids = together.start(1, lambda: go_on(folder), tmp_path / "log")
    refused = 0
    while not (folder.exists() and any(folder.iterdir())):  # it has the folder
        time.sleep(0.01)
    while os.waitpid(ids[0], os.WNOHANG)[0] == 0:
        try:
            train(None if (folder / "config.yaml").exists() else SETTINGS, folder, stop_after=0)
        except UserError as error:
            refused += "is being trained (another process holds" in str(error)
        time.sleep(0.02)
    assert refused > 3
    assert weights(folder) == undisturbed(1)[0]


def test_a_folder_is_copied_while_it_is_written(tmp_path: Path, undisturbed):
    """The copy goes on to the same end, or says what is wrong with it."""
    folder, copies = tmp_path / "run", []
    ids = together.start(1, lambda: go_on(folder), tmp_path / "log")
    while os.waitpid(ids[0], os.WNOHANG)[0] == 0:
        if checkpoint.steps_saved(folder / "checkpoints") and len(copies) < max(2, KILLS // 10):
            copies.append(tmp_path / f"copy{len(copies)}")
            os.system(f"cp -r {folder} {copies[-1]} 2>/dev/null")  # files may vanish meanwhile
        time.sleep(0.05)
    for copy in copies:
        (code,) = together.join(together.start(1, lambda copy=copy: go_on(copy), tmp_path / "log"))
        said = (tmp_path / "log0").read_text()
        assert code == 0 or (code == 2 and "UserError: " in said), said
        assert code or weights(copy) == undisturbed(1)[0]
    assert copies
