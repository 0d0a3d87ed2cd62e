"""Who decides when a simulated message arrives: a friendly network, or an adversary that owns it.

A schedule answers each message with the delays of its deliveries: none loses it, two deliver it twice. Delays are
seconds of virtual time, so that any order of delivery can be had.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mithridate.byzantine.messages import Frame
from mithridate.core.params import Checked, In, check_fields, param


@dataclass(frozen=True)
class Letter:
    """A message on its way.

    Args:
        number: How many were sent before it.
        at: When it was sent, in virtual seconds.
        sender: The node that sent it.
        to: The node that it is for.
        frame: What it says; None for bytes that need not be a frame.
        nbytes: Its size.
    """

    number: int
    at: float
    sender: int
    to: int
    frame: Frame | None
    nbytes: int


class AbstractSchedule(ABC):
    """Decides the delivery of each message; it sees all of them."""

    @abstractmethod
    def delays(self, letter: Letter, rng: np.random.Generator) -> Sequence[float]:
        """Return the delay of each delivery of a message."""


@dataclass(frozen=True, kw_only=True)
class Punctual(Checked, AbstractSchedule):
    """Every message takes equally long."""

    seconds: float = param(0.001, within=In(0, 1e9), doc="delay, virtual seconds")

    def delays(self, letter: Letter, rng: np.random.Generator) -> Sequence[float]:
        """Return the one delay."""
        del letter, rng
        return (self.seconds,)


@dataclass(frozen=True, kw_only=True)
class RandomDelays(Checked, AbstractSchedule):
    """Delays are drawn from an exponential distribution, so that every order of delivery has positive probability."""

    mean: float = param(0.01, within=In(0, 1e9, open_lo=True), doc="mean delay, virtual seconds")
    lost: float = param(0.0, within=In(0, 1), doc="probability that a message is lost")
    twice: float = param(0.0, within=In(0, 1), doc="probability that it is delivered twice")

    def delays(self, letter: Letter, rng: np.random.Generator) -> Sequence[float]:
        """Draw the deliveries of a message."""
        del letter
        if self.lost and rng.random() < self.lost:
            return ()
        count = 2 if self.twice and rng.random() < self.twice else 1
        return tuple(float(delay) for delay in rng.exponential(self.mean, count))


@dataclass(frozen=True, kw_only=True)
class Favour(AbstractSchedule):
    """Each node hears its favourites first and the others much later: reliable, and as unfair as asynchrony allows.

    Args:
        first: For each receiver the senders that it hears first, in this order.
        kinds: The kinds of frames that are treated so; empty for all.
        step: The delay of the first favourite, and what each next one adds.
        later: The delay of the others.
    """

    first: Mapping[int, Sequence[int]]
    kinds: frozenset[str] = frozenset()
    step: float = 0.001
    later: float = 10.0

    def delays(self, letter: Letter, rng: np.random.Generator) -> Sequence[float]:
        """Return a delay by the receiver's preference."""
        del rng
        if self.kinds and (letter.frame is None or letter.frame.kind not in self.kinds):
            return (self.step,)
        order = list(self.first.get(letter.to, ()))
        return (self.step * (1 + order.index(letter.sender)),) if letter.sender in order else (self.later,)


@dataclass(frozen=True, kw_only=True)
class Partition(Checked, AbstractSchedule):
    """Messages between a group and the rest wait until the partition heals.

    Args:
        group: The nodes on one side.
    """

    group: frozenset[int]
    begin: float = param(0.0, within=In(0, 1e9), doc="when it begins, virtual seconds")
    heal: float = param(1.0, within=In(0, 1e9), doc="when it ends, virtual seconds")
    inner: AbstractSchedule = field(default_factory=Punctual)

    def __post_init__(self) -> None:
        check_fields(self)

    def delays(self, letter: Letter, rng: np.random.Generator) -> Sequence[float]:
        """Add the rest of the partition to what crosses it."""
        crosses = (letter.sender in self.group) is not (letter.to in self.group)
        wait = self.heal - letter.at if crosses and self.begin <= letter.at < self.heal else 0.0
        return tuple(wait + delay for delay in self.inner.delays(letter, rng))


@dataclass(frozen=True, kw_only=True)
class Slow(Checked, AbstractSchedule):
    """All that some nodes send takes longer.

    Args:
        nodes: Who is slow.
    """

    nodes: frozenset[int]
    seconds: float = param(1.0, within=In(0, 1e9), doc="additional delay, virtual seconds")
    inner: AbstractSchedule = field(default_factory=Punctual)

    def __post_init__(self) -> None:
        check_fields(self)

    def delays(self, letter: Letter, rng: np.random.Generator) -> Sequence[float]:
        """Add to the delays of the slow."""
        extra = self.seconds if letter.sender in self.nodes else 0.0
        return tuple(extra + delay for delay in self.inner.delays(letter, rng))
