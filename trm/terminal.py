"""What long work shows: a bar with speed and ETA on a terminal, plain lines elsewhere; and as images."""

import io
import re
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.panel import Panel
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
from rich.terminal_theme import TerminalTheme
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
        note = f"  {task.fields['note']}" if task.fields["note"] else ""
        if task.total is None:
            self.say(f"{task.description} {done}  {speed:.1f}/s{note}")
            return
        left = timedelta(seconds=round((task.total - done) / speed)) if speed else "unknown"
        self.say(f"{task.description} {done}/{task.total}  {speed:.1f}/s  eta {left}{note}")

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(line, highlight=False, soft_wrap=True)


def pause(seconds: float) -> float:
    """Seconds between two lines of work that has taken so long: from ten to five minutes."""
    return min(300.0, max(10.0, seconds / 20))


@contextmanager
def bar(console: Console, label: str, total: int | None, done: int = 0) -> Generator[Bar]:
    """A progress bar for `total` items, None where nobody knows how many there are.

    Where the console is no terminal, a line now and then.
    """
    columns = (
        TextColumn("{task.description}", markup=False),  # a run may have any name
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


_CELL = 9, 18  # pixels of a character
_WIDEST = 2000  # characters
_INK, _PAPER = (0, 0, 0), (255, 255, 255)
_ON_PAPER = TerminalTheme(
    _PAPER,
    _INK,
    [
        (0, 0, 0),
        (200, 40, 40),
        (30, 130, 60),
        (255, 214, 102),
        (40, 90, 190),
        (150, 60, 160),
        (0, 120, 130),
        (128, 128, 128),
    ],
)


def _wide(width: int = _WIDEST) -> Console:
    """A terminal that nobody sees."""
    return Console(
        width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor", record=True
    )


def _width(drawn: RenderableType) -> int:
    """Characters that a drawing is wide."""
    console = _wide()
    return Measurement.get(console, console.options, drawn).maximum


def panel(drawn: RenderableType, title: str, subtitle: str = "") -> Panel:
    """A picture in a frame that is wide enough for what is written on it."""
    # By itself, a panel makes room for its title, but not for its subtitle.
    width = max(len(title) + 2, len(subtitle) + 2, _width(drawn)) + 4
    return Panel(drawn, title=Text(title), subtitle=subtitle or None, width=width)


def svg(drawn: RenderableType, title: str = "") -> str:
    """What a terminal would show, as SVG. It names no font that would come from the network."""
    console = _wide(_width(drawn))
    console.print(drawn)
    return re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title=title), flags=re.DOTALL)


def pixels(drawn: RenderableType) -> np.ndarray:
    """What a wide terminal on white paper would show, as an image, uint8 [H, W, 3].

    Raises ImportError where matplotlib, which brings the font, is not installed.
    """
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    console = _wide()
    width = _width(drawn)
    lines = console.render_lines(drawn, console.options.update(width=width), pad=True)
    w, h = _CELL
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSansMono.ttf"), 15)
    image = Image.new("RGB", (w * width, h * len(lines)), _PAPER)
    brush = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        column = 0
        for text, style, _ in line:
            ink, paper = _INK, None
            if style is not None and style.color is not None and not style.color.is_default:
                ink = tuple(style.color.get_truecolor(_ON_PAPER))
            if style is not None and style.bgcolor is not None and not style.bgcolor.is_default:
                paper = tuple(style.bgcolor.get_truecolor(_ON_PAPER))
            if style is not None and style.reverse:
                ink, paper = paper or _PAPER, ink
            if style is not None and style.dim:
                ink = tuple((channel + 255) // 2 for channel in ink)
            for char in text:
                at = (column * w, row * h)
                if paper is not None:
                    brush.rectangle((at, (at[0] + w - 1, at[1] + h - 1)), fill=paper)
                if not char.isspace():
                    brush.text(at, char, fill=ink, font=font)
                column += cell_len(char)
    return np.asarray(image)
