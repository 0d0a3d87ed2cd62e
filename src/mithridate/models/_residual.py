"""Parts that the residual networks share."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

LARGE = 96
"""Images with longer sides get the ImageNet stem: at 224 pixels the CIFAR stem would cost 15 times as much."""


class Stem(nn.Module):
    """The first layers: 3x3 at full resolution, or for images above 96 pixels 7x7 stride 2 and a max-pool by two."""

    def __init__(self, channels: int, width: int, size: int) -> None:
        super().__init__()
        self.large = size > LARGE
        kernel, stride = (7, 2) if self.large else (3, 1)
        self.conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Return the first feature map."""
        x = functional.relu(self.norm(self.conv(x)))
        return functional.max_pool2d(x, 3, 2, 1) if self.large else x


def kaiming_fan_out(net: nn.Module) -> None:
    """Draw every convolution from N(0, 2 / fan_out), as torchvision's ResNets do."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
