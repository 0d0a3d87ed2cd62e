"""Order statistics over rows, column by column: NaN counts as +infinity, then a sorting network and a statistic of it.

Three ways give the same bits. With many columns on the CPU, machine code sorts in registers (`_kernels`). Otherwise the
same network runs on blocks of columns in torch; above 64 rows, where a network is long, torch sorts.

Shapes   n rows, d coordinates, c columns of a block, m mixed rows.
"""

from math import inf

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from mithridate.numerics import _passes as passes
from mithridate.numerics.geometry import exact_products
from mithridate.numerics.ranks import AbstractAlgebra, Closest, Median, Statistic, Trimmed, compute, of_sorted
from mithridate.numerics.row_view import RowView

__all__ = ["Closest", "Median", "Statistic", "TorchAlgebra", "Trimmed", "order_pass", "order_statistic"]

_WIDTH = 1 << 14
_MOST_WIDTH = 1 << 20
_LONG = 64


def order_statistic(
    rows: RowView,
    statistic: Statistic,
    *,
    mixing: Float64[Tensor, "m n"] | None = None,
    out: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, " d"]:
    """Return a statistic of every column, in the rows' type.

    Args:
        rows: The rows.
        statistic: Which one.
        mixing: Take the statistic of the rows `mixing @ rows` instead, which are never stored; a row of zeros stands
            for a dead row and counts as +infinity, and rows that are dead have weight zero.
        out: Where to put the result.
    """
    if mixing is None:
        return order_pass(rows, statistic, out=out)[0]
    out = torch.empty(rows.d, dtype=rows.dtype, device=rows.device) if out is None else out
    present = (mixing != 0).any(1)
    used = (mixing != 0).any(0).nonzero().flatten().tolist()
    source = rows if len(used) == rows.n else rows.only(used)
    weights = mixing[present][:, used].to(rows.device, rows.computing)
    missing = len(mixing) - len(weights)
    todo = [(0, rows.d)]
    if used and passes.worthwhile(source, len(mixing), statistic):
        todo = passes.mixed_statistic_pass(source, weights, missing, statistic, out)
    with exact_products():
        for start, stop in _blocks(todo, rows):
            block = weights @ source.block(start, stop, rows.computing) if used else weights.new_empty(0, stop - start)
            absent = block.new_full((1, stop - start), inf).expand(missing, -1)
            out[start:stop] = _of_block(torch.cat([block, absent]), statistic)
    return out


def order_pass(
    rows: RowView, statistic: Statistic, *, out: Float[Tensor, " d"] | None = None
) -> tuple[Float[Tensor, " d"], Bool[Tensor, " n"]]:
    """Return a statistic of every column and, from the same pass, which of the rows are finite."""
    out = torch.empty(rows.d, dtype=rows.dtype, device=rows.device) if out is None else out
    todo, odd = [(0, rows.d)], list[passes.Range]()
    if passes.worthwhile(rows, 0, statistic):
        todo, odd = passes.statistic_pass(rows, statistic, out)
    dead = torch.zeros(rows.n, dtype=torch.bool, device=rows.device)
    for start, stop in _blocks(odd, rows):
        dead |= _dead(rows.block(start, stop))
    for start, stop in _blocks(todo, rows):
        block = rows.block(start, stop, rows.computing)
        dead |= _dead(block)
        out[start:stop] = _of_block(block, statistic)
    return out, ~dead.cpu()


def _blocks(ranges: list[passes.Range], rows: RowView) -> list[passes.Range]:
    """Cut ranges into blocks whose copies stay small: in the cache on the CPU, a sixteenth of the rows elsewhere."""
    width = _WIDTH if rows.device.type == "cpu" else min(_MOST_WIDTH, max(_WIDTH, rows.d // 16))
    return [(at, min(at + width, stop)) for start, stop in ranges for at in range(start, stop, width)]


def _dead(block: Float[Tensor, "n c"]) -> Bool[Tensor, " n"]:
    # a sum is finite only if all its terms are; others are looked at again, on the CPU only if there are any
    suspects = ~block.sum(1, dtype=torch.float64).isfinite()
    return ~block.isfinite().all(1) if block.device.type != "cpu" or bool(suspects.any()) else suspects


def _of_block(block: Float[Tensor, "n c"], statistic: Statistic) -> Float[Tensor, " c"]:
    values = torch.where(block < inf, block, inf)  # NaN is not less
    if len(values) > _LONG:
        return of_sorted(TorchAlgebra(), values.sort(0).values.unbind(0), statistic)
    return compute(TorchAlgebra(), values.unbind(0), statistic)


class TorchAlgebra(AbstractAlgebra[Tensor]):
    """Blocks of columns as values."""

    def lesser(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the smaller of two values."""
        return torch.minimum(a, b)

    def greater(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the greater of two values."""
        return torch.maximum(a, b)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the sum."""
        return a + b

    def subtract(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the difference."""
        return a - b

    def halve(self, a: Tensor) -> Tensor:
        """Return one half."""
        return a * 0.5

    def divide(self, a: Tensor, count: int) -> Tensor:
        """Return the quotient."""
        return a / count

    def if_less(self, a: Tensor, b: Tensor, then: Tensor, otherwise: Tensor) -> Tensor:
        """Return `then` where a < b."""
        return torch.where(a < b, then, otherwise)
