"""Deep k-NN: how many of an example's nearest neighbours carry another label.

    score(x) = share of the k nearest other examples, by their features, whose label is not that of x

Paper    Peri, Gupta, Huang, Fowl, Zhu, Feizi, Goldstein, Dickerson (2020), arXiv 1909.13374, section 3.
Promise  finds examples that lie among another class: clean-label feature collisions and wrong labels. Poisons that
         form a cluster of their own are each other's neighbours and escape, unless there are fewer than k / 2 of them.
         Among pixels, where a trigger moves an image little, wrong labels are found if near images look alike, which
         they do on digits and not on photographs.
Needs    penultimate features.
Cost     n^2 e multiply-adds, in blocks: quadratic, so a minute or more for 50,000 examples on a few cores.
Departs  a share for each row in place of the plurality's decision; distances are between features of unit length.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float32, Float64
from torch import Tensor
from torch.nn import functional

from mithridate.core.params import In, OneOf, param
from mithridate.detection._base import AbstractDetector, ScanInput

_BLOCK_ENTRIES = 1 << 24


@dataclass(frozen=True, kw_only=True)
class DeepKnn(AbstractDetector):
    """The share of near neighbours of another class."""

    per_class: ClassVar[bool] = False

    k: int = param(50, within=In(1, 100_000), doc="neighbours that are asked; best twice the number of poisons")

    space: str = param(
        "features", within=OneOf("features", "pixels"), doc="where neighbours are near; pixels owe the network nothing"
    )

    def scores(self, given: ScanInput, *, seed: int = 0) -> Float64[Tensor, " n"]:
        """Return the shares; a single example has no neighbour and scores zero."""
        del seed
        n = len(given)
        k = min(self.k, n - 1)
        if k < 1:
            return torch.zeros(n, dtype=torch.float64)
        unit = functional.normalize(self._points(given), dim=1)
        parts = []
        block = max(1, _BLOCK_ENTRIES // n)
        for start in range(0, n, block):
            near = unit[start : start + block] @ unit.T
            rows = torch.arange(len(near))
            near[rows, start + rows] = -torch.inf
            found = given.labels[near.topk(k, sorted=False).indices]
            parts.append((found != given.labels[start : start + block, None]).double().mean(1))
            given.progress({"done": min(n, start + block) / n})
        return torch.cat(parts)

    def _points(self, given: ScanInput) -> Float32[Tensor, "n e"]:
        if self.space == "features":
            return given.features
        every = torch.arange(len(given), device=given.examples.device)
        pixels = given.examples.images.gather(every).flatten(1).float().cpu()
        return pixels - pixels.mean(0)


METHOD = DeepKnn
