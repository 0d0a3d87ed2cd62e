"""What leaves a node: the truth, or what a Byzantine node makes of it.

A Byzantine node runs the honest program, so that it knows what an honest one would say; its mouth says something else.
Attacks that know the honest rows get them through a side channel, frames of kind `leak`: where the cluster file says
`omniscient` (experiments on one machine), honest nodes show their vectors to the attackers of their role; elsewhere the
attackers show theirs to each other and take them for the honest rows. An omniscient attacker also rushes, as if the
network were its own: honest nodes hold their frames back until the attackers have sent theirs and say `go`. Otherwise
the attackers, who wait for what they are shown, would be too late for most quorums, and the attack would be a pretence.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, final

import numpy as np
import torch

from mithridate.aggregation._base import State
from mithridate.aggregation.adversaries._base import AbstractAdversary, Rule
from mithridate.byzantine.messages import Frame
from mithridate.byzantine.source import Vector, stacked
from mithridate.byzantine.transport._base import Collected, QuorumLost
from mithridate.core.seeds import address
from mithridate.numerics.rng import generator

_LEAK_SECONDS = 2.0


class Crashed(Exception):  # noqa: N818 - what happened, not what went wrong
    """The node's behaviour is to stop here."""


class Speaker(Protocol):
    """What a mouth speaks through: a transport, or a broadcast layer over one."""

    @property
    def me(self) -> int:
        """This node."""

    async def send(self, to: int, frame: Frame) -> None:
        """Send a frame to one node, past any layer."""

    async def send_bytes(self, to: int, data: bytes) -> None:
        """Send bytes that need be no frame."""

    async def broadcast(self, frame: Frame, to: Iterable[int]) -> None:
        """Send a frame to all, through the layer if there is one."""

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
        """Return the first frames of a kind, round and phase."""


class AbstractMouth(ABC):
    """Decides what is sent in place of an honest frame."""

    @abstractmethod
    async def say(self, speaker: Speaker, frame: Frame, to: Sequence[int]) -> None:
        """Send something in place of `frame`."""

    def hear(self, vectors: Sequence[Vector]) -> None:  # noqa: B027 - only forgers listen
        """Take note of what was collected in a quorum."""


@final
@dataclass
class Honest(AbstractMouth):
    """Says what is true, to all; before that to `leaks`, so that omniscient attackers can be simulated.

    Attributes:
        leaks: Attackers that are shown everything and speak first. One that does not is not waited for again.
    """

    leaks: tuple[int, ...] = ()
    waits: bool = True

    async def say(self, speaker: Speaker, frame: Frame, to: Sequence[int]) -> None:
        """Send the frame."""
        if self.leaks:
            await leak(speaker, frame, self.leaks)
            await self._let_them_rush(speaker, frame)
        await speaker.broadcast(frame, to)

    async def _let_them_rush(self, speaker: Speaker, frame: Frame) -> None:
        if not self.waits:
            return
        try:
            await speaker.collect(
                "go",
                frame.round,
                leak_phase(frame),
                of=self.leaks,
                quorum=len(self.leaks),
                deadline=2 * _LEAK_SECONDS,
            )
        except QuorumLost:
            self.waits = False


async def leak(speaker: Speaker, frame: Frame, to: Sequence[int]) -> None:
    """Show a frame to attackers."""
    if to:
        await speaker.broadcast(replace(frame, kind="leak", phase=leak_phase(frame)), to)


def leak_phase(frame: Frame) -> int:
    """Return the phase under which a frame is shown: one for each kind and phase of a round."""
    return 4 * frame.phase + {"gradient": 0, "model": 1, "gather": 2}.get(frame.kind, 3)


