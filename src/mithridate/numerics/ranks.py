"""Statistics of sorted values by compare-and-exchange: one definition for tensors and for machine code.

A sorting network is a fixed list of comparators; one that feeds no needed rank is left out. What computes with the
values is an `AbstractAlgebra`: torch on whole blocks of columns, or LLVM on vector registers, in the same order of
operations, so that both give the same bits.

    Median    s_(n+1)/2, or of the two middle values their mean, the lower or the upper one
    Trimmed   mean of s_f+1 .. s_n-f
    Closest   mean of the k values nearest to a centre: a window of the sorted values, the lower one on ties

Paper    Batcher (AFIPS 1968), odd-even merge; the k nearest of sorted values are a window. No sum is ever corrected by
         subtraction: a window is the tail of one block of k values and the head of the next.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Generic, Literal, TypeVar, cast

V = TypeVar("V")


@dataclass(frozen=True)
class Median:
    """The middle value.

    Attributes:
        even: What stands for the middle of an even number of values.
    """

    even: Literal["mean", "lower", "upper"] = "mean"


@dataclass(frozen=True)
class Trimmed:
    """The mean of what is left without the `f` least and the `f` greatest values."""

    f: int


@dataclass(frozen=True)
class Closest:
    """The mean of the `k` values nearest to a centre; `f` is what the trimmed centre leaves out on either side."""

    k: int
    centre: Literal["median", "trimmed"] = "median"
    f: int = 0


Statistic = Median | Trimmed | Closest


class AbstractAlgebra(ABC, Generic[V]):
    """What a statistic is computed with."""

    @abstractmethod
    def lesser(self, a: V, b: V) -> V:
        """Return the smaller of two values."""

    @abstractmethod
    def greater(self, a: V, b: V) -> V:
        """Return the greater of two values."""

    @abstractmethod
    def add(self, a: V, b: V) -> V:
        """Return the sum."""

    @abstractmethod
    def subtract(self, a: V, b: V) -> V:
        """Return the difference."""

    @abstractmethod
    def halve(self, a: V) -> V:
        """Return one half."""

    @abstractmethod
    def divide(self, a: V, count: int) -> V:
        """Return the quotient."""

    @abstractmethod
    def if_less(self, a: V, b: V, then: V, otherwise: V) -> V:
        """Return `then` where a < b."""


@dataclass(frozen=True)
class Comparator:
    """Puts the smaller value on wire `low` and the greater one on `high`, so far as they are needed."""

    low: int
    high: int
    keeps_low: bool
    keeps_high: bool


Wires = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]


def batcher(wires: Wires) -> tuple[Pairs, Wires]:
    """Return the comparators that sort some wires, and the wires from the least value to the greatest."""
    if len(wires) < 2:
        return (), wires
    half = (len(wires) + 1) // 2
    (first, left), (second, right) = batcher(wires[:half]), batcher(wires[half:])
    last, order = _merge(left, right)
    return first + second + last, order


def _merge(left: Wires, right: Wires) -> tuple[Pairs, Wires]:
    """Return the comparators that merge two ascending runs of wires: those of even place, those of odd, then pairs."""
    if not left or not right:
        return (), left + right
    if len(left) == len(right) == 1:
        return ((left[0], right[0]),), left + right
    first, even = _merge(left[::2], right[::2])
    second, odd = _merge(left[1::2], right[1::2])
    pairs = tuple(zip(odd, even[1:], strict=False))
    kept = len(pairs)
    order = even[:1] + tuple(wire for pair in pairs for wire in pair) + odd[kept:] + even[1 + kept :]
    return first + second + pairs, order


@cache
def network(n: int, ranks: frozenset[int]) -> tuple[tuple[Comparator, ...], Wires]:
    """Return the comparators of n wires that the given ranks, counted from 0, depend on, and the wire of every rank."""
    pairs, order = batcher(tuple(range(n)))
    needed, kept = {order[rank] for rank in ranks}, []
    for low, high in reversed(pairs):
        if low in needed or high in needed:
            kept.append(Comparator(low, high, low in needed, high in needed))
            needed |= {low, high}
    return tuple(reversed(kept)), order


def needed_ranks(n: int, statistic: Statistic) -> frozenset[int]:
    """Return the ranks that a statistic of n values looks at."""
    match statistic:
        case Median(even=even):
            return frozenset({"mean": {(n - 1) // 2, n // 2}, "lower": {(n - 1) // 2}, "upper": {n // 2}}[even])
        case Trimmed(f=f):
            return frozenset(range(f, n - f))
        case _:
            return frozenset(range(n))


def compute(algebra: AbstractAlgebra[V], values: Sequence[V], statistic: Statistic) -> V:
    """Return a statistic of values that are no NaN."""
    n = len(values)
    wires: list[V | None] = list(values)
    comparators, order = network(n, needed_ranks(n, statistic))
    for comparator in comparators:
        a, b = cast("V", wires[comparator.low]), cast("V", wires[comparator.high])
        wires[comparator.low] = algebra.lesser(a, b) if comparator.keeps_low else None
        wires[comparator.high] = algebra.greater(a, b) if comparator.keeps_high else None
    return of_sorted(algebra, [cast("V", wires[wire]) for wire in order], statistic)


def of_sorted(algebra: AbstractAlgebra[V], s: Sequence[V], statistic: Statistic) -> V:
    """Return a statistic of values in ascending order."""
    n = len(s)
    match statistic:
        case Median(even=even):
            low, high = s[(n - 1) // 2], s[n // 2]
            if n % 2 or even == "lower":
                return low
            return high if even == "upper" else algebra.add(algebra.halve(low), algebra.halve(high))
        case Trimmed(f=f):
            return algebra.divide(_sum(algebra, s[f : n - f]), n - 2 * f)
        case Closest(k=k, centre=kind, f=f):
            centre = of_sorted(algebra, s, Median() if kind == "median" else Trimmed(f))
            return algebra.divide(_nearest_window(algebra, s, centre, k), k)


def _sum(algebra: AbstractAlgebra[V], values: Sequence[V]) -> V:
    total = values[0]
    for value in values[1:]:
        total = algebra.add(total, value)
    return total


def _nearest_window(algebra: AbstractAlgebra[V], s: Sequence[V], centre: V, k: int) -> V:
    """Return the sum of the k sorted values nearest to the centre: a window that moves up while the next is nearer."""
    n = len(s)
    heads, tails = list(s), list(s)
    for place in range(1, n):
        if place % k:
            heads[place] = algebra.add(heads[place - 1], s[place])
    for place in reversed(range(n - 1)):
        if (place + 1) % k:
            tails[place] = algebra.add(s[place], tails[place + 1])
    best = heads[k - 1]
    for start in range(1, n - k + 1):
        stop = start + k
        total = algebra.add(tails[start], heads[stop - 1]) if start % k else heads[stop - 1]
        gained, lost = algebra.subtract(s[stop - 1], centre), algebra.subtract(centre, s[start - 1])
        best = algebra.if_less(gained, lost, total, best)
    return best
