"""What a long run says while it runs: an event log for machines and a progress display for people."""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mithridate.core.artefacts import disk_errors
from mithridate.core.boundary import read_json
from mithridate.core.errors import BadArtefact

_SECONDS_BETWEEN_LINES = 30.0


class EventLog:
    """Appends one JSON object a line. A lost last line costs nothing: results are in the ledger."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: Mapping[str, object]) -> None:
        """Append an event with the present time; numbers that are not finite become null.

        Raises:
            WorkError: MTH-0706 when the disk is full or not writable.
        """
        finite = {key: _finite(value) for key, value in event.items()}
        line = json.dumps({"at": datetime.now(UTC).isoformat(timespec="milliseconds"), **finite})
        with disk_errors(self.path, len(line)), self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else "\n" + line  # a cut line costs itself and not this one
            file.write(f"{line}\n".encode())


@runtime_checkable
class Progress(Protocol):
    """A display of how far a run is."""

    def start(self, total: int, title: str) -> None:
        """Begin with the number of units of work."""

    def advance(self, n: int = 1, text: str = "") -> None:
        """Count finished units; `text` names the last one."""

    def close(self) -> None:
        """End the display."""


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a log. Lines that a crash or a full disk has cut are passed over; so is what has no time."""
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            event = read_json(line)
            datetime.fromisoformat(event["at"])
        except (BadArtefact, LookupError, TypeError, ValueError):
            continue
        yield event


def said(word: Mapping[str, object]) -> str:
    """Return a word of progress as text: `what` is going on, and how much of it is `done`, a share."""
    what, share = str(word.get("what", "")), word.get("done")
    return " ".join(filter(None, (what, f"{share:.0%}" if isinstance(share, int | float) else ""))) or "at work"


class JobNews:
    """Passes on what running jobs tell: to a display at once, to the log when a job begins something and now and then.

    A word may say `what` is going on, when it is not the job itself, and how much of it is `done`, a share.

    Args:
        log: Gets an event `progress` with the job and its word.
        display: Shows the job and its word.
        every: Seconds between two events of a job that is still at the same.
        clock: Tells the seconds since some moment.
    """

    def __init__(
        self,
        log: EventLog,
        display: "Progress",
        *,
        every: float = _SECONDS_BETWEEN_LINES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._display = display
        self._every = every
        self._clock = clock
        self._last: dict[str, tuple[str, float]] = {}

    def __call__(self, job: str, word: Mapping[str, object]) -> None:
        """Pass on a word of a job."""
        what, now = str(word.get("what", "")), self._clock()
        self._display.advance(0, f"{job}, {said(word)}")
        before, at = self._last.setdefault(job, ("", now))
        if what != before or now - at >= self._every:
            self._last[job] = (what, now)
            self._log.write({"event": "progress", "job": job, "word": dict(word)})


class NullProgress:
    """Shows nothing."""

    def start(self, total: int, title: str) -> None:
        """Do nothing."""

    def advance(self, n: int = 1, text: str = "") -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


@runtime_checkable
class Stream(Protocol):
    """What lines are written to."""

    def write(self, text: str, /) -> int:
        """Take some text."""

    def flush(self) -> None:
        """Pass it on."""


class LineProgress:
    """Writes a line at the start, every 30 seconds and at the end: for logs and terminals without a cursor.

    Args:
        stream: Where to write, stderr unless given.
        every: Seconds between lines.
        clock: Tells the seconds since some moment.
    """

    def __init__(
        self,
        stream: Stream | None = None,
        *,
        every: float = _SECONDS_BETWEEN_LINES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr
        self._every = every
        self._clock = clock
        self._total = self._done = 0
        self._title = ""
        self._begun = self._last = 0.0

    def start(self, total: int, title: str) -> None:
        """Write the first line."""
        self._total, self._done, self._title = total, 0, title
        self._begun = self._last = self._clock()
        self._say(f"{title}: {total} steps")

    def advance(self, n: int = 1, text: str = "") -> None:
        """Write a line if the last one is old enough."""
        self._done += n
        now = self._clock()
        if now - self._last >= self._every:
            self._last = now
            spent = now - self._begun
            left = f", about {spent / self._done * (self._total - self._done):.0f} s left" if self._done else ""
            detail = f" ({text})" if text else ""
            self._say(f"{self._title}: {self._done} of {self._total} after {spent:.0f} s{left}{detail}")

    def close(self) -> None:
        """Write the last line, if there was a first one."""
        if not self._title:
            return
        self._say(f"{self._title}: {self._done} of {self._total} in {self._clock() - self._begun:.0f} s")

    def _say(self, text: str) -> None:
        # Titles and names come from outside: they stay text on one line.
        shown = "".join(letter if letter.isprintable() else "?" for letter in text)
        self._stream.write(shown + "\n")
        self._stream.flush()


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
