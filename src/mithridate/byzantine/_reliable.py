"""Reliable broadcast after Bracha (1987), and the witness step of Abraham, Amit and Dolev (OPODIS 2004).

    INIT(v) -> ECHO(h) once -> READY(h) on ceil((n + f + 1) / 2) ECHO(h) or f + 1 READY(h)
            -> deliver on 2 f + 1 READY(h)

No two honest nodes deliver different frames of one origin, and if one delivers, all do. Only INIT carries the vector;
ECHO and READY carry its sha256, and a node that lacks the vector fetches it from those who echoed it: n d bytes a node
and round instead of n^2 d. (Tags as in the specification 6.5 and A.6; the thresholds are its own.)
"""

import asyncio
from collections.abc import Iterable

import numpy as np

from mithridate.byzantine._layer import DIGEST_BYTES, AbstractLayer, Instance, as_data, digest
from mithridate.byzantine.messages import BYTES, Expected, Frame
from mithridate.byzantine.transport._base import AbstractTransport, Collected
from mithridate.core.errors import Misuse

_ASK_AGAIN = 0.25


def witness_kind(kind: str) -> str:
    """Return the kind of the frames that say which vectors of a kind a node has."""
    return f"w-{kind[:14]}"


def witness_expected(n: int) -> Expected:
    """Return what such a frame holds, for the schema."""
    return Expected(dtype=BYTES, numel=4 * n, exact=False)


class Reliable(AbstractLayer):
    """Agreement on what each node said.

    Args:
        transport: What carries it.
        f: How many nodes may lie; n >= 3 f + 1.
        context: Names the run.
    """

    layers = frozenset({"data", "echo", "ready", "fetch", "have"})

    def __init__(self, transport: AbstractTransport, *, f: int, context: bytes = b"") -> None:
        self._prepare(transport, f=f, context=context)

    def _control_bytes(self) -> int:
        return DIGEST_BYTES

    async def collect_witnessed(
        self, kind: str, round: int, phase: int, *, deadline: float, own: Frame | None = None
    ) -> Collected:
        """Return all vectors that are here once n - f nodes have said which they had, and we have all of those.

        Any two honest nodes then share at least n - f vectors. The schema needs `witness_kind(kind)` too.

        Args:
            kind: Of the vectors, which `broadcast` said.
            round: The training step.
            phase: The sub-round.
            deadline: Seconds from now, for each of the two waits.
            own: Our own vector.

        Raises:
            Misuse: MTH-0914 if the schema lacks the witnesses' kind.
            QuorumLost: MTH-0910 at the deadline.
        """
        name = witness_kind(kind)
        if name not in self.transport.schema.kinds:
            raise Misuse("MTH-0914", f"the schema does not read {name!r}", hint="add witness_expected(n) to it")
        self.transport.enter(round)
        started, me, needed = self.transport.now(), self.transport.me, self.n - self.f
        nodes = sorted(self._held)
        place, witnesses = (kind, round, phase), (name, round, phase)
        if own is not None:
            self._delivered.setdefault(place, {})[me] = own
        others = [node for node in nodes if node != me]
        await self._until(lambda: len(self._of(place, nodes)) >= needed, place, needed, others, deadline)
        mine = sorted(list(self._of(place, nodes))[:needed])
        await self.broadcast(Frame(*witnesses, me, np.array(mine, "<u4").tobytes()))
        await self._until(
            lambda: len(self._witnesses(witnesses, place, nodes)) >= needed, witnesses, needed, others, deadline
        )
        found = self._of(place, nodes)
        for sender in set(others) & set(found):
            self.transport.stats[sender].included += 1
        self._finish(place)
        frames = {sender: found[sender] for sender in sorted(found)}
        late = tuple(sorted(set(nodes) - set(frames)))
        return Collected(frames, late, self.transport.now() - started)

    def _witnesses(
        self, witnesses: tuple[str, int, int], place: tuple[str, int, int], nodes: Iterable[int]
    ) -> list[int]:
        """Return the nodes all of whose first n - f vectors are here."""
        here = set(self._of(place, set(nodes)))
        found = []
        for node, frame in self._of(witnesses, set(nodes)).items():
            body = bytes(frame.body())
            ids = set(np.frombuffer(body, "<u4").tolist()) if len(body) % 4 == 0 else set()
            if len(ids) == self.n - self.f and len(body) == 4 * len(ids) and ids <= here:
                found.append(node)
        return found

    async def _react(self, frame: Frame, instance: Instance) -> None:
        if frame.layer == "data":
            await self._on_data(frame, instance)
        elif frame.layer == "have":
            self._on_have(frame, instance)
        else:
            body = bytes(frame.body())
            if len(body) != DIGEST_BYTES:
                return
            if frame.layer == "fetch":
                await self._on_fetch(body, frame.sender, instance)
            else:
                await self._on_vote(frame.layer, body, frame.sender, instance)

    async def _on_data(self, frame: Frame, instance: Instance) -> None:
        if instance.frame is None and "echo" not in instance.said and self._hold(instance, frame):
            instance.said.add("echo")
            await self._say("echo", instance.digest, instance)
        self._end(instance)

    async def _on_vote(self, layer: str, value: bytes, node: int, instance: Instance) -> None:
        count = instance.vote(layer, value, node)
        enough = self.quorum if layer == "echo" else self.f + 1
        if count >= enough and "ready" not in instance.said:
            instance.said.add("ready")
            await self._say("ready", value, instance)
        if len(instance.voters("ready", value)) >= 2 * self.f + 1 and not instance.decided:
            instance.decided = value
            self._end(instance)
            if not instance.delivered:
                self._fetch(instance)

    async def _on_fetch(self, value: bytes, node: int, instance: Instance) -> None:
        frame = instance.frame
        if frame is not None and instance.digest == value:
            place, me = instance.place, self.transport.me
            await self.transport.send(node, Frame(*place, me, frame.payload, "have", instance.origin))

    def _on_have(self, frame: Frame, instance: Instance) -> None:
        wanted = instance.decided and not instance.delivered and frame.sender in instance.asked
        if wanted and digest(frame, self.context) == instance.decided:
            self._let_go(instance)
            if self._hold(instance, as_data(frame)):
                self._end(instance)

    async def _say(self, layer: str, value: bytes, instance: Instance) -> None:
        """Say an echo or a ready to all, ourselves included."""
        me = self.transport.me
        await self.transport.broadcast(Frame(*instance.place, me, value, layer, instance.origin))
        await self._on_vote(layer, value, me, instance)

    def _end(self, instance: Instance) -> None:
        """Deliver, if it is decided and here."""
        if instance.decided and instance.frame is not None and instance.digest == instance.decided:
            self._deliver(instance)

    def _fetch(self, instance: Instance) -> None:
        """Ask those who echoed the frame for it, one after the other, until it is here."""
        task = asyncio.create_task(self._ask(instance))
        self._helpers.add(task)
        task.add_done_callback(self._helpers.discard)

    async def _ask(self, instance: Instance) -> None:
        me = self.transport.me
        while not instance.delivered and (instance.place, instance.origin) in self._instances:
            known = instance.voters("echo", instance.decided)
            fresh = [node for node in sorted(known) if node not in instance.asked and node != me]
            if fresh:
                # Spread over the echoers: not everybody asks the same one first.
                node = fresh[me % len(fresh)]
                instance.asked[node] = None
                await self.transport.send(node, Frame(*instance.place, me, instance.decided, "fetch", instance.origin))
            await asyncio.sleep(_ASK_AGAIN)
