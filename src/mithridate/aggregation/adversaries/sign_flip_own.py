"""Sign flip of the worker's own row, also called bit flip: no knowledge of the others is needed.

    b_j = - scale g_j

Paper    Li, Xu, Chen, Giannakis, Ling (AAAI 2019), arXiv 1811.03761, among its attacks.
Departs  `sign-flip-mean` sends the same negated mean from everyone: codes call both attacks sign flip.
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
class SignFlipOwn(AbstractAdversary):
    """Each hostile worker negates what it would have sent."""

    knowledge: ClassVar[Knowledge] = "own row"
    strength: ClassVar[str] = "scale"
    scale: float = param(1.0, within=In(0.0, 1e12), doc="what the negated row is multiplied with; 0 sends zeros")

    def forge(
        self, honest: Float[Tensor, "h d"], f: int, *, rule: Rule | None, gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, "f d"], State]:
        """Return the negated rows."""
        del f, rule, gen
        return -self.scale * honest, state


METHOD = SignFlipOwn
