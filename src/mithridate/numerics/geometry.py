"""Points seen through inner products: all that rules which choose or weigh rows need to know of them.

    one pass over the rows:   G = sum over column chunks of Y Y^T,  Y = (x_1 - p, ..., x_n - p, extra - p, p)
    afterwards everything is n x n, in float64:  points are linear combinations, distances follow from G

Chunks are multiplied in float32 (float64 for float64 rows) and added in float64. The pivot p is a row near most others:
float32 products about the origin lose distances that are small beside the norms, products about an outlier lose all of
them. It is chosen on a sample of the columns; if the full pass shows a better one, the pass is repeated, once.

A row with an entry that is not finite is dead: its inner products are zero and its distances infinite. So is a row
whose square norm overflows float64; if products overflow in float32 alone, the pass is repeated in float64.

Shapes   n rows, m points, k = n + extra + 1 basis vectors, l combinations of points.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import inf

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from mithridate.core.errors import Misuse
from mithridate.numerics import _passes as passes
from mithridate.numerics.row_view import RowView

_WIDTH = 1 << 14
"""Columns of a chunk: 25 float32 rows then stay in a second-level cache."""
_SAMPLE = 1024
_SPARSE = 2
"""Rows in a combination, on average, up to which they are added one by one."""
_REPEAT_BELOW = 1e-6
"""Square distances below this share of the square norm about the pivot are noise in float32."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """m points, each a linear combination of n rows, seen through inner products (float64, on the CPU).

    Attributes:
        basis: Inner products of the rows minus the pivot, extra rows minus the pivot, and the pivot; zero if dead.
        coords: Point i is `coords[i]` times the basis vectors.
        alive: Which points are finite. A point that mixes no rows at all (a row of zeros) stands for a dead one.
    """

    basis: Float64[Tensor, "k k"]
    coords: Float64[Tensor, "m k"]
    alive: Bool[Tensor, " m"]

    @property
    def m(self) -> int:
        """The number of points."""
        return len(self.coords)

    @cached_property
    def centred(self) -> Float64[Tensor, "m m"]:
        """Inner products about the pivot, zero for dead points; weights that sum to one may be used with them."""
        about = self.coords.clone()
        about[:, -1] -= 1
        about[~self.alive] = 0
        found = about @ self.basis @ about.T
        return (found + found.T) / 2  # a product is symmetric but for rounding, which must not break ties

    @cached_property
    def square_distances(self) -> Float64[Tensor, "m m"]:
        """Square distances: at least zero, zero on the diagonal, infinite for dead points."""
        square = self.centred.diagonal()
        found = (square[:, None] + square[None, :] - 2 * self.centred).clamp_min_(0)
        found[~self.alive] = inf
        found[:, ~self.alive] = inf
        return found.fill_diagonal_(0)

    @cached_property
    def square_norms(self) -> Float64[Tensor, " m"]:
        """Square norms about the origin, infinite for dead points."""
        found = ((self.coords @ self.basis) * self.coords).sum(1).clamp_min_(0)
        return found.masked_fill_(~self.alive, inf)

    def mixed(self, a: Float64[Tensor, "l m"]) -> "Geometry":
        """Return the points `a @ points`. Dead points must have weight zero; a row of zeros makes a dead point."""
        return Geometry(self.basis, a @ self.coords, (a != 0).any(1))

    def head(self, count: int) -> "Geometry":
        """Return the first `count` points alone."""
        return Geometry(self.basis, self.coords[:count], self.alive[:count])

    def joined(self, other: "Geometry") -> "Geometry":
        """Return these points and those of another view of the same rows after them."""
        return Geometry(self.basis, torch.cat([self.coords, other.coords]), torch.cat([self.alive, other.alive]))


def geometry(
    rows: RowView, *, alive: Bool[Tensor, " n"] | None = None, extra: Float[Tensor, "e d"] | None = None
) -> Geometry:
    """Return the rows, and the extra rows after them, as points.

    Args:
        rows: The rows.
        alive: Which rows are finite, if that is known; else it follows from the pass.
        extra: More rows that are no one's vote, such as the previous result; finite.
    """
    count = rows.n + (0 if extra is None else len(extra))
    alive = torch.ones(rows.n, dtype=torch.bool) if alive is None else alive.cpu()
    pivot, kind = _central(_sampled(rows), alive), rows.computing
    found = _gram(rows, pivot, extra, kind)
    if bool((alive & _overflown(found, rows.n)).any()):
        alive = alive & _exactly_alive(rows, _overflown(found, rows.n))
        if bool(alive.any()) and not bool(alive[pivot]):  # a dead pivot spoils every product
            pivot = _central(_sampled(rows), alive)
            found = _gram(rows, pivot, extra, kind)
        if bool((alive & _overflown(found, rows.n)).any()):
            kind = torch.float64
            found = _gram(rows, pivot, extra, kind)
            alive = alive & ~_overflown(found, rows.n)
    better = _better_pivot(found, alive, pivot)
    if better != pivot and kind != torch.float64:
        pivot = better
        found = _gram(rows, pivot, extra, kind)
    dead = torch.cat([~alive, torch.zeros(count + 1 - rows.n, dtype=torch.bool)])
    if not bool(alive[pivot]):
        dead[-1] = True
    found[dead] = 0
    found[:, dead] = 0
    coords = torch.eye(count, count + 1, dtype=torch.float64)
    coords[:, -1] = 1
    return Geometry(found, coords, ~dead[:-1])


def alive_rows(rows: RowView) -> Bool[Tensor, " n"]:
    """Tell which rows are finite in every entry, in one pass."""
    suspect = torch.zeros(rows.n, dtype=torch.bool, device=rows.device)
    for start, stop in rows.segments(_WIDTH):
        # a sum is finite only if all its terms are; a sum that overflows is looked at again
        suspect |= ~rows.block(start, stop, rows.computing).sum(1).isfinite()
    return _exactly_alive(rows, suspect.cpu())


def weighted(rows: RowView, w: Float64[Tensor, "l n"], out: Float[Tensor, "l d"] | None = None) -> Float[Tensor, "l d"]:
    """Return `w @ rows` in the rows' type, added up in float32 (float64 for float64 rows).

    A row whose weights are all zero is not read, so it may be dead.

    Args:
        rows: The rows.
        w: The weights of the rows in every combination.
        out: Where to put the result.
    """
    out = torch.empty(len(w), rows.d, dtype=rows.dtype, device=rows.device) if out is None else out
    used = (w != 0).any(0).nonzero().flatten().tolist()
    if not used:
        return out.zero_()
    if len(used) < rows.n:
        rows, w = rows.only(used), w[:, used]
    if rows.n == len(w) == 1 and float(w) == 1:
        return out.copy_(rows.row(0)[None])
    weights = w.to(device=rows.device, dtype=rows.computing)
    todo = [(0, rows.d)]
    if len(w) > 1 and int((w != 0).sum()) <= _SPARSE * len(w) and rows.computing == rows.dtype:
        return _sparse(rows, w, out)
    simple = (
        len(w) == 1 and rows.dense is not None and rows.computing == rows.dtype
    )  # one product of torch's is as fast
    if not simple and passes.worthwhile(rows, 0, "mixture"):
        todo = passes.mixture_pass(rows, weights, out)
    with exact_products():
        for first, last in todo:
            for start in range(first, last, _WIDTH):
                stop = min(start + _WIDTH, last)
                out[:, start:stop] = weights @ rows.block(start, stop, rows.computing)
    return out


def _sparse(rows: RowView, w: Float64[Tensor, "l n"], out: Float[Tensor, "l d"]) -> Float[Tensor, "l d"]:
    """Add up combinations of very few rows each, as of clipping and bucketing."""
    terms = [[(index, float(line[index])) for index in line.nonzero().flatten().tolist()] for line in w]
    for start, stop in rows.segments(_WIDTH):
        part, into = rows.block(start, stop), out[:, start:stop]
        for line, chosen in zip(into, terms, strict=True):
            if not chosen:
                line.zero_()
                continue
            (first, scale), *others = chosen
            torch.mul(part[first], scale, out=line)
            for index, weight in others:
                line.add_(part[index], alpha=weight)
    return out


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Multiply float32 matrices in float32 within the block, whatever the caller allows outside (TF32, bfloat16)."""
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def refuse_dead(dead: Bool[Tensor, " n"], allowed: int, rule: str) -> None:
    """Raise `Misuse` MTH-0524 if more rows are dead than a rule can treat as infinitely far."""
    names = dead.nonzero().flatten().tolist()
    if len(names) > allowed:
        listed = ", ".join(map(str, names[:20])) + (", ..." if len(names) > 20 else "")
        raise Misuse(
            "MTH-0524",
            f"{len(names)} of {len(dead)} rows hold NaN or infinity (rows {listed}), {rule} bears {allowed}",
            hint="raise f, or leave these rows out with on_nonfinite='exclude'",
        )


