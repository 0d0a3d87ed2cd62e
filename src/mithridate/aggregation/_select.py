"""Choosing points by distances and norms: scores, nearest sets, and the weights that say what was chosen.

Everything is float64 on n x n numbers. Equal scores are broken by the lowest index. A dead point has infinite distances
and is never chosen while a live one is left.

Shapes: m points, k neighbours.
"""

from math import inf

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor


def krum_scores(square_distances: Float64[Tensor, "m m"], alive: Bool[Tensor, " m"], k: int) -> Float64[Tensor, " m"]:
    """Return the sum of squared distances from each point to its k nearest others among the points `alive`.

    Points that are not alive have an infinite score. The scores are those of the set `alive`: taking a winner out and
    asking again is what Bulyan's re-scoring means.
    """
    near_mm = square_distances.clone().fill_diagonal_(inf)  # a point is not its own neighbour
    near_mm[:, ~alive] = inf
    k = min(k, int(alive.sum()) - 1)
    if k < 1:
        return torch.where(alive, 0.0, inf).double()
    scores = near_mm.topk(k, largest=False).values.sum(1)
    return scores.masked_fill(~alive, inf)


def lowest(scores: Float64[Tensor, " m"], k: int) -> Int64[Tensor, " k"]:
    """Return the indices of the k lowest scores, lowest first, lower indices first among equals."""
    return scores.argsort(stable=True)[:k]


def uniform(chosen: Int64[Tensor, " k"], num_points: int) -> Float64[Tensor, " m"]:
    """Return the weights of the mean of the chosen points."""
    weights = torch.zeros(num_points, dtype=torch.float64)
    weights[chosen] = 1 / len(chosen)
    return weights


def combination_distances(centred: Float64[Tensor, "m m"], weights: Float64[Tensor, " m"]) -> Float64[Tensor, " m"]:
    """Return the squared distance of every point to the weighted mean of all; the weights sum to one."""
    towards = centred @ weights
    return (centred.diagonal() - 2 * towards + weights @ towards).clamp_min(0)


def shrunk(square_norms: Float64[Tensor, " m"], alive: Bool[Tensor, " m"], bound: float) -> Float64[Tensor, "m m"]:
    """Return the mixing matrix that scales points down to a bound; a dead point stays dead.

    A bound of zero takes all points to the origin. Its row of the matrix is not zero then, as that would be a dead
    point, but so small that no coordinate survives in float32.
    """
    norms = square_norms.sqrt()
    scales = torch.where(norms > bound, bound / norms, 1.0).clamp_min(1e-300)
    return torch.diag(torch.where(alive, scales, 0.0))
