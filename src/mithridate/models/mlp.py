"""One hidden layer of ReLU units on the flattened image: the quick net of the checks on `digits`.

    z = W2 relu(W1 vec(x) + b1) + b2,   W ~ N(0, 2 / fan_in),   b = 0

Paper    He, Zhang, Ren, Sun (ICCV 2015), arXiv 1502.01852, for the initialisation.
Width    units of the hidden layer, 128 unless `mlp-wN` says otherwise; `digits` gives 64-128-10.
Sizes    any; the first matrix grows with the number of pixels.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mithridate.models._base import AbstractNet

WIDTH = 128


class MLP(AbstractNet):
    """Flatten, one hidden layer, one linear head."""

    def __init__(self, *, num_classes: int, channels: int, size: int, width: int = WIDTH) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels * size * size, width)
        self.head = nn.Linear(width, num_classes)
        for layer in (self.hidden, self.head):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e"]:
        """Return the hidden units."""
        return functional.relu(self.hidden(x.flatten(1)))


METHOD = MLP