def _gram(rows: RowView, pivot: int, extra: Tensor | None, kind: torch.dtype) -> Float64[Tensor, "k k"]:
    """Return the inner products about a row; those of dead rows are not finite."""
    n, e = rows.n, 0 if extra is None else len(extra)
    extra = None if extra is None else extra.to(rows.device, rows.dtype)
    todo = [(0, rows.d)]
    known = torch.zeros(n + e + 1, n + e + 1, dtype=torch.float64)
    if kind == rows.computing and passes.worthwhile(rows, n + e + 1, "gram"):
        known, todo = passes.gram_pass(rows, pivot, extra)
    total = torch.zeros_like(known, device=rows.device)
    space = torch.empty(n + e + 1, min(_WIDTH, rows.d), dtype=kind, device=rows.device)
    with exact_products():
        for first, last in todo:
            for start in range(first, last, _WIDTH):
                stop = min(start + _WIDTH, last)
                part, y = rows.block(start, stop, kind), space[:, : stop - start]
                y[-1] = part[pivot]
                torch.sub(part, y[-1], out=y[:n])
                if extra is not None:
                    torch.sub(extra[:, start:stop].to(kind), y[-1], out=y[n : n + e])
                total += y @ y.T
    return known + total.cpu()


def _overflown(gram: Float64[Tensor, "k k"], n: int) -> Bool[Tensor, " n"]:
    return ~gram.diagonal()[:n].isfinite()


