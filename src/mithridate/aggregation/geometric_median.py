"""Geometric median: the point with the smallest sum of distances to the rows, exactly.

    z = argmin_z  sum over i of |x_i - z|

Paper    Weiszfeld (Tohoku Mathematical Journal, 1937); Vardi, Zhang (PNAS, 2000) for iterates that meet a row. As a
         robust rule: Chen, Su, Xu (2017), arXiv 1705.05491; Pillutla, Kakade, Harchaoui, arXiv 1912.13445.
Promise  with n >= 2f + 1 within a constant of the honest mean; `resilience` has the numbers.
Needs    the Gram matrix: z is always a weighted mean of rows, so every iteration works on n weights.
Cost     n^2 d multiply-adds, about ten iterations of n^3, then n d.
Departs  starts at the row with the smallest sum of distances. If the minimum is at a row, it is that row, and one test
         of its subgradient says so (Vardi and Zhang); otherwise Newton steps, and a Weiszfeld step whenever Newton's is
         no gain. Rows with non-finite entries are left out. If the minimum is not one point (an even number of rows on
         a line), one of the middle rows is returned.

Shapes   m points.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from mithridate.aggregation._base import AbstractGramCombiner, State
from mithridate.aggregation._select import combination_distances
from mithridate.aggregation.resilience import require
from mithridate.core.params import Checked, In, param
from mithridate.numerics.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class GeometricMedian(Checked, AbstractGramCombiner):
    """The exact geometric median."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")
    tolerance: float = param(
        1e-10, within=In(0.0, 1.0, open_lo=True), doc="last step, in units of the median distance to the rows"
    )
    max_iterations: int = param(1000, within=In(1, 1_000_000), doc="iterations at most")

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 2f + 1."""
        require("geometric-median", num_rows, self.f)

    def weights(self, points: Geometry, state: State) -> tuple[Float64[Tensor, " m"], State]:
        """Return the weights of the rows in the median."""
        live = torch.nonzero(points.alive)[:, 0]
        weights = torch.zeros(points.m, dtype=torch.float64)
        weights[live] = _median(
            points.centred[live][:, live],
            points.square_distances[live][:, live],
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )
        return weights, state


def _median(
    centred: Float64[Tensor, "m m"], square_distances: Float64[Tensor, "m m"], *, tolerance: float, max_iterations: int
) -> Float64[Tensor, " m"]:
    distances = square_distances.sqrt()
    start = int(distances.sum(1).argmin())
    weights = torch.zeros(len(centred), dtype=torch.float64)
    weights[start] = 1
    pulls = _leave(centred, square_distances[start])
    if pulls is None:
        return weights
    weights = pulls
    far, reach = combination_distances(centred, weights), float("inf")
    for _ in range(max_iterations):
        apart = far.sqrt()
        onward = None if bool((far == 0).any()) else _newton(centred, weights, apart)
        tried = None if onward is None else combination_distances(centred, onward)
        if onward is None or tried is None or not bool(tried.sqrt().sum() <= apart.sum()):
            pull = apart.clamp_min(1e-300).reciprocal()
            onward = pull / pull.sum()
            tried = combination_distances(centred, onward)
        step = onward - weights
        reach = float((step @ centred @ step).clamp_min(0).sqrt())
        weights, far = onward, tried
        if reach <= tolerance * float(apart.median()):
            break
    return weights


def _leave(centred: Float64[Tensor, "m m"], from_row: Float64[Tensor, " m"]) -> Float64[Tensor, " m"] | None:
    """Return the weights after Vardi and Zhang's step away from a row, or None if the row is the median.

    Args:
        centred: Inner products.
        from_row: Square distances from the row to all rows; zero at the row itself and its duplicates.
    """
    here = from_row == 0
    pull = torch.where(here, 0.0, from_row.sqrt().reciprocal())
    total = pull.sum()
    row = here.double() / here.sum()
    if float(total) == 0:
        return row
    # R = |sum_j (x_j - row) / r_j|, from inner products: the weights of `force` sum to zero
    force = pull - total * row
    strength = (force @ centred @ force).clamp_min(0).sqrt()
    stay = float(here.sum() / strength) if float(strength) > 0 else 1.0
    return None if stay >= 1 else (1 - stay) * pull / total + stay * row


def _newton(
    centred: Float64[Tensor, "m m"], weights: Float64[Tensor, " m"], apart: Float64[Tensor, " m"]
) -> Float64[Tensor, " m"] | None:
    """Return the weights after one Newton step for the sum of distances, or None where the Hessian is singular.

    With B the columns x_i - z, u_i = 1 / r_i, s = sum u_i and D = diag(1 / r_i^3), gradient and Hessian are -B u and
    s I - B D B^T. By Woodbury the step is B a with a = (u + (s D^-1 - K)^-1 K u) / s and K = B^T B, which is n x n.
    """
    about = centred - (centred @ weights)[:, None] - weights @ centred + weights @ centred @ weights
    pull = apart.reciprocal()
    total = pull.sum()
    # scaled by r^(3/2) on both sides, so that a row 1e30 away does not spoil the solution for the others
    scale = apart.pow(-1.5)
    inner = total * torch.eye(len(apart), dtype=torch.float64) - scale[:, None] * about * scale
    solved, failed = torch.linalg.solve_ex(inner, scale * (about @ pull))
    if int(failed):
        return None
    move = (pull + scale * solved) / total
    onward = weights * (1 - move.sum()) + move
    return onward if bool(onward.isfinite().all()) else None


METHOD = GeometricMedian
