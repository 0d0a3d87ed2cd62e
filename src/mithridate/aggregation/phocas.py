"""Phocas: the mean of the n - f values of every column that are nearest to its trimmed mean.

    phocas(x_1..x_n)[j] = mean of the n - f values nearest to trimmed(x_1[j] .. x_n[j])

Paper    Xie, Koyejo, Gupta (2018), "Phocas: dimensional Byzantine-resilient SGD", arXiv 1805.09682.
Needs    the rows, once.
Cost     a sort of every column in registers, then O(n): the nearest values are a window of the sorted ones.
Departs  of values equally far below and above the centre the lower one counts; NaN counts as +infinity.
"""

from dataclasses import dataclass

from mithridate.aggregation._base import AbstractOrderCombiner
from mithridate.aggregation.resilience import require
from mithridate.core.params import Checked, In, param
from mithridate.numerics.order import Closest


@dataclass(frozen=True, kw_only=True)
class Phocas(Checked, AbstractOrderCombiner):
    """The mean around the trimmed mean of every column."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 2f + 1."""
        require("phocas", num_rows, self.f)

    def statistic(self, num_rows: int) -> Closest:
        """Return the mean of the values nearest to the trimmed mean."""
        return Closest(k=num_rows - self.f, centre="trimmed", f=self.f)


METHOD = Phocas
