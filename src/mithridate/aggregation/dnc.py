"""Divide and conquer: throw out the rows that stand out in the top singular direction of random coordinates.

    `iterations` times: draw `sub_dim` coordinates, centre the rows, v = top right singular vector,
    keep the n - c f rows with the lowest <x_i - mean, v>^2
    dnc(x_1..x_n) = mean of the rows that were kept every time

Paper    Shejwalkar, Houmansadr, "Manipulating the Byzantine" (NDSS 2021), algorithm 2.
Promise  none that is stated here; the draw of coordinates must be unknown to the liars.
Needs    the rows: some coordinates, and one pass for the mean.
Cost     iterations * n^2 sub_dim multiply-adds, then n d.
Departs  the singular vector is exact, from the n x n Gram matrix of the drawn coordinates. If d <= sub_dim, all of them
         are taken, once. If no row was kept every time, the rows that were kept most often are averaged.

Shapes   n rows, d coordinates, c drawn coordinates.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from mithridate.aggregation._base import AbstractRowCombiner, State
from mithridate.aggregation._select import lowest, uniform
from mithridate.aggregation.resilience import require
from mithridate.core.errors import Misuse
from mithridate.core.params import Checked, In, param
from mithridate.numerics.geometry import weighted
from mithridate.numerics.row_view import RowView

_WIDTH = 1 << 14


@dataclass(frozen=True, kw_only=True)
class DivideAndConquer(Checked, AbstractRowCombiner):
    """Spectral filtering on random coordinates."""

    f: int = param(1, within=In(0, 1_000_000), doc="number of rows that may lie")
    iterations: int = param(5, within=In(1, 10_000), doc="number of draws of coordinates")
    sub_dim: int = param(10_000, within=In(1, 1 << 40), doc="number of coordinates in a draw")
    factor: float = param(1.0, within=In(0.0, 1e6), doc="c: a draw throws out c f rows")

    def check(self, num_rows: int) -> None:
        """Raise `Misuse` unless n >= 2f + 1 and n > c f."""
        require("dnc", num_rows, self.f)
        if self._thrown_out() >= num_rows:
            raise Misuse(
                "MTH-0543",
                f"dnc throws out c f = {self._thrown_out()} rows per draw (c={self.factor:g}, f={self.f}), "
                f"but there are n={num_rows}",
                hint="lower factor to 1",
            )

    def combine(
        self, rows: RowView, alive: Bool[Tensor, " n"], gen: torch.Generator, state: State
    ) -> tuple[Float[Tensor, " d"], State]:
        """Return the mean of the rows that stand out in no draw."""
        alive = alive.cpu()
        kept = min(rows.n - self._thrown_out(), int(alive.sum()))
        times = torch.zeros(rows.n, dtype=torch.int64)
        for _ in range(1 if rows.d <= self.sub_dim else self.iterations):
            drawn = _columns(rows, _draw(rows.d, self.sub_dim, gen))
            times[lowest(_outlying(drawn, alive), kept)] += 1
        chosen = torch.nonzero(times == times.max())[:, 0]
        return weighted(rows, uniform(chosen, rows.n)[None])[0], state

    def _thrown_out(self) -> int:
        return int(self.factor * self.f)


def _draw(d: int, count: int, gen: torch.Generator) -> Int64[Tensor, " c"]:
    """Return `count` distinct coordinates in ascending order, all of them if there are no more."""
    if d <= count:
        return torch.arange(d)
    if d <= 16 * count:
        return torch.randperm(d, generator=gen, device=gen.device)[:count].sort().values.cpu()
    found: dict[int, None] = {}  # in the order in which they were drawn; of d > 16 count coordinates few come twice
    while len(found) < count:
        found.update(dict.fromkeys(torch.randint(d, (count,), generator=gen, device=gen.device).tolist()))
    return torch.tensor(list(found)[:count]).sort().values


def _columns(rows: RowView, index: Int64[Tensor, " c"]) -> Float64[Tensor, "n c"]:
    """Return some columns of the rows, given in ascending order."""
    parts = []
    for start, stop in rows.segments(_WIDTH):
        low, high = torch.searchsorted(index, torch.tensor([start, stop])).tolist()
        if low < high:
            parts.append(rows.block(start, stop)[:, (index[low:high] - start).to(rows.device)].double().cpu())
    return torch.cat(parts, dim=1)


def _outlying(columns: Float64[Tensor, "n c"], alive: Bool[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """Return how far each row is from the mean along the top singular direction; infinite for dead rows."""
    live = columns[alive]
    live = live - live[0]
    live = live - live.mean(0)
    vector = torch.linalg.eigh(live @ live.T)[1][:, -1]  # <x_i - mean, v> is the singular value times this
    scores = torch.full((len(alive),), torch.inf, dtype=torch.float64)
    scores[alive] = vector.square()
    return scores


METHOD = DivideAndConquer
