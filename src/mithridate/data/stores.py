"""Stores: where the pixels of a set of images live, behind one interface.

A store answers `gather(index)` with uint8 images and `row_hashes(index)` with the sha256 of each image's bytes. The
hashes are what a fingerprint is made of, so the fingerprint of an overlay or a subset costs only the rows that are new
to it, whatever holds the rest.

Stores are values: nothing here writes to pixels, and a caller must not write to a tensor that it has put into a store.

Shapes   n images of c channels, h rows, w columns; b gathered rows; p overlaid rows.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from mithridate.core.errors import Misuse
from mithridate.data._mapped import MappedStore
from mithridate.data._rows import HASH_BYTES, checked_ids, hash_rows

__all__ = ["MappedStore", "OverlayStore", "ResidentStore", "Store", "SubsetStore"]


@runtime_checkable
class Store(Protocol):
    """Images of one shape, as uint8."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows, columns of every image."""
        ...

    @property
    def device(self) -> torch.device:
        """Where gathered images arrive."""
        ...

    def __len__(self) -> int: ...

    def gather(self, index: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Return the images of these rows in a new tensor, in this order; rows may repeat."""
        ...

    def row_hashes(self, index: Int64[Tensor, " b"] | None = None) -> NDArray[np.uint8]:
        """Return the sha256 of the bytes of each of these images (of all, without an index), shape (b, 32)."""
        ...

    def to(self, device: torch.device | str) -> "Store":
        """Return a store whose images arrive on `device`."""
        ...


@dataclass(frozen=True, eq=False)
class ResidentStore:
    """All pixels in memory, on the CPU or on an accelerator: the fast path.

    Args:
        pixels: The images.
        hashes: Their row hashes when they are known already (an import keeps them); computed on demand otherwise.
    """

    pixels: UInt8[Tensor, "n c h w"]
    hashes: NDArray[np.uint8] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.hashes is not None and self.hashes.shape != (len(self.pixels), HASH_BYTES):
            raise Misuse("MTH-0241", f"{len(self.pixels)} images came with hashes of shape {self.hashes.shape}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows, columns of every image."""
        _, c, h, w = self.pixels.shape
        return c, h, w

    @property
    def device(self) -> torch.device:
        """Where the pixels lie."""
        return self.pixels.device

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def _flat(self) -> UInt8[Tensor, "n d"]:
        # Picking rows of a matrix is several times faster on the CPU than picking rows of a four-dimensional tensor.
        return self.pixels.reshape(len(self.pixels), self.pixels[:1].numel())

    def gather(self, index: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Return the images of these rows."""
        return self._flat.index_select(0, index.to(self.device)).view(len(index), *self.shape)

    @cached_property
    def _all_hashes(self) -> NDArray[np.uint8]:
        return hash_rows(self.pixels) if self.hashes is None else self.hashes

    def row_hashes(self, index: Int64[Tensor, " b"] | None = None) -> NDArray[np.uint8]:
        """Return the hash of each of these images; all of them are kept once they were computed."""
        if index is None:
            return self._all_hashes
        known = self.hashes is not None or "_all_hashes" in self.__dict__
        if not known and 4 * len(index) < len(self):
            return hash_rows(self.gather(index))
        picked: NDArray[np.uint8] = self._all_hashes[index.cpu().numpy()]
        return picked

    def to(self, device: torch.device | str) -> "ResidentStore":
        """Return the store on `device`; itself when it is there already."""
        moved = self.pixels.to(device)
        return self if moved is self.pixels else ResidentStore(moved, self.__dict__.get("_all_hashes", self.hashes))


@dataclass(frozen=True, eq=False)
class AbstractLayer(ABC):
    """A store on top of another one, with images of the same shape on the same device."""

    base: Store

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows, columns of every image."""
        return self.base.shape

    @property
    def device(self) -> torch.device:
        """Where gathered images arrive."""
        return self.base.device

    @abstractmethod
    def gather(self, index: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Return the images of these rows."""


@dataclass(frozen=True, eq=False)
class OverlayStore(AbstractLayer):
    """Another store with some images replaced; it holds the replacements only.

    Args:
        base: The store below.
        ids: The rows to replace, each at most once, in any order.
        pixels: Their images.
    """

    ids: Int64[Tensor, " k"]
    pixels: UInt8[Tensor, "p c h w"]

    def __post_init__(self) -> None:
        if tuple(self.pixels.shape) != (len(self.ids), *self.base.shape):
            raise Misuse(
                "MTH-0243",
                f"{len(self.ids)} rows of images of shape {self.base.shape} cannot be replaced by pixels of shape "
                f"{tuple(self.pixels.shape)}",
            )
        checked_ids(self.ids, len(self.base))
        ordered = self._order[0]
        if bool((ordered[1:] == ordered[:-1]).any()):
            twice = int(ordered[1:][ordered[1:] == ordered[:-1]][0])
            raise Misuse("MTH-0243", f"row {twice} is replaced twice in one overlay", hint="name each row once")

    def __len__(self) -> int:
        return len(self.base)

    @cached_property
    def _order(self) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " p"]]:
        ordered, place = self.ids.to(self.device).sort()
        return ordered, place

    @cached_property
    def _top(self) -> ResidentStore:
        return ResidentStore(self.pixels.to(self.device))

    def _find(self, index: Int64[Tensor, " b"]) -> tuple[Int64[Tensor, " b"], Bool[Tensor, " b"]]:
        """Return the place of each row among the replacements, and whether it is one of them."""
        ordered, place = self._order
        near = torch.searchsorted(ordered, index).clamp_(max=len(ordered) - 1)
        return place[near], ordered[near] == index

    def gather(self, index: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Return the images of these rows; an accelerator is never asked a question."""
        return self._gather(index.to(self.device), ask=self.device.type == "cpu")

    def _gather(self, index: Int64[Tensor, " b"], *, ask: bool) -> UInt8[Tensor, "b c h w"]:
        """Gather by asking which rows are replaced, usually few, or without asking, by taking both for every row."""
        below = self.base.gather(index)
        if not len(self.ids):
            return below
        place, hit = self._find(index)
        if ask:
            rows = hit.nonzero().squeeze(1)
            return below.index_copy_(0, rows, self._top.gather(place[rows]))
        return torch.where(hit[:, None, None, None], self._top.gather(place), below)

    def row_hashes(self, index: Int64[Tensor, " b"] | None = None) -> NDArray[np.uint8]:
        """Return the hash of each of these images; only replacements are hashed anew."""
        below = self.base.row_hashes(index)
        if not len(self.ids):
            return below
        rows = torch.arange(len(self), device=self.device) if index is None else index.to(self.device)
        place, hit = (part.cpu().numpy() for part in self._find(rows))
        return np.where(hit[:, None], self._top.row_hashes()[place], below)

    def to(self, device: torch.device | str) -> "OverlayStore":
        """Return the overlay on `device`."""
        return OverlayStore(self.base.to(device), self.ids.to(device), self.pixels.to(device))


@dataclass(frozen=True, eq=False)
class SubsetStore(AbstractLayer):
    """Some rows of another store, in a new order; it holds row ids only.

    Args:
        base: The store below.
        ids: The rows to show, which may repeat.
    """

    ids: Int64[Tensor, " n"]

    def __post_init__(self) -> None:
        checked_ids(self.ids, len(self.base))

    def __len__(self) -> int:
        return len(self.ids)

    def _below(self, index: Int64[Tensor, " b"]) -> Int64[Tensor, " b"]:
        return self.ids.index_select(0, index.to(self.ids.device))

    def gather(self, index: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Return the images of these rows of the subset."""
        return self.base.gather(self._below(index))

    def row_hashes(self, index: Int64[Tensor, " b"] | None = None) -> NDArray[np.uint8]:
        """Return the hash of each of these images."""
        return self.base.row_hashes(self.ids if index is None else self._below(index))

    def to(self, device: torch.device | str) -> Store:
        """Return the subset on `device`; of a resident store, only the rows of the subset are moved."""
        if isinstance(self.base, ResidentStore) and self.base.device != torch.device(device):
            whole = ResidentStore(self.base.gather(self.ids), self.row_hashes())
            return whole.to(device)
        return SubsetStore(self.base.to(device), self.ids.to(device))
