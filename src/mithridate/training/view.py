"""Views: what the model sees of an image."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.numerics.warp import Shift
from mithridate.training._base import AbstractView, Context


@dataclass(frozen=True, kw_only=True)
class Warp(AbstractView):
    """Random crop (as a shift) and flip, drawn anew for every image and step."""

    name: ClassVar[str] = "warp"
    law: Shift = field()

    def init(self, context: Context) -> State:
        """Return the padding colour: the one that normalisation maps to zero, or black."""
        return context.fill if self.law.fill == "mean" else torch.zeros_like(context.fill)

    def view(
        self, x: Float[Tensor, "b c h w"], index: Int64[Tensor, " b"], state: State, gen: torch.Generator
    ) -> tuple[Float[Tensor, "b c h w"], State]:
        """Return the shifted and flipped images."""
        del index
        height, width = x.shape[-2:]
        params = self.law.draw(len(x), (height, width), gen, x.device)
        return self.law.apply(x, params, state), state
