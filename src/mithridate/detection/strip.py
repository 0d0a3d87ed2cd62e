"""STRIP: whether an image keeps its class when others are laid over it.

    score(x) = - mean over b of H(softmax f(min(x + b, 1))),   H the entropy, b images drawn from the data

A trigger survives superposition and keeps the prediction where it is, so that the entropy is low.

Paper    Gao, Xu, Wang, Chen, Ranasinghe, Nepal (ACSAC 2019), arXiv 1902.06531, section 4.
Promise  higher for inputs whose prediction does not depend on what else is in the image.
Needs    the network, and images.
Cost     `overlays` forward passes over the data: by far the slowest of the detectors.
Departs  ten overlays for the paper's hundred; they are drawn from the training data themselves, poisons among them, as
         there is no clean set; the same for all images, so that scores do not depend on an image's place.
"""

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mithridate.core.params import In, param
from mithridate.core.seeds import address
from mithridate.detection._base import AbstractDetector, ScanInput
from mithridate.detection.extract import frozen, unit_batches


@dataclass(frozen=True, kw_only=True)
class Strip(AbstractDetector):
    """The negative entropy of predictions under superposition."""

    per_class: ClassVar[bool] = False

    overlays: int = param(10, within=In(1, 1000), doc="images that each image is averaged with; the paper takes 100")

    def scores(self, given: ScanInput, *, seed: int = 0) -> Float64[Tensor, " n"]:
        """Return the negative mean entropies, in nats."""
        store = given.examples.images
        chosen = torch.tensor(self._chosen(store.row_hashes(), seed), device=store.device)
        with frozen(given.model) as place:
            overlays = store.gather(chosen).to(place).to(torch.float32) / 255
            parts = []
            for start, x in unit_batches(given.examples, given.batch, place):
                entropy = torch.zeros(len(x), dtype=torch.float64)
                for overlay in overlays:
                    logs = functional.log_softmax(given.model((x + overlay).clamp(max=1)).float(), 1)
                    entropy -= (logs.exp() * logs).sum(1).double().cpu()
                parts.append(-entropy / len(overlays))
                given.progress({"done": (start + len(x)) / len(given)})
        return torch.cat(parts)

    def _chosen(self, hashes: NDArray[np.uint8], seed: int) -> list[int]:
        """Return the rows that are laid over others: their content and the seed decide, not their places."""
        salt = address(seed, "strip", "overlays").to_bytes(8, "big")
        keys = [hashlib.sha256(salt + row.tobytes()).digest() for row in hashes]
        return sorted(range(len(keys)), key=keys.__getitem__)[: self.overlays]


METHOD = Strip
