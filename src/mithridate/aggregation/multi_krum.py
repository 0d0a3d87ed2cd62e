"""Multi-Krum: the mean of the rows that sit in the m tightest neighbourhoods.

    multi-krum(x_1..x_n) = (1/m) sum of the m rows with the lowest Krum scores;   m = n - f - 2 unless given

Paper    Blanchard, El Mhamdi, Guerraoui, Stainer (NeurIPS 2017), arXiv 1703.02757, section 5; m = n - f - 2 as in El
         Mhamdi, Guerraoui, Rouault, "Fast and Robust Distributed Learning in High Dimension", arXiv 1905.04374.
Promise  with n >= 2f + 3 and m <= n - f - 2 the condition of Krum, with the variance of a mean over m rows.
Needs    the Gram matrix.
Cost     n^2 d multiply-adds, then n^2 log n, then m d.
Departs  equal scores: the lowest row index first. m up to n - f is accepted, as one library has it by default.

Shapes   m points.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float64
from torch import Tensor

from mithridate.aggregation._base import AbstractGramCombiner, State
from mithridate.aggregation._select import krum_scores, lowest, uniform
from mithridate.aggregation.resilience import require
from mithridate.core.errors import Misuse
from mithridate.core.params import Checked, In, OneOf, param
from mithridate.numerics.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class MultiKrum(Checked, AbstractGramCombiner):
    """The mean of the m best rows by Krum's score."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")
    m: int | None = param(None, within=In(1, 1_000_000), doc="number of rows to average; none means n - f - 2")
    neighbours: Literal["2017", "hetero"] = param(
        "2017", within=OneOf("2017", "hetero"), doc="count n - f - 2 neighbours (2017) or n - f - 1 (hetero)"
    )

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 2f + 3 and m <= n - f."""
        require("multi-krum", num_rows, self.f)
        if self.m is not None and self.m > num_rows - self.f:
            raise Misuse(
                "MTH-0540",
                f"multi-krum averages at most n - f = {num_rows - self.f} of n={num_rows} rows with f={self.f}, "
                f"got m={self.m}",
                hint=f"m = n - f - 2 = {num_rows - self.f - 2} is what the theory covers",
            )

    def weights(self, points: Geometry, state: State) -> tuple[Float64[Tensor, " m"], State]:
        """Return 1/m for each of the m best rows."""
        k = points.m - self.f - (2 if self.neighbours == "2017" else 1)
        scores = krum_scores(points.square_distances, points.alive, k)
        return uniform(lowest(scores, self.m or points.m - self.f - 2), points.m), state


METHOD = MultiKrum
