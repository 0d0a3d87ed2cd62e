"""Momentum at the server, added to every received gradient before the rule.

    V <- F( g_1 + beta V, ..., g_n + beta V ),   x <- x - lr V

Paper    El Mhamdi, Guerraoui, Rouault, Distributed Momentum (ICLR 2021), arXiv 2003.00010: the third placement of its
         code, beside momentum of the update (after the rule) and of the workers (before it).
Promise  for a rule that commutes with translations this is momentum after the rule; for one with a fixed origin (norm
         clipping, elimination by norm) it is not.
Needs    the rows.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mithridate.aggregation._base import AbstractCombiner, AbstractRowCombiner, Evidence, State
from mithridate.aggregation.combine import combine
from mithridate.core.params import Checked, In, param
from mithridate.numerics.row_view import RowView


@dataclass(frozen=True, kw_only=True)
class ServerMomentum(Checked, AbstractRowCombiner):
    """Any rule on rows that the server has put its momentum into."""

    evidence: ClassVar[Evidence] = Evidence.ROWS
    rule: AbstractCombiner = field()
    beta: float = param(0.9, within=In(0.0, 1.0, open_hi=True), doc="momentum coefficient")

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` if the rule is not defined for so many rows."""
        self.rule.check(num_rows)

    def tolerated(self, num_rows: int) -> int:
        """Return how many of so many rows the rule bears dead."""
        return self.rule.tolerated(num_rows)

    def init(self) -> State:
        """Return the rule's state, and no momentum yet."""
        return {"momentum": None, "rule": self.rule.init()}

    def combine(
        self, rows: RowView, alive: Bool[Tensor, " n"], gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, " d"], State]:
        """Return the new momentum, which is also the next state."""
        del alive
        momentum = state["momentum"]
        if momentum is not None:
            rows = RowView.of(rows.block(0, rows.d) + self.beta * momentum)
        vector, inner = combine(rows, self.rule, state=state["rule"], gen=gen)
        return vector, {"momentum": vector.clone(), "rule": inner}
