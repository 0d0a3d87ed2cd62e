"""What the broadcast layers share: a pump that reads the transport, instances by place, and collecting from them.

Every node runs one instance for each (kind, round, phase, origin): it ends, if at all, with the one frame of that
origin that all honest nodes agree on. Memory is bounded: instances go with their rounds, payloads of one origin have a
budget, and payloads of places that were collected long ago are let go.
"""

import asyncio
import contextlib
import hashlib
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from mithridate.byzantine.messages import Frame
from mithridate.byzantine.transport._base import AbstractTransport, Collected, QuorumLost
from mithridate.byzantine.transport._bell import Bell
from mithridate.byzantine.transport._mailbox import Place
from mithridate.core.errors import Misuse

DIGEST_BYTES = 32
_KEPT_PLACES = 4
_WHERE = struct.Struct("<16sQIIII")


@runtime_checkable
class Signer(Protocol):
    """Signs for us and checks the signatures of others; `identity.Identity` is one."""

    def sign(self, message: bytes) -> bytes:
        """Return our signature, 64 bytes."""

    def verify(self, node: int, message: bytes, signature: bytes) -> bool:
        """Tell whether a node signed a message."""


def digest(frame: Frame, context: bytes) -> bytes:
    """Return the sha256 of what an origin says, where it says it, and in which run."""
    state = hashlib.sha256(struct.pack("<I", len(context)) + context)
    kind, numel = frame.kind.encode("ascii"), frame.numel
    state.update(_WHERE.pack(kind, frame.round, frame.phase, frame.origin, numel, len(frame.dtype)))
    state.update(frame.dtype.encode("ascii"))
    state.update(frame.body())
    return state.digest()


def echo_quorum(n: int, f: int) -> int:
    """Return ceil((n + f + 1) / 2): any two such sets of nodes share an honest one."""
    return (n + f + 2) // 2


class AbstractBroadcast(ABC):
    """Says a frame to everybody, and collects what everybody said; use it as `async with`."""

    transport: AbstractTransport

    @abstractmethod
    async def broadcast(self, frame: Frame) -> None:
        """Say a frame to all nodes."""

    @abstractmethod
    async def collect(
        self,
        kind: str,
        round: int,
        phase: int,
        *,
        of: Iterable[int],
        quorum: int,
        deadline: float,
        own: Frame | None = None,
    ) -> Collected:
        """Return the first frames of a kind, round and phase that were delivered, as the transport's `collect` does.

        Raises:
            Misuse: MTH-0911 if there can never be so many.
            QuorumLost: MTH-0910 at the deadline, with the ids of those who are missing.
        """

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Begin to read the transport."""

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; slower nodes get no more help from us."""


