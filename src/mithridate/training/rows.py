"""Rows: the granularity at which a combiner sees the gradient, and what happens to rows before it does.

Honest rows pass the maps in order (clipping, momentum, a recorder); then the hostile workers submit theirs. An
adversary that knows the honest rows therefore sees what the honest workers submit, never what they computed before.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.aggregation.adversaries._base import AbstractAdversary, Rule
from mithridate.aggregation.adversaries.sign_flip_own import SignFlipOwn
from mithridate.core.params import Checked, In, param
from mithridate.training._base import AbstractRowMap, AbstractStage, Batch, Context

_TINY = 1e-30


@dataclass(frozen=True, kw_only=True)
class Hostile(Checked, AbstractStage):
    """The last `f` of the workers are hostile and submit what the adversary forges."""

    name: ClassVar[str] = "hostile"
    f: int = param(1, within=In(0, 1 << 20), doc="number of hostile workers")
    adversary: AbstractAdversary = field(default=SignFlipOwn(scale=10.0))

    @property
    def idle(self) -> int:
        """How many workers compute no row of their own, because the adversary has no use for it."""
        return self.f if self.adversary.knowledge == "honest rows" else 0

    def init(self, context: Context) -> State:
        """Return the number of classes, and that the adversary remembers nothing yet."""
        return {"classes": len(context.data.classes), "adversary": None}

    def tampered(self, batch: Batch, first: int, state: State) -> Batch:
        """Return the batch as the workers compute on it; the examples from `first` on are those of hostile workers."""
        if self.adversary.knowledge != "data" or not self.f:
            return batch
        flipped = self.adversary.tamper(batch.labels[first:], state["classes"])
        return replace(batch, labels=torch.cat([batch.labels[:first], flipped]))

    def submit(
        self, rows: Float[Tensor, "n d"], state: State, gen: torch.Generator, rule: Rule
    ) -> tuple[Float[Tensor, "m d"], State]:
        """Return what the server receives: the rows of the honest workers, then f hostile ones.

        Args:
            rows: What the workers that computed would submit, hostile ones last if they computed at all.
            state: This stage's state.
            gen: The adversary's generator for this step.
            rule: What the server will aggregate with.
        """
        honest = rows[: len(rows) + self.idle - self.f]
        seen = honest if self.adversary.knowledge == "honest rows" else rows[len(honest) :]
        forged, memory = self.adversary.forge(seen, self.f, rule=rule, gen=gen, state=state["adversary"])
        return torch.cat([honest, forged]), {**state, "adversary": memory}


@dataclass(frozen=True, kw_only=True)
class Rows(Checked):
    """What one row is, the maps that the rows pass in order, and who is hostile.

    With `of="example"` a row is the gradient of one example's loss. With `of="worker"` the batch is split into `count`
    consecutive parts, each as if drawn by one worker, and a row is the gradient of a part's weighted mean loss.
    """

    of: Literal["example", "worker"] = "example"
    count: int = param(1, within=In(1, 1 << 20), doc="number of simulated workers")
    maps: tuple[AbstractRowMap, ...] = ()
    hostile: Hostile | None = None

    @property
    def computed(self) -> int:
        """How many of the workers compute a gradient."""
        return self.count - (self.hostile.idle if self.hostile else 0)


@dataclass(frozen=True, kw_only=True)
class RowClipping(Checked, AbstractRowMap):
    """Every worker shortens its gradient to a bound: x min(1, C / |x|)."""

    name: ClassVar[str] = "clipping"
    bound: float = param(2.0, within=In(0.0, 1e9, open_lo=True), doc="clipping norm C")

    def map_rows(
        self, rows: Float[Tensor, "n d"], state: State, gen: torch.Generator
    ) -> tuple[Float[Tensor, "n d"], State]:
        """Return the shortened rows."""
        del gen
        factors = (self.bound / rows.norm(dim=1, keepdim=True).clamp_min(_TINY)).clamp(max=1)
        return rows * factors, state


@dataclass(frozen=True, kw_only=True)
class WorkerMomentum(Checked, AbstractRowMap):
    """Every worker submits the momentum of its gradients: M_i <- beta M_i + (1 - dampening) g_i, from M_i = 0.

    Paper: El Mhamdi, Guerraoui, Rouault, Distributed Momentum (ICLR 2021), arXiv 2003.00010, without dampening. With
    dampening = beta the result is a running mean, and the step size that belongs to it is 1 / (1 - beta) times larger.
    """

    name: ClassVar[str] = "momentum"
    of_workers: ClassVar[bool] = True
    beta: float = param(0.9, within=In(0.0, 1.0, open_hi=True), doc="momentum coefficient")
    dampening: float = param(0.0, within=In(0.0, 1.0), doc="how much of each gradient is left out")

    def map_rows(
        self, rows: Float[Tensor, "n d"], state: State, gen: torch.Generator
    ) -> tuple[Float[Tensor, "n d"], State]:
        """Return the momenta, which are also the next state."""
        del gen
        fresh = rows if self.dampening == 0 else rows * (1 - self.dampening)
        momenta = fresh if state is None else torch.add(fresh, state, alpha=self.beta)
        return momenta, momenta
