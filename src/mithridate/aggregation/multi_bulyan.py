"""Multi-Bulyan: Multi-Krum's averages one after another, then per coordinate the mean around their median.

    theta = n - 2f - 2 rounds: of the r rows that remain, G_i = mean of the r - f - 2 best by Krum's score;
    the best one is taken out
    v_c = mean of the beta = theta - 2f values of G nearest to median_c(G), for each coordinate c

Paper    El Mhamdi, Guerraoui, Rouault, "Fast and Robust Distributed Learning in High Dimension", arXiv 1905.04374.
Promise  Bulyan's resilience with n >= 4f + 3, and nearly the variance of a mean over n - f rows.
Needs    the Gram matrix, then theta mixtures side by side.
Cost     n^2 d for the distances, n^3 log n for the rounds, theta n d for the mixtures, a sorting network.
Departs  the median is that of the averages G, as in the reference codes; `multi-bulyan-ext` takes that of the winners,
         as the paper's text does. The codes differ from this rule in keeping the scores of the full set, which chooses
         other winners. Equal scores: lowest index. Equal distances to the median: the lower values.

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
class MultiBulyan(Checked, AbstractMixedCombiner):
    """Bulyan over Multi-Krum, with real re-scoring."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 4f + 3."""
        require("multi-bulyan", num_rows, self.f)

    def mixing(self, points: Geometry) -> Float64[Tensor, "l m"]:
        """Return the weights of each round's average."""
        theta = points.m - 2 * self.f - 2
        return winners(points.square_distances, points.alive, f=self.f, theta=theta, average=True)

    def statistic(self, num_rows: int) -> Statistic:
        """Return the second phase: beta = theta - 2f values nearest to the median."""
        return Closest(k=num_rows - 4 * self.f - 2)


METHOD = MultiBulyan
