"""Label flip: hostile workers are honest in everything but their labels.

    b_j = what worker j submits after training on y -> C - 1 - y

Paper    Tolpegin, Truex, Gursoy, Liu (ESORICS 2020), arXiv 2007.08432, for label flipping by clients.
Departs  the flipped gradient goes through all that honest gradients go through: training mode, clipping and momentum.
         byzfl sends it without momentum and computes it in evaluation mode, so that its hostile rows differ in more
         than their labels.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.aggregation.adversaries._base import AbstractAdversary, Knowledge, Rule


@dataclass(frozen=True, kw_only=True)
class LabelFlip(AbstractAdversary):
    """Wrong labels, honest gradients."""

    knowledge: ClassVar[Knowledge] = "data"

    def tamper(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return the mirrored labels."""
        return num_classes - 1 - labels

    def forge(
        self, honest: Float[Tensor, "h d"], f: int, *, rule: Rule | None, gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, "f d"], State]:
        """Return the rows that the workers computed on the flipped labels."""
        del f, rule, gen
        return honest, state


METHOD = LabelFlip
