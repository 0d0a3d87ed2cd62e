"""A training run between two steps, and what it reports."""

import math
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.core.errors import Misuse
from mithridate.numerics.flat import FlatModule


@dataclass
class Run:
    """A training run between two steps: everything that the next step depends on."""

    net: FlatModule
    phase: int = 0
    step_in_phase: int = 0
    step: int = 0
    epoch: int = 0
    states: dict[str, State] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """The end of an epoch: `loss` is its mean training loss, still on the device; `run` must not be changed."""

    epoch: int
    step: int
    loss: Float[Tensor, ""]
    run: Run


def finite_loss(event: Event) -> float:
    """Return the epoch's mean loss as a number, which waits for the device.

    Raises:
        Misuse: The loss is not finite: a diverged network says nothing about poisons.
    """
    loss = float(event.loss)
    if not math.isfinite(loss):
        raise Misuse(
            "MTH-0510",
            f"training diverged in epoch {event.epoch}: the mean loss is {loss}",
            hint="lower the step size (recipe_options.lr) or choose another recipe",
        )
    return loss
