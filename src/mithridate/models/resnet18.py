"""ResNet-18 for small images: eight basic blocks after a 3x3 stem of stride one and no max-pool.

    block(x) = relu(x' + bn(conv(relu(bn(conv(x))))));   widths w, 2w, 4w, 8w;   strides 1, 2, 2, 2

Paper    He, Zhang, Ren, Sun (CVPR 2016), arXiv 1512.03385; with the CIFAR stem it is the main victim of Witches' Brew.
Width    channels of the stem, 64 unless `resnet18-wN` says otherwise.
Sizes    8 to 224. An 8-pixel image is 1x1 in the last stage (padded convolutions do not collapse); above 96 pixels the
         stem is the one of the paper (7x7 stride 2, max-pool), so that 224 pixels give torchvision's ResNet-18.
Init     Kaiming normal, fan-out, for convolutions; torch's default for the head.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mithridate.models._base import AbstractNet
from mithridate.models._residual import Stem, kaiming_fan_out

WIDTH = 64


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(num_out)
        same = stride == 1 and num_in == num_out
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(num_in, num_out, 1, stride, bias=False), nn.BatchNorm2d(num_out))
        )

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Return the next feature map."""
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet18(AbstractNet):
    """Stem, four stages of two blocks, global average, linear head."""

    def __init__(self, *, num_classes: int, channels: int, size: int, width: int = WIDTH) -> None:
        super().__init__()
        self.stem = Stem(channels, width, size)
        blocks = []
        num_in = width
        for factor in (1, 2, 4, 8):
            blocks += [
                BasicBlock(num_in, factor * width, min(factor, 2)),
                BasicBlock(factor * width, factor * width, 1),
            ]
            num_in = factor * width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(8 * width, num_classes)
        kaiming_fan_out(self)

    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e"]:
        """Return the globally averaged last feature map."""
        last: Tensor = self.blocks(self.stem(x))
        return last.mean((2, 3))


METHOD = ResNet18
