"""Several processes in a test: forks of this one, which talk to each other as those that torchrun starts."""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from trm.errors import UserError


def free_port() -> str:
    """A port of this machine at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def start(count: int, work: Callable[[], object], log: Path) -> list[int]:
    """Fork processes that do some work together; their ids, in the order of their ranks.

    They write what they say to `log` and their rank; they end with 0, with 2 after a UserError, or with
    what the work returns, if that is a number.
    """
    port = free_port()
    ids = []
    for rank in range(count):
        if child := os.fork():
            ids.append(child)
            continue
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        os.environ |= {name: str(value) for name, value in environment.items()}
        if count > 1:
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        _run(work, log.with_name(f"{log.name}{rank}"))
    return ids


def _run(work: Callable[[], object], log: Path) -> None:
    code = 1
    try:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout = sys.stderr = file
            try:
                result = work()
                code = result if isinstance(result, int) else 0
            except UserError as error:
                print(f"{type(error).__name__}: {error}")
                code = 2
            except BaseException:
                traceback.print_exc(file=file)
            file.flush()
    finally:
        os._exit(code)


def join(ids: Sequence[int], seconds: float = 120) -> list[int]:
    """Wait for processes: their exit codes, negative for the number of a signal that killed one."""
    codes, deadline = {}, time.monotonic() + seconds
    while len(codes) < len(ids):
        for each in set(ids) - set(codes):
            done, status = os.waitpid(each, os.WNOHANG)
            if done:
                codes[each] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            for each in set(ids) - set(codes):
                os.kill(each, signal.SIGKILL)
                os.waitpid(each, 0)
            raise TimeoutError(f"only {len(codes)} of {len(ids)} processes ended")
        time.sleep(0.005)
    return [codes[each] for each in ids]


def together(count: int, work: Callable[[], object], log: Path) -> None:
    """Do some work by several processes, all of which must end well."""
    codes = join(start(count, work, log))
    said = "\n".join(log.with_name(f"{log.name}{rank}").read_text() for rank in range(count))
    assert codes == [0] * count, f"exit codes {codes}\n{said}"
