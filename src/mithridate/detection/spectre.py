"""SPECTRE: how far an example lies along the directions in which its class is wider than it should be.

    h(x) = W (r(x) - mu)                     whitened by a robust mean and covariance of the class
    Q    = exp(alpha (S - I) / (|S|_2 - 1))  S the plain covariance of all h
    score(x) = h(x)^T Q h(x) / tr(Q)         the quantum entropy score

With alpha = 0 this is the squared norm, with alpha to infinity the squared projection on the top direction.

Paper    Hayase, Kong, Somani, Oh (ICML 2021), arXiv 2104.11315, sections 3 and 4.
Promise  finds directions in which poisons stand out even when the class is wider along others. Any invertible affine
         map of the principal coordinates changes nothing.
Needs    penultimate features.
Cost     one decomposition of each class and a few dozen covariances in at most `dims` dimensions.
Departs  the robust estimate concentrates on the half of the rows that are nearest (Rousseeuw and Van Driessen's steps,
         from one deterministic start), in place of the paper's filter; the number of directions is a fixed fraction of
         the rows and not searched; rows are scored in every class, and a class is chosen by `votes`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from mithridate.core.params import In, param
from mithridate.detection._base import AbstractDetector, ScanInput, class_by_class, principal

_STEPS = 30
_RIDGE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Spectre(AbstractDetector):
    """Quantum entropy scores of robustly whitened features."""

    per_class: ClassVar[bool] = True

    alpha: float = param(4.0, within=In(0, 1000), doc="sharpness, the paper's 4: 0 is the norm, infinity one direction")
    dims: int = param(64, within=In(1, 1000), doc="principal coordinates at most")
    rows_per_dim: int = param(10, within=In(2, 1000), doc="rows of a class that are needed for each coordinate")

    def scores(self, given: ScanInput, *, seed: int = 0) -> Float64[Tensor, " n"]:
        """Return the scores; a class whose features are all equal scores zero."""
        del seed

        def score(rows: Float64[Tensor, "m e"], label: int) -> Float64[Tensor, " m"]:
            del label
            points, spread = principal(rows - rows.mean(0), max(1, min(self.dims, len(rows) // self.rows_per_dim)))
            if not len(spread):
                return torch.zeros(len(rows), dtype=torch.float64)
            return entropy_scores(whitened(points), self.alpha)

        return class_by_class(given, score)


def whitened(points: Float64[Tensor, "m r"]) -> Float64[Tensor, "m r"]:
    """Return the points in coordinates in which their robust covariance is the identity, up to a common factor."""
    half = (len(points) + points.shape[1] + 1) // 2
    kept = torch.arange(len(points))
    for _ in range(_STEPS):
        mapped = _mapped(points, kept)
        nearest = mapped.square().sum(1).argsort(stable=True)[:half].sort().values
        if len(nearest) == len(kept) and bool((nearest == kept).all()):
            break
        kept = nearest
    return _mapped(points, kept)


def _mapped(points: Float64[Tensor, "m r"], kept: Int64[Tensor, " h"]) -> Float64[Tensor, "m r"]:
    centred = points - points[kept].mean(0)
    values, vectors = torch.linalg.eigh(centred[kept].T @ centred[kept] / len(kept))
    mapped: Tensor = (centred @ vectors) / (values + _RIDGE * values[-1].clamp(min=1e-300)).sqrt()
    return mapped


def entropy_scores(mapped: Float64[Tensor, "m r"], alpha: float) -> Float64[Tensor, " m"]:
    """Return the quantum entropy scores; whitened points are first rescaled so that half of them have their due norm.

    The due norm of a Gaussian row of r coordinates has the square r (1 - 2 / (9 r))^3 at its median (Wilson, Hilferty).
    """
    r = mapped.shape[1]
    norms = mapped.square().sum(1)
    scaled = mapped * (r * (1 - 2 / (9 * r)) ** 3 / norms.median().clamp(min=1e-300)).sqrt()
    centred = scaled - scaled.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    excess = float(values[-1]) - 1
    if excess <= 1e-9:  # no direction is wider than it should be: the weights are even
        return scaled.square().mean(1)
    weights = torch.softmax(alpha * (values - 1) / excess, 0)
    scores: Tensor = ((scaled @ vectors).square() * weights).sum(1)
    return scores


METHOD = Spectre
