"""Aksel: the mean of the rows nearest to the coordinate-wise median.

    aksel(x_1..x_n) = mean of the c rows nearest to M,   M = coordinate-wise median,   c = ceil(n / 2) or n - f

Paper    Boussetta, El-Mhamdi, Guerraoui, Maurer, Rouault, "AKSEL: fast Byzantine SGD" (OPODIS 2020).
Promise  needs n >= 2f + 1; no constant is stated here.
Needs    the rows: a sorting network, one pass for the distances to M, one for the mean.
Cost     n log^2 n d comparisons, then 2 n d.
Departs  equal distances: the lowest row index.

Shapes   n rows, d coordinates.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from mithridate.aggregation._base import AbstractRowCombiner, State
from mithridate.aggregation._select import lowest, uniform
from mithridate.aggregation.resilience import require
from mithridate.core.params import Checked, In, OneOf, param
from mithridate.numerics.geometry import weighted
from mithridate.numerics.order import Median, order_statistic
from mithridate.numerics.row_view import RowView

_WIDTH = 1 << 14


@dataclass(frozen=True, kw_only=True)
class Aksel(Checked, AbstractRowCombiner):
    """The mean of the rows around the median."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")
    keep: Literal["mid", "n-f"] = param(
        "mid", within=OneOf("mid", "n-f"), doc="number of rows to average: half of them, or all but f"
    )

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 2f + 1."""
        require("aksel", num_rows, self.f)

    def combine(
        self, rows: RowView, alive: Bool[Tensor, " n"], gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, " d"], State]:
        """Return the mean of the rows nearest to the median."""
        del gen
        centre = order_statistic(rows, Median())
        kept = (rows.n + 1) // 2 if self.keep == "mid" else rows.n - self.f
        chosen = lowest(_distances(rows, centre, alive), kept)
        return weighted(rows, uniform(chosen, rows.n)[None])[0], state


def _distances(rows: RowView, centre: Float[Tensor, " d"], alive: Bool[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """Return the squared distances of the rows to a point; infinite for dead rows."""
    total = torch.zeros(rows.n, dtype=torch.float64, device=rows.device)
    for start, stop in rows.segments(_WIDTH):
        apart = rows.block(start, stop, rows.computing) - centre[start:stop].to(rows.computing)
        total += torch.linalg.vector_norm(apart, dim=1, dtype=torch.float64).square()
    return total.cpu().masked_fill(~alive.cpu(), torch.inf)


METHOD = Aksel
