"""From images as a source gives them to uint8 pixels: decoding in threads, resizing, channel statistics.

Shapes   images are (h, w, c) while they are single and (b, c, h, w) in blocks; c is 1 (grey) or 3 (colour).
"""

import io
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mithridate.core.boundary import decode_image
from mithridate.data._raw import Item, RawSplit

_PART = 128
_MODES: dict[int | None, Literal["L", "RGB"] | None] = {None: None, 1: "L", 3: "RGB"}
_A = TypeVar("_A")
_B = TypeVar("_B")


def num_threads() -> int:
    """Return how many threads decode: one for each core that this process may use, at most 16."""
    return min(len(os.sched_getaffinity(0)), 16)


def decode(data: bytes, where: str, *, channels: int | None = None) -> NDArray[np.uint8]:
    """Return the pixels of an encoded image, shape (h, w, c); grey images have one channel unless `channels` says more.

    Raises:
        BadArtefact: The bytes are no image that the decode boundary accepts; `where` names it.
    """
    return decode_image(data, mode=_MODES[channels], name=where)


def resize(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return the largest central square, resampled to `size` by `size` pixels with an antialiased bilinear filter."""
    height, width, channels = pixels.shape
    if (height, width) == (size, size):
        return pixels
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    # Cropped before it is resized, as Pillow's filters reach beyond the edges of a box.
    square = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    image = Image.fromarray(square[..., 0] if channels == 1 else square)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).reshape(size, size, channels)


@dataclass
class ChannelSums:
    """Exact channel statistics, from counts of the 256 levels."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, 256), dtype=np.int64))

    def add(self, block: NDArray[np.uint8]) -> None:
        """Count a block of images; grey ones count for each of the three channels."""
        for channel in range(3):
            if channel < block.shape[1]:
                level_counts = np.bincount(block[:, channel].reshape(-1), minlength=256)
            self.counts[channel] += level_counts

    def mean_and_std(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return each channel's mean and standard deviation over all pixels, in [0, 1] units."""
        levels = np.arange(256) / 255
        means, stds = [], []
        for counts in self.counts[:channels]:
            mean = float(counts @ levels) / int(counts.sum())
            means.append(mean)
            stds.append(math.sqrt(float(counts @ (levels - mean) ** 2) / int(counts.sum())))
        return tuple(means), tuple(stds)


def in_order(work: Callable[[_A], _B], items: Iterable[_A], threads: int) -> Iterator[_B]:
    """Yield `work(item)` in the order of the items, computed by threads that run only a little ahead."""
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        waiting: deque[Future[_B]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@dataclass(frozen=True)
class Part:
    """A few decoded images in a row.

    Args:
        start: The row of the first.
        pixels: The images decoded, resized where asked, (h, w, c) each.
        encoded: The same images as a mapped file keeps them; empty unless asked for.
    """

    start: int
    pixels: list[NDArray[np.uint8]]
    encoded: list[bytes]


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return an image as PNG, lossless and compressed lightly."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def decoded_parts(split: RawSplit, *, size: int | None, encode: bool = False) -> Iterator[Part]:
    """Yield the images of a split in order, a few at a time.

    Args:
        split: The images.
        size: Crop and resize to this many pixels squared; None keeps them as they are.
        encode: Also return encoded images: the source's own bytes, or PNG when there are none or the size changed.

    Raises:
        BadArtefact: An image is damaged; its file or row is named.
    """

    def slices() -> Iterator[tuple[int, list[Item]]]:
        start = 0
        for batch in split.batches():
            for first in range(0, len(batch), _PART):
                part = batch[first : first + _PART]
                yield start, part
                start += len(part)

    def work(job: tuple[int, list[Item]]) -> Part:
        start, items = job
        part = Part(start, [], [])
        for row, item in enumerate(items, start):
            original = decode(item, split.where(row)) if isinstance(item, bytes) else item
            pixels = original if size is None else resize(original, size)
            part.pixels.append(pixels)
            if encode:
                part.encoded.append(item if isinstance(item, bytes) and pixels is original else encode_png(pixels))
        return part

    yield from in_order(work, slices(), num_threads())
