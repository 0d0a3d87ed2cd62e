"""The engine: runs any combiner on rows, with one pass for what it must see and one for the result.

    mean    W X
    norm    norms, then W X
    gram    Gram pass, pre-aggregators as matrices, weights; then W X
    mixed   Gram pass, mixtures; then the statistic of the mixed columns
    order   the statistic of every column
    row     the rule itself

Shapes   n rows, d coordinates.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from mithridate.aggregation._base import (
    AbstractCombiner,
    AbstractGramCombiner,
    AbstractMixedCombiner,
    AbstractNormCombiner,
    AbstractOrderCombiner,
    AbstractPreAggregator,
    AbstractRowCombiner,
    State,
)
from mithridate.aggregation.pipeline import Pipeline
from mithridate.core.errors import Misuse
from mithridate.numerics.geometry import Geometry, alive_rows, geometry, refuse_dead, weighted
from mithridate.numerics.order import order_pass, order_statistic
from mithridate.numerics.row_view import RowView


def combine(
    rows: RowView,
    rule: AbstractCombiner,
    *,
    state: State,
    gen: torch.Generator,
    prior: Float[Tensor, " n"] | None = None,
    out: Float[Tensor, " d"] | None = None,
) -> tuple[Float[Tensor, " d"], State]:
    """Return the combined vector, in the rows' type, and the rule's next state.

    Args:
        rows: The rows; they are not written to, and the result shares no memory with them.
        rule: Any combiner.
        state: The state of the previous step; `rule.init()` before the first.
        gen: The randomness of this step.
        prior: The weight of each row in the plain mean, equal if None; robust rules give every row one vote.
        out: Where to put the result.

    Raises:
        Misuse: The rule is not defined for so many rows; MTH-0524 for more dead rows than it bears; MTH-0525 for a
            buffer that does not fit.
    """
    rule.check(rows.n)
    if out is not None:
        _check_out(rows, out)
    pre = rule.pre if isinstance(rule, Pipeline) else ()
    inner = rule.rule if isinstance(rule, Pipeline) else rule
    allowed = rule.tolerated(rows.n)
    if isinstance(inner, AbstractGramCombiner):
        return _by_points(rows, pre, inner, state, gen, allowed, out)
    points = None
    if pre or isinstance(inner, AbstractMixedCombiner):
        points = _points(rows, pre, gen, allowed, type(inner).__name__)
    if isinstance(inner, AbstractMixedCombiner | AbstractOrderCombiner):
        return _by_columns(rows, points, inner, allowed, out), state
    if isinstance(inner, AbstractRowCombiner):
        rows = rows if points is None else _stored(rows, points)  # the one kind that must have the mixtures themselves
        alive = alive_rows(rows)
        refuse_dead(~alive, allowed, type(inner).__name__)
        vector, state = inner.combine(rows, alive, gen, state)
        return (vector if out is None else out.copy_(vector)), state
    return _by_prior(rows, inner, state, gen, _Shares(prior, points), out)


def _points(
    rows: RowView, pre: tuple[AbstractPreAggregator, ...], gen: torch.Generator, allowed: int, name: str
) -> Geometry:
    """Return the points that come out of the pre-aggregators."""
    points = geometry(rows)
    refuse_dead(~points.alive, allowed, name)
    for stage in pre:
        points = points.mixed(stage.mix(points, gen))
    return points


def _by_columns(
    rows: RowView,
    points: Geometry | None,
    rule: AbstractMixedCombiner | AbstractOrderCombiner,
    allowed: int,
    out: Float[Tensor, " d"] | None,
) -> Float[Tensor, " d"]:
    if points is None:
        vector, alive = order_pass(rows, rule.statistic(rows.n), out=out)
        refuse_dead(~alive, allowed, type(rule).__name__)
        return vector
    mixing = points.coords[:, : rows.n]
    if isinstance(rule, AbstractMixedCombiner):
        mixing = rule.mixing(points) @ mixing
    return order_statistic(rows, rule.statistic(points.m), mixing=mixing, out=out)


def _by_points(
    rows: RowView,
    pre: tuple[AbstractPreAggregator, ...],
    rule: AbstractGramCombiner,
    state: State,
    gen: torch.Generator,
    allowed: int,
    out: Float[Tensor, " d"] | None,
) -> tuple[Float[Tensor, " d"], State]:
    reference = rule.reference(state)
    if reference is not None:
        _check_reference(rows, reference)
    extra = None if reference is None else reference.to(rows.device)[None]
    points = geometry(rows, extra=extra)
    refuse_dead(~points.alive[: rows.n], allowed, type(rule).__name__)
    if pre:
        mixed = points.head(rows.n)
        for stage in pre:
            mixed = mixed.mixed(stage.mix(mixed, gen))
        points = mixed if extra is None else mixed.joined(Geometry(points.basis, points.coords[-1:], points.alive[-1:]))
    weights, state = rule.weights(points, state)
    of_rows = (weights @ points.coords)[None]
    vector = weighted(rows, of_rows[:, : rows.n], None if out is None else out[None])[0]
    if extra is not None:
        vector.add_(extra[0].to(vector.dtype), alpha=float(of_rows[0, rows.n]))
    return vector, rule.learn(vector, state)


@dataclass(frozen=True)
class _Shares:
    """The weights of the plain mean, equal if None, of the rows or of the mixtures that replace them."""

    prior: Float[Tensor, " m"] | None
    points: Geometry | None


def _by_prior(
    rows: RowView,
    rule: AbstractCombiner,
    state: State,
    gen: torch.Generator,
    shares: _Shares,
    out: Float[Tensor, " d"] | None,
) -> tuple[Float[Tensor, " d"], State]:
    points = shares.points
    m = rows.n if points is None else points.m
    w = torch.full((m,), 1 / m, dtype=torch.float64) if shares.prior is None else shares.prior.detach().cpu()
    if isinstance(rule, AbstractNormCombiner):
        norms = row_norms(rows) if points is None else points.square_norms.sqrt()
        refuse_dead(~norms.isfinite(), 0, type(rule).__name__)
        w, state = rule.weights(norms, w, state)
    of_rows = w.double() if points is None else w.double() @ points.coords[:, : rows.n]
    vector = weighted(rows, of_rows[None], None if out is None else out[None])[0]
    if not isinstance(rule, AbstractNormCombiner):
        if not bool(vector.isfinite().all()):
            refuse_dead(~alive_rows(rows), 0, type(rule).__name__)
        return vector, state
    finished = rule.finish(vector, m, gen)
    return (finished if out is None else out.copy_(finished)), state


def _stored(rows: RowView, points: Geometry) -> RowView:
    mixed = weighted(rows, points.coords[:, : rows.n])
    mixed[(~points.alive).to(mixed.device)] = torch.nan
    return RowView.of(mixed)


def row_norms(rows: RowView) -> Float64[Tensor, " n"]:
    """Return the Euclidean norm of every row; those of dead rows are not finite."""
    total = torch.zeros(rows.n, dtype=torch.float64, device=rows.device)
    for start, stop in rows.segments(1 << 14):
        total += torch.linalg.vector_norm(rows.block(start, stop), dim=1, dtype=torch.float64).square()
    return total.sqrt().cpu()


def _check_reference(rows: RowView, reference: Tensor) -> None:
    """Refuse a previous result that is no row: not one of the rule's own, but given by a caller."""
    if reference.shape != (rows.d,):
        raise Misuse(
            "MTH-0525", f"the state has shape {tuple(reference.shape)}, the rows have {rows.d} coordinates each"
        )
    if not bool(reference.isfinite().all()):
        raise Misuse("MTH-0525", "the state, a previous result, holds NaN or infinity", hint="begin again without it")


def _check_out(rows: RowView, out: Tensor) -> None:
    if out.shape != (rows.d,) or out.dtype != rows.dtype or out.device != rows.device:
        raise Misuse(
            "MTH-0525",
            f"the buffer has shape {tuple(out.shape)}, type {out.dtype} on {out.device}; the result has "
            f"({rows.d},), {rows.dtype} on {rows.device}",
        )
    if rows.shares_memory(out):
        raise Misuse(
            "MTH-0525", f"the buffer of length {len(out)} lies in the memory of the rows, which are not written to"
        )
