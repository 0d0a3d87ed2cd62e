"""Averaging agreement: honest peers bring their vectors close together without moving their mean far.

    a round     say your vector to all; take the first q (or the common core); average what you took
    mda         mean of the q - f vectors of smallest diameter                          n >= 6f + 1
    rb-tm       coordinate-wise mean without the f lowest and highest, over reliable
                broadcast with witnesses, so that any two peers share n - f vectors     n >= 3f + 1
    icwtm       the same mean of the first q = n - f, over any broadcast                n >= 4f + 1

Paper    El-Mhamdi, Farhadkhani, Guerraoui, Guirguis, Hoang, Rouault, Collaborative Learning in the Jungle (NeurIPS
         2021), arXiv 2008.00742. The bounds of `quorums.bounds` say which of them are derived and which measured.

Shapes   m vectors of d coordinates.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.aggregation.combine import combine
from mithridate.aggregation.mda import MinimumDiameter
from mithridate.byzantine.quorums import Agreement
from mithridate.numerics.order import Trimmed, order_statistic
from mithridate.numerics.row_view import RowView

Average = Callable[[Float[Tensor, "m d"]], Float[Tensor, " d"]]


def averaging(kind: Agreement, f: int) -> Average:
    """Return what a peer makes of the vectors that it took in a round.

    Args:
        kind: mda, rb-tm or icwtm.
        f: How many of them may be anything, NaN and infinity included.
    """
    if kind == "mda":
        rule = MinimumDiameter(f=f)

        def smallest(rows: Float[Tensor, "m d"]) -> Float[Tensor, " d"]:
            return combine(RowView.of(rows), rule, state=rule.init(), gen=torch.Generator())[0]

        return smallest

    def trimmed(rows: Float[Tensor, "m d"]) -> Float[Tensor, " d"]:
        return order_statistic(RowView.of(rows), Trimmed(f=f))

    return trimmed


def plain_mean(rows: Float[Tensor, "m d"]) -> Float[Tensor, " d"]:
    """Return the mean: what the baselines without defense take."""
    return rows.mean(0)
