"""Sign flip of the mean: every hostile worker sends the negated mean of the honest rows.

    b = - scale mean(g)

Paper    Allen-Zhu, Ebrahimianghazani, Li, Alistarh (ICLR 2021), arXiv 2012.14368, among its attacks.
Departs  `sign-flip-own` negates each worker's own row: codes call both attacks sign flip.
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
class SignFlipMean(AbstractAdversary):
    """The negated mean of the honest rows, from everyone."""

    knowledge: ClassVar[Knowledge] = "honest rows"
    strength: ClassVar[str] = "scale"
    scale: float = param(1.0, within=In(0.0, 1e12), doc="what the negated mean is multiplied with")

    def forge(
        self, honest: Float[Tensor, "h d"], f: int, *, rule: Rule | None, gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, "f d"], State]:
        """Return f copies of the negated mean."""
        del rule, gen
        return copies(-self.scale * mean_of(honest), f), state


METHOD = SignFlipMean
