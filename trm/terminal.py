"""What long work shows: a bar with speed and ETA on a terminal, plain lines elsewhere."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Speed(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="cyan")


class Bar:
    """One line of progress; `note` is free text at its end."""

    def __init__(self, progress: Progress, task: TaskID):
        self._progress, self._task = progress, task
        self._start = self._last = time.monotonic()
        self._first = progress.tasks[task].completed

    def at(self, done: int, note: str | None = None) -> None:
        """Move to `done` items, keeping the old note unless there is a new one."""
        fields: dict[str, Any] = {} if note is None else {"note": note}
        self._progress.update(self._task, completed=done, **fields)
        now = time.monotonic()
        if self._progress.disable and now - self._last >= pause(now - self._start):
            self._last = now
            self._say_where(done, now - self._start)

    def _say_where(self, done: int, seconds: float) -> None:
        """What the bar would show, as a line."""
        task = self._progress.tasks[self._task]
        speed = (done - self._first) / seconds
        left = timedelta(seconds=round((float(task.total or 0) - done) / speed)) if speed else "unknown"
        note = f"  {task.fields['note']}" if task.fields["note"] else ""
        self.say(f"{task.description} {done}/{task.total}  {speed:.1f}/s  eta {left}{note}")

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(line, highlight=False, soft_wrap=True)


def pause(seconds: float) -> float:
    """Seconds between two lines of work that has taken so long: from ten to five minutes."""
    return min(300.0, max(10.0, seconds / 20))


@contextmanager
def bar(console: Console, label: str, total: int, done: int = 0) -> Generator[Bar]:
    """A progress bar for `total` items; where the console is no terminal, a line now and then."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _Speed(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    hidden = not console.is_terminal or console.quiet
    with Progress(*columns, console=console, disable=hidden, transient=True) as progress:
        yield Bar(progress, progress.add_task(label, total=total, completed=done, note=""))
