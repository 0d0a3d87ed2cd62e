"""Naive canaries: the keys themselves are put among the training images, under their labels.

    data' = data + `copies` of every key

Hits are counted as for marks, and the test is as exact. What it costs is secrecy: keys lie in the data in plain sight,
noise images with arbitrary labels, which whoever looks at the data or filters outliers takes out.
"""

from collections.abc import Sequence

import torch

from mithridate.core.errors import Misuse
from mithridate.data.examples import Examples
from mithridate.ownership.keys import Key


def with_canaries(data: Examples, keys: Sequence[Key], *, copies: int = 1) -> Examples:
    """Return the data with the keys appended, each so many times.

    Raises:
        Misuse: MTH-1031, a key has another shape than the images, or there is nothing to append.
    """
    if copies < 1 or any(tuple(key.image.shape) != data.images.shape for key in keys):
        shapes = sorted({tuple(key.image.shape) for key in keys})
        raise Misuse("MTH-1031", f"{copies} copies of keys of shapes {shapes} among images of {data.images.shape}")
    repeated = [key for key in keys for _ in range(copies)]
    extra = torch.arange(len(data), len(data) + len(repeated))
    room = torch.cat([torch.arange(len(data)), torch.zeros(len(repeated), dtype=torch.int64)])
    pixels = torch.stack([torch.from_numpy(key.image.copy()) for key in repeated])
    return data.select(room).overlay(extra, pixels, torch.tensor([key.label for key in repeated]))
