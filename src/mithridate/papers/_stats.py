"""Intervals of means over a handful of runs."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import NamedTuple

from scipy.stats import t as student


class Mean(NamedTuple):
    """A mean over runs with Student's interval; one run has an interval that says nothing."""

    point: float
    low: float
    high: float

    def percent(self) -> str:
        """Return the mean as per cent with its interval: `93.2 % (92.1 to 94.3)`."""
        return f"{100 * self.point:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"

    def points(self) -> str:
        """Return a difference of shares in percentage points: `+4.1 (+2.0 to +6.2)`."""
        return f"{100 * self.point:+.1f} ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


def mean_of_runs(values: Sequence[float], confidence: float = 0.95, bounds: tuple[float, float] = (-1.0, 1.0)) -> Mean:
    """Return the mean of independent runs with Student's interval, cut to the range that is possible."""
    point, n = fmean(values), len(values)
    if n < 2:
        return Mean(point, *bounds)
    half = float(student.ppf((1 + confidence) / 2, n - 1)) * stdev(values) / sqrt(n)
    return Mean(point, max(bounds[0], point - half), min(bounds[1], point + half))
