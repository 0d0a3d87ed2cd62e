"""Krum: keep the one row that sits in the tightest neighbourhood.

    krum(x_1..x_n) = x_i,   i = argmin_i  sum over j in N(i) of |x_i - x_j|^2
    N(i) = the k other rows nearest to x_i;   k = n - f - 2 (2017) or n - f - 1 (hetero)

Paper    Blanchard, El Mhamdi, Guerraoui, Stainer (NeurIPS 2017), arXiv 1703.02757, section 4; the neighbour count of
         `hetero` is that of Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan (AISTATS 2023), arXiv 2302.01772.
Promise  with n >= 2f + 3 (hetero: 2f + 1) the choice stays within reach of the honest mean; `resilience` has numbers.
Needs    the Gram matrix.
Cost     n^2 d multiply-adds, then n^2 log n.
Departs  equal scores: the lowest row index wins (the paper leaves it open). A row with a non-finite entry is infinitely
         far from all others and is never chosen.

Shapes   m points, k neighbours.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float64
from torch import Tensor

from mithridate.aggregation._base import AbstractGramCombiner, State
from mithridate.aggregation._select import krum_scores, lowest, uniform
from mithridate.aggregation.resilience import require
from mithridate.core.params import Checked, In, OneOf, param
from mithridate.numerics.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class Krum(Checked, AbstractGramCombiner):
    """One-winner selection."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")
    neighbours: Literal["2017", "hetero"] = param(
        "2017", within=OneOf("2017", "hetero"), doc="n - f - 2 neighbours as in the paper, or n - f - 1"
    )

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 2f + 3, or 2f + 1 for hetero."""
        require("krum" if self.neighbours == "2017" else "krum-hetero", num_rows, self.f)

    def weights(self, points: Geometry, state: State) -> tuple[Float64[Tensor, " m"], State]:
        """Return a one-hot vector that selects the winner."""
        k = points.m - self.f - (2 if self.neighbours == "2017" else 1)
        scores = krum_scores(points.square_distances, points.alive, k)
        return uniform(lowest(scores, 1), points.m), state


METHOD = Krum
