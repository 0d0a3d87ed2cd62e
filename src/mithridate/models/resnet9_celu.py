"""ResNet-9 with CELU, the network of the corrective-unlearning benchmarks: another one than our ResNet-9.

    w -> 2w (5x5, stride 2) -> res -> 4w pool -> res -> 2w (no padding) -> global max -> linear

Every convolution has a bias, batch normalisation and CELU (alpha 0.075); the head has no bias. 2,276,224 parameters for
10 classes and width 64.

Paper    Goel et al. (TMLR 2024), arXiv 2402.14015, and Schoepf et al., Potion (2024), by their public code.
Width    channels of the first layer, 64 unless `resnet9-celu-wN` says otherwise.
Sizes    8 to 224. The last convolution is padded where its map is smaller than 3x3 (images below 12 pixels).
Init     torch's defaults.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mithridate.models._base import AbstractNet

WIDTH = 64
_ALPHA = 0.075


class ConvNorm(nn.Module):
    """A convolution, batch normalisation, CELU."""

    def __init__(self, num_in: int, num_out: int, *, kernel: int = 3, stride: int = 1, padding: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_in, num_out, kernel, stride, padding)
        self.norm = nn.BatchNorm2d(num_out)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Return the next feature map."""
        return functional.celu(self.norm(self.conv(x)), _ALPHA)


class Residual(nn.Module):
    """The identity plus two convolutions of the same width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = ConvNorm(width, width)
        self.second = ConvNorm(width, width)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b i h w"]:
        """Return the next feature map."""
        change: Tensor = self.second(self.first(x))
        return x + change


class ResNet9Celu(AbstractNet):
    """Four convolutions, two residual blocks, global max, linear head."""

    def __init__(self, *, num_classes: int, channels: int, size: int, width: int = WIDTH) -> None:
        super().__init__()
        last = -(-size // 2) // 2
        self.blocks = nn.Sequential(
            ConvNorm(channels, width),
            ConvNorm(width, 2 * width, kernel=5, stride=2, padding=2),
            Residual(2 * width),
            ConvNorm(2 * width, 4 * width),
            nn.MaxPool2d(2),
            Residual(4 * width),
            ConvNorm(4 * width, 2 * width, padding=0 if last >= 3 else 1),
        )
        self.head = nn.Linear(2 * width, num_classes, bias=False)

    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e"]:
        """Return the global maxima of the last feature map."""
        last: Tensor = self.blocks(x)
        return last.amax((2, 3))


METHOD = ResNet9Celu
