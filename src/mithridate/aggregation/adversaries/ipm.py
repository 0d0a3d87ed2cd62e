"""Inner-product manipulation: a vector that points against the honest mean.

    b = - eps mean(g)

Paper    Xie, Koyejo, Gupta, Fall of Empires (UAI 2019), arXiv 1903.03936.
Departs  the default strength of 2 is that of the byzfl library; the paper's weak form is `foe`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.aggregation.adversaries._base import AbstractAdversary, Knowledge, Rule, copies, mean_of
from mithridate.core.params import In, param


@dataclass(frozen=True, kw_only=True)
class InnerProduct(AbstractAdversary):
    """Against the mean, at a chosen length."""

    knowledge: ClassVar[Knowledge] = "honest rows"
    strength: ClassVar[str] = "eps"
    eps: float = param(2.0, within=In(0.0, 1e12), doc="length of the hostile vector in units of the mean")

    def forge(
        self, honest: Float[Tensor, "h d"], f: int, *, rule: Rule | None, gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, "f d"], State]:
        """Return f copies of the scaled mean."""
        del rule, gen
        return copies(-self.eps * mean_of(honest), f), state


METHOD = InnerProduct
