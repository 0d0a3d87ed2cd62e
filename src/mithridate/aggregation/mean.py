"""The weighted mean of the rows: plain stochastic gradient descent.

Needs    nothing but one backward pass.
Promise  none: a single hostile row moves it anywhere.
Paper    Robbins & Monro (Annals of Mathematical Statistics, 1951).
"""

from dataclasses import dataclass
from typing import ClassVar

from mithridate.aggregation._base import AbstractCombiner, Evidence
from mithridate.core.params import Checked


@dataclass(frozen=True, kw_only=True)
class Mean(Checked, AbstractCombiner):
    """The weighted mean; rows are never materialised."""

    evidence: ClassVar[Evidence] = Evidence.MEAN


METHOD = Mean
