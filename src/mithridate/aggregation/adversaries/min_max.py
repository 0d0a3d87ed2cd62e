"""Min-Max: as far from the mean as possible while no farther from any honest row than honest rows are apart.

    b = mean(g) - gamma sd(g),   the largest gamma >= 0 with max_i |b - g_i| <= max_ij |g_i - g_j|

Paper    Shejwalkar, Houmansadr, Manipulating the Byzantine (NDSS 2021), perturbation by deviation.
Cost     one pass over the honest rows for their distances, one for the projections.
Departs  gamma is exact: each honest row allows an interval of gamma that begins below zero and ends at a root of a
         quadratic. Codes bisect on [0, 5] or [0, 10] to a tolerance of 0.01.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.aggregation.adversaries._base import AbstractAdversary, Knowledge, Rule, copies

_TINY = 1e-30


@dataclass(frozen=True, kw_only=True)
class MinMax(AbstractAdversary):
    """Within the diameter of the honest rows."""

    knowledge: ClassVar[Knowledge] = "honest rows"

    def forge(
        self, honest: Float[Tensor, "h d"], f: int, *, rule: Rule | None, gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, "f d"], State]:
        """Return f copies of the farthest vector that is allowed."""
        del rule, gen
        rows = honest.double()
        mean = rows.mean(0)
        off = mean - rows
        deviation = (off.square().sum(0) / max(1, len(rows) - 1)).sqrt()
        gram = off @ off.T
        square = gram.diagonal()
        diameter = (square[:, None] + square[None, :] - 2 * gram).max().clamp_min(0)
        a, b = deviation.square().sum(), off @ deviation  # |off_i|^2 - 2 gamma b_i + gamma^2 a <= diameter
        roots = (b + (b.square() + a * (diameter - square).clamp_min(0)).sqrt()) / a.clamp_min(_TINY)
        return copies((mean - roots.min().clamp_min(0) * deviation).to(honest.dtype), f), state


METHOD = MinMax
