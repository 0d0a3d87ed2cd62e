"""Spectral signatures: how far an example lies along the direction in which its class is widest.

    score(x) = <r(x) - mean, v>^2,   v the top right singular vector of the centred features of the class

Paper    Tran, Li, Madry (NeurIPS 2018), arXiv 1811.00636, section 3.
Promise  poisons whose mean is far from that of their class, against the spread of both, have the highest scores.
         Rotating the features or adding a constant to them changes nothing.
Needs    penultimate features.
Cost     m e min(m, e) multiply-adds for each class of m rows.
Departs  none. Features are centred by the class, as the paper does; other implementations leave that out, and then the
         first direction is mostly the mean. The paper's rule that removes 1.5 eps of the class is not applied.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from mithridate.detection._base import AbstractDetector, ScanInput, class_by_class, principal


@dataclass(frozen=True, kw_only=True)
class SpectralSignatures(AbstractDetector):
    """Squared projections on the widest direction of each class."""

    per_class: ClassVar[bool] = True

    def scores(self, given: ScanInput, *, seed: int = 0) -> Float64[Tensor, " n"]:
        """Return the squared projections; a class whose features are all equal scores zero."""
        del seed

        def score(rows: Float64[Tensor, "m e"], label: int) -> Float64[Tensor, " m"]:
            del label
            along, _ = principal(rows - rows.mean(0), 1)
            return along[:, 0].square() if along.shape[1] else torch.zeros(len(rows), dtype=torch.float64)

        return class_by_class(given, score)


METHOD = SpectralSignatures
