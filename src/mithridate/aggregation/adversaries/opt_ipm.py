"""Inner-product manipulation with the strength that hurts the given rule most.

    b = - x* mean(g),   x* = argmax_x | F(g_1..g_h, f copies of b(x)) - mean(g) |^2   by line search

Paper    Xie, Koyejo, Gupta (UAI 2019), arXiv 1903.03936; the search is that of the code of El Mhamdi, Guerraoui,
         Rouault, Distributed Momentum (ICLR 2021), arXiv 2003.00010.
Cost     `budget` aggregations.
Departs  the objective includes pre-aggregation; the contraction probes both sides of the best point.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.aggregation.adversaries._base import AbstractAdversary, Knowledge, Rule, copies, mean_of, required
from mithridate.aggregation.adversaries._search import damage, line_search
from mithridate.core.params import In, param


@dataclass(frozen=True, kw_only=True)
class OptimisedInnerProduct(AbstractAdversary):
    """Against the mean, as far as the rule lets through."""

    knowledge: ClassVar[Knowledge] = "honest rows"
    budget: int = param(16, within=In(1, 10_000), doc="aggregations that the search may try")

    def forge(
        self, honest: Float[Tensor, "h d"], f: int, *, rule: Rule | None, gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, "f d"], State]:
        """Return f copies of the worst vector that was found."""
        del gen
        mean = mean_of(honest)

        def ray(x: float) -> Tensor:
            return -x * mean

        objective = damage(required(rule, "opt-ipm"), honest, f, ray)
        return copies(ray(line_search(objective, budget=self.budget)), f), state


METHOD = OptimisedInnerProduct
