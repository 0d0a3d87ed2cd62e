"""What every built-in network is: features, and a linear head on them; and the modes of any network."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put every module of `model` in training or evaluation mode, and back to where each was."""
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, was in before.items():
            module.training = was
