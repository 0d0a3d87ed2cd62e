"""How visible a change of an image is: penalties without any learned weights, one number per image.

    high-pass  sum_pixels ( H d / (s + sigma(x)) )^2 / (c h w),  H d = d - blur(d),  d = x' - x
               sigma(x) the local standard deviation of the clean image: noise hides in texture, not in plain areas
    ssim       1 - SSIM(x, x'), the mean over a Gaussian window

Paper    SSIM: Wang, Bovik, Sheikh, Simoncelli, Image quality assessment (IEEE TIP 2004), with its constants and window.
         The high-pass term is ours: contrast masking as used by just-noticeable-difference models.
Departs  images smaller than eleven pixels take a smaller window; borders are reflected.
Shapes   b images, c channels, h rows, w columns.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Visibility = Callable[[Tensor, Tensor], Tensor]
"""(changed images, clean images) -> one number per image, differentiable in the first."""

PENALTIES = ("none", "high-pass", "ssim")
_WINDOW = 11
_SIGMA = 1.5
_PLAIN = 2 / 255
"""Deviation below which an area counts as plain: the visible step of an 8-bit image."""
_STABLE = (0.01**2, 0.03**2)


def blur(x: Float[Tensor, "b c h w"], *, window: int = _WINDOW, sigma: float = _SIGMA) -> Float[Tensor, "b c h w"]:
    """Average with a Gaussian window of odd side, no larger than the image; borders are reflected."""
    side = min(window, *(2 * ((length + 1) // 2) - 1 for length in x.shape[2:]))
    reach = torch.arange(side, dtype=x.dtype, device=x.device) - side // 2
    taps = (-(reach**2) / (2 * sigma**2)).exp()
    taps = (taps / taps.sum()).expand(x.shape[1], 1, 1, side)
    padded = functional.pad(x, (side // 2,) * 4, mode="reflect")
    rows = functional.conv2d(padded, taps, groups=x.shape[1])
    return functional.conv2d(rows, taps.transpose(2, 3), groups=x.shape[1])


def high_pass(x: Float[Tensor, "b c h w"], clean: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Mean squared high-frequency change, relative to the texture that hides it."""
    delta = x - clean
    texture = (blur(clean**2) - blur(clean) ** 2).clamp_min(0).sqrt()
    return (((delta - blur(delta)) / (_PLAIN + texture)) ** 2).mean((1, 2, 3))


def structural(x: Float[Tensor, "b c h w"], clean: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """One minus the structural similarity, in [0, 2]."""
    a, b = blur(x), blur(clean)
    var_a, var_b, cov = blur(x * x) - a * a, blur(clean * clean) - b * b, blur(x * clean) - a * b
    likeness = (2 * a * b + _STABLE[0]) * (2 * cov + _STABLE[1])
    scale = (a * a + b * b + _STABLE[0]) * (var_a + var_b + _STABLE[1])
    return 1 - (likeness / scale).mean((1, 2, 3))


def penalty(name: str) -> Visibility | None:
    """Return a penalty by its name in `PENALTIES`; nothing for `none`."""
    return {"none": None, "high-pass": high_pass, "ssim": structural}[name]


def psnr(x: Float[Tensor, "b c h w"], clean: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each image in decibels; infinite for equal images."""
    return -10 * (x - clean).square().mean((1, 2, 3)).log10()
