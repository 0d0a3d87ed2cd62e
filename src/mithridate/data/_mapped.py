"""Mapped images: encoded images in one file of our own, decoded when they are gathered.

A split is three files: `NAME.images` (the encoded images one after another), `index/NAME.offsets` (where each begins,
n + 1 whole numbers of 64 bits, little-endian) and `index/NAME.hashes` (the sha256 of each image's pixels, 32 bytes
each). They are written once, by an import that decodes and checks every image.

Promise  gathered images are those of the import: every decoded image is compared with its hash, so that damage to the
         file, or another version of a decoder, is an error and never another pixel.
Cost     per image one read, one decoding and one sha256; memory for the gathered images and one image a thread.

The image file is read by position and not through `mmap`: the page cache serves both alike, but a file that another
process cuts short ends a mapped reader with SIGBUS, and this one with an error.
"""

import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from mithridate.core.errors import BadArtefact, Misuse
from mithridate.data._decoding import decode, num_threads
from mithridate.data._rows import HASH_BYTES

INDEX = "index"


@dataclass(frozen=True, eq=False)
class MappedStore:
    """Encoded images in a file, decoded by threads when they are gathered.

    Args:
        folder: The imported data set.
        name: The split, such as `train`.
        shape: Channels, rows, columns of every image.
        device: Where gathered images arrive.
        threads: How many threads decode; None is one for each core.
    """

    folder: Path
    name: str
    shape: tuple[int, int, int]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    threads: int | None = None
    _pools: dict[int, ThreadPoolExecutor] = field(default_factory=dict, repr=False)

    @property
    def _path(self) -> Path:
        return self.folder / f"{self.name}.images"

    @cached_property
    def _hashes(self) -> NDArray[np.uint8]:
        found = np.fromfile(self.folder / INDEX / f"{self.name}.hashes", dtype=np.uint8)
        if found.size != (len(self._offsets) - 1) * HASH_BYTES:
            raise BadArtefact("MTH-0263", f"{self._path}: {found.size} bytes of hashes for {len(self)} images")
        return found.reshape(-1, HASH_BYTES)

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        found = np.fromfile(self.folder / INDEX / f"{self.name}.offsets", dtype="<i8")
        size = self._path.stat().st_size
        if not len(found) or found[0] != 0 or found[-1] != size or (np.diff(found) < 0).any():
            raise BadArtefact(
                "MTH-0263", f"{self._path} has {size} bytes, which its offsets do not fit", hint="delete the folder"
            )
        return found.astype(np.int64)

    @cached_property
    def _file(self) -> int:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def _pool(self) -> ThreadPoolExecutor:
        # Threads do not survive a fork, so each process has its own.
        process = os.getpid()
        if process not in self._pools:
            self._pools[process] = ThreadPoolExecutor(self.threads or num_threads(), thread_name_prefix="mapped")
        return self._pools[process]

    def _decode(self, descriptor: int, row: int, out: NDArray[np.uint8]) -> None:
        start, stop = int(self._offsets[row]), int(self._offsets[row + 1])
        data = os.pread(descriptor, stop - start, start)
        where = f"{self._path}, image {row}"
        pixels = decode(data, where, channels=self.shape[0]).transpose(2, 0, 1)
        if pixels.shape != self.shape:
            raise BadArtefact("MTH-0263", f"{where} has shape {pixels.shape}, imported was {self.shape}")
        out[:] = pixels
        if sha256(out.data).digest() != self.row_hashes()[row].tobytes():
            raise BadArtefact(
                "MTH-0263",
                f"{where} does not decode to the imported pixels",
                hint=f"the file is damaged or the image decoder was changed; delete {self.folder} to import again",
            )

    def gather(self, index: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Return the images of these rows, decoded by the threads.

        Raises:
            BadArtefact: An image does not decode to the pixels that were imported.
        """
        rows = index.tolist()
        if rows and not 0 <= min(rows) <= max(rows) < len(self):
            raise Misuse("MTH-0240", f"{self._path} has {len(self)} rows; asked for {min(rows)} to {max(rows)}")
        out = np.empty((len(rows), *self.shape), dtype=np.uint8)
        descriptor = self._file
        threads = self.threads or num_threads()

        def work(first: int) -> None:
            for place in range(first, len(rows), threads):
                self._decode(descriptor, rows[place], out[place])

        for future in [self._pool().submit(work, first) for first in range(min(threads, len(rows)))]:
            future.result()
        return torch.from_numpy(out).to(self.device)

    def row_hashes(self, index: Int64[Tensor, " b"] | None = None) -> NDArray[np.uint8]:
        """Return the hash of each of these images, from the import; nothing is decoded."""
        picked: NDArray[np.uint8] = self._hashes if index is None else self._hashes[index.cpu().numpy()]
        return picked

    def to(self, device: torch.device | str) -> "MappedStore":
        """Return the store with images arriving on `device`."""
        return self if torch.device(device) == self.device else replace(self, device=torch.device(device))
