"""Progress for people: a bar with the time left on a terminal, a line every 30 s elsewhere; both on stderr."""

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from mithridate.cli._text import one_line
from mithridate.core.events import LineProgress
from mithridate.core.events import Progress as ProgressProtocol

# What is reported as done this soon after the start was done before: it says nothing about speed.
_RESUMED_SECONDS = 0.5


class BarProgress:
    """A rich bar. It is redrawn when something happens, without a thread: workers are forked while it shows.

    Args:
        console: Where to draw; stderr when absent.
        clock: Seconds; replaced in tests.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = 0.0
        self._total = 0
        self._done = 0
        self._resumed = 0
        self._task = TaskID(0)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.fields[what]}", markup=False),
            console=console or Console(stderr=True, markup=False, emoji=False, highlight=False),
            auto_refresh=False,
            transient=True,
        )

    def start(self, total: int, title: str) -> None:
        """Show an empty bar."""
        self._begun, self._total, self._done, self._resumed = self._clock(), total, 0, 0
        self._bar.start()
        self._task = self._bar.add_task(one_line(title), total=total, left="", what="")
        self._bar.refresh()

    def advance(self, n: int = 1, text: str = "") -> None:
        """Count `n` more pieces as done."""
        seconds = self._clock() - self._begun
        if seconds < _RESUMED_SECONDS:
            self._resumed += n
        self._done += n
        left = time_left(seconds, done=self._done - self._resumed, left=self._total - self._done)
        self._bar.update(self._task, advance=n, left=left, what=one_line(text), refresh=True)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()


def time_left(seconds: float, *, done: int, left: int) -> str:
    """Return the time left in words: nothing before there is something to judge by.

    Args:
        seconds: Time that `done` pieces took.
        done: Pieces finished in this time.
        left: Pieces still to do.
    """
    if done <= 0 or left <= 0:
        return ""
    rest = seconds / done * left
    if rest < 99.5:
        return f"{rest:.0f} s left"
    return f"{rest / 60:.0f} min left" if rest < 99.5 * 60 else f"{rest / 3600:.1f} h left"


def make_progress() -> ProgressProtocol:
    """Return what suits stderr."""
    return BarProgress() if sys.stderr.isatty() else LineProgress()
