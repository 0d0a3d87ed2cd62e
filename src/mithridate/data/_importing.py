"""Import one split, into memory or into a mapped file: decode, check that all images are alike, hash, count levels.

Shapes   n images of c channels, h rows, w columns.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mithridate.core.errors import Misuse
from mithridate.data._decoding import ChannelSums, Part, decoded_parts
from mithridate.data._raw import RawSplit
from mithridate.data._rows import hash_rows
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


def write_mapped(
    folder: Path, index: Path, name: str, split: RawSplit, gauge: Gauge, *, size: int | None = None
) -> None:
    """Decode, check and hash a split, and write the three files that `_mapped` describes.

    Args:
        folder: Where the image file goes; it is written aside and renamed when it is whole.
        index: Where offsets and hashes go.
        name: The name of the split.
        split: Its images.
        gauge: What is known of all images.
        size: Crop and resize to this many pixels squared.

    Raises:
        Misuse: The images differ in size.
        BadArtefact: An image is damaged.
    """
    offsets = [0]
    grey: list[NDArray[np.uint8]] = []
    final: list[NDArray[np.uint8]] = []
    aside = folder / f".{name}.images.{os.getpid()}"
    try:
        with aside.open("wb") as file:
            for part in decoded_parts(split, size=size, encode=True):
                block = torch.from_numpy(gauge.block(part, split))
                for data in part.encoded:
                    offsets.append(offsets[-1] + file.write(data))
                if gauge.channels is None:  # if a colour image comes later, these are repeated over the channels
                    grey.append(hash_rows(block))
                    final.append(hash_rows(block.expand(-1, 3, -1, -1)))
                else:
                    final.append(hash_rows(block))
            file.flush()
            os.fsync(file.fileno())
        aside.rename(folder / f"{name}.images")
    finally:
        aside.unlink(missing_ok=True)
    (index / f"{name}.offsets").write_bytes(np.array(offsets, dtype="<i8").tobytes())
    (index / f"{name}.hashes").write_bytes(np.concatenate(grey if gauge.channels is None else final).tobytes())


def _checked_shape(count: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    needed = count * int(np.prod(shape))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > 0.8 * memory:
        raise Misuse(
            "MTH-0262",
            f"{count} images of shape {shape} need {needed / 2**30:.1f} GiB of this machine's {memory / 2**30:.1f} GiB",
            hint="set data.store (--store) to mapped, which keeps encoded images on disk, or choose a smaller size",
        )
    return (count, *shape)
