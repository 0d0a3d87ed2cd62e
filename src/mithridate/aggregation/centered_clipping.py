"""Centered clipping: move from the previous result towards the rows, each pulling no harder than tau.

    v <- v + (1/n) sum_i (x_i - v) min(1, tau / |x_i - v|),   `iterations` times from v = the previous result

Paper    Karimireddy, He, Jaggi, "Learning from history for Byzantine robust optimization" (ICML 2021), arXiv
         2012.10333.
Promise  a liar moves the result by at most tau / n per iteration; the paper's analysis needs a small share of liars and
         tau of the order of the honest rows' deviation.
Needs    the Gram matrix of the rows and the previous result.
Cost     n^2 d multiply-adds, then n^3 per iteration, then n d.
Departs  before the first step v = 0. A row with non-finite entries pulls with force zero and still counts in n.

Shapes   m points, k basis vectors, d coordinates.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from mithridate.aggregation._base import AbstractGramCombiner, State
from mithridate.aggregation.resilience import require
from mithridate.core.params import Checked, In, param
from mithridate.numerics.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class CenteredClipping(Checked, AbstractGramCombiner):
    """Clipping about the previous result, which is the state."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")
    tau: float = param(10.0, within=In(0.0, 1e30, open_lo=True), doc="clipping radius, in units of the rows")
    iterations: int = param(1, within=In(1, 1_000_000), doc="passes over the rows per step")

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 2f + 1."""
        require("centered-clipping", num_rows, self.f)

    def reference(self, state: State) -> Float[Tensor, " d"] | None:
        """Return the previous result."""
        return state if isinstance(state, Tensor) else None

    def weights(self, points: Geometry, state: State) -> tuple[Float64[Tensor, " m"], State]:
        """Return the weights of the rows, and of the previous result if there is one, after the last iteration."""
        num_rows = points.m - (1 if isinstance(state, Tensor) else 0)
        voters = points.alive[:num_rows]
        weights = torch.zeros(points.m, dtype=torch.float64)
        weights[num_rows:] = 1  # without a previous result v = 0: no point has weight
        for _ in range(self.iterations):
            apart = (points.coords - weights @ points.coords)[:num_rows]
            far = ((apart @ points.basis) * apart).sum(1).clamp_min(0).sqrt()
            pull = torch.where(voters, (self.tau / far).clamp(max=1), 0.0) / num_rows
            weights = weights * (1 - pull.sum())
            weights[:num_rows] += pull
        return weights, state

    def learn(self, vector: Float[Tensor, " d"], state: State) -> State:
        """Keep the result for the next step."""
        del state
        return vector.clone()


METHOD = CenteredClipping