def _sampled(rows: RowView) -> Float64[Tensor, "n c"]:
    """Return a few runs of columns from all over the rows."""
    if rows.d <= _SAMPLE:
        return rows.block(0, rows.d).double().cpu()
    runs, length = 16, _SAMPLE // 16
    starts = [run * (rows.d - length) // (runs - 1) for run in range(runs)]
    return torch.cat([rows.block(start, start + length).double() for start in starts], dim=1).cpu()


def _central(sample: Float64[Tensor, "n c"], alive: Bool[Tensor, " n"]) -> int:
    """Return the row with the least median distance to the others, the lowest index on ties."""
    distances = torch.cdist(sample, sample, compute_mode="donot_use_mm_for_euclid_dist")
    return _least_median(distances.nan_to_num(nan=inf, posinf=inf), alive & sample.isfinite().all(1))


def _least_median(distances: Float64[Tensor, "n n"], alive: Bool[Tensor, " n"]) -> int:
    kept = alive.nonzero().flatten()
    if not len(kept):
        return 0
    return int(kept[distances[kept][:, kept].median(1).values.argmin()])


def _better_pivot(gram: Float64[Tensor, "k k"], alive: Bool[Tensor, " n"], pivot: int) -> int:
    """Return the row to use as the pivot in another pass, or the same one if its distances can be trusted."""
    if not bool(alive.any()):
        return pivot
    n = len(alive)
    square = gram.diagonal()[:n]
    distances = (square[:, None] + square[None, :] - 2 * gram[:n, :n]).clamp_min(0)
    distances.masked_fill_(~(alive[:, None] & alive[None, :]), inf).fill_diagonal_(0)
    centre = _least_median(distances, alive)
    near = distances[centre].clone()
    near[centre] = inf
    return centre if float(near.min()) < _REPEAT_BELOW * float(square[centre]) else pivot


def _exactly_alive(rows: RowView, suspects: Bool[Tensor, " n"]) -> Bool[Tensor, " n"]:
    alive = torch.ones(rows.n, dtype=torch.bool)
    for index in suspects.nonzero().flatten().tolist():
        one = rows.only([index])
        alive[index] = all(bool(one.block(start, stop).isfinite().all()) for start, stop in one.segments(_WIDTH))
    return alive
