"""Passes over all columns with machine code: which columns go to which call of a kernel, on which thread.

The columns are cut into jobs by their number alone, so that the result does not depend on the threads. What kernels
cannot read in place (short tensors, tails shorter than a register, other layouts) is returned to the caller as ranges.

Shapes   n rows, l mixtures, m values of a statistic, c columns of a job.
"""

from ctypes import Array, c_void_p
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from mithridate.numerics import _kernels as kernels
from mithridate.numerics._llvm import addresses, available, in_threads
from mithridate.numerics.ranks import Statistic
from mithridate.numerics.row_view import RowView

_WORTH = 1 << 17
"""Columns after which making the code has paid for itself."""
_MOST = 64
"""Rows up to which code is made: it grows with n log^2 n, for inner products with n^2."""
_LEAST = 1024
_JOB = 1 << 16
_MIXED_JOB = 1 << 13

_seen: dict[object, int] = {}


@dataclass(frozen=True, eq=False)
class Job:
    """One call: columns [begin, end) of tensors at `where`, which are the columns from `start` on of all rows."""

    where: "Array[c_void_p]"
    rows: tuple[Tensor, ...]
    begin: int
    end: int
    start: int


Range = tuple[int, int]


def worthwhile(rows: RowView, m: int, purpose: object) -> bool:
    """Tell whether machine code serves these rows: on the CPU, few, and columns enough to pay for it."""
    if rows.device.type != "cpu" or max(rows.n, m) > _MOST or not available() or not kernels.loads(rows.dtype):
        return False
    key = (purpose, rows.n, m, rows.dtype)
    _seen[key] = min(_WORTH, _seen.get(key, 0) + rows.d)
    return _seen[key] == _WORTH


def _jobs(rows: RowView, width: int, step: int, *, again: bool) -> tuple[list[Job], list[Range]]:
    """Cut the columns into jobs of whole steps, and the rest.

    Args:
        rows: The rows.
        width: Columns of a job.
        step: What a kernel's columns are a multiple of.
        again: Whether a column may be computed twice, so that a tail is the last step of a run, else it is rest.
    """
    jobs: list[Job] = []
    rest: list[Range] = []
    for panel in rows.panels(max(_LEAST, step)):
        if not panel.rows:
            rest.append((panel.start, panel.stop))
            continue
        where, length = addresses(panel.rows), panel.stop - panel.start
        whole = length // step * step
        cuts = [(begin, min(begin + width, whole)) for begin in range(0, whole, width)]
        if whole < length and again:
            cuts.append((length - step, length))
        elif whole < length:
            rest.append((panel.start + whole, panel.stop))
        jobs += [Job(where, panel.rows, begin, end, panel.start + begin) for begin, end in cuts]
    return jobs, rest


def statistic_pass(rows: RowView, statistic: Statistic, out: Float[Tensor, " d"]) -> tuple[list[Range], list[Range]]:
    """Write a statistic of every column; return the ranges left to the caller, and those with values not finite."""
    kernel = kernels.statistic_kernel(rows.n, statistic, rows.dtype)
    jobs, rest = _jobs(rows, _JOB, kernels.lanes(rows.dtype), again=True)
    flags = torch.zeros(len(jobs), kernels.lanes(rows.dtype), dtype=rows.computing)

    def work(index: int) -> None:
        job = jobs[index]
        into = out[job.start : job.start + job.end - job.begin]
        space = into if out.dtype == rows.computing else torch.empty(len(into), dtype=rows.computing)
        kernel(job.where, job.begin, job.end, space.data_ptr() - job.begin * space.itemsize, flags[index].data_ptr())
        if space is not into:
            into.copy_(space)

    in_threads(work, len(jobs))
    marked = (flags != 0).any(1).tolist()
    odd = [(job.start, job.start + job.end - job.begin) for job, flag in zip(jobs, marked, strict=True) if flag]
    return rest, odd


