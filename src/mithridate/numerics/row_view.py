"""Rows of equal length behind one interface, without ever stacking them a second time.

The rows come as one (n, d) tensor, as a list of equal tensors, or as a list of parameter dicts. `block` hands out the
columns [start, stop) of all of them: a view where the rows are one tensor, otherwise a copy in a small workspace that
stays in the cache and is used again for the next block. Nothing here writes to the rows.

    4 bytes a coordinate and row are read once per pass, whatever the form of the rows

Shapes   n rows, d coordinates, c columns of a block.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from mithridate.core.errors import Misuse

Rows = Tensor | Sequence[Tensor] | Sequence[Mapping[str, Tensor]]
Shaped = Tensor | dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Panel:
    """A run of columns, and the rows' tensors there if kernels may read them in place."""

    start: int
    stop: int
    rows: tuple[Tensor, ...]


@final
@dataclass(frozen=True, eq=False)
class RowView:
    """n rows of length d. `RowView.of` builds one.

    Attributes:
        n: Number of rows.
        d: Number of coordinates.
        dtype: The rows' own type.
        device: Where they are.
        dense: The rows as one tensor with adjacent columns, or None if they are not.
    """

    n: int
    d: int
    dtype: torch.dtype
    device: torch.device
    dense: Float[Tensor, "n d"] | None
    _pieces: tuple[tuple[Tensor, ...], ...]  # one flat view a row, for each tensor of a row
    _edges: tuple[int, ...]  # where the tensors begin, and d
    _shape: Callable[[Tensor], Shaped]
    _workspace: dict[torch.dtype, Tensor]

    @classmethod
    def of(cls, rows: Rows | Sequence[object]) -> "RowView":
        """Look at rows of any accepted form; others are answered with the row that does not fit.

        Raises:
            Misuse: MTH-0520 to MTH-0523: no rows, no coordinates, or rows that differ in shape, type, device or names.
        """
        if isinstance(rows, Tensor):
            return cls._of_matrix(rows)
        listed = list(rows)
        if not listed:
            raise Misuse("MTH-0520", "there are 0 rows, at least 1 is needed", hint="wait for replies before combining")
        if isinstance(listed[0], Mapping):
            return cls._of_dicts(listed)
        for number, row in enumerate(listed):
            if not isinstance(row, Tensor):
                raise _odd(number, "is a", type(row).__name__, "Tensor")
        tensors: list[Tensor] = [row for row in listed if isinstance(row, Tensor)]
        shape = tensors[0].shape
        return cls._of_tensors([{"": tensor} for tensor in tensors], lambda flat: flat.view(shape))

    @classmethod
    def _of_matrix(cls, rows: Tensor) -> "RowView":
        if rows.dim() != 2:
            raise Misuse("MTH-0522", f"rows as one tensor have two dimensions (n, d), got shape {tuple(rows.shape)}")
        if not rows.shape[0]:
            raise Misuse("MTH-0520", "there are 0 rows, at least 1 is needed", hint="wait for replies before combining")
        rows = rows.detach()
        view = cls._of_tensors([{"": row} for row in rows], lambda flat: flat)
        if rows.stride(1) != 1 and rows.shape[1] > 1:
            return view
        return replace(view, dense=rows)

    @classmethod
    def _of_dicts(cls, rows: Sequence[object]) -> "RowView":
        dicts: list[Mapping[str, Tensor]] = []
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise _odd(number, "is a", type(row).__name__, "a mapping of names to tensors")
            dicts.append(row)
            for name, tensor in row.items():
                if not isinstance(tensor, Tensor):
                    raise _odd(number, f"has under {name!r} a", type(tensor).__name__, "a Tensor")
            if row.keys() != dicts[0].keys():
                differ = sorted(row.keys() ^ dicts[0].keys())
                raise _odd(number, "has the names", f"{len(row)} ({', '.join(differ[:3])} differ)", f"{len(dicts[0])}")
        shapes = {name: tensor.shape for name, tensor in dicts[0].items()}
        orders = {name: _order(tensor) for name, tensor in dicts[0].items()}

        def shaped(flat: Tensor) -> dict[str, Tensor]:
            parts = torch.split(flat, [shape.numel() for shape in shapes.values()])
            return {
                name: _unflatten(part, shapes[name], orders[name]) for name, part in zip(shapes, parts, strict=True)
            }

        return cls._of_tensors([{name: row[name] for name in shapes} for row in dicts], shaped, orders)

    @classmethod
    def _of_tensors(
        cls,
        rows: Sequence[Mapping[str, Tensor]],
        shape: Callable[[Tensor], Shaped],
        orders: Mapping[str, tuple[int, ...]] | None = None,
    ) -> "RowView":
        first = rows[0]
        like = next(iter(first.values()), None)
        sizes = [tensor.numel() for tensor in first.values()]
        if like is None or not sum(sizes):
            raise Misuse("MTH-0521", f"the {len(rows)} rows have dimension 0, at least 1 coordinate is needed")
        for number, row in enumerate(rows):
            for name, tensor in row.items():
                where = f" of {name!r}" if name else ""
                if tensor.shape != first[name].shape:
                    raise _odd(number, f"has the shape{where}", tuple(tensor.shape), tuple(first[name].shape))
                if tensor.dtype != like.dtype:
                    raise _odd(number, f"has the type{where}", tensor.dtype, like.dtype)
                if tensor.device != like.device:
                    raise _odd(number, f"is{where} on the device", tensor.device, like.device)
        if like.layout != torch.strided or like.is_meta:
            kind = "a tensor without data" if like.is_meta else f"of the layout {like.layout}"
            raise Misuse("MTH-0523", f"rows are dense tensors, got {kind}", hint="convert them first")
        if not like.dtype.is_floating_point:
            raise Misuse("MTH-0523", f"rows are of a floating-point type, got {like.dtype}", hint="convert them first")
        order = orders or {name: tuple(range(tensor.dim())) for name, tensor in first.items()}
        return cls(
            n=len(rows),
            d=sum(sizes),
            dtype=like.dtype,
            device=like.device,
            dense=None,
            _pieces=tuple(tuple(row[name].detach().permute(order[name]).reshape(-1) for row in rows) for name in first),
            _edges=tuple(sum(sizes[:count]) for count in range(len(sizes) + 1)),
            _shape=shape,
            _workspace={},
        )

    @property
    def computing(self) -> torch.dtype:
        """The type in which blocks are computed with: float64 for float64 rows, else float32."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def block(self, start: int, stop: int, dtype: torch.dtype | None = None) -> Float[Tensor, "n c"]:
        """Return the columns [start, stop) of all rows, to be read until the next call and never to be written to.

        Args:
            start: First column.
            stop: One past the last column.
            dtype: The type of the block; the rows' own if None.
        """
        dtype = dtype or self.dtype
        if self.dense is not None and dtype == self.dtype:
            return self.dense[:, start:stop]
        width = stop - start
        space = self._workspace.get(dtype)
        if space is None or space.shape[1] < width:
            space = self._workspace[dtype] = torch.empty(self.n, width, dtype=dtype, device=self.device)
        into = space[:, :width]
        if self.dense is not None:
            return into.copy_(self.dense[:, start:stop])
        for (begin, end), pieces in zip(pairwise(self._edges), self._pieces, strict=True):
            low, high = max(begin, start), min(end, stop)
            if low < high:
                for row, piece in zip(into[:, low - start : high - start], pieces, strict=True):
                    row.copy_(piece[low - begin : high - begin])
        return into

    def segments(self, width: int) -> Iterator[tuple[int, int]]:
        """Yield the chunks of columns, `width` wide but for the last: the same for every form of equal rows."""
        for start in range(0, self.d, width):
            yield start, min(start + width, self.d)

    def panels(self, least: int) -> Iterator["Panel"]:
        """Yield the columns in runs whose rows are in memory as they are, and what is between them.

        A run of fewer than `least` columns, and a tensor whose elements are not adjacent, is joined with its neighbours
        of the same kind to a panel without rows.
        """
        pending = 0
        for (begin, end), pieces in zip(pairwise(self._edges), self._pieces, strict=True):
            if end - begin < least or not all(piece.is_contiguous() for piece in pieces):
                continue
            if pending < begin:
                yield Panel(pending, begin, ())
            yield Panel(begin, end, pieces)
            pending = end
        if pending < self.d:
            yield Panel(pending, self.d, ())

    def row(self, index: int) -> Float[Tensor, " d"]:
        """Return one row: a view if it is one tensor, else a new tensor."""
        if self.dense is not None:
            return self.dense[index]
        if len(self._pieces) == 1:
            return self._pieces[0][index]
        return torch.cat([pieces[index] for pieces in self._pieces])

    def only(self, indices: Sequence[int]) -> "RowView":
        """Return a view of some of the rows, in the order given; nothing is copied."""
        pieces = tuple(tuple(piece[index] for index in indices) for piece in self._pieces)
        return replace(self, n=len(indices), dense=None, _pieces=pieces, _workspace={})

    def like(self, flat: Float[Tensor, " d"]) -> Shaped:
        """Return a flat result in the form of one of the caller's rows, as views of it."""
        return self._shape(flat)

    def shares_memory(self, other: Tensor) -> bool:
        """Tell whether a tensor lives in the storage of one of the rows."""
        place = other.untyped_storage().data_ptr()
        return any(piece.untyped_storage().data_ptr() == place for pieces in self._pieces for piece in pieces)


def _order(tensor: Tensor) -> tuple[int, ...]:
    """Return the dimensions from the slowest to the fastest in memory, so that channels-last weights flatten free."""
    strides = tensor.stride()
    return tuple(sorted(range(len(strides)), key=lambda axis: -strides[axis]))


def _unflatten(flat: Tensor, shape: torch.Size, order: tuple[int, ...]) -> Tensor:
    back = sorted(range(len(order)), key=lambda place: order[place])
    return flat.view([shape[axis] for axis in order]).permute(back)


def _odd(number: int, what: str, value: object, first: object) -> Misuse:
    return Misuse("MTH-0522", f"row {number} {what} {value}, row 0 {first}", hint="all rows come from one model")
