"""Nodes in one process on a virtual clock, and an adversary that decides what is delivered when.

The same programs that run over gRPC run here; asyncio itself is virtual, so they may sleep, gather and time out. Equal
programs, schedule and seed give equal results, bit for bit: the trace says whether they did.
"""

import asyncio
import contextlib
import functools
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from mithridate.byzantine.messages import Frame, Schema, check_expected, decode
from mithridate.byzantine.transport._base import AbstractTransport, Evidence, Limits, PeerStats
from mithridate.byzantine.transport._mailbox import RETRIED, Mailbox, Verdict
from mithridate.byzantine.transport._virtual import VirtualLoop
from mithridate.byzantine.transport.schedules import AbstractSchedule, Letter, Punctual
from mithridate.core.errors import BadArtefact, Misuse, MithridateError
from mithridate.core.seeds import address

T = TypeVar("T")
Program = Callable[[AbstractTransport], Awaitable[T]]
"""What a node does, given its transport."""
_SLACK = 3


@dataclass(frozen=True, kw_only=True)
class Crash:
    """A node dies at a moment and perhaps comes back, its memory empty.

    Args:
        node: Who.
        at: When, in virtual seconds.
        restart: When it is started again; None for never.
    """

    node: int
    at: float
    restart: float | None = None


@dataclass(frozen=True, kw_only=True)
class Simulation(Generic[T]):
    """What came of it.

    Args:
        results: What each finished program returned.
        failures: The errors of those that stopped, such as a lost quorum.
        seconds: Virtual time that passed.
        sent: Messages sent.
        delivered: Messages delivered.
        lost: Messages that never arrived.
        trace: A digest of every delivery in its order.
        stats: What each node exchanged with its peers.
        evidence: The equivocations that each node saw.
    """

    results: dict[int, T]
    failures: dict[int, MithridateError]
    seconds: float
    sent: int
    delivered: int
    lost: int
    trace: str
    stats: dict[int, dict[int, PeerStats]]
    evidence: dict[int, list[Evidence]]


def run_simulation(
    programs: Mapping[int, Program[T]],
    *,
    schema: Schema,
    schedule: AbstractSchedule | None = None,
    seed: int = 0,
    limits: Limits | None = None,
    until: Collection[int] | None = None,
    crashes: Sequence[Crash] = (),
    limit: float = 1e6,
) -> Simulation[T]:
    """Run the programs of all nodes until those of `until` are finished.

    Args:
        programs: What each node does. It is called again when a crashed node restarts; `transport.incarnation` tells.
        schema: What the nodes read.
        schedule: Who decides on deliveries; every message takes a millisecond unless given.
        seed: For the schedule's draws.
        limits: Bounds of each node.
        until: Whose end is the end of the simulation; all nodes unless given. Faulty programs may run for ever.
        crashes: Who dies when.
        limit: Virtual seconds after which it is an error not to be finished.

    Raises:
        Misuse: MTH-0913 for a crash or an end of a node that there is not.
        WorkError: MTH-0912 when all nodes wait for ever, or beyond `limit`.
    """
    awaited = set(programs if until is None else until)
    strange = sorted((awaited | {crash.node for crash in crashes}) - set(programs))
    if strange or not awaited:
        known = ", ".join(map(str, programs))
        raise Misuse("MTH-0913", f"there is no node {', '.join(map(str, strange)) or 'to wait for'}; nodes: {known}")
    rng = np.random.default_rng(address(seed, "byzantine", "schedule"))
    network = _Network(schema, limits or Limits(), schedule or Punctual(), rng)
    loop = VirtualLoop(limit)
    nodes: dict[int, _Node[T]] = {}
    for node in sorted(programs):
        nodes[node] = _Node(node, programs[node], network, tuple(sorted(set(programs) - {node})))
    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            try:
                runner.run(_run(nodes, awaited, crashes))
            finally:
                loop.unlimited()
    finally:
        seconds = loop.time()
    return Simulation(
        results={number: node.result[0] for number, node in nodes.items() if node.result},
        failures={number: node.failure for number, node in nodes.items() if node.failure is not None},
        seconds=seconds,
        sent=network.sent,
        delivered=network.delivered,
        lost=network.lost,
        trace=network.trace.hexdigest(),
        stats={number: node.transport.stats for number, node in nodes.items()},
        evidence={number: node.transport.evidence for number, node in nodes.items()},
    )


class SimulatedTransport(AbstractTransport):
    """One node's end of the simulated network; `run_simulation` makes them."""

    def __init__(self, network: "_Network", me: int, peers: tuple[int, ...], incarnation: int) -> None:
        self.me, self.peers, self.incarnation = me, peers, incarnation
        self.mailbox = Mailbox(me, peers, network.schema, network.limits)
        self.mailbox.on_enter = functools.partial(network.offer_again, me)
        self._network = network

    async def send(self, to: int, frame: Frame) -> None:
        """Give a frame to the network."""
        self._network.post(self, to, frame, frame.nbytes)

    async def send_bytes(self, to: int, data: bytes) -> None:
        """Give bytes to the network."""
        self._network.post(self, to, data, len(data))

    async def drain(self, seconds: float) -> tuple[int, ...]:
        """Return at once: the network takes everything."""
        del seconds
        return ()

    async def close(self) -> None:
        """Do nothing: the network ends with the simulation."""


