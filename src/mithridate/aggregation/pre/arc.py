"""Adaptive robust clipping: shorten the k longest rows to the length of the next one.

    k = floor(2 (f / n) (n - f));   c = the (k + 1)-th largest norm;   y_i = x_i min(1, c / |x_i|)

Paper    Allouah, Guerraoui, Gupta, Jellouli, Rizk, Stephan, "Adaptive gradient clipping for robust federated learning"
         (ICLR 2025), arXiv 2405.14432; k as in byzfl.
Promise  the bound follows the honest norms: k is at least f for n >= 2f + 1, so one of the k + 1 longest rows is honest
         and the bound is no longer than that one.
Needs    the norms, and n >= 2f + 1.
Cost     n log n beside the Gram pass.
Departs  a row with non-finite entries is one of the longest and stays infinitely far: it is not clipped to a vote.

Shapes   m points.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from mithridate.aggregation._base import AbstractPreAggregator
from mithridate.aggregation._select import shrunk
from mithridate.aggregation.resilience import require
from mithridate.core.params import In, param
from mithridate.numerics.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class AdaptiveClipping(AbstractPreAggregator):
    """The longest rows are scaled down to the norm of the longest of the others."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 2f + 1."""
        require("arc", num_rows, self.f)

    def mix(self, points: Geometry, gen: torch.Generator) -> Float64[Tensor, "m m"]:
        """Return the scales on a diagonal."""
        del gen
        k = 2 * self.f * (points.m - self.f) // points.m
        bound = float(points.square_norms.sort(descending=True).values[k].sqrt())
        return shrunk(points.square_norms, points.alive, bound)


METHOD = AdaptiveClipping
