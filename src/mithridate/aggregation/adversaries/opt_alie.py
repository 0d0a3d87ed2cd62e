"""A Little Is Enough with the strength that hurts the given rule most.

    b = mean(g) + sign x* sd(g),   x* = argmax_x | F(g_1..g_h, f copies of b(x)) - mean(g) |^2   by line search

Paper    Shejwalkar, Houmansadr (NDSS 2021) for optimised attacks; the search is that of the code of El Mhamdi,
         Guerraoui, Rouault, Distributed Momentum (ICLR 2021), arXiv 2003.00010.
Cost     `budget` aggregations.
Departs  the objective includes pre-aggregation; the contraction probes both sides of the best point.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.aggregation.adversaries._base import AbstractAdversary, Knowledge, Rule, copies, moments, required
from mithridate.aggregation.adversaries._search import damage, line_search
from mithridate.core.params import In, OneOf, param


@dataclass(frozen=True, kw_only=True)
class OptimisedALittleIsEnough(AbstractAdversary):
    """The mean, as many deviations off as the rule lets through."""

    knowledge: ClassVar[Knowledge] = "honest rows"
    sign: int = param(-1, within=OneOf(-1, 1), doc="to which side every coordinate is shifted")
    budget: int = param(16, within=In(1, 10_000), doc="aggregations that the search may try")

    def forge(
        self, honest: Float[Tensor, "h d"], f: int, *, rule: Rule | None, gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, "f d"], State]:
        """Return f copies of the worst vector that was found."""
        del gen
        mean, deviation = moments(honest)

        def ray(x: float) -> Tensor:
            return mean + self.sign * x * deviation

        objective = damage(required(rule, "opt-alie"), honest, f, ray)
        return copies(ray(line_search(objective, budget=self.budget)), f), state


METHOD = OptimisedALittleIsEnough
