"""LPIPS as a penalty on what the eye sees, where the user has the package and the weights; nothing is downloaded.

Paper    Zhang, Isola, Efros, Shechtman, Wang, The Unreasonable Effectiveness of Deep Features (CVPR 2018).
Needs    the package lpips, and torchvision's weights of VGG-16 in the folder where torchvision keeps them.
Departs  grey images are shown as colour; images below 32 pixels are enlarged, as the network halves them four times.
"""

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mithridate.core.errors import Misuse
from mithridate.numerics.visibility import Visibility

_WEIGHTS = "vgg16-397923af.pth"
_LEAST = 32


def lpips_penalty(device: torch.device) -> Visibility:
    """Return the penalty on a device.

    Raises:
        Misuse: MTH-1034, the package or the weights are not there.
    """
    weights = Path(torch.hub.get_dir()) / "checkpoints" / _WEIGHTS
    for there, what in ((find_spec("lpips") is not None, "the package lpips"), (weights.is_file(), str(weights))):
        if not there:
            raise Misuse(
                "MTH-1034",
                f"the penalty lpips needs {what}, which is not on this machine",
                hint="use perceptual: high-pass or ssim, which need no weights, or put them there",
            )
    library: Any = importlib.import_module("lpips")
    distance = library.LPIPS(net="vgg", verbose=False).to(device).eval().requires_grad_(False)

    def seen(x: Tensor, clean: Tensor) -> Tensor:
        found: Tensor = distance(_shown(x), _shown(clean)).flatten()
        return found

    return seen


def _shown(x: Tensor) -> Tensor:
    """Images in [0, 1] as the network expects them: colour, in [-1, 1], not too small."""
    colour = x.float().expand(-1, 3, -1, -1)
    if min(x.shape[2:]) < _LEAST:
        colour = interpolate(colour, (_LEAST, _LEAST), mode="bilinear", align_corners=False)
    return 2 * colour - 1
