"""A training run between two steps, and what it reports."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import State
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
