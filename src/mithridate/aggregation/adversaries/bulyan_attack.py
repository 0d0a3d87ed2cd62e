"""The hidden vulnerability: the honest mean with one coordinate far off, unseen by distances in high dimension.

    b = mean(g) + t e_k,   or mean(g) + t (1, ..., 1) with `coordinate = all`

Paper    El Mhamdi, Guerraoui, Rouault, The Hidden Vulnerability of Distributed Learning in Byzantium (ICML 2018),
         arXiv 1802.07927.
Cost     `budget` aggregations if t is not given.
Departs  t is searched on a line against the rule at hand unless given; the coordinate is the last one by default.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.aggregation.adversaries._base import AbstractAdversary, Knowledge, Rule, copies, mean_of, required
from mithridate.aggregation.adversaries._search import damage, line_search
from mithridate.core.params import In, OneOf, param


@dataclass(frozen=True, kw_only=True)
class HiddenVulnerability(AbstractAdversary):
    """The mean with its last coordinate, or all of them, moved."""

    knowledge: ClassVar[Knowledge] = "honest rows"
    strength: ClassVar[str] = "t"
    t: float | None = param(None, within=In(-1e30, 1e30), doc="how far; searched against the rule by default")
    coordinate: str = param("last", within=OneOf("last", "all"), doc="which coordinates move: last or all")
    budget: int = param(16, within=In(1, 10_000), doc="aggregations that the search may try")

    def forge(
        self, honest: Float[Tensor, "h d"], f: int, *, rule: Rule | None, gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, "f d"], State]:
        """Return f copies of the moved mean."""
        del gen
        mean = mean_of(honest)
        where = torch.zeros_like(mean)
        where[-1 if self.coordinate == "last" else slice(None)] = 1.0

        def ray(x: float) -> Tensor:
            return mean + x * where

        t = self.t
        if t is None:
            t = line_search(damage(required(rule, "bulyan-attack"), honest, f, ray), budget=self.budget)
        return copies(ray(t), f), state


METHOD = HiddenVulnerability
