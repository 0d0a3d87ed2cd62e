"""The plain ConvNet of the poisoning literature: five 3x3 convolutions, two max-pools by three, one linear layer.

    w -> 2w -> 2w -> 4w -> pool 3 -> 4w -> pool 3 -> linear on 36 w features

Paper    Geiping et al. (ICLR 2021), arXiv 2009.02276, where "ConvNet64" is the second victim.
Width    channels of the first layer, 64 unless `convnet64-wN` says otherwise. No normalisation layers, so no running
         statistics and no coupling of examples; the victim recipe divides the learning rate by ten.
Sizes    8 to 224. A pool is no larger than the map it meets (8 pixels: 8, 2, 1); a map of more than 3x3 before the head
         is averaged down to 3x3, which is what 32 pixels have. Four layers work at full resolution: cost grows with
         the area, and at 224 pixels this is a slow net.
Init     torch's defaults.
"""

import itertools

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mithridate.models._base import AbstractNet

WIDTH = 64


class ConvNet64(AbstractNet):
    """Five convolutions, two pools, one linear head."""

    def __init__(self, *, num_classes: int, channels: int, size: int, width: int = WIDTH) -> None:
        super().__init__()
        plan = (channels, width, 2 * width, 2 * width, 4 * width, 4 * width)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(plan))
        self.window = min(3, size // 3)
        self.side = min(3, size // 3 // self.window)
        self.head = nn.Linear(4 * width * self.side**2, num_classes)

    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e"]:
        """Return the flattened last feature map."""
        *early, last = self.convs
        for conv in early:
            x = functional.relu(conv(x))
        x = functional.max_pool2d(x, 3)
        x = functional.max_pool2d(functional.relu(last(x)), self.window)
        return functional.adaptive_avg_pool2d(x, self.side).flatten(1)


METHOD = ConvNet64
