"""The one interface to the other nodes, whatever carries the frames."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mithridate.byzantine.messages import Frame, Schema
from mithridate.byzantine.transport._mailbox import Evidence, Limits, Mailbox, PeerStats
from mithridate.core.errors import Misuse, MithridateError

__all__ = ["AbstractTransport", "Collected", "Evidence", "Limits", "PeerStats", "QuorumLost"]


class QuorumLost(MithridateError, RuntimeError):  # noqa: N818 - the word that users see
    """Too few nodes answered before the deadline.

    Args:
        what: What was waited for.
        needed: How many frames of it.
        got: The nodes whose frames came.
        missing: The nodes whose frames did not.
        seconds: How long was waited.
    """

    def __init__(self, what: str, *, needed: int, got: Sequence[int], missing: Sequence[int], seconds: float) -> None:
        self.got, self.missing, self.needed = tuple(got), tuple(missing), needed
        silent = ", ".join(map(str, missing)) or "nobody"
        super().__init__(
            "MTH-0910",
            f"{len(got)} of the {needed} frames needed of {what} came within {seconds:g} s; missing: {silent}",
            hint="start the missing nodes, or raise the deadline",
        )


@dataclass(frozen=True)
class Collected:
    """The frames of a quorum.

    Args:
        frames: By sender, in the order of their ids, so that what follows depends on nothing but the set.
        late: The nodes that were asked for and are not among them.
        seconds: How long it took.
    """

    frames: dict[int, Frame]
    late: tuple[int, ...]
    seconds: float


class AbstractTransport(ABC):
    """Sends frames to peers and collects theirs; no fault of a peer is ever raised here."""

    me: int
    peers: tuple[int, ...]
    mailbox: Mailbox
    incarnation: int
    """How often this node has been started before."""

    @abstractmethod
    async def send(self, to: int, frame: Frame) -> None:
        """Queue a frame for a peer; never waits for it. When the queue is full, its oldest round is dropped."""

    @abstractmethod
    async def send_bytes(self, to: int, data: bytes) -> None:
        """Queue bytes that need not be a frame: what faulty nodes do."""

    @abstractmethod
    async def drain(self, seconds: float) -> tuple[int, ...]:
        """Wait until the peers have taken all that is queued; return those that have not in time."""

    @abstractmethod
    async def close(self) -> None:
        """End all connections."""

    async def broadcast(self, frame: Frame, to: Iterable[int] | None = None) -> None:
        """Queue a frame for several peers, all of them unless given."""
        for peer in self.peers if to is None else to:
            if peer != self.me:
                await self.send(peer, frame)

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
        """Return the first frames of a kind, round and phase; later ones are dropped as they come.

        Entering a round ends the ones before it.

        Args:
            kind: What to wait for.
            round: The training step; frames of earlier ones are no longer read.
            phase: The sub-round.
            of: Whose frames count.
            quorum: How many are waited for, our own included.
            deadline: Seconds from now.
            own: Our own frame; it is always among the first.

        Raises:
            Misuse: MTH-0911 if there can never be so many.
            QuorumLost: MTH-0910 at the deadline, with the ids of those who are missing.
        """
        wanted = set(of)
        others = wanted - {self.me}
        if not 1 <= quorum <= len(others) + (own is not None):
            count = f"{len(others)} others" + (" and ourselves" if own is not None else "")
            raise Misuse("MTH-0911", f"a quorum of {quorum} cannot be had of {count}", hint="see `mithridate explain`")
        started, place = self.now(), (kind, round, phase)
        self.enter(round)
        found: dict[int, Frame] | None = None
        try:
            async with asyncio.timeout(deadline):
                while (found := self.mailbox.take(place, of=others, quorum=quorum - (own is not None))) is None:
                    await self.mailbox.change()
        except TimeoutError:
            got = sorted(self.mailbox.present(place) & others | ({self.me} if own is not None else set()))
            missing = sorted(others - set(got))
            what = f"{kind}, round {round}, phase {phase}"
            raise QuorumLost(what, needed=quorum, got=got, missing=missing, seconds=deadline) from None
        if own is not None:
            found[self.me] = own
        frames = {sender: found[sender] for sender in sorted(found)}
        return Collected(frames, tuple(sorted(wanted - set(frames))), self.now() - started)

    async def newest(self, kind: str, *, of: Iterable[int], after: int, deadline: float) -> Frame:
        """Return the newest frame of a followed kind above round `after`, and enter its round.

        Raises:
            QuorumLost: MTH-0910 at the deadline.
        """
        wanted = set(of)
        try:
            async with asyncio.timeout(deadline):
                while (frame := self.mailbox.newest(kind, of=wanted, after=after)) is None:
                    await self.mailbox.change()
        except TimeoutError:
            what = f"{kind} after round {after}"
            raise QuorumLost(what, needed=1, got=(), missing=sorted(wanted), seconds=deadline) from None
        self.enter(frame.round)
        return frame

    async def receive(self) -> Frame:
        """Return the next frame in the order of arrival; from the first call on, `collect` gets none of them."""
        self.mailbox.tap()
        while (frame := self.mailbox.pop()) is None:
            await self.mailbox.change()
        return frame

    def enter(self, number: int) -> None:
        """Go to a round; collecting does so by itself. What came for the rounds before the window is dropped."""
        self.mailbox.enter(number)

    def now(self) -> float:
        """Return the seconds since some moment, virtual in the simulator."""
        return asyncio.get_running_loop().time()

    @property
    def round(self) -> int:
        """The round we are in."""
        return self.mailbox.round

    @property
    def schema(self) -> Schema:
        """What is read."""
        return self.mailbox.schema

    @property
    def limits(self) -> Limits:
        """Bounds."""
        return self.mailbox.limits

    @property
    def stats(self) -> dict[int, PeerStats]:
        """What was exchanged, by peer."""
        return self.mailbox.stats

    @property
    def evidence(self) -> list[Evidence]:
        """Peers that said two things at once, as far as this node saw it."""
        return self.mailbox.evidence
