"""Krum: keep the one row that sits in the tightest neighbourhood.

    krum(x_1..x_n) = x_i,   i = argmin_i  sum over j in N(i) of |x_i - x_j|^2
    N(i) = the n - f - 2 other rows nearest to x_i

Paper    Blanchard, El Mhamdi, Guerraoui, Stainer (NeurIPS 2017), arXiv 1703.02757.
Promise  with n >= 2f + 3 the choice stays within reach of the honest mean.
Needs    the Gram matrix.
Cost     n^2 d multiply-adds, then n^2 log n.
Departs  equal scores: the lowest row index wins (the paper leaves it open).

Shapes   n rows, k = n - f - 2 neighbours.
"""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from mithridate.aggregation._base import AbstractWeightCombiner, Evidence, State
from mithridate.core.errors import Misuse
from mithridate.core.params import Checked, In, param


@dataclass(frozen=True, kw_only=True)
class Krum(Checked, AbstractWeightCombiner):
    """One-winner selection."""

    evidence: ClassVar[Evidence] = Evidence.GRAM
    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 2f + 3."""
        if num_rows < 2 * self.f + 3:
            raise Misuse(
                "MTH-0501",
                f"krum with f={self.f} needs at least {2 * self.f + 3} rows, got {num_rows}",
                hint="lower f or add workers",
            )

    def weights(
        self, evidence: Float[Tensor, "n n"], prior: Float[Tensor, " n"], state: State
    ) -> tuple[Float[Tensor, " n"], State]:
        """Return a one-hot vector that selects the winner."""
        n = evidence.shape[0]
        square_n = evidence.diagonal()
        dist_nn = (square_n[:, None] + square_n[None, :] - 2 * evidence).clamp_min(0)
        dist_nn = dist_nn.fill_diagonal_(inf)  # a row is not its own neighbour
        near_nk = dist_nn.topk(n - self.f - 2, largest=False).values
        return one_hot(near_nk.sum(1).argmin(), n).to(prior.dtype), state


METHOD = Krum
