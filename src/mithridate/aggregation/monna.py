"""Nearest-neighbour averaging around one's own row, the rule of MoNNA.

    monna(x_1..x_n) = mean of the n - f rows nearest to x_pivot, itself among them

Paper    Farhadkhani, Guerraoui, Gupta, Hoang, Pinot, Stephan, "Robust collaborative learning with linear gradient
         overhead" (ICML 2023).
Promise  for a peer that trusts its own row and nothing else; the pivot must be honest.
Needs    the distances from the pivot.
Cost     n d, then n log n; here within the one Gram pass.
Departs  equal distances: the lowest row index. A pivot with non-finite entries is an error, not a fallback.

Shapes   m points.
"""

from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from mithridate.aggregation._base import AbstractGramCombiner, State
from mithridate.aggregation._select import lowest, uniform
from mithridate.aggregation.resilience import require
from mithridate.core.errors import Misuse
from mithridate.core.params import Checked, In, param
from mithridate.numerics.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class NearestToPivot(Checked, AbstractGramCombiner):
    """The mean of the rows nearest to the pivot row."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")
    pivot: int = param(0, within=In(0, 1_000_000), doc="index of the row that is trusted: one's own")

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 2f + 1 and there is a pivot."""
        require("monna", num_rows, self.f)
        if self.pivot >= num_rows:
            raise Misuse(
                "MTH-0542",
                f"monna's pivot is the index of one of n={num_rows} rows, from 0 to {num_rows - 1}, got {self.pivot}",
                hint="give the place of your own row among the rows",
            )

    def weights(self, points: Geometry, state: State) -> tuple[Float64[Tensor, " m"], State]:
        """Return 1 / (n - f) for each row near the pivot.

        Raises:
            Misuse: MTH-0542 if the pivot is not finite.
        """
        if not bool(points.alive[self.pivot]):
            raise Misuse(
                "MTH-0542",
                f"row {self.pivot}, the pivot of monna, has entries that are not finite",
                hint="the pivot is one's own, honest row: look for the overflow in the local step",
            )
        return uniform(lowest(points.square_distances[self.pivot], points.m - self.f), points.m), state


METHOD = NearestToPivot
