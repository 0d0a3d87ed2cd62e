"""Examples: columns of equal length, of which the images and the labels always exist.

    fingerprint = sha256(header | labels | other columns | sha256 of each image)

The header names the shape, the classes and the other columns. Where the pixels are kept does not enter, nor the name,
nor the bookkeeping column `row`: the same content has the same fingerprint in memory, in a mapped file or under an
overlay, and a change of one pixel, one label or one class name changes it.

Shapes   n examples of c channels, h rows, w columns; k selected rows.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from mithridate.core.errors import Misuse
from mithridate.data._rows import checked_ids
from mithridate.data.stores import OverlayStore, Store, SubsetStore

ROW = "row"
"""The column that says which row of the complete data set an example was; it is no part of the content."""


@dataclass(frozen=True, eq=False)
class Examples:
    """A set of labelled images.

    Args:
        name: What the set is called in messages.
        images: The store of its pixels.
        labels: The class of each image, in [0, number of classes).
        classes: The name of each class.
        columns: Further columns by name (groups, captions' tokens, ...), each with one entry per image.

    Raises:
        Misuse: The columns differ in length, or a label names no class.
    """

    name: str
    images: Store
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {"labels": len(self.labels)} | {key: len(column) for key, column in self.columns.items()}
        for key, length in lengths.items():
            if length != len(self.images):
                raise Misuse("MTH-0241", f"{self.name}: {len(self.images)} images but {length} entries of {key!r}")
        bad = (self.labels < 0) | (self.labels >= len(self.classes))
        if bool(bad.any()):
            row = int(bad.nonzero()[0, 0])
            raise Misuse(
                "MTH-0242",
                f"{self.name}: row {row} has label {int(self.labels[row])}, but labels of {len(self.classes)} classes "
                f"lie in [0, {len(self.classes) - 1}]",
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        """Where gathered images arrive."""
        return self.images.device

    def _ids(self, ids: Int64[Tensor, " k"] | Sequence[int]) -> Int64[Tensor, " k"]:
        found = ids if isinstance(ids, Tensor) else torch.tensor(list(ids), dtype=torch.int64)
        return checked_ids(found, len(self))

    def select(self, ids: Int64[Tensor, " k"] | Sequence[int]) -> "Examples":
        """Return the examples of these rows, in this order; rows may repeat. No pixel is copied.

        Raises:
            Misuse: A row does not exist.
        """
        rows = self._ids(ids).to(self.device)
        return replace(
            self,
            images=SubsetStore(self.images, rows),
            labels=self.labels[rows.to(self.labels.device)],
            columns={key: column[rows.to(column.device)] for key, column in self.columns.items()},
        )

    def overlay(
        self,
        ids: Int64[Tensor, " k"] | Sequence[int],
        pixels: UInt8[Tensor, "p c h w"],
        labels: Int64[Tensor, " l"] | None = None,
    ) -> "Examples":
        """Return the examples with the images, and if given the labels, of these rows replaced.

        The memory it takes is that of the replacements; the base is shared.

        Raises:
            Misuse: A row does not exist or is named twice, the pixels have another shape, or a label names no class.
        """
        rows = self._ids(ids)
        images = OverlayStore(self.images, rows, pixels)
        if labels is None:
            return replace(self, images=images) if len(rows) else self
        if len(labels) != len(rows):
            raise Misuse("MTH-0243", f"{len(rows)} rows cannot be given {len(labels)} labels")
        changed = self.labels.clone()
        changed[rows.to(changed.device)] = labels.to(changed.device)
        return replace(self, images=images, labels=changed) if len(rows) else self

    def rows_of_class(self, label: int) -> Int64[Tensor, " k"]:
        """Return the rows of one class, in order.

        Raises:
            Misuse: There is no such class.
        """
        if not 0 <= label < len(self.classes):
            raise Misuse(
                "MTH-0242", f"{self.name} has {len(self.classes)} classes, numbered from 0; there is no class {label}"
            )
        return (self.labels == label).nonzero().squeeze(1)

    def to(self, device: torch.device | str) -> "Examples":
        """Return the examples on `device`. Move a base before overlaying it, so that both share one copy."""
        return replace(
            self,
            images=self.images.to(device),
            labels=self.labels.to(device),
            columns={key: column.to(device) for key, column in self.columns.items()},
        )

    def pixel_hash(self, ids: Int64[Tensor, " k"] | Sequence[int]) -> str:
        """Return a sha256, in hex, of the images of these rows in this order and of their shape.

        A poison pack binds itself to the images it replaces with this.
        """
        digest = hashlib.sha256(json.dumps({"shape": self.images.shape}).encode())
        digest.update(self.images.row_hashes(self._ids(ids)).tobytes())
        return digest.hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """The sha256, in hex, of the content; see the module."""
        columns = [(key, self.columns[key].cpu().numpy()) for key in sorted(self.columns) if key != ROW]
        header = {
            "schema": "mithridate.examples/1",
            "count": len(self),
            "shape": self.images.shape,
            "classes": self.classes,
            "columns": [(key, array.dtype.newbyteorder("<").str, array.shape) for key, array in columns],
        }
        digest = hashlib.sha256(json.dumps(header).encode())
        for array in (self.labels.cpu().numpy(), *(array for _, array in columns)):
            digest.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes())
        digest.update(self.images.row_hashes().tobytes())
        return digest.hexdigest()
