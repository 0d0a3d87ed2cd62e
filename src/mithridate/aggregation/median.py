"""Coordinate-wise median: the middle value of every column.

    median(x_1..x_n)[j] = middle of x_1[j] .. x_n[j];  n even: mean of the two middle values, or the lower or upper one

Paper    Yin, Chen, Ramchandran, Bartlett (ICML 2018), arXiv 1803.01498.
Promise  with n >= 2f + 1 every coordinate lies within the honest values.
Needs    the rows, once.
Cost     about n log^2 n / 2 comparisons a coordinate, in registers.
Departs  NaN counts as +infinity.
"""

from dataclasses import dataclass
from typing import Literal

from mithridate.aggregation._base import AbstractOrderCombiner
from mithridate.aggregation.resilience import require
from mithridate.core.params import Checked, In, OneOf, param
from mithridate.numerics.order import Median as MedianOf


@dataclass(frozen=True, kw_only=True)
class Median(Checked, AbstractOrderCombiner):
    """The middle value of every column."""

    f: int | None = param(None, within=In(0, 1_000_000), doc="number of rows that may lie; none: a minority")
    even: Literal["mean", "lower", "upper"] = param(
        "mean", within=OneOf("mean", "lower", "upper"), doc="the middle of an even number of values"
    )

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 2f + 1."""
        require("median", num_rows, self.f or 0)

    def statistic(self, num_rows: int) -> MedianOf:
        """Return the median."""
        del num_rows
        return MedianOf(even=self.even)


METHOD = Median
