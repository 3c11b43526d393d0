"""Damaged files of every kind: a correct result or one line of words, never a traceback, a hang or code run.

A case is a set of good files with one or two of them damaged (see `damage`), read as the command reads them
(see `doors`). `make test` tries a few of every kind, always the same; `make fuzz` continues with new ones for
TRM_FUZZ_SECONDS, and prints how many it tried.
"""

import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import pytest
from damage import Files, damaged
from doors import DOORS, files_of, put
from hypothesis import HealthCheck, Phase, given, seed, settings

import trm
from trm import cli
from trm.errors import UserError
from trm.files import git_commit

SECONDS = float(os.environ.get("TRM_FUZZ_SECONDS", 0))
FEW = 12  # cases of a kind in `make test`
LONGEST = 10  # seconds of computing that a case may take
every_door = pytest.mark.parametrize("name", DOORS)
RUNS_CODE = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "subprocess.Popen",
    "socket.connect",
    "ctypes.dlopen",
)
_watching: list[str] | None = None


def _audit(event: str, args: tuple) -> None:
    if _watching is not None and event in RUNS_CODE:
        _watching.append(f"{event}{args}")


sys.addaudithook(_audit)  # for good: it cannot be taken out


class Hangs(BaseException):
    pass


def _stop(*_: object) -> None:
    raise Hangs


@contextmanager
def watched() -> Iterator[None]:
    """Fail where the block takes too long, or runs a program."""
    global _watching
    ran: list[str] = []
    before = signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    _watching, start = ran, time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        _watching = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    assert not ran
    assert time.process_time() - start < LONGEST


@pytest.fixture
def good(name: str, tmp_path: Path) -> Files:
    """Good files of a kind, read once: what is imported late is there then."""
    folder = tmp_path / "good"
    folder.mkdir()
    DOORS[name].make(folder)
    made = files_of(folder)
    DOORS[name].read(folder)
    return made


def _damaged_names(name: str, files: Files) -> tuple[str, ...]:
    return tuple(each for each in files if any(fnmatch(each, pattern) for pattern in DOORS[name].damage))


@pytest.mark.parametrize("name", [name for name, door in DOORS.items() if door.command])
def test_the_command_says_it_in_one_line(name: str, good: Files, tmp_path: Path, capsys, monkeypatch):
    """Files that are something else altogether: exit code 2, and what is wrong."""
    monkeypatch.chdir(tmp_path)
    put(good | dict.fromkeys(_damaged_names(name, good), b"\xff\x00[/]\x1b[2J"), tmp_path / "case")
    capsys.readouterr()
    with watched():
        code = cli.main([word.format(tmp_path / "case") for word in DOORS[name].command])
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("trm: error: ")
    assert err.rstrip("\n").isprintable()


@every_door
def test_damaged_files(name: str, good: Files, tmp_path: Path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    door, files = DOORS[name], good
    names = _damaged_names(name, files)
    git_commit(Path(trm.__file__))  # once, by a program: no file asks for it
    tried = refused = 0

    def case(new: Files) -> None:
        nonlocal tried, refused
        tried += 1
        put(new, tmp_path / "case")
        with watched():
            try:
                door.read(tmp_path / "case")
            except UserError as error:
                refused += 1
                assert str(error).strip()

    end = time.monotonic() + SECONDS / len(DOORS)
    number = 0
    while number == 0 or time.monotonic() < end:
        phases = None if SECONDS else (Phase.generate,)  # what fails is made smaller only in the long form
        options = settings(
            max_examples=50 if SECONDS else FEW,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            **({} if phases is None else {"phases": phases}),
        )
        start = int(time.time()) if SECONDS else 0
        seed(start + number)(options(given(damaged(files, names))(case)))()
        number += 1
    assert refused or SECONDS, "nothing was refused: the damage does not reach what is read"
    if SECONDS:
        with capfd.disabled():
            print(f"\n{name}: {tried} cases, {refused} refused")
