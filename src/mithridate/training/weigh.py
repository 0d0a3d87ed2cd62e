"""Weights: how much each example counts, decided after the losses and before the rows."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.training._base import AbstractWeigh, Batch


@dataclass(frozen=True, kw_only=True)
class Keep(AbstractWeigh):
    """Leave the weights of the draw as they are."""

    def weigh(
        self, losses: Float[Tensor, " b"], batch: Batch, weights: Float[Tensor, " b"], state: State
    ) -> tuple[Float[Tensor, " b"], State]:
        """Return the arguments."""
        del losses, batch
        return weights, state
