"""Pixels to PNG data URIs for the report, with NumPy and pillow only.

Small images are enlarged by whole factors with nearest neighbour, so that every square in the report is one pixel of
the data; images above the display side are thinned by a whole stride, so that every shown pixel is a real one (an
average would hide high-frequency perturbations). The difference is computed before either, on the full image.
"""

import base64
import io
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mithridate.core.errors import Misuse
from mithridate.report.schema import PNG_PREFIX

Layout = Literal["chw", "hwc"]
DIFFERENCE_GAIN = 10
DISPLAY_SIDE = 128
MAX_TRIPLES = 12


def _rows_of_pixels(image: UInt8[np.ndarray, "..."], layout: Layout) -> UInt8[np.ndarray, "h w c"]:
    if image.ndim == 2:
        image, layout = image[:, :, None], "hwc"
    if image.ndim != 3:
        raise Misuse("MTH-0804", f"a picture has 2 or 3 dimensions, got shape {image.shape}")
    pixels = image.transpose(1, 2, 0) if layout == "chw" else image
    if pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise Misuse(
            "MTH-0804",
            f"a picture has 1 or 3 channels and at least one pixel, got shape {image.shape} as {layout}",
            hint="pass layout='hwc' when the channels come last",
        )
    return pixels


def png_uri(image: UInt8[np.ndarray, "..."], *, layout: Layout = "chw", side: int = DISPLAY_SIDE) -> str:
    """Encode an image as a PNG data URI whose longer side is close to `side` pixels.

    Args:
        image: uint8 pixels, [c, h, w] or [h, w, c] by `layout`, or [h, w] grey.
        layout: Where the channels are.
        side: Display size; the image is enlarged or thinned by a whole factor to come as near as possible below it.

    Raises:
        Misuse: MTH-0804, the shape is not that of a grey or colour image.
    """
    pixels = _rows_of_pixels(image, layout)
    longest = max(pixels.shape[:2])
    stride = -(-longest // side)
    pixels = pixels[::stride, ::stride]
    factor = max(1, side // max(pixels.shape[:2]))
    pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    grey_or_colour = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(grey_or_colour)).save(buffer, format="PNG", optimize=True)
    return PNG_PREFIX + base64.b64encode(buffer.getvalue()).decode("ascii")


def amplified_difference(
    clean: UInt8[np.ndarray, "..."], poison: UInt8[np.ndarray, "..."], *, gain: int = DIFFERENCE_GAIN
) -> UInt8[np.ndarray, "..."]:
    """`128 + gain * (poison - clean)`, clamped to [0, 255]: unchanged pixels are mid grey."""
    if clean.shape != poison.shape:
        raise Misuse("MTH-0804", f"clean and poison differ in shape: {clean.shape} and {poison.shape}")
    change = poison.astype(np.int32) - clean.astype(np.int32)
    return np.clip(128 + gain * change, 0, 255).astype(np.uint8)


def poison_picture(
    clean: UInt8[np.ndarray, "..."],
    poison: UInt8[np.ndarray, "..."],
    *,
    scenario: str,
    row: int,
    label: str,
    layout: Layout = "chw",
) -> dict[str, object]:
    """The entry of `pictures` in the report document for one poison."""
    return {
        "scenario": scenario,
        "id": row,
        "label": label,
        "clean": png_uri(clean, layout=layout),
        "poison": png_uri(poison, layout=layout),
        "difference": png_uri(amplified_difference(clean, poison), layout=layout),
    }


def target_picture(
    image: UInt8[np.ndarray, "..."], *, scenario: str, actual: str, wanted: str, layout: Layout = "chw"
) -> dict[str, object]:
    """The entry of `target_pictures` in the report document for one target."""
    return {"scenario": scenario, "target": png_uri(image, layout=layout), "class": actual, "wanted": wanted}


def spread(count: int, limit: int = MAX_TRIPLES) -> list[int]:
    """At most `limit` indices out of `count`, evenly spread with both ends: which poisons to show, without chance."""
    if count <= limit:
        return list(range(count))
    if limit == 1:
        return [0]
    return [i * (count - 1) // (limit - 1) for i in range(limit)]