def mixed_statistic_pass(
    rows: RowView, weights: Float[Tensor, "l n"], missing: int, statistic: Statistic, out: Float[Tensor, " d"]
) -> list[Range]:
    """Write a statistic of the mixtures and of `missing` infinite values; return the ranges left to the caller."""
    step = 2 * kernels.lanes(rows.dtype)
    mixture = kernels.mixture_kernel(rows.dtype)
    count = len(weights)
    kernel = kernels.statistic_kernel(count + missing, statistic, rows.computing)
    jobs, rest = _jobs(rows, _MIXED_JOB, step, again=True)
    by_row = weights.t().contiguous()

    def work(index: int) -> None:
        job = jobs[index]
        width = job.end - job.begin
        mixed = torch.empty(count + 1, width, dtype=rows.computing)
        mixed[count] = torch.inf
        flag = torch.empty(kernels.lanes(rows.dtype), dtype=rows.computing)
        into = out[job.start : job.start + width]
        space = into if out.dtype == rows.computing else torch.empty(width, dtype=rows.computing)
        mixture(job.where, rows.n, by_row.data_ptr(), count, job.begin, job.end, mixed.data_ptr(), mixed.stride(0))
        values = addresses([*mixed[:count], *[mixed[count]] * missing])
        kernel(values, 0, width, space.data_ptr(), flag.data_ptr())
        if space is not into:
            into.copy_(space)

    in_threads(work, len(jobs))
    return rest


def mixture_pass(rows: RowView, weights: Float[Tensor, "l n"], out: Float[Tensor, "l d"]) -> list[Range]:
    """Write the mixtures; return the ranges left to the caller."""
    kernel = kernels.mixture_kernel(rows.dtype)
    jobs, rest = _jobs(rows, _JOB if len(weights) < 8 else _MIXED_JOB, 2 * kernels.lanes(rows.dtype), again=True)
    by_row = weights.t().contiguous()
    direct = out.dtype == rows.computing and (out.stride(1) == 1 or out.shape[1] == 1)

    def work(index: int) -> None:
        job = jobs[index]
        into = out[:, job.start : job.start + job.end - job.begin]
        space = into if direct else torch.empty(into.shape, dtype=rows.computing)
        kernel(
            job.where, rows.n, by_row.data_ptr(), len(weights), job.begin, job.end, space.data_ptr(), space.stride(0)
        )
        if space is not into:
            into.copy_(space)

    in_threads(work, len(jobs))
    return rest


def gram_pass(
    rows: RowView, pivot: int, extra: Float[Tensor, "e d"] | None
) -> tuple[Float64[Tensor, "k k"], list[Range]]:
    """Return the inner products of rows minus pivot, extra rows minus pivot, and pivot, and the ranges left out."""
    k = rows.n + 1 + (0 if extra is None else len(extra))
    kernel = kernels.gram_kernel(k, rows.dtype)
    lanes = kernels.lanes(rows.dtype)
    scratch, results = kernels.gram_scratch(k, rows.dtype)
    jobs, rest = _jobs(rows, _JOB, lanes, again=False)
    totals = torch.zeros(len(jobs), results, dtype=torch.float64)

    def work(index: int) -> None:
        job = jobs[index]
        where = job.where
        if extra is not None:
            begins = [row[job.start - job.begin :] for row in extra]
            where = addresses([*job.rows, *begins])
        space = torch.zeros(scratch, dtype=rows.computing)
        kernel(where, job.rows[pivot].data_ptr(), job.begin, job.end, space.data_ptr(), totals[index].data_ptr())

    in_threads(work, len(jobs))
    left, right = torch.tensor(kernels.gram_pairs(k)).unbind(1)
    values = totals.sum(0).view(-1, lanes).sum(1)
    gram = torch.zeros(k, k, dtype=torch.float64)
    gram[left, right] = values
    gram[right, left] = values
    return gram, rest
