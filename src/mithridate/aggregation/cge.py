"""Comparative gradient elimination: drop the f longest rows, average the others.

    cge(x_1..x_n) = mean (or sum) of the n - f rows of smallest norm

Paper    Gupta, Liu, Vaidya, "Byzantine fault-tolerant distributed machine learning using stochastic gradient descent
         (SGD) and norm-based comparative gradient elimination (CGE)", arXiv 2008.04699.
Promise  bounds the length of what gets in; not robust in the sense of kappa or lambda, as a short lie passes.
Needs    the norms.
Cost     n d.
Departs  the mean by default, as in common implementations; the paper sums. Equal norms: the lowest row index stays.

Shapes   m points.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float64
from torch import Tensor

from mithridate.aggregation._base import AbstractGramCombiner, State
from mithridate.aggregation._select import lowest, uniform
from mithridate.aggregation.resilience import require
from mithridate.core.params import Checked, In, OneOf, param
from mithridate.numerics.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class NormElimination(Checked, AbstractGramCombiner):
    """The mean of the shortest rows."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")
    reduce: Literal["mean", "sum"] = param("mean", within=OneOf("mean", "sum"), doc="what is done with the rest")

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 2f + 1."""
        require("cge", num_rows, self.f)

    def weights(self, points: Geometry, state: State) -> tuple[Float64[Tensor, " m"], State]:
        """Return equal weights for the n - f shortest rows."""
        kept = points.m - self.f
        weights = uniform(lowest(points.square_norms, kept), points.m)
        return weights * kept if self.reduce == "sum" else weights, state


METHOD = NormElimination
