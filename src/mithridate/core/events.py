"""What a long run says while it runs: an event log for machines and a progress display for people."""

import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TextIO, runtime_checkable

_SECONDS_BETWEEN_LINES = 30.0


class EventLog:
    """Appends one JSON object a line. A lost last line costs nothing: results are in the ledger."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: Mapping[str, object]) -> None:
        """Append an event with the present time."""
        line = json.dumps({"at": datetime.now(UTC).isoformat(timespec="milliseconds"), **event})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


@runtime_checkable
class Progress(Protocol):
    """A display of how far a run is."""

    def start(self, total: int, title: str) -> None:
        """Begin with the number of units of work."""

    def advance(self, n: int = 1, text: str = "") -> None:
        """Count finished units; `text` names the last one."""

    def close(self) -> None:
        """End the display."""


class NullProgress:
    """Shows nothing."""

    def start(self, total: int, title: str) -> None:
        """Do nothing."""

    def advance(self, n: int = 1, text: str = "") -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class LineProgress:
    """Writes a line at the start, every 30 seconds and at the end: for logs and terminals without a cursor."""

    def __init__(self, stream: TextIO | None = None, *, every: float = _SECONDS_BETWEEN_LINES) -> None:
        self._stream = stream or sys.stderr
        self._every = every
        self._total = self._done = 0
        self._title = ""
        self._begun = self._last = 0.0

    def start(self, total: int, title: str) -> None:
        """Write the first line."""
        self._total, self._done, self._title = total, 0, title
        self._begun = self._last = time.monotonic()
        self._say(f"{title}: {total} steps")

    def advance(self, n: int = 1, text: str = "") -> None:
        """Write a line if the last one is old enough."""
        self._done += n
        if time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            self._say(f"{self._title}: {self._done} of {self._total} after {self._last - self._begun:.0f} s ({text})")

    def close(self) -> None:
        """Write the last line."""
        self._say(f"{self._title}: {self._done} of {self._total} in {time.monotonic() - self._begun:.0f} s")

    def _say(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()
