"""What every renderer shows, decided once: words of the verdict, rows of the main table, the line of the gate."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mithridate.core.errors import Misuse
from mithridate.core.intervals import Rate
from mithridate.core.verdicts import Gate, Status
from mithridate.report._format import (
    counted,
    duration,
    name,
    number,
    percent,
    percent_range,
    scalar,
    sentence,
    unbroken,
)
from mithridate.report.schema import Cell, Report

CONTROLS = {
    "none": "the same victims trained on the unmodified data",
    "noise": "random noise of the same size on the same images",
}


@dataclass(frozen=True, kw_only=True)
class Word:
    """A status in words and as one character, for media without pictures."""

    word: str
    mark: str


WORDS = {
    "pass": Word(word="Pass", mark="✓"),
    "fail": Word(word="Fail", mark="✗"),
    "inconclusive": Word(word="Inconclusive", mark="?"),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the main table, as text; `cell` keeps the numbers for charts."""

    cell: Cell
    scenario: str
    attack: str
    defense: str
    control: bool
    hits: str
    sample: str
    rate: str
    interval: str
    accuracy: str
    accuracy_interval: str
    seconds: str


def row_of(cell: Cell) -> Row:
    """Format one cell."""
    return Row(
        cell=cell,
        scenario=name(cell.scenario),
        attack=name(cell.attack),
        defense=name(cell.defense),
        control=cell.attack in CONTROLS,
        hits=f"{cell.successes}/{cell.trials}",
        sample=f"{counted(cell.targets, 'target')}, {counted(cell.victims, 'victim')}",
        rate=percent(cell.attack_success_rate),
        interval=percent_range(cell.interval),
        accuracy=percent(cell.clean_accuracy),
        accuracy_interval=percent_range(cell.clean_accuracy_interval),
        seconds=duration(cell.seconds),
    )


def by_scenario(cells: Sequence[Cell]) -> list[tuple[str, list[Row]]]:
    """Rows grouped by scenario, both in the order of the document."""
    groups: dict[str, list[Row]] = {}
    for cell in cells:
        groups.setdefault(cell.scenario, []).append(row_of(cell))
    return [(name(scenario), rows) for scenario, rows in groups.items()]


@dataclass(frozen=True, kw_only=True)
class SelfReport:
    """What a defense says of its own work in one cell, as text."""

    attack: str
    defense: str
    figures: tuple[tuple[str, str, str], ...]
    warnings: tuple[str, ...]


def self_reports(cells: Sequence[Cell]) -> list[SelfReport]:
    """The cells whose defense has something to say, with every figure as (name, mean, range)."""
    return [
        SelfReport(
            attack=name(cell.attack),
            defense=name(cell.defense),
            figures=tuple(
                (name(f.name.replace("_", " ")), number(f.mean), f"{number(f.low)}–{number(f.high)}")
                for f in cell.diagnostics
            ),
            warnings=tuple(map(sentence, cell.warnings)),
        )
        for cell in cells
        if cell.diagnostics or cell.warnings
    ]


_FIGURE = re.compile(r"[-+]?[0-9][0-9,.]*( ?(%|ms|s|MB))?|-")


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """A table of the report as text; `numeric` says of each column whether it is set flush right."""

    title: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int
    note: str


def text_tables(report: Report, limit: int) -> list[TextTable]:
    """The tables of the report with at most `limit` rows each."""
    return [
        TextTable(
            title=sentence(table.title),
            columns=tuple(map(name, table.columns)),
            numeric=tuple(
                bool(table.rows) and all(_is_figure(row[k]) for row in table.rows) for k in range(len(table.columns))
            ),
            rows=tuple(tuple(unbroken(scalar(entry)) for entry in row) for row in table.rows[:limit]),
            left_out=max(0, len(table.rows) - limit),
            note=sentence(table.note),
        )
        for table in report.tables
    ]


def _is_figure(entry: object) -> bool:
    """Whether an entry is a number, or the text of one with its unit: `96.1 %`, `0.98`, `-`."""
    return not isinstance(entry, str) or bool(_FIGURE.fullmatch(entry))


def gate_line(report: Report) -> Gate | None:
    """The gate when it is one on the attack success rate; others have no line to draw in the chart."""
    try:
        gate = Gate.parse(report.verdict.gate or "")
    except Misuse:
        return None
    return gate if gate.metric == "asr" else None


def judged(report: Report) -> frozenset[int]:
    """Indices of the cells that a gate is about: attacked ones, and only the defended of these when there are any."""
    attacked = frozenset(i for i, cell in enumerate(report.cells) if cell.attack not in CONTROLS)
    defended = frozenset(i for i in attacked if report.cells[i].defense != "none")
    return defended or attacked


def against_gate(cell: Cell, gate: Gate) -> Status:
    """Judge the interval of one cell, not its point; nothing counted is inconclusive."""
    if cell.attack_success_rate is None or cell.interval is None:
        return Status.INCONCLUSIVE
    low, high = cell.interval
    return gate.judge(Rate(cell.successes, cell.trials, low, high, effective=float(cell.trials)))


def arms_of_targets(report: Report) -> tuple[tuple[str, str], ...]:
    """The distinct (attack, defense) pairs of the per-target results, in order of appearance."""
    return tuple(dict.fromkeys((result.attack, result.defense) for result in report.targets))


def paper_rows(report: Report) -> list[tuple[str, str, str, str]]:
    """Published and measured values joined by label: (label, published, its provenance, measured)."""
    if report.paper is None:
        return []
    measured = {label: scalar(value) for label, value in report.paper.measured}
    published = {label: (scalar(value), sentence(provenance)) for label, value, provenance in report.paper.published}
    labels = dict.fromkeys([*published, *measured])
    return [(sentence(k), *published.get(k, ("—", "")), measured.get(k, "—")) for k in labels]


def confidence(report: Report) -> str:
    """The confidence of the intervals as per cent: `95 %`."""
    return f"{100 * report.confidence:g}\N{NO-BREAK SPACE}%"
