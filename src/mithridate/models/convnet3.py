"""A small ConvNet for small images: three normalised 3x3 convolutions, global max, one linear layer.

    w -> 2w stride 2 -> 2w -> global max -> linear          each convolution with batch normalisation and ReLU

Paper    none; the scaled check of poison unlearning of this project uses it on digits (56,554 parameters).
Width    channels of the first layer, 32 unless `convnet3-wN` says otherwise.
Sizes    8 to 224; two of its layers work at half resolution.
Init     torch's defaults.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mithridate.models._base import AbstractNet

WIDTH = 32


class ConvNet3(AbstractNet):
    """Three normalised convolutions and a linear head."""

    def __init__(self, *, num_classes: int, channels: int, size: int, width: int = WIDTH) -> None:
        super().__init__()
        del size
        plan = ((channels, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, stride, 1, bias=False) for a, b, stride in plan)
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b, _ in plan)
        self.head = nn.Linear(2 * width, num_classes)

    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e"]:
        """Return the global maxima of the last feature map."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = functional.relu(norm(conv(x)))
        return x.amax((2, 3))


METHOD = ConvNet3