@final
@dataclass
class Forger(AbstractMouth):
    """Sends what a row adversary forges.

    Attributes:
        adversary: The attack.
        colluders: The Byzantine nodes of this role, in order; each sends the row of its place.
        informants: Whose vectors are shown to us: the honest nodes, or the colluders; nobody among peers, where the
            quorum heard last stands for the honest rows.
        rule: What the rows will be combined with, if there is one.
        seed: For attacks that draw; the same for all colluders.
    """

    adversary: AbstractAdversary
    colluders: tuple[int, ...]
    informants: tuple[int, ...]
    rule: Rule | None
    seed: int
    state: State = field(default=None)
    heard: list[Vector] = field(default_factory=list)

    def hear(self, vectors: Sequence[Vector]) -> None:
        """Remember what others sent: where nothing is shown to us, it stands for the honest rows."""
        self.heard = list(vectors)

    async def say(self, speaker: Speaker, frame: Frame, to: Sequence[int]) -> None:
        """Send the forged row of our place."""
        f, place = len(self.colluders), self.colluders.index(speaker.me)
        if speaker.me in self.informants:
            await leak(speaker, frame, [node for node in self.colluders if node != speaker.me])
        if self.adversary.knowledge == "honest rows":
            rows = await self._shown(speaker, frame)
            count = f
        else:
            rows, count, place = [frame.array()], 1, 0
        gen = generator(self.seed, "adversary", frame.kind, frame.round, frame.phase)
        forged, self.state = self.adversary.forge(stacked(rows), count, rule=self.rule, gen=gen, state=self.state)
        vector: Vector = forged[place].detach().to(torch.float32).numpy()
        await speaker.broadcast(replace(frame, payload=vector), to)
        if self.adversary.knowledge == "honest rows" and speaker.me not in self.informants:
            await speaker.broadcast(replace(frame, kind="go", phase=leak_phase(frame), payload=b"."), self.informants)

    async def _shown(self, speaker: Speaker, frame: Frame) -> list[Vector]:
        others = [node for node in self.informants if node != speaker.me]
        own = frame if speaker.me in self.informants else None
        if not others:
            return [frame.array(), *self.heard]
        phase = leak_phase(frame)
        quorum = len(others) + (own is not None)
        mine = None if own is None else replace(frame, kind="leak", phase=phase)
        try:
            found = await speaker.collect(
                "leak", frame.round, phase, of=self.informants, quorum=quorum, deadline=_LEAK_SECONDS, own=mine
            )
        except QuorumLost:
            return [frame.array()]
        return [shown.array() for shown in found.frames.values()]


@final
@dataclass
class Silent(AbstractMouth):
    """Says nothing."""

    async def say(self, speaker: Speaker, frame: Frame, to: Sequence[int]) -> None:
        """Send nothing."""
        del speaker, frame, to


@final
@dataclass
class Crash(AbstractMouth):
    """Stops for good at a step; honest before."""

    at: int

    async def say(self, speaker: Speaker, frame: Frame, to: Sequence[int]) -> None:
        """Send the frame, or stop."""
        if frame.round >= self.at:
            raise Crashed
        await speaker.broadcast(frame, to)


@final
@dataclass
class Replay(AbstractMouth):
    """Sends the first vector of each kind for ever."""

    first: dict[str, Vector] = field(default_factory=dict)

    async def say(self, speaker: Speaker, frame: Frame, to: Sequence[int]) -> None:
        """Send the old vector under the present tag, and the old frame as well."""
        old = self.first.setdefault(frame.kind, frame.array().copy())
        await speaker.broadcast(replace(frame, payload=old), to)
        if frame.round:
            await speaker.broadcast(replace(frame, round=frame.round - 1, payload=old), to)


@final
@dataclass
class Garbage(AbstractMouth):
    """Sends random bytes: no frame at all, a frame cut off, and a frame of the wrong size."""

    seed: int

    async def say(self, speaker: Speaker, frame: Frame, to: Sequence[int]) -> None:
        """Send rubbish."""
        rng = np.random.default_rng(address(self.seed, "garbage", speaker.me, frame.round, frame.phase))
        for peer in to:
            if peer != speaker.me:
                await speaker.send_bytes(peer, rng.bytes(int(rng.integers(1, 4096))))
                await speaker.send(peer, replace(frame, payload=frame.array()[: max(1, frame.numel // 2)]))


@final
@dataclass
class Equivocate(AbstractMouth):
    """Sends each receiver another multiple of its vector, far off in turn to both sides."""

    factor: float

    async def say(self, speaker: Speaker, frame: Frame, to: Sequence[int]) -> None:
        """Send every receiver something else."""
        for place, peer in enumerate(to):
            if peer != speaker.me:
                sign = -1.0 if place % 2 else 1.0
                vector = (sign * self.factor * (1 + place) * frame.array()).astype(np.float32)
                await speaker.send(peer, replace(frame, payload=vector))


@final
@dataclass
class Slow(AbstractMouth):
    """Tells the truth, late."""

    seconds: float

    async def say(self, speaker: Speaker, frame: Frame, to: Sequence[int]) -> None:
        """Wait, then send the frame."""
        await asyncio.sleep(self.seconds)
        await speaker.broadcast(frame, to)
