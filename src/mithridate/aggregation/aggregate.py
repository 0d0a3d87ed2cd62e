"""`aggregate`: rows in any form and a rule by name or object in, one vector in the same form out."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from mithridate.aggregation._base import AbstractCombiner, AbstractPreAggregator, State
from mithridate.aggregation.combine import combine
from mithridate.aggregation.names import PRE_AGGREGATORS, RULES
from mithridate.aggregation.pipeline import Pipeline
from mithridate.core.errors import Misuse
from mithridate.core.methods import instantiate
from mithridate.core.registry import Registry
from mithridate.numerics.geometry import alive_rows
from mithridate.numerics.rng import generator
from mithridate.numerics.row_view import Rows, RowView


def aggregate(
    rows: Rows,
    rule: str | AbstractCombiner = "multi-krum",
    *,
    f: int | None = None,
    pre: str | Sequence[str | AbstractPreAggregator] = (),
    out: Tensor | Mapping[str, Tensor] | None = None,
    state: State = None,
    seed: int = 0,
    on_nonfinite: str = "count",
    **options: object,
) -> Tensor | dict[str, Tensor]:
    """Combine n rows into one, of which at most f may be anything.

    Args:
        rows: An (n, d) tensor, a list of n equal tensors, or a list of n dicts of equal tensors. Never written to.
        rule: A rule by name (`mithridate list rules`) or as an object.
        f: How many rows may lie, for a rule or pre-aggregator by name that has it; the default of its class if None.
        pre: Pre-aggregators in the order in which they apply, by name or as objects.
        out: Buffers for the result, in its form.
        state: What a rule with a memory starts from, such as the previous result for centered clipping, in the form of
            a row.
        seed: For rules and pre-aggregators that draw.
        on_nonfinite: Whether rows with NaN or infinity count as liars ("count") or are left out first ("exclude").
        options: Fields of the rule, if it is given by name.

    Returns:
        One vector in the form of a row.

    Raises:
        Misuse: Rows that do not fit together, too few rows for f, more dead rows than f, unknown names or options.
    """
    listed = rows if isinstance(rows, Tensor) else list[Any](rows)
    view = RowView.of(listed)
    chosen = named_rule(rule, f=f, pre=pre, **options)
    if on_nonfinite not in ("count", "exclude"):
        raise Misuse("MTH-0110", f"on_nonfinite must be one of count, exclude, got {on_nonfinite!r}")
    if on_nonfinite == "exclude":
        view = _finite_only(view)
    buffer = out if isinstance(out, Tensor) else None
    if buffer is not None:
        if buffer.shape.numel() != view.d or not buffer.is_contiguous():
            raise Misuse("MTH-0525", f"the buffer has shape {tuple(buffer.shape)}, the result has {view.d} coordinates")
        buffer = buffer.detach().view(-1)
    elif out is not None:
        _check_buffers(view, out)
    start = chosen.init() if state is None else _flat_state(listed, state)
    vector, _ = combine(view, chosen, state=start, gen=generator(seed, "aggregate", device=view.device), out=buffer)
    result = view.like(vector)
    if isinstance(out, Tensor):
        return out if isinstance(result, Tensor) else result
    return result if out is None else _into(result, out)


def named_rule(
    rule: str | AbstractCombiner,
    *,
    f: int | None = None,
    pre: str | Sequence[str | AbstractPreAggregator] = (),
    **options: object,
) -> AbstractCombiner:
    """Return a rule, behind pre-aggregators if there are any, from names or objects.

    Raises:
        Misuse: MTH-0101 for an unknown name, MTH-0123 for an unknown option, MTH-0526 for options beside an object.
    """
    if isinstance(rule, AbstractCombiner):
        given = sorted([*options, *(["f"] if f is not None else [])])
        if given:
            raise Misuse(
                "MTH-0526",
                f"{', '.join(given)} given beside the object {type(rule).__name__}, which has its own",
                hint="set it in the object, or give the rule by name",
            )
        chosen = rule
    elif isinstance(rule, str):
        made = _named(RULES, rule, f, options, strict=True)
        assert isinstance(made, AbstractCombiner)
        chosen = made
    else:
        raise _odd_method("rule", rule)
    stages = []
    for stage in [pre] if isinstance(pre, str) else pre:
        built = _named(PRE_AGGREGATORS, stage, f, {}, strict=False) if isinstance(stage, str) else stage
        if not isinstance(built, AbstractPreAggregator):
            raise _odd_method("pre", stage)
        stages.append(built)
    return Pipeline(pre=tuple(stages), rule=chosen) if stages else chosen


def _odd_method(what: str, given: object) -> Misuse:
    kind = f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
    return Misuse("MTH-0110", f"{what} takes a name or an object, got {kind}", hint="call a class, such as Krum(f=2)")


def _named(
    registry: Registry, name: str, f: int | None, options: Mapping[str, object], *, strict: bool
) -> AbstractCombiner | AbstractPreAggregator:
    """Build a method; f is passed on if the class has it, and refused if not, unless it is meant for the others."""
    method = registry.load(name)
    has_f = is_dataclass(method) and any(field.name == "f" for field in fields(method))
    declared = {"f": f} if f is not None and (has_f or strict) else {}
    made: AbstractCombiner | AbstractPreAggregator = instantiate(method, name, {**declared, **options})
    return made


def _finite_only(rows: RowView) -> RowView:
    alive = alive_rows(rows)
    kept = alive.nonzero().flatten().tolist()
    if not kept:
        raise Misuse("MTH-0524", f"all {rows.n} rows hold NaN or infinity, none is left to combine")
    return rows if len(kept) == rows.n else rows.only(kept)


def _flat_state(rows: Tensor | list[Any], state: State) -> State:
    """Return a state that comes in the form of a row as the rules keep it: flat, in the order of the rows."""
    if isinstance(rows, Tensor):
        return state
    alike = isinstance(state, Tensor) and isinstance(rows[0], Tensor) and state.shape == rows[0].shape
    named = isinstance(state, Mapping) and isinstance(rows[0], Mapping) and state.keys() == rows[0].keys()
    return RowView.of([rows[0], state]).row(1) if alike or named else state


def _check_buffers(rows: RowView, out: object) -> None:
    """Refuse buffers that do not have the result's form, before anything is computed or written."""
    result = rows.like(torch.empty(rows.d, dtype=rows.dtype, device="meta"))
    if not isinstance(out, Mapping):
        raise Misuse("MTH-0525", f"the buffer is a {type(out).__name__}, not a tensor or a dict of tensors")
    if isinstance(result, Tensor) or result.keys() != out.keys():
        names = "one tensor" if isinstance(result, Tensor) else ", ".join(sorted(result)[:5])
        given = ", ".join(sorted(map(str, out))[:5])
        raise Misuse("MTH-0525", f"the buffers have the names {given}, the result has {names}")
    for name, tensor in result.items():
        buffer = out[name]
        if not isinstance(buffer, Tensor) or buffer.shape != tensor.shape or buffer.dtype != rows.dtype:
            found = f"{tuple(buffer.shape)} of {buffer.dtype}" if isinstance(buffer, Tensor) else type(buffer).__name__
            raise Misuse(
                "MTH-0525", f"the buffer of {name!r} is {found}, the result {tuple(tensor.shape)} of {rows.dtype}"
            )
        if rows.shares_memory(buffer):
            raise Misuse("MTH-0525", f"the buffer of {name!r} lies in the memory of the rows, which are not written to")


def _into(result: Tensor | dict[str, Tensor], out: Mapping[str, Tensor]) -> dict[str, Tensor]:
    assert isinstance(result, dict), "buffers by name were held against the result"
    for name, tensor in result.items():
        out[name].detach().copy_(tensor)
    return dict(out)
