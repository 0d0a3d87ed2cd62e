"""Robust federated averaging: a few smoothed Weiszfeld steps towards the geometric median.

    z_0 = 0;   z_{t+1} = sum b_i x_i / sum b_i,   b_i = 1 / max(nu, |z_t - x_i|),   t < T

Paper    Pillutla, Kakade, Harchaoui (IEEE Transactions on Signal Processing, 2022), arXiv 1912.13445; the defaults nu =
         0.1, T = 3 and z_0 = 0 are those of two public implementations.
Promise  none as a median: three steps from the origin are not the geometric median, and the result does not follow
         rows that are all shifted. Use `geometric-median` for that; this rule is for comparison with published runs.
Needs    the Gram matrix and the norms.
Cost     n^2 d multiply-adds, then T n^2, then n d.
Departs  rows with non-finite entries are left out.

Shapes   m points.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from mithridate.aggregation._base import AbstractGramCombiner, State
from mithridate.aggregation._select import combination_distances
from mithridate.aggregation.resilience import require
from mithridate.core.params import Checked, In, param
from mithridate.numerics.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class SmoothedWeiszfeld(Checked, AbstractGramCombiner):
    """T smoothed Weiszfeld steps from the origin."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")
    steps: int = param(3, within=In(1, 1_000_000), doc="T, the number of steps")
    nu: float = param(0.1, within=In(0.0, 1e30, open_lo=True), doc="distance below which a row pulls no harder")

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 2f + 1."""
        require("rfa", num_rows, self.f)

    def weights(self, points: Geometry, state: State) -> tuple[Float64[Tensor, " m"], State]:
        """Return the weights of the rows after the last step."""
        square = points.square_norms
        weights = torch.zeros(points.m, dtype=torch.float64)
        for _ in range(self.steps):
            pull = torch.where(points.alive, square.sqrt().clamp_min(self.nu).reciprocal(), 0.0)
            weights = pull / pull.sum()
            square = combination_distances(points.centred, weights)
        return weights, state


METHOD = SmoothedWeiszfeld
