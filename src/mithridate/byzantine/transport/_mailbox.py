"""The receiving side of a transport: what is let in, kept, handed over, and remembered of each peer.

Memory is bounded by peer: a peer fills nobody's share but its own. The first frame of a slot wins; a different second
one is evidence that the peer equivocates.
"""

import enum
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from mithridate.byzantine.messages import Frame, Schema, Slot
from mithridate.byzantine.transport._bell import Bell
from mithridate.core.errors import Misuse
from mithridate.core.params import Checked, In, param

Place = tuple[str, int, int]
"""Kind, round and phase."""


class Verdict(enum.IntEnum):
    """What became of a frame; its sender is told."""

    KEPT = 0
    AGAIN = 1
    """It was here before, and is dropped."""
    EQUIVOCATION = 2
    """Another frame of its slot was here before, and wins."""
    STALE = 3
    FUTURE = 4
    """It may be sent again later."""
    FULL = 5
    """It may be sent again later."""
    REFUSED = 6
    """It is damaged, or not what is expected."""


RETRIED = (Verdict.FUTURE, Verdict.FULL)


@dataclass(frozen=True, kw_only=True)
class Limits(Checked):
    """Bounds on what a node buffers and how long it waits."""

    window: int = param(2, within=In(0, 1000), doc="rounds ahead of our own whose frames are kept")
    past: int = param(0, within=In(0, 1000), doc="rounds behind our own whose frames are still read")
    frames: int = param(8192, within=In(1, 10_000_000), doc="frames of one peer that are remembered at a time")
    buffer_bytes: int = param(1 << 30, within=In(1, 1 << 44), doc="payload of one peer that waits to be used, bytes")
    outbox_frames: int = param(8192, within=In(1, 10_000_000), doc="frames that wait for one peer")
    outbox_bytes: int = param(1 << 30, within=In(1, 1 << 44), doc="payload that waits for one peer, bytes")
    message_bytes: int = param(1 << 20, within=In(4096, 1 << 28), doc="largest message; longer frames go in chunks")
    stall_seconds: float = param(10.0, within=In(0, 3600, open_lo=True), doc="silence after which a stream is dropped")
    backoff_seconds: float = param(2.0, within=In(0, 600, open_lo=True), doc="longest pause between two attempts")
    follow: frozenset[str] = frozenset()
    """Kinds of which only the newest frame of a peer is kept, however far ahead: a worker follows a trusted server."""


@dataclass
class PeerStats:
    """What was exchanged with one peer."""

    sent_frames: int = 0
    sent_bytes: int = 0
    received_frames: int = 0
    received_bytes: int = 0
    included: int = 0
    """Quorums that its frame was in."""
    late: int = 0
    """Frames that came after their quorum."""
    dropped: int = 0
    """Frames for it that were given up, as it is too far behind."""
    reconnects: int = 0
    claimed: int = -1
    """The highest round that it spoke of."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Frames that were not let in, by reason."""


@dataclass(frozen=True)
class Evidence:
    """Two different frames of one peer for one slot; what this node saw, which proves nothing to others."""

    peer: int
    slot: Slot
    first_crc: int
    second_crc: int


_MAX_EVIDENCE = 1000