class Plain(AbstractBroadcast):
    """Says it to each; a liar may say something else to each.

    Args:
        transport: What carries it.
    """

    def __init__(self, transport: AbstractTransport) -> None:
        self.transport = transport

    async def broadcast(self, frame: Frame) -> None:
        """Say a frame to all nodes."""
        await self.transport.broadcast(frame)

    async def collect(
        self,
        kind: str,
        round: int,
        phase: int,
        *,
        of: Iterable[int],
        quorum: int,
        deadline: float,
        own: Frame | None = None,
    ) -> Collected:
        """Return the first frames that came."""
        return await self.transport.collect(kind, round, phase, of=of, quorum=quorum, deadline=deadline, own=own)

    async def __aenter__(self) -> Self:
        """Do nothing."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""


@dataclass
class Instance:
    """One frame of one origin on its way to everybody.

    Args:
        place: Kind, round and phase.
        origin: Whose frame.
    """

    place: Place
    origin: int
    frame: Frame | None = None
    """What the origin said to us, or what we fetched."""
    digest: bytes = b""
    """Of that frame."""
    said: set[str] = field(default_factory=set)
    """The layers in which we have spoken."""
    decided: bytes = b""
    """The digest that everybody may deliver; empty as long as it is open."""
    delivered: bool = False
    asked: dict[int, None] = field(default_factory=dict)
    """Whom we asked for the frame."""
    votes: dict[tuple[str, bytes], dict[int, bytes]] = field(default_factory=dict)
    """By layer and digest: who said so, and with which signature."""

    def vote(self, layer: str, value: bytes, node: int, signature: bytes = b"") -> int:
        """Note that a node stands by a digest; return how many do."""
        voters = self.votes.setdefault((layer, value), {})
        voters.setdefault(node, signature)
        return len(voters)

    def voters(self, layer: str, value: bytes) -> dict[int, bytes]:
        """Return who stands by a digest."""
        return self.votes.get((layer, value), {})


class AbstractLayer(AbstractBroadcast):
    """The machinery around the instances; a layer says how it reacts to a frame."""

    layers: frozenset[str]

    def _prepare(self, transport: AbstractTransport, *, f: int, context: bytes) -> None:
        """Set up the state of a layer.

        Raises:
            Misuse: MTH-0914 if the transport does not read its frames, MTH-0915 if n < 3 f + 1.
        """
        self.transport, self.f, self.context = transport, f, context
        self.n = len(transport.peers) + 1
        if f < 0 or self.n < 3 * f + 1:
            message = f"{f} Byzantine nodes among {self.n}: consistent and reliable broadcast need n >= 3 f + 1"
            raise Misuse("MTH-0915", message, hint=f"declare at most {(self.n - 1) // 3}, or add nodes")
        schema = transport.schema
        missing = self.layers - schema.layers
        if missing or schema.control_bytes < self._control_bytes():
            lacks = f"the layers {', '.join(sorted(missing))}" if missing else f"{self._control_bytes()} control bytes"
            raise Misuse("MTH-0914", f"this broadcast needs {lacks}, which the schema does not have")
        transport.mailbox.past = max(transport.mailbox.past, transport.limits.window)
        self.quorum = echo_quorum(self.n, f)
        self._instances: dict[tuple[Place, int], Instance] = {}
        self._delivered: dict[Place, dict[int, Frame]] = {}
        self._held = dict.fromkeys((*transport.peers, transport.me), 0)
        self._finished: dict[Place, None] = {}
        self._oldest = 0
        self._bell = Bell()
        self._helpers: set[asyncio.Task[None]] = set()
        self._pump_task: asyncio.Task[None] | None = None

    @abstractmethod
    def _control_bytes(self) -> int:
        """Return the size of the layer's own frames."""

    @abstractmethod
    async def _react(self, frame: Frame, instance: Instance) -> None:
        """Go on with an instance after a frame of a peer, or after our own."""

    async def broadcast(self, frame: Frame) -> None:
        """Say a frame to all nodes."""
        self.transport.mailbox.tap()
        await self.transport.broadcast(frame)
        await self._take(frame)

    async def collect(
        self,
        kind: str,
        round: int,
        phase: int,
        *,
        of: Iterable[int],
        quorum: int,
        deadline: float,
        own: Frame | None = None,
    ) -> Collected:
        """Return the first frames of a kind, round and phase that were delivered.

        Raises:
            Misuse: MTH-0911 if there can never be so many.
            QuorumLost: MTH-0910 at the deadline, with the ids of those who are missing.
        """
        wanted, place, started = set(of), (kind, round, phase), self.transport.now()
        others = wanted - {self.transport.me}
        if not 1 <= quorum <= len(others) + (own is not None):
            raise Misuse("MTH-0911", f"a quorum of {quorum} cannot be had of {len(others)} others")
        self.transport.enter(round)
        needed = quorum - (own is not None)
        await self._until(lambda: len(self._of(place, others)) >= needed, place, quorum, others, deadline)
        found = dict(list(self._of(place, others).items())[:needed])
        if own is not None:
            found[self.transport.me] = own
        for sender in others & set(found):
            self.transport.stats[sender].included += 1
        self._finish(place)
        frames = {sender: found[sender] for sender in sorted(found)}
        return Collected(frames, tuple(sorted(wanted - set(frames))), self.transport.now() - started)

    async def __aenter__(self) -> Self:
        """Begin to read the transport."""
        self.transport.mailbox.tap()
        self._pump_task = asyncio.create_task(self._pump())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; slower nodes get no more help from us."""
        for task in [*self._helpers, *([self._pump_task] if self._pump_task else [])]:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _pump(self) -> None:
        try:
            while True:
                await self._take(await self.transport.receive())
        finally:
            self._bell.ring()

    async def _take(self, frame: Frame) -> None:
        """React to a frame of a round that is still open."""
        self._forget()
        if frame.round < self._oldest:
            return
        place = (frame.kind, frame.round, frame.phase)
        key = (place, frame.origin)
        if key not in self._instances:
            self._instances[key] = Instance(place, frame.origin)
        await self._react(frame, self._instances[key])

    async def _until(
        self, ready: Callable[[], bool], place: Place, quorum: int, of: Iterable[int], deadline: float
    ) -> None:
        """Wait for a condition on what was delivered at a place."""
        try:
            async with asyncio.timeout(deadline):
                while not ready():
                    assert self._pump_task is not None, "a broadcast layer runs within `async with`"
                    if self._pump_task.done():
                        self._pump_task.result()
                    await self._bell.wait()
        except TimeoutError:
            got = sorted(self._of(place, {*of, self.transport.me}))
            missing = sorted(set(of) - set(got))
            what = f"{place[0]}, round {place[1]}, phase {place[2]}"
            raise QuorumLost(what, needed=quorum, got=got, missing=missing, seconds=deadline) from None

    def _of(self, place: Place, nodes: Collection[int]) -> dict[int, Frame]:
        return {origin: frame for origin, frame in self._delivered.get(place, {}).items() if origin in nodes}

    def _hold(self, instance: Instance, frame: Frame) -> bool:
        """Keep a payload, unless its origin has spent its share of the memory."""
        if self._held[instance.origin] + frame.nbytes > self.transport.limits.buffer_bytes:
            self.transport.mailbox.refuse(frame.sender, "budget")
            return False
        self._held[instance.origin] += frame.nbytes
        instance.frame, instance.digest = frame, digest(frame, self.context)
        return True

    def _let_go(self, instance: Instance) -> None:
        if instance.frame is not None:
            self._held[instance.origin] -= instance.frame.nbytes
            instance.frame = None

    def _deliver(self, instance: Instance) -> None:
        """Hand the frame of an instance over, as its origin's word."""
        frame = instance.frame
        assert frame is not None
        if not instance.delivered:
            instance.delivered = True
            said = frame if frame.layer == "data" else as_data(frame)
            self._delivered.setdefault(instance.place, {})[instance.origin] = said
            self._bell.ring()

    def _forget(self) -> None:
        """Drop what belongs to rounds that nobody asks about any more."""
        oldest = self.transport.round - self.transport.mailbox.past
        if oldest <= self._oldest:
            return
        self._oldest = oldest
        for key in [key for key in self._instances if key[0][1] < oldest]:
            self._let_go(self._instances.pop(key))
        self._delivered = {place: held for place, held in self._delivered.items() if place[1] >= oldest}
        self._finished = {place: None for place in self._finished if place[1] >= oldest}

    def _finish(self, place: Place) -> None:
        """Let payloads go that were collected some places ago; slower nodes may still have fetched the last ones."""
        self._finished[place] = None
        while len(self._finished) > _KEPT_PLACES:
            gone = next(iter(self._finished))
            del self._finished[gone]
            self._delivered.pop(gone, None)
            for origin in self._held:
                if (gone, origin) in self._instances:
                    self._let_go(self._instances[gone, origin])


def as_data(frame: Frame) -> Frame:
    """Return a frame that a third node passed on as its origin's own."""
    return Frame(frame.kind, frame.round, frame.phase, frame.origin, frame.payload)
