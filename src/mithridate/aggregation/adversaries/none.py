"""No attack: the f workers submit their honest rows.

    b_j = g_j

Paper    none: the control of every comparison.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.aggregation.adversaries._base import AbstractAdversary, Knowledge, Rule


@dataclass(frozen=True, kw_only=True)
class NoAttack(AbstractAdversary):
    """The control."""

    knowledge: ClassVar[Knowledge] = "own row"

    def forge(
        self, honest: Float[Tensor, "h d"], f: int, *, rule: Rule | None, gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, "f d"], State]:
        """Return the workers' own rows."""
        del f, rule, gen
        return honest, state


METHOD = NoAttack
