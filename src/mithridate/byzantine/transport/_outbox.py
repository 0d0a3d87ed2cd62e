"""The sending side of a transport: what waits for one peer, and what it gets again when it was started anew."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from mithridate.byzantine.messages import HEADER_BYTES, Frame
from mithridate.byzantine.transport._mailbox import RETRIED, Limits, PeerStats
from mithridate.byzantine.transport._wire import BATCH_FRAMES

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 0.5


@dataclass(eq=False)
class Entry:
    """Something to send."""

    content: Frame | bytes
    round: int
    nbytes: int
    pending: bool = True
    due: float = 0.0
    pause: float = _FIRST_PAUSE


class Outbox:
    """Frames for one peer, bounded in number and bytes; the oldest round is dropped first.

    Frames that the peer has taken stay for as many rounds as it may be behind, in case that it is started anew.

    Args:
        limits: Bounds.
        stats: Where dropped frames are counted.
    """

    def __init__(self, limits: Limits, stats: PeerStats) -> None:
        self.limits, self.stats = limits, stats
        self._entries: list[Entry] = []
        self._bytes = 0
        self._newest = 0
        self._work = asyncio.Event()

    @property
    def pending(self) -> bool:
        """Whether something has not been taken yet."""
        return any(entry.pending for entry in self._entries)

    def put(self, content: Frame | bytes) -> None:
        """Queue a frame, or bytes that need not be one."""
        number = content.round if isinstance(content, Frame) else self._newest
        nbytes = content.nbytes if isinstance(content, Frame) else len(content)
        self._newest = max(self._newest, number)
        self._entries.append(Entry(content, number, nbytes))
        self._bytes += nbytes
        self._prune()
        self._work.set()

    async def ready(self, now: float) -> list[Entry]:
        """Wait for something to send; return a long frame, or as many short ones as fit one message."""
        while True:
            self._work.clear()
            due = [entry for entry in self._entries if entry.pending and entry.due <= now]
            if due:
                return _fitting(due, self.limits.message_bytes)
            later = min((entry.due for entry in self._entries if entry.pending), default=None)
            try:
                async with asyncio.timeout(None if later is None else later - now):
                    await self._work.wait()
            except TimeoutError:
                pass
            now = asyncio.get_running_loop().time()

    def settle(self, entry: Entry, verdict: int, now: float) -> None:
        """Note what the peer made of an entry."""
        if verdict in RETRIED:
            entry.due, entry.pause = now + entry.pause, min(2 * entry.pause, _LONGEST_PAUSE)
            return
        entry.pending = False
        if not isinstance(entry.content, Frame):
            self._remove([entry])

    def reopen(self) -> None:
        """Send again what the peer took, as it has lost its memory."""
        for entry in self._entries:
            entry.pending, entry.due, entry.pause = True, 0.0, _FIRST_PAUSE
        self._work.set()

    def _prune(self) -> None:
        """Forget what was taken long ago; beyond the bounds also what was not."""
        oldest = self._newest - self.limits.window
        self._remove([entry for entry in self._entries if not entry.pending and entry.round < oldest])
        while len(self._entries) > self.limits.outbox_frames or (
            self._bytes > self.limits.outbox_bytes and len(self._entries) > 1
        ):
            victim = min(self._entries, key=lambda entry: (entry.pending, entry.round))
            self.stats.dropped += victim.pending
            self._remove([victim])

    def _remove(self, entries: Iterable[Entry]) -> None:
        gone = set(map(id, entries))
        if gone:
            self._bytes -= sum(entry.nbytes for entry in self._entries if id(entry) in gone)
            self._entries = [entry for entry in self._entries if id(entry) not in gone]


def _fitting(due: list[Entry], size: int) -> list[Entry]:
    """Return the first entry, and those right after it that fit one message with it."""
    taken, total = [due[0]], due[0].nbytes + HEADER_BYTES
    if isinstance(due[0].content, bytes) or total > size:
        return taken
    for entry in due[1:BATCH_FRAMES]:
        total += entry.nbytes + HEADER_BYTES
        if isinstance(entry.content, bytes) or total > size:
            break
        taken.append(entry)
    return taken
