"""Covariance-bound agnostic filter: weigh rows down that stand out in the worst direction, keep the flattest mean seen.

    c = (1, ..., 1);  while sum c > n - 2f:
        m = mean with weights c;  (lambda, v) = top eigenpair of the covariance with weights c
        keep m if lambda is the smallest so far
        t_i = <x_i - m, v>^2;  c_i <- c_i (1 - t_i / max t)

Paper    Allouah, Guerraoui, Stephan, "Towards trustworthy federated learning with untrusted participants" (ICML 2025);
         written from the definition in use, the paper's constants are not asserted here.
Promise  ends after at most 2f passes, as each takes at least one row's weight to zero; needs n >= 2f + 1.
Needs    the Gram matrix: the eigenvectors follow from the n x n matrix sqrt(c_i c_j) <x_i - m, x_j - m>.
Cost     n^2 d multiply-adds, then at most 2f symmetric eigenproblems of size n.
Departs  the eigenpair is exact, where one library takes a single power step from random noise; max t is over the rows
         that still have weight; with f = 0, or when no row stands out, the result is the mean.

Shapes   m points.
"""

from dataclasses import dataclass
from math import inf

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from mithridate.aggregation._base import AbstractGramCombiner, State
from mithridate.aggregation.resilience import require
from mithridate.core.params import Checked, In, param
from mithridate.numerics.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class CovarianceFilter(Checked, AbstractGramCombiner):
    """Spectral down-weighting."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 2f + 1."""
        require("caf", num_rows, self.f)

    def weights(self, points: Geometry, state: State) -> tuple[Float64[Tensor, " m"], State]:
        """Return the weights of the flattest mean."""
        return _filtered(points.centred, points.alive, points.m - 2 * self.f), state


def _filtered(centred: Float64[Tensor, "m m"], alive: Bool[Tensor, " m"], enough: int) -> Float64[Tensor, " m"]:
    shares = alive.double()
    best, least = shares / shares.sum(), inf
    while float(shares.sum()) > enough:
        weights = shares / shares.sum()
        about_mean = centred - (centred @ weights)[:, None] - weights @ centred + weights @ centred @ weights
        roots = weights.sqrt()
        values, vectors = torch.linalg.eigh(roots[:, None] * about_mean * roots)
        top, vector = float(values[-1]), vectors[:, -1]
        if top < least:
            best, least = weights, top
        if top <= 1e-14 * float(weights @ centred.diagonal()):  # all rows that count are one point
            break
        stands_out = (about_mean @ (roots * vector)).square().masked_fill(shares == 0, 0)
        left = 1 - stands_out / stands_out.max()
        shares = shares * torch.where(
            left > 1e-12, left, 0.0
        )  # equal to the greatest but for rounding: no weight is left
    return best


METHOD = CovarianceFilter
