"""Bulyan: Krum's winners one after another, then per coordinate the mean of the values nearest to their median.

    theta = n - 2f rounds: Krum on what remains, its winner moves to S
    v_c = mean of the beta = theta - 2f values of S nearest to median_c(S), for each coordinate c

Paper    El Mhamdi, Guerraoui, Rouault (ICML 2018), arXiv 1802.07927, section 4.
Promise  with n >= 4f + 3 every coordinate stays within reach of the honest values, so that the leeway of an attacker
         does not grow with the number of coordinates as it does for Krum.
Needs    the Gram matrix, then theta rows side by side.
Cost     n^2 d for the distances, n^3 log n for the rounds, a sorting network over theta rows.
Departs  Krum's neighbour count in a round is max(1, r - f - 2) for r rows that remain (the last rounds have too few for
         r - f - 2). Equal scores: lowest index; in the last rounds the nearest two rows always tie. Equal distances to
         the median: the lower values.

Shapes   m points, l = theta rounds.
"""

from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from mithridate.aggregation._base import AbstractMixedCombiner
from mithridate.aggregation._bulyan import winners
from mithridate.aggregation.resilience import require
from mithridate.core.params import Checked, In, param
from mithridate.numerics.geometry import Geometry
from mithridate.numerics.order import Closest, Statistic


@dataclass(frozen=True, kw_only=True)
class Bulyan(Checked, AbstractMixedCombiner):
    """Bulyan over Krum, with real re-scoring."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 4f + 3."""
        require("bulyan", num_rows, self.f)

    def mixing(self, points: Geometry) -> Float64[Tensor, "l m"]:
        """Return a one-hot row for each round's winner."""
        theta = points.m - 2 * self.f
        return winners(points.square_distances, points.alive, f=self.f, theta=theta, average=False)

    def statistic(self, num_rows: int) -> Statistic:
        """Return the second phase: beta = theta - 2f values nearest to the median."""
        return Closest(k=num_rows - 4 * self.f)


METHOD = Bulyan
