"""Mimic: every hostile worker copies the same honest one, which makes it count f + 1 times.

    b = g_e,   e given, or e = argmax_i <g_i, z> with z the direction in which the honest rows differ most

Paper    Karimireddy, He, Jaggi, Byzantine-robust learning on heterogeneous datasets via bucketing (ICLR 2022),
         arXiv 2006.09365.
Promise  every hostile row equals an honest one, so no filter of outliers can tell them apart.
Departs  during the warm-up the direction is followed by one step of a power iteration a training step, on the
         deviations from the running mean; the copied worker may change then and is frozen afterwards.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.aggregation.adversaries._base import AbstractAdversary, Knowledge, Rule, copies
from mithridate.core.errors import Misuse
from mithridate.core.params import In, param

_TINY = 1e-30


@dataclass(frozen=True, kw_only=True)
class Mimic(AbstractAdversary):
    """Copy one honest worker."""

    knowledge: ClassVar[Knowledge] = "honest rows"
    target: int | None = param(None, within=In(0, 1 << 20), doc="the copied honest worker; by default it is searched")
    warmup: int = param(100, within=In(0, 1 << 30), doc="steps in which the copied worker is searched")

    def forge(
        self, honest: Float[Tensor, "h d"], f: int, *, rule: Rule | None, gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, "f d"], State]:
        """Return f copies of the chosen row.

        Raises:
            Misuse: MTH-0552 if the given target is no honest worker.
        """
        del rule
        if self.target is not None:
            if self.target >= len(honest):
                raise Misuse(
                    "MTH-0552",
                    f"mimic cannot copy worker {self.target}: the honest ones are 0 to {len(honest) - 1}",
                    hint="lower target, or leave it out and let the adversary search",
                )
            return copies(honest[self.target], f), state
        if state is None:
            start = torch.randn(honest.shape[1], generator=gen, device=honest.device)
            place = torch.zeros(1, dtype=torch.int64, device=honest.device)
            state = {"step": 0, "mean": torch.zeros_like(start), "direction": _unit(start), "target": place}
        if state["step"] <= self.warmup:
            state = _followed(honest.float(), state)
        return copies(honest.index_select(0, state["target"])[0], f), state


def _followed(honest: Float[Tensor, "h d"], state: State) -> State:
    """Return the state with mean, direction and target after one more step; nothing waits for the device."""
    old = state["step"] / (1 + state["step"])
    mean = old * state["mean"] + (1 - old) * honest.mean(0)
    off = honest - mean
    pull = _unit((off @ state["direction"]) @ off)
    direction = _unit(old * state["direction"] + (1 - old) * pull)
    target = (honest @ direction).argmax().view(1)
    return {"step": state["step"] + 1, "mean": mean, "direction": direction, "target": target}


def _unit(vector: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    unit: Tensor = vector / vector.norm().clamp_min(_TINY)
    return unit


METHOD = Mimic
