"""The l-infinity ball around images, and the last step into it: 8-bit pixels that keep the bound exactly.

    project:   |delta| <= radius first, then base + delta in [0, 1]
    quantise:  round(255 (base + delta)) clamped to the integers k with |k / 255 - base| <= radius and 0 <= k <= 255

Both bounds of the projection hold at once because the base itself is a point of both sets. Pixels are in [0, 1].
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mithridate.core.errors import Misuse

_SLACK = 1e-6
"""Of a level: 8/255 * 255 may come out just below 8 in floating point."""


@dataclass(frozen=True)
class LinfBall:
    """All changes of at most `radius` in every pixel, in [0, 1] units.

    Raises:
        Misuse: The radius is not in [0, 1].
    """

    radius: float

    def __post_init__(self) -> None:
        if not 0 <= self.radius <= 1:
            raise Misuse("MTH-0103", f"epsilon is in units of [0, 1] pixels, got {self.radius}")

    @property
    def levels(self) -> int:
        """Whole 8-bit levels within the radius: 8 for 8/255."""
        return math.floor(255 * self.radius + _SLACK)

    def clip(self, delta: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Clamp every entry to the ball."""
        return delta.clamp(-self.radius, self.radius)


def project(delta: Float[Tensor, "b c h w"], base: Float[Tensor, "b c h w"], radius: float) -> Float[Tensor, "b c h w"]:
    """Clamp `delta` to the ball of `radius`, then so that `base + delta` is an image."""
    # not (base + delta).clamp(0, 1) - base, which may leave the ball by a rounding error
    return LinfBall(radius).clip(delta).maximum(-base).minimum(1 - base)


def quantise(
    base: UInt8[Tensor, "b c h w"], delta: Float[Tensor, "b c h w"], radius: float
) -> UInt8[Tensor, "b c h w"]:
    """The images to publish: `base` in 8 bits plus `delta` in [0, 1] units, rounded, no level outside the ball."""
    clean = base.to(delta.dtype)
    reach = LinfBall(radius).levels
    wanted = (clean + 255 * delta).round()
    return wanted.maximum(clean - reach).minimum(clean + reach).clamp(0, 255).to(torch.uint8)
