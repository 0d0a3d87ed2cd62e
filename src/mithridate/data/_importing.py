"""Import one split into memory: decode, check that all images are alike, hash, and count levels.

Shapes   n images of c channels, h rows, w columns.
"""

import os
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from mithridate.core.errors import Misuse
from mithridate.data._decoding import ChannelSums, Part, decoded_parts
from mithridate.data._raw import RawSplit
from mithridate.data.stores import ResidentStore


@dataclass
class Gauge:
    """What all images of a data set have in common, learnt from the first and required of the others.

    Args:
        channels: 1 or 3 when it is decided (grey images of a colour set are repeated over the channels), None while
            only grey images were seen.
        decided: Whether `channels` may no longer change, as in a test split.
    """

    channels: int | None = None
    decided: bool = False
    first: tuple[str, int, int] | None = None
    sums: ChannelSums = field(default_factory=ChannelSums)

    def block(self, part: Part, split: RawSplit) -> NDArray[np.uint8]:
        """Return the images of a part as one block, shape (b, c, h, w), after checking them.

        Raises:
            Misuse: An image has another size than the first, or colour where all must be grey.
        """
        for row, pixels in enumerate(part.pixels, part.start):
            height, width, channels = pixels.shape
            if self.first is None:
                self.first = (split.where(row), height, width)
            if (height, width) != self.first[1:]:
                raise Misuse(
                    "MTH-0254",
                    f"images have different sizes: {self.first[0]} has {self.first[2]} x {self.first[1]} pixels and "
                    f"{split.where(row)} has {width} x {height}",
                    hint="give a size, such as size=64, to crop and resize all images when they are imported",
                )
            if channels == 3 and self.channels != 3:
                if self.decided:
                    raise Misuse("MTH-0260", f"{split.where(row)} is a colour image, but all training images are grey")
                self.channels = 3
        wanted = self.channels or 1
        images = [p if p.shape[2] == wanted else p.repeat(wanted, axis=2) for p in part.pixels]
        block = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
        self.sums.add(block)
        return block

    def for_test(self) -> "Gauge":
        """Return the gauge for the test split: the same size and the same channels."""
        return Gauge(channels=self.channels or 1, decided=True, first=self.first)


def import_resident(split: RawSplit, gauge: Gauge, *, size: int | None = None) -> ResidentStore:
    """Return the split decoded into memory.

    Raises:
        Misuse: The images differ in size, or do not fit into this machine's memory.
        BadArtefact: An image is damaged.
    """
    whole: NDArray[np.uint8] | None = None
    for part in decoded_parts(split, size=size):
        block = gauge.block(part, split)
        if whole is None:
            whole = np.empty(_checked_shape(len(split), block.shape[1:]), dtype=np.uint8)
        if block.shape[1] > whole.shape[1]:  # the first colour image after grey ones
            _checked_shape(len(split), block.shape[1:])
            whole = whole.repeat(block.shape[1], axis=1)
        whole[part.start : part.start + len(block)] = block
    assert whole is not None, "an empty split is refused before"
    store = ResidentStore(torch.from_numpy(whole))
    return ResidentStore(store.pixels, store.row_hashes())


def _checked_shape(count: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    needed = count * int(np.prod(shape))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > 0.8 * memory:
        raise Misuse(
            "MTH-0262",
            f"{count} images of shape {shape} need {needed / 2**30:.1f} GiB of this machine's {memory / 2**30:.1f} GiB",
            hint='use store="mapped", which keeps encoded images on disk, or a smaller size',
        )
    return (count, *shape)