@dataclass
class _Node(Generic[T]):
    """A program and the task that runs it."""

    number: int
    program: Program[T]
    network: "_Network"
    peers: tuple[int, ...]
    result: list[T] = field(default_factory=list)
    failure: MithridateError | None = None
    starts: int = 0
    task: asyncio.Task[None] | None = None
    transport: SimulatedTransport = field(init=False)

    def start(self) -> None:
        """Begin, with an empty memory."""
        self.transport = SimulatedTransport(self.network, self.number, self.peers, self.starts)
        self.starts += 1
        self.network.attach(self.transport)
        self.task = asyncio.create_task(self._work())

    async def crash(self) -> None:
        """Die."""
        self.network.detach(self.number)
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task

    async def _work(self) -> None:
        try:
            self.result[:] = [await self.program(self.transport)]
        except MithridateError as error:
            self.failure = error


async def _run(nodes: Mapping[int, _Node[T]], awaited: Collection[int], crashes: Sequence[Crash]) -> None:
    for node in nodes.values():
        node.start()
    accidents = asyncio.create_task(_crash(nodes, crashes))
    last = {crash.node: crash for crash in sorted(crashes, key=lambda crash: crash.at)}
    for number in sorted(awaited):
        while (task := nodes[number].task) is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(task)
            if not task.cancelled():
                break
            if last[number].restart is None and accidents.done():
                break
            await asyncio.sleep(0.001)
    accidents.cancel()
    for node in nodes.values():
        if node.task is not None:
            node.task.cancel()
    tasks = [node.task for node in nodes.values() if node.task is not None]
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


async def _crash(nodes: Mapping[int, _Node[T]], crashes: Sequence[Crash]) -> None:
    moments = [(crash.at, crash.node, True) for crash in crashes]
    moments += [(crash.restart, crash.node, False) for crash in crashes if crash.restart is not None]
    loop = asyncio.get_running_loop()
    for at, number, dies in sorted(moments):
        await asyncio.sleep(max(0.0, at - loop.time()))
        if dies:
            await nodes[number].crash()
        else:
            nodes[number].start()


class _Network:
    """Carries messages as the schedule says.

    Like the outbox of a real transport it keeps for each pair of nodes the frames of the last rounds, and offers them
    again to a node that was down, or too far behind to take them.
    """

    def __init__(self, schema: Schema, limits: Limits, schedule: AbstractSchedule, rng: np.random.Generator) -> None:
        self.schema, self.limits, self.schedule, self.rng = schema, limits, schedule, rng
        self.sent = self.delivered = self.lost = 0
        self.trace = hashlib.sha256()
        self._up: dict[int, SimulatedTransport] = {}
        self._kept: dict[tuple[int, int], deque[Frame]] = {}
        self._early: dict[int, dict[int, deque[Frame]]] = {}

    def attach(self, transport: SimulatedTransport) -> None:
        """Connect a node; what its peers still keep for it is on its way again."""
        self._up[transport.me] = transport
        self._early[transport.me] = {peer: deque(maxlen=self.limits.outbox_frames) for peer in transport.peers}
        if transport.incarnation:
            for peer in transport.peers:
                for frame in list(self._kept.get((peer, transport.me), ())):
                    self._carry(peer, transport.me, frame, frame.nbytes)

    def detach(self, node: int) -> None:
        """Disconnect a node."""
        self._up.pop(node, None)

    def post(self, transport: SimulatedTransport, to: int, content: Frame | bytes, nbytes: int) -> None:
        """Take a message of a node that is up."""
        sender = transport.me
        if self._up.get(sender) is not transport or to not in transport.stats:
            return
        stats = transport.stats[to]
        stats.sent_frames += 1
        stats.sent_bytes += nbytes
        if isinstance(content, Frame):
            kept = self._kept.setdefault((sender, to), deque(maxlen=self.limits.outbox_frames))
            while kept and kept[0].round < content.round - self.limits.window - _SLACK:
                kept.popleft()
            kept.append(content)
        self._carry(sender, to, content, nbytes)

    def offer_again(self, node: int) -> None:
        """Let a node that entered another round look at the frames that came too early."""
        for early in self._early[node].values():
            for _ in range(len(early)):
                self._put(node, early.popleft())

    def _carry(self, sender: int, to: int, content: Frame | bytes, nbytes: int) -> None:
        loop = asyncio.get_running_loop()
        frame = content if isinstance(content, Frame) else None
        letter = Letter(self.sent, loop.time(), sender, to, frame, nbytes)
        self.sent += 1
        delays = self.schedule.delays(letter, self.rng)
        self.lost += not delays
        for delay in delays:
            loop.call_later(delay, self._deliver, letter, content)

    def _deliver(self, letter: Letter, content: Frame | bytes) -> None:
        transport = self._up.get(letter.to)
        if transport is None:
            self.lost += 1
            return
        self.delivered += 1
        crc = content.crc if isinstance(content, Frame) else 0
        now = asyncio.get_running_loop().time()
        self.trace.update(f"{now!r} {letter.number} {letter.sender} {letter.to} {crc}\n".encode())
        try:
            if isinstance(content, Frame):
                if content.sender != letter.sender:
                    message = f"node {letter.sender} sent a frame in the name of node {content.sender}"
                    raise BadArtefact("MTH-0903", message)
                check_expected(content.slot, content.dtype, content.numel, self.schema, sender=letter.sender)
            else:
                content = decode(content, self.schema, sender=letter.sender)
        except BadArtefact as error:
            transport.mailbox.refuse(letter.sender, error.code)
            return
        self._put(letter.to, content)

    def _put(self, node: int, frame: Frame) -> Verdict:
        verdict = self._up[node].mailbox.admit(frame)
        if verdict in RETRIED:
            self._early[node][frame.sender].append(frame)
        return verdict
