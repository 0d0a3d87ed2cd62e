"""Against norm-based elimination: as long as it may be without being dropped, and against all that is kept.

    b = - c S / |S|,   S = sum of the h - f shortest honest rows,   c just below the longest of them

Paper    none that describes it: known from code that tests comparative gradient elimination (Gupta, Liu, Vaidya 2021).
Promise  a rule that drops the f longest of n = h + f rows drops f honest ones and keeps every hostile one.
Departs  the code that it is known from adds the shortest honest row twice.
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
class AntiElimination(AbstractAdversary):
    """Cancel the rows that a norm filter keeps."""

    knowledge: ClassVar[Knowledge] = "honest rows"
    margin: float = param(
        1e-4, within=In(0.0, 1.0), doc="how much shorter than the longest kept honest row, as a share"
    )

    def forge(
        self, honest: Float[Tensor, "h d"], f: int, *, rule: Rule | None, gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, "f d"], State]:
        """Return f copies of the cancelling vector.

        Raises:
            Misuse: MTH-0551 unless there are more honest rows than hostile ones.
        """
        del rule, gen
        kept = len(honest) - f
        if kept < 1:
            raise Misuse(
                "MTH-0551",
                f"anti-cge needs more honest rows than hostile ones, got {len(honest)} and {f}",
                hint="lower f or add workers",
            )
        norms, order = honest.double().norm(dim=1).sort(stable=True)
        total = honest.index_select(0, order[:kept]).double().sum(0)
        length = (1 - self.margin) * norms[kept - 1]
        return copies((total * (-length / total.norm().clamp_min(_TINY))).to(honest.dtype), f), state


METHOD = AntiElimination
