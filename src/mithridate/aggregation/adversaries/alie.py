"""A Little Is Enough: stay within the spread of the honest rows, and shift every coordinate the same way.

    b = mean(g) + sign z sd(g)
    z = ppf( (n - f - s) / (n - f) ),   s = floor(n / 2 + 1) - f,   unless z is given

Paper    Baruch, Baruch, Goldberg (NeurIPS 2019), arXiv 1902.06156.
Departs  the sign is an option because it matters: -1 is that of the code of worker momentum, +1 that of byzfl and
         Garfield. The formula gives z = 0, no attack at all, for (n, f) = (10, 2), and less for smaller f.
"""

from dataclasses import dataclass
from math import floor
from statistics import NormalDist
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.aggregation.adversaries._base import AbstractAdversary, Knowledge, Rule, copies, moments
from mithridate.core.errors import Misuse
from mithridate.core.params import In, OneOf, param


@dataclass(frozen=True, kw_only=True)
class ALittleIsEnough(AbstractAdversary):
    """The mean, z deviations off."""

    knowledge: ClassVar[Knowledge] = "honest rows"
    strength: ClassVar[str] = "z"
    z: float | None = param(None, within=In(0.0, 1e6), doc="deviations; by default the quantile of the paper")
    sign: int = param(-1, within=OneOf(-1, 1), doc="to which side every coordinate is shifted")

    def forge(
        self, honest: Float[Tensor, "h d"], f: int, *, rule: Rule | None, gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, "f d"], State]:
        """Return f copies of the shifted mean."""
        del rule, gen
        mean, deviation = moments(honest)
        z = quantile(len(honest) + f, f) if self.z is None else self.z
        return copies(mean + self.sign * z * deviation, f), state


def quantile(n: int, f: int) -> float:
    """Return the z of the paper: what the hostile rows need to pull as many honest ones to their side as they lack.

    Raises:
        Misuse: MTH-0551 unless 0 <= f and the hostile workers are a minority.
    """
    if not 0 <= f <= (n - 1) // 2:
        raise Misuse(
            "MTH-0551",
            f"the quantile of alie is defined for a minority of hostile workers, got {f} of {n}",
            hint="lower f, or set z",
        )
    supporters = floor(n / 2 + 1) - f
    share = (n - f - supporters) / (n - f)
    return NormalDist().inv_cdf(share) if 0 < share < 1 else 0.0


METHOD = ALittleIsEnough
