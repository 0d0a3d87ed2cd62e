"""Multi-Bulyan about the median of the winners: as `multi-bulyan`, but the centre is the median of the winners alone.

    theta = n - 2f - 2 rounds: of the r rows that remain, W_i = the best by Krum's score, G_i = mean of the
    r - f - 2 best; W_i is taken out
    v_c = mean of the beta = theta - 2f values of G nearest to median_c(W), for each coordinate c

Paper    El Mhamdi, Guerraoui, Rouault, "Fast and Robust Distributed Learning in High Dimension", arXiv 1905.04374: its
         text takes the median of the winners, its reference codes that of the averages (`multi-bulyan`).
Promise  that of `multi-bulyan`.
Needs    the Gram matrix, then two times theta mixtures.
Cost     that of `multi-bulyan`, and a second sorting network; behind pre-aggregators the mixed rows are stored.
Departs  as `multi-bulyan`. Equal distances to the median: the lower values.

Shapes   n rows, d coordinates, l = theta rounds, c columns of a block.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mithridate.aggregation._base import AbstractRowCombiner, State
from mithridate.aggregation._bulyan import winners
from mithridate.aggregation.resilience import require
from mithridate.core.params import Checked, In, param
from mithridate.numerics.geometry import exact_products, geometry
from mithridate.numerics.order import Median, order_statistic
from mithridate.numerics.row_view import RowView

_WIDTH = 1 << 14


@dataclass(frozen=True, kw_only=True)
class MultiBulyanExt(Checked, AbstractRowCombiner):
    """Bulyan over Multi-Krum, centred on the winners."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 4f + 3."""
        require("multi-bulyan", num_rows, self.f)

    def combine(
        self, rows: RowView, alive: Bool[Tensor, " n"], gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, " d"], State]:
        """Return the means around the winners' median."""
        del gen
        points, theta = geometry(rows, alive=alive), rows.n - 2 * self.f - 2
        chosen = [
            winners(points.square_distances, points.alive, f=self.f, theta=theta, average=average)
            for average in (False, True)
        ]
        centre = order_statistic(rows, Median(), mixing=chosen[0])
        out = torch.empty_like(centre)
        used = torch.nonzero((chosen[1] != 0).any(0))[:, 0].tolist()
        source, weights = rows.only(used), chosen[1][:, used].to(rows.device, rows.computing)
        with exact_products():
            for start, stop in source.segments(_WIDTH):
                block = weights @ source.block(start, stop, rows.computing)
                out[start:stop] = _around(block, centre[start:stop].to(rows.computing), theta - 2 * self.f)
        return out, state


def _around(values: Float[Tensor, "l c"], centre: Float[Tensor, " c"], k: int) -> Float[Tensor, " c"]:
    """Return the mean of the k values of each column that are nearest to its centre."""
    ascending = values.sort(0).values
    near = (ascending - centre).abs().argsort(stable=True, dim=0)[:k]
    return ascending.gather(0, near).mean(0)


METHOD = MultiBulyanExt
