"""Rows of NaN: what one division by zero does to an unprotected mean.

    b = (NaN, ..., NaN)

Paper    none: what a broken or lazy worker sends.
"""

from dataclasses import dataclass
from math import nan
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.aggregation.adversaries._base import AbstractAdversary, Knowledge, Rule


@dataclass(frozen=True, kw_only=True)
class NotANumber(AbstractAdversary):
    """NaN everywhere."""

    knowledge: ClassVar[Knowledge] = "own row"

    def forge(
        self, honest: Float[Tensor, "h d"], f: int, *, rule: Rule | None, gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, "f d"], State]:
        """Return f rows of NaN in the dtype of the given ones."""
        del rule, gen
        return honest.new_full((f, honest.shape[1]), nan), state


METHOD = NotANumber
