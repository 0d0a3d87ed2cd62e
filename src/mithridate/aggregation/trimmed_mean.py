"""Coordinate-wise trimmed mean: drop the f least and the f greatest values of every column, average the rest.

    trimmed(x_1..x_n)[j] = mean of s_f+1 .. s_n-f,   s = sorted x_1[j] .. x_n[j]

Paper    Yin, Chen, Ramchandran, Bartlett (ICML 2018), arXiv 1803.01498.
Promise  with n >= 2f + 1 every coordinate lies within the honest values.
Needs    the rows, once.
Cost     about n log^2 n / 2 comparisons a coordinate, in registers.
Departs  NaN counts as +infinity; the values are trimmed before they are added, never subtracted from a total.
"""

from dataclasses import dataclass

from mithridate.aggregation._base import AbstractOrderCombiner
from mithridate.aggregation.resilience import require
from mithridate.core.params import Checked, In, param
from mithridate.numerics.order import Trimmed


@dataclass(frozen=True, kw_only=True)
class TrimmedMean(Checked, AbstractOrderCombiner):
    """The mean without the extremes of every column."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 2f + 1."""
        require("trimmed-mean", num_rows, self.f)

    def statistic(self, num_rows: int) -> Trimmed:
        """Return the trimmed mean."""
        del num_rows
        return Trimmed(f=self.f)


METHOD = TrimmedMean