class Mailbox:
    """Lets frames in and hands them to who waits for them.

    Args:
        me: This node.
        peers: The nodes that frames may come from.
        schema: What is read.
        limits: Bounds.
    """

    def __init__(self, me: int, peers: Collection[int], schema: Schema, limits: Limits) -> None:
        if schema.largest > limits.buffer_bytes:
            message = f"one frame takes {schema.largest} bytes, more than the buffer of {limits.buffer_bytes} bytes"
            raise Misuse("MTH-0904", message, hint="raise buffer_bytes")
        self.me, self.schema, self.limits = me, schema, limits
        self.nodes = frozenset(peers) | {me}
        self.round = 0
        self.past = limits.past
        self.stats = {peer: PeerStats() for peer in sorted(peers)}
        self.evidence: list[Evidence] = []
        self.on_enter: Callable[[], None] = _nothing
        self._seen: dict[int, dict[Slot, int]] = {peer: {} for peer in self.stats}
        self._bytes = dict.fromkeys(self.stats, 0)
        self._held: dict[Place, dict[int, Frame]] = {}
        self._closed: set[Place] = set()
        self._newest: dict[tuple[str, int], Frame] = {}
        self._arrivals: deque[Frame] | None = None
        self._bell = Bell()

    def enter(self, number: int) -> None:
        """Go to a round, never back, and forget what lies behind the window."""
        if number <= self.round:
            return
        self.round = number
        oldest = number - self.past
        for peer, seen in self._seen.items():
            self._seen[peer] = {slot: crc for slot, crc in seen.items() if slot.round >= oldest}
        for place in [place for place in self._held if place[1] < oldest]:
            self._release(self._held.pop(place).values())
        self._closed = {place for place in self._closed if place[1] >= oldest}
        self.on_enter()

    def tap(self) -> None:
        """Hand every frame to `pop` in the order of arrival, instead of keeping it for a quorum."""
        if self._arrivals is None:
            self._arrivals = deque()
            for held in self._held.values():
                self._arrivals.extend(held.values())
            self._held.clear()

    def pop(self) -> Frame | None:
        """Return the next frame for a broadcast layer."""
        if not self._arrivals:
            return None
        frame = self._arrivals.popleft()
        self._release([frame])
        return frame

    def preview(self, slot: Slot, *, sender: int, nbytes: int, crc: int) -> Verdict:
        """Tell what `admit` would answer, before the payload is here."""
        stats = self.stats[sender]
        stats.claimed = max(stats.claimed, slot.round)
        if slot.origin not in self.nodes:
            return Verdict.REFUSED
        if slot.layer == "data" and slot.kind in self.limits.follow:
            return self._preview_followed(slot, sender, crc)
        if slot.round < self.round - self.past:
            return Verdict.STALE
        if slot.round > self.round + self.limits.window:
            return Verdict.FUTURE
        seen = self._seen[sender]
        if slot in seen:
            return self._second(sender, slot, seen[slot], crc)
        full = len(seen) >= self.limits.frames or self._bytes[sender] + nbytes > self.limits.buffer_bytes
        return Verdict.FULL if full else Verdict.KEPT

    def admit(self, frame: Frame) -> Verdict:
        """Take a frame whose form has been checked and whose sender is authenticated."""
        slot, sender = frame.slot, frame.sender
        stats = self.stats[sender]
        stats.received_frames += 1
        stats.received_bytes += frame.nbytes
        verdict = self.preview(slot, sender=sender, nbytes=frame.nbytes, crc=frame.crc)
        if verdict is not Verdict.KEPT:
            stats.rejected[verdict.name.lower()] += 1
            return verdict
        if slot.layer == "data" and slot.kind in self.limits.follow:
            self._newest[slot.kind, sender] = frame
        else:
            self._seen[sender][slot] = frame.crc
            self._keep(frame)
        self._bell.ring()
        return verdict

    def refuse(self, sender: int, reason: str) -> None:
        """Count something of a peer that is no frame, or none that is expected."""
        self.stats[sender].rejected[reason] += 1

    def take(self, place: Place, *, of: Collection[int], quorum: int) -> dict[int, Frame] | None:
        """Return the first `quorum` frames of a place and close it, or None if there are not enough yet."""
        held = self._held.get(place, {})
        first = [sender for sender in held if sender in of][:quorum]
        if len(first) < quorum:
            return None
        frames = {sender: held[sender] for sender in first}
        for sender in held:
            if sender in frames:
                self.stats[sender].included += 1
            else:
                self.stats[sender].late += 1
        self._release(self._held.pop(place, {}).values())
        self._closed.add(place)
        return frames

    def newest(self, kind: str, *, of: Collection[int], after: int) -> Frame | None:
        """Return the followed frame of the highest round above `after`, the lowest sender on ties."""
        found = [f for (k, sender), f in self._newest.items() if k == kind and sender in of and f.round > after]
        return max(found, key=lambda frame: (frame.round, -frame.sender), default=None)

    def present(self, place: Place) -> set[int]:
        """Return whose frames of a place wait."""
        return set(self._held.get(place, ()))

    async def change(self) -> None:
        """Wait until another frame has been let in."""
        await self._bell.wait()

    def _keep(self, frame: Frame) -> None:
        place = (frame.kind, frame.round, frame.phase)
        if self._arrivals is not None:
            self._arrivals.append(frame)
        elif frame.layer != "data":
            return
        elif place in self._closed:
            self.stats[frame.sender].late += 1
            return
        else:
            self._held.setdefault(place, {})[frame.sender] = frame
        self._bytes[frame.sender] += frame.nbytes

    def _preview_followed(self, slot: Slot, sender: int, crc: int) -> Verdict:
        newest = self._newest.get((slot.kind, sender))
        if slot.round < self.round or (newest is not None and slot.round < newest.round):
            return Verdict.STALE
        if newest is not None and slot == newest.slot:
            return self._second(sender, slot, newest.crc, crc)
        return Verdict.KEPT

    def _second(self, sender: int, slot: Slot, first: int, second: int) -> Verdict:
        if first == second:
            return Verdict.AGAIN
        found = Evidence(sender, slot, first, second)
        if len(self.evidence) < _MAX_EVIDENCE and found not in self.evidence:
            self.evidence.append(found)
        return Verdict.EQUIVOCATION

    def _release(self, frames: Iterable[Frame]) -> None:
        for frame in frames:
            self._bytes[frame.sender] -= frame.nbytes


def _nothing() -> None:
    """Do nothing."""
