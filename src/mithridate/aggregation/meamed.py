"""MeaMed: the mean of the n - f values of every column that are nearest to its median.

    meamed(x_1..x_n)[j] = mean of the n - f values nearest to median(x_1[j] .. x_n[j])

Paper    Xie, Koyejo, Gupta (2018), "Generalized Byzantine-tolerant SGD", arXiv 1802.10116.
Needs    the rows, once.
Cost     a sort of every column in registers, then O(n): the nearest values are a window of the sorted ones.
Departs  of values equally far below and above the median the lower one counts; NaN counts as +infinity.
"""

from dataclasses import dataclass

from mithridate.aggregation._base import AbstractOrderCombiner
from mithridate.aggregation.resilience import require
from mithridate.core.params import Checked, In, param
from mithridate.numerics.order import Closest


@dataclass(frozen=True, kw_only=True)
class MeaMed(Checked, AbstractOrderCombiner):
    """The mean around the median of every column."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 2f + 1."""
        require("meamed", num_rows, self.f)

    def statistic(self, num_rows: int) -> Closest:
        """Return the mean of the values nearest to the median."""
        return Closest(k=num_rows - self.f, centre="median")


METHOD = MeaMed
