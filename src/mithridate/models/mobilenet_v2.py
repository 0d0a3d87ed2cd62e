"""MobileNetV2 for small images: seventeen inverted residuals of depthwise convolutions between thin bottlenecks.

    block(x) = shortcut(x) + bn(1x1(relu(bn(3x3 depthwise(relu(bn(1x1 x))))))),   six times as wide inside

Paper    Sandler, Howard, Zhu, Zhmoginov, Chen (CVPR 2018), arXiv 1801.04381, table 2.
Departs  as the CIFAR net of the poisoning benchmark (Schwarzschild et al., ICML 2021): stem and second stage with
         stride 1, ReLU for ReLU6, a 1x1 shortcut where only the width changes, an expansion layer also in the first
         block, no dropout.
Width    channels of the stem, 32 unless `mobilenet_v2-wN` says otherwise; all others follow in proportion, rounded up.
Sizes    8 to 224. An 8-pixel image is 1x1 in the last stages (padded convolutions do not collapse); above 96 pixels
         stem and second stage have the strides of the paper.
Init     Kaiming normal, fan-out, for convolutions; torch's default for the head.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mithridate.models._base import AbstractNet
from mithridate.models._residual import LARGE, kaiming_fan_out

WIDTH = 32
# expansion, channels at width 32, blocks, stride of the first block
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_LAST = 1280


def _pointwise(num_in: int, num_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(num_in, num_out, 1, bias=False), nn.BatchNorm2d(num_out))


class InvertedResidual(nn.Module):
    """Expand, convolve each channel by itself, project; with a shortcut where the resolution stays."""

    def __init__(self, num_in: int, num_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = expansion * num_in
        self.expand = _pointwise(num_in, inner)
        self.depthwise = nn.Sequential(
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner)
        )
        self.project = _pointwise(inner, num_out)
        self.has_shortcut = stride == 1
        self.shortcut = _pointwise(num_in, num_out) if stride == 1 and num_in != num_out else nn.Identity()

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Return the next feature map."""
        y: Tensor = functional.relu(self.expand(x))
        y = self.project(functional.relu(self.depthwise(y)))
        return y + self.shortcut(x) if self.has_shortcut else y


class MobileNetV2(AbstractNet):
    """Stem, seventeen inverted residuals, a wide 1x1 convolution, global average, linear head."""

    def __init__(self, *, num_classes: int, channels: int, size: int, width: int = WIDTH) -> None:
        super().__init__()
        large = size > LARGE
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2 if large else 1, 1, bias=False), nn.BatchNorm2d(width)
        )
        blocks: list[nn.Module] = []
        num_in = width
        for stage, (expansion, base, count, stride) in enumerate(_STAGES):
            num_out = -(-base * width // WIDTH)
            for block in range(count):
                first = 2 if large and stage == 1 else stride
                blocks.append(InvertedResidual(num_in, num_out, expansion, first if block == 0 else 1))
                num_in = num_out
        self.blocks = nn.Sequential(*blocks)
        last = -(-_LAST * width // WIDTH)
        self.last = _pointwise(num_in, last)
        self.head = nn.Linear(last, num_classes)
        kaiming_fan_out(self)

    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e"]:
        """Return the globally averaged last feature map."""
        x = self.blocks(functional.relu(self.stem(x)))
        return functional.relu(self.last(x)).mean((2, 3))


METHOD = MobileNetV2
