"""Clip every row to a bound, average, and add Gaussian noise: the step of DP-SGD.

    v = sum_i w_i min(1, C / |x_i|) x_i  +  N(0, (sigma C / n)^2 I)

Paper    Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang (CCS 2016), arXiv 1607.00133, Algorithm 1.
Promise  the sensitivity of the sum to one row is at most C; this room keeps no privacy account.
Needs    the norm of every row, then one weighted backward pass.
Departs  batches are drawn by shuffling, not by Poisson sampling, so no (epsilon, delta) follows from sigma here.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import AbstractNormCombiner, State
from mithridate.core.params import Checked, In, param


@dataclass(frozen=True, kw_only=True)
class ClipNoise(Checked, AbstractNormCombiner):
    """Per-row clipping and Gaussian noise."""

    bound: float = param(1.0, within=In(0.0, 1e9, open_lo=True), doc="clipping norm C")
    noise_multiplier: float = param(1.0, within=In(0.0, 1e6), doc="sigma, in units of the clipping norm")

    def weights(
        self, norms: Float[Tensor, " n"], prior: Float[Tensor, " n"], state: State
    ) -> tuple[Float[Tensor, " n"], State]:
        """Return the prior weights shrunk so that no row is longer than the bound."""
        return prior * (self.bound / norms.clamp_min(1e-30)).clamp(max=1).to(prior.dtype), state

    def finish(self, vector: Float[Tensor, " d"], num_rows: int, gen: torch.Generator) -> Float[Tensor, " d"]:
        """Add the noise of one step."""
        scale = self.noise_multiplier * self.bound / num_rows
        return vector + scale * torch.randn(vector.shape, generator=gen, device=vector.device, dtype=vector.dtype)


METHOD = ClipNoise
