"""How sure a rate is: Wilson intervals, intervals for clustered and for repeated trials, and exact one-sided tests.

    wilson      independent trials
    clustered   trials in groups that go the same way: victims of one target; more victims do not replace targets
    repeated    the same trials judged by several runs: test images by several victims

Paper    Wilson (JASA 1927), the score interval; Kish (Survey Sampling, 1965), the design effect; Fisher (1935), the
         exact test; Birch (JRSS B 1964), the same in strata; Newcombe (Statistics in Medicine 1998), method 10, the
         difference of two rates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean, variance
from typing import Protocol, runtime_checkable

from mithridate.core.errors import Misuse


@runtime_checkable
class Interval(Protocol):
    """An estimate with its bounds."""

    @property
    def point(self) -> float:
        """The estimate."""

    @property
    def low(self) -> float:
        """The lower bound."""

    @property
    def high(self) -> float:
        """The upper bound."""


@dataclass(frozen=True)
class Rate:
    """A rate with its interval.

    Args:
        successes: How many trials succeeded.
        trials: How many there were, at least one.
        low: Lower bound of the interval.
        high: Upper bound of the interval.
        effective: How many independent trials the trials are worth.
    """

    successes: int
    trials: int
    low: float
    high: float
    effective: float

    @property
    def point(self) -> float:
        """The observed rate."""
        return self.successes / self.trials


@dataclass(frozen=True)
class Difference:
    """The difference of two rates with its interval."""

    point: float
    low: float
    high: float


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Rate:
    """Return the rate of independent trials with Wilson's score interval.

    Raises:
        Misuse: MTH-0731 when there are no trials, or more successes than trials.
    """
    _check([successes], [trials], confidence)
    return _rate(successes, trials, trials, confidence)


def wilson_bounds(rate: float, trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval for a rate in so many trials, which need not be a whole number."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle = rate + z * z / (2 * trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # At its ends the formula is exact in real numbers and off by an ulp in floating point.
    low = 0.0 if rate == 0 else min((middle - half) / scale, rate)
    high = 1.0 if rate == 1 else max((middle + half) / scale, rate)
    return max(0.0, low), min(1.0, high)


def clustered(successes: Sequence[int], trials: Sequence[int], confidence: float = 0.95) -> Rate:
    """Return the rate of trials in clusters, with Wilson's interval for as many trials as they are worth.

        n_effective = n / deff,    deff = sum_i (k_i - p n_i)^2 / (n p (1 - p)),    1 <= deff

    The design effect is estimated with two clusters added, one that always succeeds and one that never does, because a
    few clusters say little about how alike their trials are; and a bound is never tighter than that of m clusters that
    all went the same way. One trial in each cluster gives Wilson's interval; clusters of equal size whose trials all
    agree give Wilson's interval over the clusters.

    Args:
        successes: Successes k_i of each cluster.
        trials: Trials n_i of each cluster; clusters without trials do not count.
        confidence: Coverage of the two-sided interval.

    Raises:
        Misuse: MTH-0731 when there are no trials, or more successes than trials.
    """
    _check(successes, trials, confidence)
    pairs = [(k, n) for k, n in zip(successes, trials, strict=True) if n]
    total, num_trials, num_clusters = sum(k for k, _ in pairs), sum(n for _, n in pairs), len(pairs)
    size = num_trials / num_clusters
    padded_trials = num_trials + 2 * size
    rate = (total + size) / padded_trials
    scatter = math.fsum((k - rate * n) ** 2 for k, n in (*pairs, (0, size), (size, size)))
    effect = max(1.0, scatter / (padded_trials * rate * (1 - rate)))
    found = _rate(total, num_trials, num_trials / effect, confidence)
    none, every = (wilson_bounds(end, num_clusters, confidence) for end in (0.0, 1.0))
    return replace(found, low=min(found.low, every[0]), high=max(found.high, none[1]))


def repeated(successes: Sequence[int], trials: int, confidence: float = 0.95) -> Rate:
    """Return the mean rate of several runs over the same trials, such as the accuracy of victims on one test set.

        Var = p (1 - p) / trials + s^2 / m        (the trials are a sample, and so are the m runs)

    One run gives Wilson's interval over the trials; runs that agree add nothing to it.

    Args:
        successes: Successes of each run.
        trials: Trials of each run.
        confidence: Coverage of the two-sided interval.

    Raises:
        Misuse: MTH-0731 when there are no trials, or more successes than trials.
    """
    _check(successes, [trials] * len(successes), confidence)
    rates = [k / trials for k in successes]
    rate, num_runs = fmean(rates), len(rates)
    spread = variance(rates) / num_runs if num_runs > 1 else 0.0
    sampling = rate * (1 - rate) / trials
    effective = trials * sampling / (sampling + spread) if sampling else trials
    return _rate(sum(successes), trials * num_runs, effective, confidence)


def difference(first: Interval, second: Interval) -> Difference:
    """Return `first - second` with Newcombe's interval from those of the two rates, which must be independent."""
    point = first.point - second.point
    down = math.hypot(first.point - first.low, second.high - second.point)
    up = math.hypot(first.high - first.point, second.point - second.low)
    return Difference(point, max(-1.0, point - down), min(1.0, point + up))


