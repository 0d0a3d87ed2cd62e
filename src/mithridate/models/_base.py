"""What every built-in network is: features, and a linear head on them."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn


class AbstractNet(nn.Module, ABC):
    """A network that ends in one linear layer; `forward` and `features` take normalised images.

    Nothing is computed in place and no branch depends on data, so that forward mode, `vmap` and
    `functional_call` of `torch.func` all work.
    """

    head: nn.Linear

    @abstractmethod
    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e"]:
        """Return the penultimate features: the input of the linear head."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return logits."""
        logits: Tensor = self.head(self.features(x))
        return logits
