"""Losses: one number per example."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mithridate.core.params import Checked, In, param
from mithridate.training._base import AbstractLoss, Batch, Forward


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Checked, AbstractLoss):
    """Softmax cross-entropy."""

    separable: ClassVar[bool] = True
    label_smoothing: float = param(0.0, within=In(0.0, 1.0, open_hi=True), doc="mass moved to the uniform distribution")

    def losses(self, forward: Forward, batch: Batch) -> Float[Tensor, " b"]:
        """Return the loss of every example, computed in float32 or wider."""
        logits = forward(batch.x)
        logits = logits if logits.dtype.itemsize >= 4 else logits.float()
        return functional.cross_entropy(logits, batch.labels, reduction="none", label_smoothing=self.label_smoothing)
