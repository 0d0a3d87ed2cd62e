"""Fall of Empires: a short vector against the honest mean, close enough to be chosen.

    b = - eps mean(g),   eps = 0.1

Paper    Xie, Koyejo, Gupta, Fall of Empires (UAI 2019), arXiv 1903.03936.
Promise  the same as `ipm` with eps 0.1.
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
class FallOfEmpires(AbstractAdversary):
    """Inner-product manipulation at the strength that distance rules fall for."""

    knowledge: ClassVar[Knowledge] = "honest rows"
    strength: ClassVar[str] = "eps"
    eps: float = param(0.1, within=In(0.0, 1e12), doc="length of the hostile vector in units of the mean")

    def forge(
        self, honest: Float[Tensor, "h d"], f: int, *, rule: Rule | None, gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, "f d"], State]:
        """Return f copies of the scaled mean."""
        del rule, gen
        return copies(-self.eps * mean_of(honest), f), state


METHOD = FallOfEmpires