def fisher_greater(k1: int, n1: int, k2: int, n2: int) -> float:
    """Return the p-value of Fisher's exact test that the first rate, k1 of n1, is greater than the second, k2 of n2.

    Raises:
        Misuse: MTH-0731 when there are no trials, or more successes than trials.
    """
    _check([k1], [n1])
    _check([k2], [n2])
    total = k1 + k2
    ways = sum(math.comb(n1, k) * math.comb(n2, total - k) for k in range(k1, min(n1, total) + 1))
    return ways / math.comb(n1 + n2, total)


def stratified_greater(strata: Sequence[tuple[int, int, int, int]]) -> float:
    """Return the p-value of the exact test that, within strata, the first rate is the greater in at least one of them.

    The statistic is the sum of the first successes; given the margins of every stratum, it is a sum of independent
    hypergeometric numbers if in no stratum the two rates differ. One stratum gives Fisher's exact test, strata of one
    trial each McNemar's. It asks about these strata, not about others of their kind.

    Args:
        strata: k1, n1, k2, n2 of each stratum: k1 successes in n1 trials against k2 in n2.

    Raises:
        Misuse: MTH-0731 when a stratum has no trials on one side, or more successes than trials.
    """
    ways, least, observed = [1], 0, 0  # ways[j]: arrangements in which the sum is least + j
    for k1, n1, k2, n2 in strata:
        _check([k1], [n1])
        _check([k2], [n2])
        total = k1 + k2
        low, high = max(0, total - n2), min(n1, total)
        here = [math.comb(n1, k) * math.comb(n2, total - k) for k in range(low, high + 1)]
        grown = [0] * (len(ways) + len(here) - 1)
        for i, a in enumerate(ways):
            for j, b in enumerate(here):
                grown[i + j] += a * b
        ways, least, observed = grown, least + low, observed + k1
    return sum(ways[observed - least :]) / sum(ways)


def paired_greater(pairs: Sequence[tuple[float, float]]) -> float:
    """Return the p-value of the exact sign test that the first of each pair tends to be greater; ties do not count.

    With pairs of 0 and 1 this is McNemar's exact test. Without a pair that differs the p-value is 1.
    """
    wins = sum(first > second for first, second in pairs)
    decided = wins + sum(first < second for first, second in pairs)
    return sum(math.comb(decided, k) for k in range(wins, decided + 1)) / (1 << decided)


def _check(successes: Sequence[int], trials: Sequence[int], confidence: float = 0.95) -> None:
    if not 0 < confidence < 1:
        raise Misuse("MTH-0732", f"confidence must be in (0, 1), got {confidence}")
    if len(successes) != len(trials):
        raise Misuse("MTH-0731", f"{len(successes)} clusters have successes, {len(trials)} have trials")
    for k, n in zip(successes, trials, strict=True):
        if not 0 <= k <= n:
            raise Misuse("MTH-0731", f"{k} successes of {n} trials are impossible")
    if sum(trials) < 1:
        raise Misuse("MTH-0731", f"a rate needs at least one trial, got {sum(trials)}")


def _rate(successes: int, trials: int, effective: float, confidence: float) -> Rate:
    low, high = wilson_bounds(successes / trials, effective, confidence)
    return Rate(successes, trials, low, high, effective)
