"""Updates: from one vector to new parameters, and the schedules of their step size."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from math import floor

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.core.params import Checked, In, param
from mithridate.training._base import AbstractUpdate, Clock


class AbstractSchedule(ABC):
    """The step size as a multiple of its base value, by epoch."""

    @abstractmethod
    def factor(self, epoch: float) -> float:
        """Return the multiple at `epoch` (a fraction inside an epoch)."""


@dataclass(frozen=True, kw_only=True)
class Milestones(AbstractSchedule):
    """Multiply by `drop` at the start of each epoch of `at`."""

    at: tuple[int, ...] = ()
    drop: float = 0.1

    def factor(self, epoch: float) -> float:
        """Return `drop` to the number of milestones passed."""
        return self.drop ** sum(floor(epoch) >= milestone for milestone in self.at)


@dataclass(frozen=True, kw_only=True)
class Triangle(AbstractSchedule):
    """Rise linearly from zero to one at `peak`, then fall linearly to zero at `end`, both in epochs."""

    peak: float
    end: float

    def factor(self, epoch: float) -> float:
        """Return the height of the triangle."""
        if epoch < self.peak:
            return epoch / self.peak
        return max(0.0, (self.end - epoch) / (self.end - self.peak))


@dataclass(frozen=True, kw_only=True)
class SGD(Checked, AbstractUpdate):
    """Stochastic gradient descent with momentum, L2 decay of all parameters, and Nesterov's form if asked.

    The update is PyTorch's: v <- m v + g with g the gradient plus decay; then x <- x - lr (g + m v), or x - lr v.
    """

    lr: float = param(0.1, within=In(0.0, 1e3), doc="base step size")
    momentum: float = param(0.9, within=In(0.0, 1.0, open_hi=True), doc="momentum coefficient m")
    nesterov: bool = param(True, doc="look ahead along the momentum")
    weight_decay: float = param(5e-4, within=In(0.0, 10.0), doc="coefficient of L2 decay, on all parameters")
    schedule: AbstractSchedule = field(default=Milestones())

    def init_update(self, flat: Float[Tensor, " d"]) -> State:
        """Return a zero velocity."""
        return torch.zeros_like(flat)

    def update(self, flat: Float[Tensor, " d"], vector: Float[Tensor, " d"], state: State, clock: Clock) -> State:
        """Take one step in place; `vector` is overwritten."""
        lr = self.lr * self.schedule.factor(clock.epoch)
        vector.add_(flat, alpha=self.weight_decay)
        state.mul_(self.momentum).add_(vector)
        if self.nesterov:
            vector.add_(state, alpha=self.momentum)
            flat.sub_(vector, alpha=lr)
        else:
            flat.sub_(state, alpha=lr)
        return state
