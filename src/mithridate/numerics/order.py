"""Order statistics over rows, column by column.

    sort every column: s_1 <= ... <= s_n, NaN counts as +infinity; then
    Median    s_(n+1)/2, or of the two middle ones their mean, the lower or the upper one
    Trimmed   mean of s_f+1 .. s_n-f
    Closest   mean of the k values nearest to a centre (the median or a trimmed mean); they are a window of the sorted
              ones, and of windows that are equally near the lower one counts

Shapes   n rows, d coordinates, c columns of a block, m mixed rows.
"""

from dataclasses import dataclass
from math import inf
from typing import Literal

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from mithridate.numerics.geometry import exact_products
from mithridate.numerics.row_view import RowView

_WIDTH = 1 << 14


@dataclass(frozen=True)
class Median:
    """The middle value.

    Attributes:
        even: What stands for the middle of an even number of values.
    """

    even: Literal["mean", "lower", "upper"] = "mean"


@dataclass(frozen=True)
class Trimmed:
    """The mean of what is left without the `f` least and the `f` greatest values."""

    f: int


@dataclass(frozen=True)
class Closest:
    """The mean of the `k` values nearest to a centre; `f` is what the trimmed centre leaves out on either side."""

    k: int
    centre: Literal["median", "trimmed"] = "median"
    f: int = 0


Statistic = Median | Trimmed | Closest


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
    return order_pass(rows, statistic, mixing=mixing, out=out)[0]


def order_pass(
    rows: RowView,
    statistic: Statistic,
    *,
    mixing: Float64[Tensor, "m n"] | None = None,
    out: Float[Tensor, " d"] | None = None,
) -> tuple[Float[Tensor, " d"], Bool[Tensor, " n"]]:
    """Return a statistic of every column and, from the same pass, which of the (mixed) rows are finite."""
    out = torch.empty(rows.d, dtype=rows.dtype, device=rows.device) if out is None else out
    m = rows.n if mixing is None else len(mixing)
    used = list(range(rows.n)) if mixing is None else (mixing != 0).any(0).nonzero().flatten().tolist()
    source = rows if len(used) == rows.n else rows.only(used)
    weights = None if mixing is None else mixing[:, used].to(rows.device, rows.computing)
    dead = torch.zeros(m, dtype=torch.bool, device=rows.device)
    if mixing is not None:
        dead |= ~(mixing != 0).any(1).to(rows.device)
    with exact_products():
        for start, stop in rows.segments(_WIDTH):
            block = source.block(start, stop, rows.computing)
            if weights is not None:
                block = weights @ block
                block[dead] = inf
            dead |= ~block.isfinite().all(1)
            out[start:stop] = _of_sorted(torch.where(block.isnan(), inf, block).sort(0).values, statistic)
    return out, ~dead.cpu()


def _of_sorted(s: Float[Tensor, "n c"], statistic: Statistic) -> Float[Tensor, " c"]:
    n = len(s)
    match statistic:
        case Median(even=even):
            low, high = s[(n - 1) // 2], s[n // 2]
            return {"lower": low, "upper": high, "mean": low / 2 + high / 2}[even] if n % 2 == 0 else low
        case Trimmed(f=f):
            return s[f : n - f].mean(0)
        case Closest(k=k, centre=kind, f=f):
            centre = _of_sorted(s, Median() if kind == "median" else Trimmed(f))
            best, span = s[:k].mean(0), torch.maximum(centre - s[0], s[k - 1] - centre)
            for a in range(1, n - k + 1):
                other = torch.maximum(centre - s[a], s[a + k - 1] - centre)
                best = torch.where(other < span, s[a : a + k].mean(0), best)
                span = torch.minimum(span, other)
            return best
