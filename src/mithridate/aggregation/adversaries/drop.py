"""Drop: a share of the coordinates of the own row, or model, is set to zero.

    b_j = g_j where a fresh coin says keep, else 0

Paper    Guerraoui, Guirguis, Plassmann, Ragot, Rouault, Garfield (DSN 2021), arXiv 2010.05888, among the attacks of its
         code on models and gradients.
Departs  in that code the coordinates are masked in a copy that is thrown away, so that nothing is ever dropped.
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
class Drop(AbstractAdversary):
    """Zeros in random places."""

    knowledge: ClassVar[Knowledge] = "own row"
    strength: ClassVar[str] = "share"
    share: float = param(0.3, within=In(0.0, 1.0), doc="expected share of the coordinates that is set to zero")

    def forge(
        self, honest: Float[Tensor, "h d"], f: int, *, rule: Rule | None, gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, "f d"], State]:
        """Return the rows with fresh holes."""
        del f, rule
        lost = torch.rand(honest.shape, generator=gen, device=honest.device) < self.share
        return honest.masked_fill(lost, 0.0), state


METHOD = Drop
