"""Pixels of PNG, JPEG and WebP files, after their declared size has been held against a cap.

Part of the decode boundary and called by it alone; errors of the decoders pass through here unchanged.
"""

import io
import struct
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mithridate.core.errors import BadArtefact

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("png", "jpeg", "webp")
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B")


def pixels(data: bytes, kind: str, *, max_pixels: int, mode: str | None, name: str) -> NDArray[np.uint8]:
    """Return the pixels of an image of a known format, shape (h, w, c).

    Raises:
        BadArtefact: MTH-0202 for too many pixels, MTH-0204 for an animation.
    """
    if kind == "webp":
        # The decoder allocates its canvas as soon as it is opened.
        _cap_size(_webp_size(data), max_pixels, name)
    image = _open(data, kind, name)
    _cap_size(image.size, max_pixels, name)
    wanted = mode or ("L" if image.mode in _GREY else "RGB")
    with image:
        if image.mode.startswith("I"):
            levels = np.asarray(image).astype(np.int64).clip(0, 65535)
            grey = ((levels + 128) // 257).astype(np.uint8)[:, :, None]
            colours = grey if wanted == "L" else np.repeat(grey, 3, axis=2)
            opaque = np.full_like(grey, 255)
            return np.concatenate([colours, opaque], axis=2) if wanted == "RGBA" else colours
        # By way of RGBA, as Pillow warns about palettes with an alpha channel otherwise.
        direct = image.convert("RGBA") if image.mode in ("P", "PA") else image
        found = np.asarray(direct.convert(wanted))
    return found[:, :, None] if found.ndim == 2 else found


def _open(data: bytes, kind: str, name: str) -> "Image.Image":
    """Open with the format's own class: no search through other decoders, and no warnings of Pillow's own caps."""
    stream = io.BytesIO(data)
    if kind == "jpeg":
        from PIL.JpegImagePlugin import JpegImageFile

        return JpegImageFile(stream)
    if kind == "webp":
        from PIL.WebPImagePlugin import WebPImageFile

        webp = WebPImageFile(stream)
        image: Image.Image = webp
        animated = webp.is_animated
    else:
        from PIL.PngImagePlugin import PngImageFile

        png = PngImageFile(stream)
        image, animated = png, png.is_animated
    if animated:
        raise BadArtefact("MTH-0204", f"{name} is an animated {kind.upper()} image", hint="store its frames one by one")
    return image


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return the size of the canvas from the first chunk (WebP container specification and RFC 6386, 9.1)."""
    chunk, body = data[12:16], data[20:30]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", body, 6)
    return width & 0x3FFF, height & 0x3FFF


def _cap_size(size: tuple[int, int], max_pixels: int, name: str) -> None:
    width, height = size
    if width * height > max_pixels:
        raise BadArtefact(
            "MTH-0202", f"{name} has {width} x {height} pixels, at most {max_pixels:,} are accepted", hint="shrink it"
        )
