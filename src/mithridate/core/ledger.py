"""The ledger of a long run: one checksummed JSON line per finished piece of work.

Killed at any moment it loses no acknowledged record: a torn last line is cut when the ledger is opened. A record is
written once; a second one of the same name is refused. One process writes at a time, by a lock that the kernel takes
back when its holder dies.
"""

import fcntl
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from mithridate.core.artefacts import disk_errors
from mithridate.core.errors import BadArtefact, Misuse, WorkError

Record = dict[str, Any]


class Ledger:
    """A ledger at a path. `records` reads without a lock; `open` locks it for appending."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self._names: set[str] = set()

    def open(self) -> Self:
        """Lock the ledger for this process and cut a torn last line.

        Raises:
            WorkError: Another process holds it; the message gives its process id.
            BadArtefact: A line before the last is damaged.
        """
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise WorkError(
                "MTH-0710",
                f"process {self._holder()} is working on {self.path.parent}",
                hint="wait for it, or end it; then run the same command again",
            ) from None
        with disk_errors(self.path):
            self._lock_file().write_text(str(os.getpid()))
            records, whole = _scan(self.path.read_bytes(), self.path)
            file.truncate(whole)
            file.seek(0, os.SEEK_END)
        self._names = set(records)
        self._file = file
        return self

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Write a record so that it survives a crash right after.

        Raises:
            Misuse: The name is in the ledger already.
            WorkError: The disk is full or not writable; the ledger stays as it was.
        """
        if self._file is None:
            raise Misuse("MTH-0711", f"{self.path} is not open for appending")
        if name in self._names:
            raise Misuse("MTH-0712", f"{self.path} has a record {name!r} already; each is written once")
        line = _encode(name, record)
        start = self._file.tell()
        try:
            with disk_errors(self.path, len(line)):
                self._file.write(line)
                self._file.flush()
                os.fsync(self._file.fileno())
        except WorkError:
            os.ftruncate(self._file.fileno(), start)
            raise
        self._names.add(name)

    def records(self) -> dict[str, Record]:
        """Return all whole records by name, in the order of writing; no lock is taken."""
        if not self.path.exists():
            return {}
        return _scan(self.path.read_bytes(), self.path)[0]

    def close(self) -> None:
        """Release the lock."""
        if self._file is not None:
            self._lock_file().unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock_file(self) -> Path:
        return self.path.with_name(f".{self.path.name}.pid")

    def _holder(self) -> str:
        try:
            return self._lock_file().read_text().strip() or "unknown"
        except OSError:
            return "unknown"


def _encode(name: str, record: Mapping[str, Any]) -> bytes:
    body = json.dumps({"name": name, "record": record}, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _scan(data: bytes, path: Path) -> tuple[dict[str, Record], int]:
    """Return the records and the length of the whole part; only the last line may be torn."""
    records: dict[str, Record] = {}
    whole = 0
    lines = list(_lines(data))
    for number, (line, end) in enumerate(lines, start=1):
        entry = _decode(line)
        if entry is None:
            if number == len(lines):
                break
            raise BadArtefact(
                "MTH-0713", f"line {number} of {path} is damaged", hint="restore the file, or begin with a new folder"
            )
        if entry["name"] in records:
            raise BadArtefact("MTH-0713", f"line {number} of {path} repeats the record {entry['name']!r}")
        records[entry["name"]] = entry["record"]
        whole = end
    return records, whole


def _lines(data: bytes) -> Iterator[tuple[bytes, int]]:
    start = 0
    while start < len(data):
        stop = data.find(b"\n", start)
        end = len(data) if stop < 0 else stop + 1
        yield data[start:end], end
        start = end


def _decode(line: bytes) -> Record | None:
    if not line.endswith(b"\n") or len(line) < 10 or line[8:9] != b" ":
        return None
    body = line[9:-1]
    if b"%08x" % zlib.crc32(body) != line[:8]:
        return None
    try:
        entry = json.loads(body)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and {"name", "record"} <= set(entry) else None
