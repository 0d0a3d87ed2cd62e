"""Minimum-diameter averaging: the mean of the n - f rows that are closest together.

    mda(x_1..x_n) = mean of S,   S = argmin over |S| = n - f of  max over i, j in S of |x_i - x_j|

Paper    El-Mhamdi, Guerraoui, Guirguis, Hoang, Rouault (PODC 2020), arXiv 1905.03853; the rule goes back to Rousseeuw
         (1985). The algorithm here is our own: a search for vertex covers in place of an enumeration of subsets.
Promise  exact. With n >= 2f + 1 the distance to any honest mean is at most 2f / (n - f) times the honest diameter.
Needs    the Gram matrix.
Cost     n^2 d multiply-adds, then a search that is exponential in f alone, in theory; a few milliseconds in practice.
Departs  of several sets of equal diameter, the lexicographically first one. That is no rare case: all sets that share
         the pair which is their diameter tie.

Shapes   m points.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from mithridate.aggregation._base import AbstractGramCombiner, State
from mithridate.aggregation._cover import tightest
from mithridate.aggregation._select import uniform
from mithridate.aggregation.resilience import require
from mithridate.core.params import Checked, In, param
from mithridate.numerics.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class MinimumDiameter(Checked, AbstractGramCombiner):
    """The mean of the subset of smallest diameter."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 2f + 1."""
        require("mda", num_rows, self.f)

    def weights(self, points: Geometry, state: State) -> tuple[Float64[Tensor, " m"], State]:
        """Return 1 / (n - f) for each row of the best subset."""
        kept = tightest(points.square_distances, points.alive, points.m - self.f)
        return uniform(torch.tensor(kept), points.m), state


METHOD = MinimumDiameter
