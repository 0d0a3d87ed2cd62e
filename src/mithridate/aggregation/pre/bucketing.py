"""Bucketing: shuffle the rows and average them in groups of s.

    y_1..y_b = means of the groups of a random permutation cut every s rows;   b = ceil(n / s)

Paper    Karimireddy, He, Jaggi, "Byzantine-robust learning on heterogeneous datasets via bucketing" (ICLR 2022), arXiv
         2006.09365.
Promise  the variance falls by s, at most f groups hold a liar; the share of liars grows by s, so f < ceil(n / s) / 2.
Needs    randomness that nobody knew when the rows were sent: a fresh permutation every step.
Cost     n^2 beside the Gram pass.
Departs  the last group may be smaller. A row with non-finite entries is left out of its group; a group of such rows
         alone is infinitely far itself.

Shapes   m points, l groups.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from mithridate.aggregation._base import AbstractPreAggregator
from mithridate.core.errors import Misuse
from mithridate.core.params import In, param
from mithridate.numerics.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class Bucketing(AbstractPreAggregator):
    """Rows become means of random groups."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")
    s: int = param(2, within=In(1, 1_000_000), doc="rows in a group")

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless f < ceil(n / s) / 2."""
        groups = self.output_rows(num_rows)
        if 2 * self.f >= groups:
            most = max((s for s in range(1, num_rows + 1) if 2 * self.f < -(-num_rows // s)), default=0)
            raise Misuse(
                "MTH-0544",
                f"bucketing n={num_rows} rows by s={self.s} gives {groups} groups, of which f={self.f} may lie: "
                "that is no minority",
                hint=f"s={most} is the most for these n and f" if most else "lower f or add workers",
            )

    def output_rows(self, num_rows: int) -> int:
        """Return ceil(n / s)."""
        return -(-num_rows // self.s)

    def mix(self, points: Geometry, gen: torch.Generator) -> Float64[Tensor, "l m"]:
        """Return a fresh random grouping."""
        order = torch.randperm(points.m, generator=gen, device=gen.device).cpu()
        groups = torch.zeros(self.output_rows(points.m), points.m, dtype=torch.float64)
        groups[torch.arange(points.m) // self.s, order] = points.alive[order].double()
        return groups / groups.sum(1, keepdim=True).clamp_min(1)


METHOD = Bucketing
