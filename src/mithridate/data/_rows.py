"""Row ids and row hashes, which all stores share.

Shapes   n images of c channels, h rows, w columns; k row ids.
"""

import hashlib

import numpy as np
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from mithridate.core.errors import Misuse

HASH_BYTES = 32
_CHUNK_BYTES = 32 << 20


def hash_rows(pixels: UInt8[Tensor, "n c h w"]) -> NDArray[np.uint8]:
    """Return the sha256 of each image's bytes (channel, row, column order), shape (n, 32)."""
    size = pixels[0].numel() if len(pixels) else 0
    rows = max(1, _CHUNK_BYTES // max(size, 1))
    digests: list[bytes] = []
    for start in range(0, len(pixels), rows):
        flat = pixels[start : start + rows].cpu().contiguous().numpy().reshape(-1).data
        digests += [hashlib.sha256(flat[i : i + size]).digest() for i in range(0, len(flat), size)]
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(len(pixels), HASH_BYTES)


def checked_ids(ids: Int64[Tensor, " k"], count: int) -> Int64[Tensor, " k"]:
    """Return `ids` when every one is a row of a set of `count` rows.

    Raises:
        Misuse: An id lies outside [0, count); the first such id is named.
    """
    bad = (ids < 0) | (ids >= count)
    if bool(bad.any()):
        first = int(ids[bad][0])
        raise Misuse("MTH-0240", f"row {first} does not exist: there are {count} rows, numbered from 0")
    return ids
