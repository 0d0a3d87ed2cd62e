"""Random rows: uniform numbers in the place of a model or a gradient.

    b_j ~ U[0, scale), drawn anew for every row and step

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
class RandomModel(AbstractAdversary):
    """Fresh uniform numbers in every row."""

    knowledge: ClassVar[Knowledge] = "own row"
    strength: ClassVar[str] = "scale"
    scale: float = param(1.0, within=In(0.0, 1e30), doc="upper end of the uniform law")

    def forge(
        self, honest: Float[Tensor, "h d"], f: int, *, rule: Rule | None, gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, "f d"], State]:
        """Return f random rows, in the dtype and on the device of the given rows."""
        del rule
        noise = torch.rand((f, honest.shape[1]), generator=gen, device=honest.device)
        return noise.mul_(self.scale).to(honest.dtype), state


METHOD = RandomModel
