"""Images in their own containers: the same format, the same quality, the same metadata, other pixels.

    PNG    the same mode; text, resolution, gamma, colour profile and EXIF kept; lossless, so one grade
    JPEG   its own quantisation tables and chroma subsampling, progressive if it was; grades divide the tables
    WebP   lossless if it was; otherwise the quality that encodes the old pixels to about the old size; grades raise it

A file that differs from its neighbours in type, size or metadata gives a mark away. Grade 0 is the file's own quality,
higher ones are finer, for changes that the file's own quality would round away or push out of bounds.
"""

import io
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin

from mithridate.core.boundary import decode_image, sniff

_JPEG_GRADES = (1.0, 0.75, 0.5, 0.35, 0.2, 0.0)
_WEBP_GRADES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class AbstractContainer(ABC):
    """One encoded image.

    Args:
        data: Its bytes.
    """

    data: bytes

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """What it decodes to, shape (h, w, c) with one channel or three."""
        return decode_image(self.data)

    @property
    @abstractmethod
    def grades(self) -> int:
        """How many grades of quality there are."""

    @abstractmethod
    def encode(self, pixels: NDArray[np.uint8], grade: int = 0) -> bytes:
        """Return other pixels, of the same shape, in this container."""

    def _opened(self) -> Image.Image:
        image = Image.open(io.BytesIO(self.data))
        image.load()
        return image

    def _picture(self, pixels: NDArray[np.uint8]) -> Image.Image:
        """The pixels with the old alpha channel, if there was one."""
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        old = self._opened()
        if old.mode in ("LA", "RGBA"):
            picture.putalpha(old.getchannel("A"))
        return picture


@dataclass(frozen=True)
class Png(AbstractContainer):
    """A PNG file."""

    @property
    def grades(self) -> int:
        """One: it is lossless."""
        return 1

    def encode(self, pixels: NDArray[np.uint8], grade: int = 0) -> bytes:
        """See `AbstractContainer.encode`."""
        del grade
        old = self._opened()
        options = _kept(old, "dpi", "gamma", "icc_profile", "exif", "transparency")
        texts = PngImagePlugin.PngInfo()
        assert isinstance(old, PngImagePlugin.PngImageFile)
        for key, text in old.text.items():
            texts.add_text(key, text)
        return _saved(self._picture(pixels), "PNG", pnginfo=texts, **options)


@dataclass(frozen=True)
class Jpeg(AbstractContainer):
    """A JPEG file."""

    @property
    def grades(self) -> int:
        """Its own tables, and finer ones down to whole steps."""
        return len(_JPEG_GRADES)

    def encode(self, pixels: NDArray[np.uint8], grade: int = 0) -> bytes:
        """See `AbstractContainer.encode`."""
        old = self._opened()
        assert isinstance(old, JpegImagePlugin.JpegImageFile)
        scale = _JPEG_GRADES[grade]
        tables = {key: [max(1, round(scale * step)) for step in table] for key, table in old.quantization.items()}
        options = _kept(old, "dpi", "icc_profile", "exif", "comment")
        sampling = JpegImagePlugin.get_sampling(old)
        if sampling >= 0:
            options["subsampling"] = sampling
        progressive = bool(old.info.get("progressive"))
        return _saved(self._picture(pixels), "JPEG", qtables=tables, progressive=progressive, **options)


@dataclass(frozen=True)
class WebP(AbstractContainer):
    """A still WebP file."""

    @property
    def lossless(self) -> bool:
        """Whether it was encoded without loss."""
        return b"VP8L" in self.data[12:64] or (self.data[12:16] == b"VP8X" and b"VP8L" in self.data)

    @property
    def grades(self) -> int:
        """One if it is lossless."""
        return 1 if self.lossless else len(_WEBP_GRADES)

    @cached_property
    def quality(self) -> int:
        """The quality at which the old pixels take about the old number of bytes."""
        low, high = 0, 100
        picture, options = self._picture(self.pixels), self._options
        while low < high:
            middle = (low + high) // 2
            if len(_saved(picture, "WEBP", quality=middle, **options)) < len(self.data):
                low = middle + 1
            else:
                high = middle
        return low

    @cached_property
    def _options(self) -> dict[str, Any]:
        return _kept(self._opened(), "icc_profile", "exif", "xmp")

    def encode(self, pixels: NDArray[np.uint8], grade: int = 0) -> bytes:
        """See `AbstractContainer.encode`."""
        if self.lossless:
            return _saved(self._picture(pixels), "WEBP", lossless=True, exact=True, **self._options)
        quality = round(self.quality + (100 - self.quality) * _WEBP_GRADES[grade])
        return _saved(self._picture(pixels), "WEBP", quality=quality, **self._options)


def container(data: bytes) -> AbstractContainer | str:
    """Return an image's container, or the reason why it cannot carry small changes.

    Raises:
        BadArtefact: It is no image that the decode boundary accepts.
    """
    decode_image(data)
    kind = sniff(data)
    mode = Image.open(io.BytesIO(data)).mode
    allowed = {"png": ("L", "LA", "RGB", "RGBA"), "jpeg": ("L", "RGB"), "webp": ("RGB", "RGBA")}[kind]
    if mode not in allowed:
        return f"a {kind.upper()} of mode {mode} cannot take other pixels and stay as it is"
    return Png(data) if kind == "png" else Jpeg(data) if kind == "jpeg" else WebP(data)


def _kept(image: Image.Image, *names: str) -> dict[str, Any]:
    return {name: image.info[name] for name in names if image.info.get(name)}


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()
