"""Reverse: the own row, or model, times a large negative number.

    b_j = - factor g_j,   factor = 100

Paper    Guerraoui, Guirguis, Plassmann, Ragot, Rouault, Garfield (DSN 2021), arXiv 2010.05888, among the attacks of its
         code on models and gradients.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.aggregation.adversaries._base import AbstractAdversary, Knowledge, Rule
from mithridate.core.params import In, param


@dataclass(frozen=True, kw_only=True)
class Reverse(AbstractAdversary):
    """The own row, reversed and blown up."""

    knowledge: ClassVar[Knowledge] = "own row"
    strength: ClassVar[str] = "factor"
    factor: float = param(100.0, within=In(0.0, 1e12), doc="what the negated row is multiplied with")

    def forge(
        self, honest: Float[Tensor, "h d"], f: int, *, rule: Rule | None, gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, "f d"], State]:
        """Return the reversed rows."""
        del f, rule, gen
        return -self.factor * honest, state


METHOD = Reverse
