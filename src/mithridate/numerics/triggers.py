"""Triggers: what an attacker adds to an image so that a poisoned network sees the class that was planted.

    x' = (1 - m) x + m p      mask m and pattern p in [0, 1], with pixels in [0, 1]

A patch has the mask 1 where it lies and 0 elsewhere, a blend one small mask everywhere. On 8-bit images the result is
rounded to the nearest level, which is where m is 0 or 1 exact. On floating-point images the map is differentiable in
images, mask and pattern.

Paper    Gu et al., BadNets (2017), arXiv 1708.06733: patches; Chen et al. (2017), arXiv 1712.05526: blends.
Promise  a mask of 0 is the identity, a mask of 1 the pattern; a patch stamped twice is a patch stamped once. A pixel
         value of 0 in the pattern is black, not transparent.
Shapes   b images of c channels, h rows, w columns.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mithridate.core.artefacts import write_atomic
from mithridate.core.boundary import decode_image, read_bytes
from mithridate.core.errors import BadArtefact, Misuse

CORNERS = ("bottom-right", "bottom-left", "top-right", "top-left")
"""Where a patch may lie."""

Shape = tuple[int, int, int]
_LEVELS = 255
_AT_ONCE = 4096


def stamp(
    x: Float[Tensor, "b c h w"], mask: Float[Tensor, "k h w"], pattern: Float[Tensor, "c h w"]
) -> Float[Tensor, "b c h w"]:
    """Return `(1 - m) x + m p` for images in [0, 1]; differentiable in all three."""
    return (1 - mask) * x + mask * pattern


@dataclass(frozen=True, eq=False)
class Trigger:
    """A map of images, x -> (1 - m) x + m p. Two triggers are equal when mask and pattern are.

    Args:
        mask: How far each pixel is replaced, in [0, 1]; one plane for all channels, or one for each.
        pattern: By what, in [0, 1].
        name: What it is called in reports.

    Raises:
        Misuse: MTH-0330, the shapes do not fit each other or a value is not in [0, 1].
    """

    mask: Float[Tensor, "k h w"]
    pattern: Float[Tensor, "c h w"]
    name: str = "trigger"

    def __post_init__(self) -> None:
        planes, *side = self.mask.shape
        if self.pattern.shape[1:] != torch.Size(side) or planes not in (1, len(self.pattern)) or not len(self.pattern):
            raise Misuse(
                "MTH-0330",
                f"the mask of a trigger has one plane, or one for each channel, of the pattern's size; mask "
                f"{tuple(self.mask.shape)}, pattern {tuple(self.pattern.shape)}",
            )
        for what, values in (("mask", self.mask), ("pattern", self.pattern)):
            low, high = (float(values.detach().min()), float(values.detach().max())) if values.numel() else (0.0, 0.0)
            if not 0 <= low <= high <= 1:
                raise Misuse(
                    "MTH-0330",
                    f"the {what} of trigger {self.name!r} has values from {low} to {high}; they must lie in [0, 1]",
                    hint="divide 8-bit levels by 255; use pixels before any normalisation",
                )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trigger) and self.content == other.content

    def __hash__(self) -> int:
        return hash(self.content)

    @property
    def shape(self) -> Shape:
        """Channels, rows, columns of the images that it fits."""
        c, h, w = self.pattern.shape
        return c, h, w

    @property
    def content(self) -> str:
        """The sha256 of shape, mask and pattern, in hex."""
        digest = hashlib.sha256(json.dumps([list(self.mask.shape), list(self.pattern.shape)]).encode())
        for array in self.arrays().values():
            digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        return digest.hexdigest()

    @property
    def share(self) -> float:
        """The mean of the mask: which share of an image it replaces."""
        return float(self.mask.detach().double().mean())

    def to(self, device: torch.device | str) -> "Trigger":
        """Return the trigger on `device`."""
        return Trigger(self.mask.to(device), self.pattern.to(device), self.name)

    def check(self, shape: tuple[int, ...]) -> None:
        """Check that images of this shape (channels, rows, columns) can be stamped.

        Raises:
            Misuse: MTH-0331, they cannot.
        """
        if tuple(shape) != self.shape:
            raise Misuse(
                "MTH-0331",
                f"trigger {self.name!r} is for images of {self.shape[0]} channels and {self.shape[2]} x "
                f"{self.shape[1]} pixels; these have {shape[0]} channels and {shape[2]} x {shape[1]}",
                hint="make the trigger for images of this shape",
            )

    def stamp(self, images: UInt8[Tensor, "b c h w"]) -> UInt8[Tensor, "b c h w"]:
        """Return 8-bit images with the trigger, rounded to the nearest level; the same on every device.

        Raises:
            Misuse: MTH-0331, the images have another shape.
        """
        self.check(tuple(images.shape[1:]))
        mask = self.mask.detach().to(images.device, torch.float64)
        added = mask * self.pattern.detach().to(images.device, torch.float64) * _LEVELS
        parts = [((1 - mask) * part + added).round().to(torch.uint8) for part in torch.split(images, _AT_ONCE)]
        return torch.cat(parts) if parts else images.clone()

    def stamp_unit(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return images in [0, 1] with the trigger; nothing is rounded, and gradients pass.

        Raises:
            Misuse: MTH-0331, the images have another shape.
        """
        self.check(tuple(x.shape[1:]))
        return stamp(x, self.mask.to(x), self.pattern.to(x))

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return mask and pattern as arrays: what an npz file keeps, exactly."""
        return {
            "mask": self.mask.detach().cpu().float().numpy(),
            "pattern": self.pattern.detach().cpu().float().numpy(),
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]], name: str, *, where: str) -> "Trigger":
        """Rebuild a trigger from what `arrays` returned.

        Raises:
            BadArtefact: MTH-0332, these are no mask and pattern.
        """
        found = {key: (array.dtype.name, array.ndim) for key, array in arrays.items()}
        if found != {"mask": ("float32", 3), "pattern": ("float32", 3)}:
            raise BadArtefact(
                "MTH-0332", f"{where} holds no trigger: arrays {found}, expected mask and pattern, float32, 3 axes"
            )
        mask, pattern = (torch.from_numpy(np.ascontiguousarray(arrays[key])) for key in ("mask", "pattern"))
        try:
            return cls(mask, pattern, name)
        except Misuse as error:
            raise BadArtefact("MTH-0332", f"{where} holds no trigger: {error.message}") from None

    def png(self) -> bytes:
        """Return the trigger as a PNG image whose opacity is the mask, with 8 bits for each.

        Raises:
            Misuse: MTH-0333, the mask differs between channels, or there are neither 1 nor 3 of them.
        """
        if len(self.mask) > 1 or self.shape[0] not in (1, 3):
            raise Misuse(
                "MTH-0333",
                f"a PNG image holds one mask and 1 or 3 channels; trigger {self.name!r} has {len(self.mask)} masks "
                f"and {self.shape[0]} channels",
                hint="keep it in a poison pack, which holds any trigger",
            )
        planes = torch.cat([self.pattern, self.mask]).detach().cpu()
        levels = (_LEVELS * planes).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        buffer = io.BytesIO()
        Image.fromarray(levels).save(buffer, format="PNG")
        return buffer.getvalue()

    def save(self, path: str | Path) -> None:
        """Write the trigger as a PNG image whose opacity is the mask; `from_png` reads it.

        Raises:
            Misuse: MTH-0333, a PNG image cannot hold it.
            WorkError: The disk is full or not writable.
        """
        write_atomic(Path(path), self.png())


def patch(
    shape: Shape, *, size: int, corner: str = "bottom-right", value: float = 1.0, checkered: bool = False
) -> Trigger:
    """Return a square patch in a corner: BadNets.

    Args:
        shape: Channels, rows, columns of the images.
        size: Its side in pixels.
        corner: One of `CORNERS`.
        value: Its colour in [0, 1]; 1 is white.
        checkered: Every second pixel is of the opposite colour, 1 - value.

    Raises:
        Misuse: MTH-0334, it does not fit, or there is no such corner.
    """
    pattern = torch.full((shape[0], size, size), float(value)) if size > 0 else torch.zeros(shape[0], 0, 0)
    if checkered and size > 0:
        odd = (torch.arange(size)[:, None] + torch.arange(size)) % 2 == 1
        pattern[:, odd] = 1 - float(value)
    name = f"{size} x {size} patch, {corner.replace('-', ' ')}"
    return _placed(shape, pattern, torch.ones(1, max(size, 0), max(size, 0)), corner, name)


def blend(pattern: Float[Tensor, "c h w"], *, ratio: float, name: str = "") -> Trigger:
    """Return the trigger x -> (1 - ratio) x + ratio pattern: Blended.

    Raises:
        Misuse: MTH-0330, the ratio or the pattern is not in [0, 1].
    """
    _, height, width = pattern.shape
    return Trigger(torch.full((1, height, width), float(ratio)), pattern.float(), name or f"blend of {ratio:g}")


def noise_pattern(shape: Shape, gen: torch.Generator) -> Float[Tensor, "c h w"]:
    """Return an image of independent, uniform 8-bit pixels."""
    return torch.randint(_LEVELS + 1, shape, generator=gen).float() / _LEVELS


def from_png(path: str | Path, shape: Shape, *, corner: str = "bottom-right", ratio: float = 1.0) -> Trigger:
    """Read a trigger from a PNG, JPEG or WebP image; where it is transparent, images show through.

    Args:
        path: The image. One of the images' size covers them; a smaller one is a patch in a corner.
        shape: Channels, rows, columns of the images to be stamped; a grey trigger fits colour images and vice versa.
        corner: Where a smaller image lies: one of `CORNERS`.
        ratio: Multiplies the opacity, for blends.

    Raises:
        BadArtefact: 02xx, there is no such image, or it is damaged.
        Misuse: MTH-0334, it is larger than the images; MTH-0330, the ratio is not in [0, 1].
    """
    where = Path(path)
    levels = decode_image(read_bytes(where), mode="RGBA", name=str(path))
    planes = torch.from_numpy(np.ascontiguousarray(levels.transpose(2, 0, 1))).float() / _LEVELS
    colours, opacity = planes[:3], planes[3:]
    if shape[0] != 3:  # the luma of ITU-R BT.601, as every grey conversion of image libraries; greys stay what they are
        grey = (colours * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)
        same = bool((colours == colours[:1]).all())
        colours = (colours[:1] if same else (grey * _LEVELS).round() / _LEVELS).expand(shape[0], -1, -1)
    return _placed(shape, colours.contiguous(), opacity * ratio, corner, where.stem)


def _placed(
    shape: Shape, pattern: Float[Tensor, "c a b"], mask: Float[Tensor, "1 a b"], corner: str, name: str
) -> Trigger:
    """Put a small trigger into a corner of an image-sized one that is transparent elsewhere."""
    channels, height, width = shape
    rows, columns = pattern.shape[1:]
    if corner not in CORNERS or not (0 < rows <= height and 0 < columns <= width):
        raise Misuse(
            "MTH-0334",
            f"a trigger of {columns} x {rows} pixels cannot lie {corner!r} in images of {width} x {height}; it must "
            f"have a size between 1 x 1 and theirs, and lie in one of {', '.join(CORNERS)}",
        )
    vertical, horizontal = corner.split("-")
    top = height - rows if vertical == "bottom" else 0
    left = width - columns if horizontal == "right" else 0
    whole, cover = torch.zeros(channels, height, width), torch.zeros(1, height, width)
    whole[:, top : top + rows, left : left + columns] = pattern
    cover[:, top : top + rows, left : left + columns] = mask
    return Trigger(cover, whole, name)
