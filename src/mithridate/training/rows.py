"""Rows: the granularity at which a combiner sees the gradient, and what happens to rows before it does."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.core.params import Checked, In, param
from mithridate.training._base import AbstractRowMap


@dataclass(frozen=True, kw_only=True)
class Rows(Checked):
    """What one row is, and the maps that the rows pass in order.

    With `of="example"` a row is the gradient of one example's loss. With `of="worker"` the batch is split into `count`
    consecutive parts, each as if drawn by one worker, and a row is the gradient of a part's weighted mean loss.
    """

    of: Literal["example", "worker"] = "example"
    count: int = param(1, within=In(1, 1 << 20), doc="number of simulated workers")
    maps: tuple[AbstractRowMap, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Hostile(Checked, AbstractRowMap):
    """The last `f` workers send their honest row times `factor`: -1 is a sign flip, 0 a worker that sends nothing."""

    name: ClassVar[str] = "hostile"
    f: int = param(1, within=In(0, 1 << 20), doc="number of hostile workers")
    factor: float = param(-10.0, doc="what the honest row is multiplied with")

    def map_rows(
        self, rows: Float[Tensor, "n d"], state: State, gen: torch.Generator
    ) -> tuple[Float[Tensor, "n d"], State]:
        """Return the rows with the hostile ones replaced."""
        del gen
        honest = len(rows) - self.f
        return torch.cat([rows[:honest], self.factor * rows[honest:]]), state
