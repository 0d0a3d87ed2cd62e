"""Statistics of sorted values by compare-and-exchange: one definition for tensors and for machine code.

A sorting network is a fixed list of comparators; one that feeds no needed rank is left out. What computes with the
values is an `AbstractAlgebra`: torch on whole blocks of columns, or LLVM on vector registers, in the same order of
operations, so that both give the same bits.

    Median    s_(n+1)/2, or of the two middle values their mean, the lower or the upper one
    Trimmed   mean of s_f+1 .. s_n-f
    Closest   mean of the k values nearest to a centre: a window of the sorted values, the lower one on ties

Paper    Batcher (AFIPS 1968), odd-even merge; the k nearest values are a window, so that windows are compared by their
         farther end. No sum is ever corrected by subtraction: a window is the tail of one block of k values and the
         head of the next.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
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


def batcher(n: int) -> Iterator[tuple[int, int]]:
    """Yield the comparators of odd-even merge sort for any n."""
    run = 1
    while run < n:
        step = run
        while step:
            for start in range(step % run, n - step, 2 * step):
                for low in range(start, start + min(step, n - start - step)):
                    if low // (2 * run) == (low + step) // (2 * run):
                        yield low, low + step
            step //= 2
        run *= 2


@cache
def network(n: int, ranks: frozenset[int]) -> tuple[Comparator, ...]:
    """Return the comparators of n wires that the given ranks, counted from 0, depend on."""
    needed, kept = set(ranks), []
    for low, high in reversed(tuple(batcher(n))):
        if low in needed or high in needed:
            kept.append(Comparator(low, high, low in needed, high in needed))
            needed |= {low, high}
    return tuple(reversed(kept))


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
    for comparator in network(n, needed_ranks(n, statistic)):
        a, b = cast("V", wires[comparator.low]), cast("V", wires[comparator.high])
        wires[comparator.low] = algebra.lesser(a, b) if comparator.keeps_low else None
        wires[comparator.high] = algebra.greater(a, b) if comparator.keeps_high else None
    return of_sorted(algebra, cast("list[V]", wires), statistic)


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
    """Return the sum of the first window of k sorted values whose farther end is nearest to the centre."""
    n = len(s)
    heads, tails = list(s), list(s)
    for place in range(1, n):
        if place % k:
            heads[place] = algebra.add(heads[place - 1], s[place])
    for place in reversed(range(n - 1)):
        if (place + 1) % k:
            tails[place] = algebra.add(s[place], tails[place + 1])
    best, reach = heads[k - 1], None
    for start in range(n - k + 1):
        stop = start + k
        ends = algebra.greater(algebra.subtract(centre, s[start]), algebra.subtract(s[stop - 1], centre))
        if reach is None:
            reach = ends
            continue
        total = algebra.add(tails[start], heads[stop - 1]) if start % k else heads[stop - 1]
        best = algebra.if_less(ends, reach, total, best)
        reach = algebra.lesser(ends, reach)
    return best
