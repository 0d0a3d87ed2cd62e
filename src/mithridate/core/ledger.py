"""The ledger of a long run: one checksummed JSON line per finished piece of work.

    {"crc":"1c291ca3","name":"victim/none/3","record":{...}}

The checksum is that of the line without it. Killed at any moment the ledger loses no acknowledged record: it is synced
before `append` returns, and a torn tail is cut when it is opened. A name is recorded once; a second record of it is
refused. One process writes at a time, by a lock that the kernel takes back when its holder dies.
"""

import fcntl
import json
import os
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from mithridate.core.artefacts import disk_errors, sync_folder
from mithridate.core.errors import BadArtefact, Misuse, WorkError

Record = dict[str, Any]

SCHEMA = "mithridate.ledger/1"
_PREFIX = b'{"crc":"'
_PATIENCE = 2.0


class Ledger:
    """A ledger at a path. `records` reads without a lock; `open` locks it for appending."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None
        self._end = 0
        self._names: set[str] = set()
        self._turn = threading.Lock()

    def open(self) -> "Ledger":
        """Lock the ledger for this process and cut a torn tail; a ledger that is not there is begun.

        Raises:
            Misuse: MTH-0711 when it is open already.
            WorkError: MTH-0710 when another process holds it, with its id; MTH-0706 when the disk refuses.
            BadArtefact: MTH-0713 when a record before the tail is damaged, MTH-0714 for another schema.
        """
        if self._file is not None:
            raise Misuse("MTH-0711", f"{self.path} is open already")
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                self._take(file)
            except BaseException:
                os.close(file)
                raise
            self._file = file
            try:
                records, self._end = _scan(self.path.read_bytes(), self.path)
                os.ftruncate(file, self._end)
                if self._end == 0:
                    self._write(file, _encode({"schema": SCHEMA}))
                    sync_folder(self.path.parent)
            except BaseException:
                self.close()
                raise
        self._names = set(records)
        return self

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Write a record so that it survives a crash right after.

        Raises:
            Misuse: MTH-0711 when the ledger is not open, MTH-0712 when it has the name already, MTH-0715 when the
                record is not plain JSON.
            WorkError: MTH-0706 when the disk is full or not writable; the ledger stays as it was.
        """
        try:
            line = _encode({"name": name, "record": dict(record)})
        except (TypeError, ValueError) as error:
            raise Misuse("MTH-0715", f"the record {name!r} holds what JSON has not: {error}") from error
        with self._turn:
            if self._file is None:
                raise Misuse("MTH-0711", f"{self.path} is not open, so {name!r} cannot be written")
            if name in self._names:
                raise Misuse("MTH-0712", f"{self.path} has a record {name!r} already", hint="each is written once")
            with disk_errors(self.path, len(line)):
                self._write(self._file, line)
            self._names.add(name)

    def records(self) -> dict[str, Record]:
        """Return all whole records by name, in the order of writing; no lock is taken and nothing is repaired.

        Raises:
            BadArtefact: MTH-0713 when a record before the tail is damaged, MTH-0714 for another schema.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise BadArtefact("MTH-0713", f"{self.path} cannot be read: {error.strerror}") from error
        return _scan(data, self.path)[0]

    def close(self) -> None:
        """Release the lock."""
        if self._file is not None:
            self._holder_file().unlink(missing_ok=True)
            os.close(self._file)
        self._file = None

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, file: int) -> None:
        """Lock the file, or say who holds it. A holder that was just killed may live for a moment in its children."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = self._holder()
                if holder is None and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                raise WorkError(
                    "MTH-0710",
                    f"{'another process' if holder is None else f'process {holder}'} is working on {self.path.parent}",
                    hint="wait for it, or end it; then run the same command again",
                ) from None
            self._holder_file().write_text(str(os.getpid()))
            return

    def _holder_file(self) -> Path:
        return self.path.with_name(f".{self.path.name}.pid")

    def _holder(self) -> int | None:
        """Return the process that holds the lock, if it said so and lives."""
        try:
            pid = int(self._holder_file().read_text())
            os.kill(pid, 0)
        except PermissionError:
            return pid
        except (OSError, ValueError, OverflowError):
            return None
        return pid

    def _write(self, file: int, line: bytes) -> None:
        """Write a line at the end and sync it; if that fails, what was written of it is cut or later overwritten."""
        try:
            done = 0
            while done < len(line):
                done += os.pwrite(file, line[done:], self._end + done)
            os.fsync(file)
        except OSError:
            os.ftruncate(file, self._end)
            raise
        self._end += len(line)


def _encode(entry: Mapping[str, Any]) -> bytes:
    body = json.dumps(entry, separators=(",", ":"), allow_nan=False).encode()
    return _PREFIX + b'%08x",' % zlib.crc32(body) + body[1:] + b"\n"


def _decode(line: bytes) -> dict[str, Any] | None:
    """Return what a line holds, or None if it is not whole."""
    if not line.startswith(_PREFIX) or line[16:18] != b'",' or not line.endswith(b"\n"):
        return None
    body = b"{" + line[18:-1]
    if b"%08x" % zlib.crc32(body) != line[8:16]:
        return None
    entry: dict[str, Any] = json.loads(body)
    return entry


def _scan(data: bytes, path: Path) -> tuple[dict[str, Record], int]:
    """Return the records, and the length of the part before a torn tail.

    A write that a crash cut short leaves its beginning, or zeros, and nothing whole behind it; anything else is damage.
    """
    entries, whole = [], 0
    lines = list(_lines(data))
    for number, (line, end) in enumerate(lines, start=1):
        entry = _decode(line)
        if entry is None:
            if _holds_a_record(line) or any(_decode(later) for later, _ in lines[number:]):
                raise _damaged(path, f"line {number} is damaged")
            break
        entries.append(entry)
        whole = end
    if not entries:
        header = _encode({"schema": SCHEMA})
        if not header.startswith(data.rstrip(b"\0")):
            raise _damaged(path, f"it does not begin as one, but with {data[:16]!r}")
        return {}, 0
    schema = entries[0].get("schema")
    if schema != SCHEMA:
        hint = "update mithridate, or begin with a new folder"
        raise BadArtefact("MTH-0714", f"{path} has schema {schema!r}; this version reads {SCHEMA!r}", hint=hint)
    records: dict[str, Record] = {}
    for number, entry in enumerate(entries[1:], start=2):
        if entry.get("name") in records or not {"name", "record"} <= entry.keys():
            raise _damaged(path, f"line {number} repeats the record {entry.get('name')!r}")
        records[entry["name"]] = entry["record"]
    return records, whole


def _holds_a_record(line: bytes) -> bool:
    """Tell whether a whole record hides in a line that is none: the line break before it was damaged."""
    place = line.find(_PREFIX, 1)
    while place > 0:
        if _decode(line[place:]) is not None:
            return True
        place = line.find(_PREFIX, place + 1)
    return False


def _damaged(path: Path, what: str) -> BadArtefact:
    hint = "restore the file, or begin with a new folder"
    return BadArtefact("MTH-0713", f"{path} is no whole ledger: {what}", hint=hint)


def _lines(data: bytes) -> Iterator[tuple[bytes, int]]:
    start = 0
    while start < len(data):
        stop = data.find(b"\n", start)
        end = len(data) if stop < 0 else stop + 1
        yield data[start:end], end
        start = end
