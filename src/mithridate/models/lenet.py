"""LeNet-5 with rectifiers and max-pools: two 5x5 convolutions and three dense layers.

    6@5x5 -> pool 2 -> 16@5x5 -> pool 2 -> 120 -> 84 -> classes

Paper    LeCun, Bottou, Bengio, Haffner (Proceedings of the IEEE 86, 1998), figure 2.
Departs  ReLU for scaled tanh, max-pools for trainable averages, full connections in the second convolution.
Width    one width only.
Sizes    8 to 224. 28 pixels give the layout of the paper (the first convolution pads by two, the second does not).
         Below 16 pixels the second convolution pads too, since nothing would be left; a map of more than 5x5 before
         the dense layers is averaged down to 5x5.
Init     torch's defaults.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mithridate.models._base import AbstractNet


class LeNet(AbstractNet):
    """Two convolutions, three dense layers."""

    def __init__(self, *, num_classes: int, channels: int, size: int) -> None:
        super().__init__()
        padding = 2 if size < 16 else 0
        side = (size // 2 + 2 * padding - 4) // 2
        self.side = min(side, 5)
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5, padding=padding)
        self.dense1 = nn.Linear(16 * self.side**2, 120)
        self.dense2 = nn.Linear(120, 84)
        self.head = nn.Linear(84, num_classes)

    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e"]:
        """Return the 84 units before the head."""
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = functional.adaptive_avg_pool2d(x, self.side)
        return functional.relu(self.dense2(functional.relu(self.dense1(x.flatten(1)))))


METHOD = LeNet
