"""Progress for people and for logs, on standard error: a bar on a terminal, else a line a minute.

    reading data.jsonl  3 s
    unit 3 of 12  ━━━━━━━━━╺━━━━━━━━━  34%  1,234 targets/s  24.1 bytes/target  1:02:33 left

The bar is one line, whatever the width of the terminal: what does not fit is left out, the least
important first. In a log a stage has its first line after five seconds and its last one at its end.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TextIO

from logitstore.errors import printable
from logitstore.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console, ConsoleOptions, RenderResult

    from logitstore.progress import Clock, OnProgress

__all__ = ["LogLines", "bar_parts", "duration", "log_line", "show_progress"]

_FIRST_SECONDS = 5.0
_EVERY_SECONDS = 60.0
_REFRESH = 4  # times a second
_LEAST_BAR = 6  # columns
_MOST_BAR = 40
_GAP = 2  # columns between two parts
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_SLOW = 0.05  # below this rate it would read 0.0: the time left says more
_STEADY = 10  # from this rate on no digit behind the point is shown: it would only flicker


@contextmanager
def show_progress(stage: str) -> Iterator[OnProgress]:
    """Show what the function that it gives is called with, until the context is left.

    Args:
        stage: What is being done until something else is told.
    """
    begin = Progress(stage=stage)
    if sys.stderr.isatty():
        with _bar(begin) as on_progress:
            yield on_progress
    else:
        with _lines(begin, sys.stderr) as on_progress:
            yield on_progress


# --- on a terminal ------------------------------------------------------------------------------


@contextmanager
def _bar(begin: Progress) -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.live import Live

    console = Console(file=sys.stderr, force_terminal=True)
    if console.is_dumb_terminal:  # it cannot move its cursor
        with _lines(begin, sys.stderr) as on_progress:
            yield on_progress
        return
    bar = _Bar(begin)
    with Live(bar, console=console, transient=True, refresh_per_second=_REFRESH):
        yield bar.tell


class _Bar:
    """The newest progress as one line that fits the console; drawn anew by its `Live`."""

    def __init__(self, begin: Progress) -> None:
        self._newest, self._told, self._began = begin, time.monotonic(), time.monotonic()

    def tell(self, now: Progress) -> None:
        if now.stage != self._newest.stage:
            self._began = time.monotonic()
        self._newest, self._told = now, time.monotonic()

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now = time.monotonic()
        shown = _counted_down(self._newest, seconds=now - self._told)
        parts, width = bar_parts(shown, width=options.max_width - 1, seconds=now - self._began)
        cells: list[Text | ProgressBar] = [Text(part) for part in parts]
        if width:
            bar = ProgressBar(total=1.0, completed=shown.fraction or 0.0, width=width)
            cells.insert(1, bar)
        grid = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
        for _ in cells:
            grid.add_column(no_wrap=True)
        grid.add_row(*cells)
        yield grid


def _counted_down(progress: Progress, *, seconds: float) -> Progress:
    """The progress `seconds` after it was told: by then less time is left."""
    if progress.seconds_left is None:
        return progress
    return replace(progress, seconds_left=max(0.0, progress.seconds_left - seconds))


def bar_parts(progress: Progress, *, width: int, seconds: float) -> tuple[list[str], int]:
    """The words of a line of at most `width` columns, and the columns left for a bar, or 0.

    Args:
        progress: What is shown.
        width: Of the line.
        seconds: Since the stage began; shown where no time left is known.
    """
    label = printable(progress.detail or progress.stage)
    share = [] if progress.fraction is None else [f"{progress.fraction:.0%}"]
    rate = _rate(progress)
    left = _left(progress) or duration(seconds)
    facts = list(progress.facts)
    parts: list[str] = []
    # The most that fits: facts go first, then the rate, then the label is cut.
    for taken in range(len(facts), -1, -1):
        parts = [label, *share, *rate, *facts[:taken], left]
        if _width(parts) <= width:
            break
    else:
        parts = [label, *share, left]
    over = _width(parts) - width
    if over > 0:
        parts[0] = label[: max(0, len(label) - over - 1)] + "…"
    free = width - _width(parts) - _GAP
    return parts, min(free, _MOST_BAR) if share and free >= _LEAST_BAR else 0


def _width(parts: list[str]) -> int:
    from rich.cells import cell_len

    return sum(map(cell_len, parts)) + _GAP * (len(parts) - 1)


# --- in a log -----------------------------------------------------------------------------------


@contextmanager
def _lines(begin: Progress, stream: TextIO) -> Iterator[OnProgress]:
    lines = LogLines(begin, write=lambda line: print(printable(line), file=stream, flush=True))
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(1.0):
            lines.tick()

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield lines.tell
    finally:
        stopped.set()
        watcher.join()
        lines.close()


class LogLines:
    """Writes a line five seconds after a stage began, then one a minute, and one at its end.

    Args:
        begin: The first stage.
        write: Takes a line.
        clock: Gives seconds.
    """

    def __init__(
        self, begin: Progress, *, write: Callable[[str], None], clock: Clock = time.monotonic
    ) -> None:
        self._write, self._clock = write, clock
        self._lock = threading.Lock()
        self._newest = begin
        self._began = self._stage_began = clock()
        self._due = self._began + _FIRST_SECONDS
        self._unwritten = False  # whether more is known than the last line of the stage says

    def tell(self, now: Progress) -> None:
        """Take the newest progress."""
        with self._lock:
            if now.stage != self._newest.stage:
                self._end_stage()
                self._stage_began = self._clock()
                self._due = self._stage_began + _FIRST_SECONDS
            self._newest, self._unwritten = now, True
            self._tick()

    def tick(self) -> None:
        """Write a line if one is due; to be called every second or so."""
        with self._lock:
            self._tick()

    def close(self) -> None:
        """Write the last line, where there were others."""
        with self._lock:
            self._end_stage()

    def _tick(self) -> None:
        if self._clock() >= self._due:
            self._line()
            self._due = self._clock() + _EVERY_SECONDS

    def _end_stage(self) -> None:
        """The last line of a stage that has had a first one."""
        if self._due > self._stage_began + _FIRST_SECONDS and self._unwritten:
            self._line()

    def _line(self) -> None:
        now = self._clock()
        self._write(
            log_line(self._newest, seconds=now - self._began, of_stage=now - self._stage_began)
        )
        self._unwritten = False


def log_line(progress: Progress, *, seconds: float, of_stage: float) -> str:
    """One line of a log, which begins with the time since the command began.

    Args:
        progress: What is said.
        seconds: Since the command began.
        of_stage: Since the stage began.
    """
    parts = [] if progress.fraction is None else [f"{progress.fraction:.0%}"]
    if progress.unit:
        parts.append(f"{progress.done:,} {progress.unit}")
    parts += [*_rate(progress), *progress.facts]
    left = _left(progress)
    if left:
        parts.append(left)
    if not parts and of_stage >= 1.0:
        parts.append(duration(of_stage))
    detail = f" {progress.detail}" if progress.detail else ""
    words = f"{progress.stage}{detail}"
    return f"[{duration(seconds)}] {': '.join(filter(None, (words, ', '.join(parts))))}"


# --- words --------------------------------------------------------------------------------------


def _rate(progress: Progress) -> list[str]:
    if progress.rate is None:
        return []
    if progress.unit == "bytes":
        for size, name in _UNITS:
            if progress.rate >= size:
                return [f"{progress.rate / size:.0f} {name}/s"]
    if progress.rate < _SLOW:
        return []
    digits = 0 if progress.rate >= _STEADY else 1
    return [f"{progress.rate:,.{digits}f} {progress.unit}/s"]


def _left(progress: Progress) -> str:
    if progress.seconds_left is None or progress.fraction in (None, 1.0):
        return ""
    return f"{duration(progress.seconds_left)} left"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: "1:02:33", "2:33"; below a minute "33 s"; days "3 d 4 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    if hours >= 100:
        return f"{hours // 24} d {hours % 24} h"
    minutes = f"{rest // 60:02}" if hours else str(rest // 60)
    return f"{hours}:{minutes}:{rest % 60:02}" if hours else f"{minutes}:{rest % 60:02}"
