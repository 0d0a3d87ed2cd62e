"""Beatrix: how unusual, within its class, the correlations between an example's feature maps are.

    g_p(x)_i = ( sum over j, s of F_is^p F_js^p )^(1/p)     F the maps: i, j channels, s places; p = 1 .. orders
    score(x) = mean over i and p of  max(0, |g - median| / MAD - slack)

Paper    Ma, Wang, Sun, Yang, Lai, Wang (NDSS 2023), arXiv 2209.11715, section IV; Gram matrices of several orders with
         robust bounds go back to Sastry and Oore (ICML 2020), arXiv 1912.12510.
Promise  sees triggers that change how features go together, even where the features themselves look usual.
Needs    the network, for one more pass: the maps before the last pooling. A network without maps gives its features,
         for which all orders are the same, and one is taken.
Cost     one forward pass; m e `orders` numbers for a class of m rows.
Departs  sums over each row of a Gram matrix, which are e numbers, in place of its e (e + 1) / 2 entries; medians over
         the labelled class itself, poisons among it, as there is no clean set; four orders for nine; no test of which
         class is attacked, which is a matter of `votes`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from mithridate.core.params import In, param
from mithridate.detection._base import LEAST, AbstractDetector, ScanInput
from mithridate.detection.extract import reduced_maps

_TO_SIGMA = 1.4826


@dataclass(frozen=True, kw_only=True)
class Beatrix(AbstractDetector):
    """Robust deviations of row sums of Gram matrices."""

    per_class: ClassVar[bool] = True

    orders: int = param(4, within=In(1, 9), doc="powers of the features, from 1; the paper takes 9")
    slack: float = param(1.0, within=In(0, 100), doc="deviations, in robust standard deviations, that do not count")

    def scores(self, given: ScanInput, *, seed: int = 0) -> Float64[Tensor, " n"]:
        """Return the mean excess deviations."""
        del seed
        found = torch.zeros(len(given), dtype=torch.float64)
        for done, label in enumerate(given.present, start=1):
            rows = given.rows_of(label)
            if len(rows) >= LEAST:
                found[rows] = deviations(reduced_maps(given, rows, self._sums).double(), self.slack)
            given.progress({"done": done / len(given.present)})
        return found

    def _sums(self, maps: Float[Tensor, "b e s"]) -> Float[Tensor, "b f"]:
        return gram_sums(maps, self.orders if maps.shape[2] > 1 else 1)


def gram_sums(maps: Float[Tensor, "b e s"], orders: int) -> Float[Tensor, "b f"]:
    """Return the sums over the rows of the Gram matrices of the orders 1 to `orders`, each to the power 1 / order.

    Roots keep the sign. An image's maps are scaled to a largest entry of one meanwhile, so that no power overflows.
    """
    scale = maps.abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    parts = []
    for order in range(1, orders + 1):
        powers = (maps / scale) ** order
        sums = (powers * powers.sum(1, keepdim=True)).sum(2)
        parts.append(sums.sign() * sums.abs() ** (1 / order) * scale[:, 0] ** 2)
    return torch.cat(parts, 1)


def deviations(values: Float64[Tensor, "m f"], slack: float) -> Float64[Tensor, " m"]:
    """Return the mean over columns of how far each value is from the column's median, in MADs beyond the slack.

    Columns in which more than half of the values are equal have no scale and are left out.
    """
    centred = (values - values.median(0).values).abs()
    spread = _TO_SIGMA * centred.median(0).values
    used = spread > 0
    if not bool(used.any()):
        return torch.zeros(len(values), dtype=torch.float64)
    return (centred[:, used] / spread[used] - slack).clamp(min=0).mean(1)


METHOD = Beatrix
