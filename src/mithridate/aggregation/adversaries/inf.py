"""Infinite rows: every coordinate is plus infinity.

    b = (inf, ..., inf)

Paper    none: what a broken or lazy worker sends.
"""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.aggregation.adversaries._base import AbstractAdversary, Knowledge, Rule


@dataclass(frozen=True, kw_only=True)
class Infinite(AbstractAdversary):
    """Plus infinity everywhere."""

    knowledge: ClassVar[Knowledge] = "own row"

    def forge(
        self, honest: Float[Tensor, "h d"], f: int, *, rule: Rule | None, gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, "f d"], State]:
        """Return f infinite rows in the dtype of the given ones."""
        del rule, gen
        return honest.new_full((f, honest.shape[1]), inf), state


METHOD = Infinite
