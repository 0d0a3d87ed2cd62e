"""Smallest maximum eigenvalue averaging: the mean of the n - f rows with the least variance in their worst direction.

    smea(x_1..x_n) = mean of S,   S = argmin over |S| = n - f of  largest eigenvalue of Cov_S
    Cov_S = (1/|S|) sum over i in S of (x_i - mean_S)(x_i - mean_S)^T

Paper    Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan (AISTATS 2023), arXiv 2302.01772.
Promise  exact, or an error that says that the search was given up.
Needs    the Gram matrix: Cov_S has the non-zero eigenvalues of the centred |S| x |S| Gram matrix over |S|.
Cost     exponential in f. Subsets are searched by branch and bound: a subset that must contain the points K is no
         better than the scatter of K, as adding a point never lowers an eigenvalue, and no pair further apart than
         sqrt(2 (n - f) times the best value) can stay. Rows in many dimensions with equal spread allow no bound to cut:
         then every one of the n! / (f! (n - f)!) subsets is looked at. `limit` stops that.
Departs  of several sets of equal value (to 1e-12), the lexicographically first one.

Shapes   m points.
"""

from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from mithridate.aggregation._base import AbstractGramCombiner, State
from mithridate.aggregation._select import uniform
from mithridate.aggregation._spectrum import flattest
from mithridate.aggregation.resilience import require
from mithridate.core.errors import Misuse
from mithridate.core.params import Checked, In, param
from mithridate.numerics.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class SmallestEigenvalue(Checked, AbstractGramCombiner):
    """The mean of the subset with the flattest covariance."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")
    limit: int = param(200_000, within=In(1, 1 << 40), doc="number of subsets to look at before giving up")

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 2f + 1."""
        require("smea", num_rows, self.f)

    def weights(self, points: Geometry, state: State) -> tuple[Float64[Tensor, " m"], State]:
        """Return 1 / (n - f) for each row of the best subset.

        Raises:
            Misuse: MTH-0541 if `limit` subsets were looked at and better ones may be left.
        """
        kept = flattest(points.centred, points.square_distances, points.alive, points.m - self.f, self.limit)
        if kept is None:
            raise Misuse(
                "MTH-0541",
                f"smea with n={points.m}, f={self.f} has not found the best subset among its limit of {self.limit}",
                hint="raise limit, lower f, or use mda or caf",
            )
        return uniform(kept, points.m), state


METHOD = SmallestEigenvalue
