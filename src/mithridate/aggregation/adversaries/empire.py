"""Fall of Empires as the code of worker momentum parametrises it.

    b = mean(g) - factor mean(g) = (1 - factor) mean(g)

Paper    El Mhamdi, Guerraoui, Rouault, Distributed Momentum (ICLR 2021), arXiv 2003.00010, after Xie et al. (UAI 2019).
Promise  factor 1.1 is `foe` with eps 0.1.
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
class Empire(AbstractAdversary):
    """The mean minus a multiple of itself."""

    knowledge: ClassVar[Knowledge] = "honest rows"
    strength: ClassVar[str] = "factor"
    factor: float = param(1.1, within=In(0.0, 1e12), doc="what is subtracted from the mean, in units of the mean")

    def forge(
        self, honest: Float[Tensor, "h d"], f: int, *, rule: Rule | None, gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, "f d"], State]:
        """Return f copies of the scaled mean."""
        del rule, gen
        return copies((1 - self.factor) * mean_of(honest), f), state


METHOD = Empire
