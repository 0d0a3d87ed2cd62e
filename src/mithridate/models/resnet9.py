"""ResNet-9: the fast residual net of the CIFAR-10 speed records, two of its three stages with a residual block.

    w -> 2w pool res -> 4w pool -> 8w pool res -> global max -> linear / 8

Paper    Page (2018), How to train your ResNet, part 4 (myrtle.ai), a winner of DAWNBench.
Width    channels of the first layer, 64 unless `resnet9-wN` says otherwise.
Sizes    8 to 224. Pools round up (8 pixels: 8, 4, 2, 1) and the last one is global, which at 32 pixels is the
         original's max-pool by four; above 96 pixels the stem is that of our ResNet-18.
Init     torch's defaults.
Departs  the factor 1/8 of the original acts on the features instead of the logits; the head has no bias, so that is
         the same function.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mithridate.models._base import AbstractNet
from mithridate.models._residual import Stem

WIDTH = 64


class ConvNorm(nn.Module):
    """A 3x3 convolution, batch normalisation, ReLU, and a max-pool by two where asked."""

    def __init__(self, num_in: int, num_out: int, *, pool: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_in, num_out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(num_out)
        self.pool = pool

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Return the next feature map."""
        x = functional.relu(self.norm(self.conv(x)))
        return functional.max_pool2d(x, 2, ceil_mode=True) if self.pool else x


class Residual(nn.Module):
    """The identity plus two convolutions of the same width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = ConvNorm(width, width, pool=False)
        self.second = ConvNorm(width, width, pool=False)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b i h w"]:
        """Return the next feature map."""
        change: Tensor = self.second(self.first(x))
        return x + change


class ResNet9(AbstractNet):
    """Stem, three pooled stages, global max, linear head."""

    def __init__(self, *, num_classes: int, channels: int, size: int, width: int = WIDTH) -> None:
        super().__init__()
        self.stem = Stem(channels, width, size)
        self.blocks = nn.Sequential(
            ConvNorm(width, 2 * width, pool=True),
            Residual(2 * width),
            ConvNorm(2 * width, 4 * width, pool=True),
            ConvNorm(4 * width, 8 * width, pool=True),
            Residual(8 * width),
        )
        self.head = nn.Linear(8 * width, num_classes, bias=False)

    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e"]:
        """Return the global maxima of the last feature map, divided by eight."""
        last: Tensor = self.blocks(self.stem(x))
        return last.amax((2, 3)) / 8


METHOD = ResNet9
