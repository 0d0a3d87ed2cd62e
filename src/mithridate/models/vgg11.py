"""VGG-11 for small images: eight 3x3 convolutions with batch normalisation, five max-pools, one linear layer.

    64 pool 128 pool 256 256 pool 512 512 pool 512 512 pool -> average -> linear

Paper    Simonyan, Zisserman (ICLR 2015), arXiv 1409.1556, configuration A.
Departs  batch normalisation after every convolution and one linear layer instead of three, as in the CIFAR nets of the
         poisoning benchmark (Schwarzschild et al., ICML 2021).
Width    channels of the first layer, 64 unless `vgg11-wN` says otherwise.
Sizes    8 to 224. Pools round up, so a 1x1 map stays 1x1 (8 pixels: 8, 4, 2, 1, 1, 1) and powers of two from 32 on are
         as usual; what is left is averaged globally.
Init     torch's defaults.
"""

import itertools

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mithridate.models._base import AbstractNet

WIDTH = 64
_FACTORS = (1, 2, 4, 4, 8, 8, 8, 8)
_POOL_AFTER = frozenset({0, 1, 3, 5, 7})


class VGG11(AbstractNet):
    """Eight convolutions, global average, linear head."""

    def __init__(self, *, num_classes: int, channels: int, size: int, width: int = WIDTH) -> None:
        super().__init__()
        plan = (channels, *(factor * width for factor in _FACTORS))
        pairs = list(itertools.pairwise(plan))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b in pairs)
        self.head = nn.Linear(plan[-1], num_classes)

    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e"]:
        """Return the globally averaged last feature map."""
        for layer, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = functional.relu(norm(conv(x)))
            if layer in _POOL_AFTER:
                x = functional.max_pool2d(x, 2, ceil_mode=True)
        return x.mean((2, 3))


METHOD = VGG11
