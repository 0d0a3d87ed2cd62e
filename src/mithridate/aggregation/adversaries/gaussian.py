"""Gaussian rows: noise without any knowledge.

    b_j ~ N(mean, deviation^2 I), drawn anew for every row and step

Paper    Blanchard, El Mhamdi, Guerraoui, Stainer (NeurIPS 2017), arXiv 1703.02757, among its attacks.
Departs  mean 0 and deviation 1 by default.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.aggregation.adversaries._base import AbstractAdversary, Knowledge, Rule
from mithridate.core.params import In, param


@dataclass(frozen=True, kw_only=True)
class Gaussian(AbstractAdversary):
    """Fresh noise in every row."""

    knowledge: ClassVar[Knowledge] = "own row"
    strength: ClassVar[str] = "deviation"
    mean: float = param(0.0, within=In(-1e30, 1e30), doc="mean of every coordinate")
    deviation: float = param(1.0, within=In(0.0, 1e30), doc="standard deviation of every coordinate")

    def forge(
        self, honest: Float[Tensor, "h d"], f: int, *, rule: Rule | None, gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, "f d"], State]:
        """Return f rows of noise, in the dtype and on the device of the given rows."""
        del rule
        noise = torch.randn((f, honest.shape[1]), generator=gen, device=honest.device)
        return noise.mul_(self.deviation).add_(self.mean).to(honest.dtype), state


METHOD = Gaussian
