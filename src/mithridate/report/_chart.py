"""The two drawings of the page: an interval per row of the main table, and the line chart of the alignment.

Both stretch to any width without scaling their strokes or labels: the interval is laid out in per cent, the chart is a
1000 x 300 canvas with non-scaling strokes and its labels are HTML around it. Colours come from the style sheet.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mithridate.core.verdicts import Gate
from mithridate.report._format import fixed, name, number
from mithridate.report._view import CONTROLS, Row
from mithridate.report.schema import Alignment

WIDTH, HEIGHT = 1000, 300
MAX_SERIES = 6
MAX_POINTS = 200


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A labelled position on an axis, in per cent from its start."""

    at: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line with its band, as SVG point lists; `style` picks colour and dash pattern, controls are thin."""

    style: int
    control: bool
    attack: str
    defense: str
    line: str
    band: str
    last: str


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """Everything that the template draws. `zero` is the height of y = 0 on the canvas."""

    series: tuple[Series, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    zero: str
    left_out: int


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that cover [low, high] with about `count` steps."""
    span = high - low
    if not span > 0:
        span = abs(low) or 1.0
        low, high = low - span / 2, high + span / 2
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _thin(length: int) -> list[int]:
    if length <= MAX_POINTS:
        return list(range(length))
    return [i * (length - 1) // (MAX_POINTS - 1) for i in range(MAX_POINTS)]


def _coordinate(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _share(value: float, ends: tuple[float, float]) -> float:
    return (value - ends[0]) / (ends[1] - ends[0])


def _points(xs: Sequence[float], ys: Sequence[float]) -> str:
    return " ".join(f"{_coordinate(WIDTH * x)},{_coordinate(HEIGHT * (1 - y))}" for x, y in zip(xs, ys, strict=True))


def line_chart(alignment: Sequence[Alignment]) -> LineChart | None:
    """Lay out the alignment traces; None when there is nothing to draw."""
    traces = [trace for trace in alignment if trace.epochs]
    shown = traces[:MAX_SERIES]
    if not shown:
        return None
    every_x = [x for trace in shown for x in trace.epochs]
    every_y = [y for trace in shown for y in (*trace.low, *trace.mean, *trace.high)]
    y_values = nice_ticks(min(0.0, *every_y), max(0.0, *every_y), 4)
    left, right = min(every_x), max(every_x)
    x_ends = (left, right) if right > left else (left - 0.5, right + 0.5)
    y_ends = (y_values[0], y_values[-1])
    x_values = [x for x in nice_ticks(*x_ends, 6) if x_ends[0] <= x <= x_ends[1]]
    series = []
    for style, trace in enumerate(shown):
        keep = _thin(len(trace.epochs))
        xs = [_share(trace.epochs[i], x_ends) for i in keep]
        mean, low, high = ([_share(ys[i], y_ends) for i in keep] for ys in (trace.mean, trace.low, trace.high))
        series.append(
            Series(
                style=style,
                control=trace.attack in CONTROLS,
                attack=name(trace.attack),
                defense=name(trace.defense),
                line=_points(xs, mean),
                band=_points([*xs, *reversed(xs)], [*high, *reversed(low)]),
                last=fixed(trace.mean[-1]),
            )
        )
    return LineChart(
        series=tuple(series),
        x_ticks=tuple(Tick(at=_coordinate(100 * _share(x, x_ends)), label=number(x)) for x in x_values),
        y_ticks=tuple(
            Tick(at=_coordinate(100 * _share(y, y_ends)), label=number(y).replace("-", "\u2212")) for y in y_values
        ),
        zero=_coordinate(HEIGHT * (1 - _share(0.0, y_ends))),
        left_out=len(traces) - len(shown),
    )


def trace_table(alignment: Sequence[Alignment]) -> list[tuple[str, list[str]]]:
    """The shown traces as text: an epoch and, per trace, its mean with the band; `n/a` where a trace has no value."""
    shown = [trace for trace in alignment if trace.epochs][:MAX_SERIES]
    columns = [
        {
            trace.epochs[i]: f"{fixed(trace.mean[i])} ({fixed(trace.low[i])} to {fixed(trace.high[i])})"
            for i in _thin(len(trace.epochs))
        }
        for trace in shown
    ]
    epochs = sorted({epoch for column in columns for epoch in column})
    return [(number(epoch), [column.get(epoch, "n/a") for column in columns]) for epoch in epochs]


def interval_svg(row: Row, *, gate: Gate | None) -> Markup:
    """The success rate of one row and its interval on an axis from 0 to 1; hollow for controls."""
    cell = row.cell
    parts = [Markup('<line class="g" x1="{0}%" x2="{0}%" y2="100%"/>').format(at) for at in (25, 50, 75)]
    if gate is not None:
        at = _coordinate(100 * gate.threshold)
        parts.append(Markup('<line class="gate" x1="{0}%" x2="{0}%" y1="0" y2="100%"/>').format(at))
    if cell.interval is not None:
        low, high = (_coordinate(100 * end) for end in cell.interval)
        parts.append(Markup('<line x1="{0}%" x2="{1}%" y1="50%" y2="50%"/>').format(low, high))
        parts += [Markup('<line x1="{0}%" x2="{0}%" y1="38%" y2="62%"/>').format(end) for end in (low, high)]
    if cell.attack_success_rate is not None:
        centre = _coordinate(100 * cell.attack_success_rate)
        parts.append(Markup('<circle cx="{0}%" cy="50%" r="5"/>').format(centre))
    kind = Markup("ci control") if row.control else Markup("ci")
    label = f"{row.rate}, interval {row.interval}"
    return Markup('<svg class="{0}" role="img" aria-label="{1}">{2}</svg>').format(kind, label, Markup().join(parts))
