"""Nearest-neighbour mixing: replace every row by the mean of the n - f rows nearest to it.

    y_i = mean of the n - f rows nearest to x_i, itself among them

Paper    Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan, "Fixing by mixing" (AISTATS 2023), arXiv 2302.01772.
Promise  with n >= 2f + 1, a rule with coefficient kappa has 8f / (n - f) (1 + kappa) behind it (`resilience.with_nnm`).
Needs    the Gram matrix; mixed rows exist as weights only, unless the rule looks at columns.
Cost     n^2 log n beside the Gram pass.
Departs  equal distances: the lowest row index. A row with non-finite entries is nobody's neighbour and stays one.

Shapes   m points.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from mithridate.aggregation._base import AbstractPreAggregator
from mithridate.aggregation._select import lowest, uniform
from mithridate.aggregation.resilience import require
from mithridate.core.params import In, param
from mithridate.numerics.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class NearestNeighborMixing(AbstractPreAggregator):
    """Every row becomes the mean of its neighbourhood."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 2f + 1."""
        require("nnm", num_rows, self.f)

    def tolerated(self, num_rows: int) -> int:
        """Return f: a neighbourhood of n - f rows would have to hold dead ones beyond that."""
        del num_rows
        return self.f

    def mix(self, points: Geometry, gen: torch.Generator) -> Float64[Tensor, "m m"]:
        """Return each point's neighbourhood, the point itself first."""
        del gen
        mixtures = torch.zeros(points.m, points.m, dtype=torch.float64)
        for point in torch.nonzero(points.alive)[:, 0].tolist():
            away = points.square_distances[point].clone()
            away[point] = -1  # ahead of its duplicates
            mixtures[point] = uniform(lowest(away, points.m - self.f), points.m)
        return mixtures


METHOD = NearestNeighborMixing
