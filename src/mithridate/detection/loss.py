"""Loss: how badly, or how easily, the network fits the label that an example carries.

    score(x) = l(x, y)    or, for tail = "low",   - l(x, y)

A label that the network does not believe is probably wrong. The other tail belongs to training in progress: backdoors
are learned first, so that after a few epochs the lowest losses are those of poisons.

Paper    Li, Lyu, Koren, Lyu, Li, Ma (NeurIPS 2021), arXiv 2110.11571, section 3, for the low tail.
Promise  none on a network trained to the end, which fits poisons and clean images alike; give the low tail a network of
         a few epochs.
Needs    logits.
Cost     nothing beside the shared pass.
Departs  no local gradient ascent during training, which widens the gap in the paper: that is the healer of this name.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float64
from torch import Tensor

from mithridate.core.params import OneOf, param
from mithridate.detection._base import AbstractDetector, ScanInput


@dataclass(frozen=True, kw_only=True)
class Loss(AbstractDetector):
    """The cross-entropy at the given label."""

    per_class: ClassVar[bool] = False

    tail: str = param("high", within=OneOf("high", "low"), doc="which losses are suspicious")

    def scores(self, given: ScanInput, *, seed: int = 0) -> Float64[Tensor, " n"]:
        """Return the losses with the sign of the tail."""
        del seed
        return given.losses.double() * (1 if self.tail == "high" else -1)


METHOD = Loss
