"""Static clipping: shorten every row to a bound.

    y_i = x_i min(1, c / |x_i|)

Paper    as a pre-aggregator: Allouah, Guerraoui, Gupta, Jellouli, Rizk, Stephan, "Adaptive gradient clipping for robust
         federated learning" (ICLR 2025), arXiv 2405.14432, which compares with it; the default c = 2 is that of byzfl.
Promise  no row is longer than c; which c is right depends on the honest rows, see `arc`.
Needs    the norms.
Cost     n beside the Gram pass.
Departs  a row with non-finite entries stays infinitely far.

Shapes   m points.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from mithridate.aggregation._base import AbstractPreAggregator
from mithridate.aggregation._select import shrunk
from mithridate.core.params import In, param
from mithridate.numerics.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class Clipping(AbstractPreAggregator):
    """Rows longer than a bound are scaled down to it."""

    bound: float = param(2.0, within=In(0.0, 1e30, open_lo=True), doc="c, the greatest norm")

    def mix(self, points: Geometry, gen: torch.Generator) -> Float64[Tensor, "m m"]:
        """Return the scales on a diagonal."""
        del gen
        return shrunk(points.square_norms, points.alive, self.bound)


METHOD = Clipping
