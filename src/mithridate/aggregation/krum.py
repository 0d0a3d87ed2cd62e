"""Krum: keep the one row that sits in the tightest neighbourhood.

    krum(x_1..x_n) = x_i,   i = argmin_i  sum over j in N(i) of |x_i - x_j|^2
    N(i) = the n - f - 2 other rows nearest to x_i

Paper    Blanchard, El Mhamdi, Guerraoui, Stainer (NeurIPS 2017), arXiv 1703.02757.
Promise  with n >= 2f + 3 the choice stays within reach of the honest mean.
Needs    the Gram matrix.
Cost     n^2 d multiply-adds, then n^2 log n.
Departs  equal scores: the lowest row index wins (the paper leaves it open). neighbours="hetero" counts n - f - 1 others
         and asks for n >= 2f + 1 only, as the literature on heterogeneous data does.

Shapes   m points, k neighbours.
"""

from dataclasses import dataclass
from math import inf
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn.functional import one_hot

from mithridate.aggregation._base import AbstractGramCombiner, State
from mithridate.core.errors import Misuse
from mithridate.core.params import Checked, In, OneOf, param
from mithridate.numerics.geometry import Geometry


def krum_scores(square_distances: Float64[Tensor, "m m"], k: int) -> Float64[Tensor, " m"]:
    """Return for every point the sum of its k least square distances to others; infinite if it has fewer."""
    others = square_distances.clone().fill_diagonal_(inf)  # a row is not its own neighbour
    return others.sort(1).values[:, :k].sum(1)


@dataclass(frozen=True, kw_only=True)
class Krum(Checked, AbstractGramCombiner):
    """One-winner selection."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")
    neighbours: Literal["2017", "hetero"] = param(
        "2017", within=OneOf("2017", "hetero"), doc="n - f - 2 neighbours as in the paper, or n - f - 1"
    )

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 2f + 3, or 2f + 1 for hetero."""
        least = 2 * self.f + (3 if self.neighbours == "2017" else 1)
        if num_rows < least:
            raise Misuse(
                "MTH-0501",
                f"krum with f={self.f} needs at least {least} rows, got {num_rows}",
                hint="lower f or add workers",
            )

    def weights(self, points: Geometry, state: State) -> tuple[Float64[Tensor, " m"], State]:
        """Return a one-hot vector that selects the winner."""
        k = points.m - self.f - (2 if self.neighbours == "2017" else 1)
        scores = krum_scores(points.square_distances, k)
        return one_hot(scores.argmin(), points.m).to(torch.float64), state


METHOD = Krum
