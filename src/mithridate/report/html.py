"""The report as one HTML file: no script, no request, at most one megabyte, light and dark, for screen and paper.

Outside text is data: every value passes `plain` (Jinja's `finalize`) and then autoescape; the page carries a content
security policy that forbids everything but inline styles and data images. When a document is too rich for the size
limit, pictures and rows are left out, the page says how many, and report.json keeps them all.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2
import yaml
from markupsafe import Markup, escape

from mithridate.core.errors import BadArtefact
from mithridate.report import _format as fmt
from mithridate.report._chart import interval_svg, line_chart, trace_table
from mithridate.report._reading import reading
from mithridate.report._view import (
    WORDS,
    arms_of_targets,
    by_scenario,
    confidence,
    gate_line,
    paper_rows,
    self_reports,
    text_tables,
)
from mithridate.report.schema import Picture, Report, TargetPicture, TargetResult, validate

MAX_BYTES = 1_000_000
CSP = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_VALUE_LIMIT = 4_000


@dataclass(frozen=True, kw_only=True)
class _Limits:
    """How much of the document the page shows; halved until the page is small enough."""

    picture_chars: int = 560_000
    triples: int = 12
    targets_shown: int = 24
    rows: int = 400
    block_chars: int = 40_000

    def halved(self) -> "_Limits":
        return _Limits(
            picture_chars=self.picture_chars // 2,
            triples=self.triples,
            targets_shown=self.targets_shown,
            rows=max(1, self.rows // 2),
            block_chars=max(200, self.block_chars // 2),
        )


@dataclass(frozen=True, kw_only=True)
class _MatrixCell:
    hits: str
    probability: str
    shade: int


@dataclass(frozen=True, kw_only=True)
class _MatrixRow:
    scenario: str
    target: int
    actual: str
    wanted: str
    cells: tuple[_MatrixCell | None, ...]


@dataclass(frozen=True, kw_only=True)
class _Matrix:
    """Targets down; across, the attacks under each defense."""

    heads: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[_MatrixRow, ...]
    left_out: int
    summary: str


def _matrix_cell(result: TargetResult) -> _MatrixCell:
    rate = result.successes / result.trials if result.trials else 0.0
    shade = 0 if rate == 0 else 1 if rate < 0.5 else 2 if rate < 1 else 3
    return _MatrixCell(
        hits=f"{result.successes}/{result.trials}" if result.trials else "n/a",
        probability=fmt.fixed(result.adversarial_probability),
        shade=shade,
    )


def _matrix(report: Report, limit: int) -> _Matrix:
    arms = arms_of_targets(report)
    by_target: dict[tuple[str, int, str, str], dict[tuple[str, str], TargetResult]] = {}
    for result in report.targets:
        key = (result.scenario, result.target, result.target_class, result.adversarial_class)
        by_target.setdefault(key, {})[result.attack, result.defense] = result
    heads: dict[str, list[str]] = {}
    for attack, defense in arms[: max(1, limit // 8)]:
        heads.setdefault(defense, []).append(attack)
    shown_arms = [(attack, defense) for defense, attacks in heads.items() for attack in attacks]
    rows = [
        _MatrixRow(
            scenario=fmt.name(scenario),
            target=target,
            actual=fmt.name(actual),
            wanted=fmt.name(wanted),
            cells=tuple(_matrix_cell(found[arm]) if arm in found else None for arm in shown_arms),
        )
        for (scenario, target, actual, wanted), found in list(by_target.items())[: max(1, limit // 2)]
    ]
    summary = f"{fmt.counted(len(by_target), 'target')} under {fmt.counted(len(arms), 'attack and defense pair')}"
    columns = tuple((defense, tuple(attacks)) for defense, attacks in heads.items())
    return _Matrix(heads=columns, rows=tuple(rows), left_out=len(by_target) - len(rows), summary=summary)


def _fitting(sizes: Sequence[int], *, most: int, room: int) -> int:
    """How many of the first items fit: at most `most`, and together no larger than `room`."""
    for count, size in enumerate(sizes[:most]):
        room -= size
        if room < 0:
            return count
    return min(len(sizes), most)


def _pictures(report: Report, limits: _Limits) -> tuple[tuple[Picture, ...], tuple[TargetPicture, ...], int]:
    """The pictures that fit (targets get a third of the room), and how many are left out."""
    target_sizes = [len(picture.target) for picture in report.target_pictures]
    targets = _fitting(target_sizes, most=limits.targets_shown, room=limits.picture_chars // 3)
    room = limits.picture_chars - sum(target_sizes[:targets])
    sizes = [len(picture.clean) + len(picture.poison) + len(picture.difference) for picture in report.pictures]
    triples = _fitting(sizes, most=limits.triples, room=room)
    left_out = len(sizes) - triples + len(target_sizes) - targets
    return report.pictures[:triples], report.target_pictures[:targets], left_out


def _flat(value: object, path: str = "") -> list[tuple[str, str]]:
    """Nested mappings as dotted names with values in words."""
    if isinstance(value, Mapping):
        return [pair for key, item in value.items() for pair in _flat(item, f"{path}.{key}" if path else str(key))]
    if isinstance(value, (list, tuple)):
        return [(path, ", ".join(str(item) for item in value))]
    return [(path.replace("_", " "), "unknown" if value is None else str(value))]


def _finalise(value: object) -> object:
    """Last stop of every value before autoescape: no invisible character, no endless text."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return fmt.shorten(fmt.plain(value), _VALUE_LIMIT)
    return value


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mithridate.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalise,
    )
    environment.filters |= {
        "block": lambda text: escape(fmt.plain_lines(text)),
        "duration": fmt.duration,
        "instant": fmt.instant,
        "name": fmt.name,
        "number": fmt.number,
        "p_value": fmt.p_value,
        "percent": fmt.percent,
        "picture": escape,
        "scalar": lambda value: fmt.unbroken(fmt.scalar(value)),
        "sentence": lambda text: fmt.unbroken(fmt.sentence(text)),
    }
    return environment


def _contents(report: Report, *, pictures: bool, chart: bool) -> list[tuple[str, str]]:
    entries = [
        ("setting", "Setting", bool(report.setting)),
        ("paper", "Claim", report.paper is not None),
        ("tables", "Tables", bool(report.tables)),
        ("results", "Results", bool(report.cells or not report.tables)),
        ("pictures", "Pictures", pictures),
        ("alignment", "Alignment", chart),
        ("details", "Targets", bool(report.targets or report.crafting)),
        ("reading", "How to read this", True),
        ("reproduce", "Run it again", True),
    ]
    return [(anchor, title) for anchor, title, present in entries if present]


def _page(report: Report, limits: _Limits) -> str:
    pictures, target_pictures, left_out = _pictures(report, limits)
    chart = line_chart(report.alignment)
    config = yaml.safe_dump(report.config, sort_keys=False, allow_unicode=True, width=100) if report.config else ""
    gate = gate_line(report)
    return (
        _environment()
        .get_template("report.html")
        .render(
            alignment_rows=trace_table(report.alignment),
            cells_left_out=max(0, len(report.cells) - limits.rows),
            chart=chart,
            confidence=confidence(report),
            config=config[: limits.block_chars],
            config_cut=len(config) > limits.block_chars,
            contents=_contents(report, pictures=bool(pictures or target_pictures), chart=chart is not None),
            csp=CSP,
            environment=_flat(report.environment)[: limits.rows],
            gate=gate,
            groups=by_scenario(report.cells[: limits.rows]),
            interval_svg=functools.partial(interval_svg, gate=gate),
            limits=limits,
            matrix=_matrix(report, limits.rows),
            paper_rows=paper_rows(report),
            pictures=pictures,
            pictures_left_out=left_out,
            reading=reading(report),
            report=report,
            tables=text_tables(report, limits.rows),
            self_reports=self_reports(report.cells[: limits.rows]),
            target_pictures=target_pictures,
            word=WORDS[report.verdict.status],
        )
    )


def render_html(document: object) -> str:
    """Render a report document as one self-contained HTML page of at most `MAX_BYTES` bytes in UTF-8.

    Args:
        document: The content of report.json, or the validated report.

    Raises:
        BadArtefact: MTH-0801 or MTH-0802, not a valid report; MTH-0803, too large even without its pictures.
    """
    report = validate(document)
    limits = _Limits()
    size = 0
    while limits.rows > 1:
        page = _page(report, limits)
        size = len(page.encode())
        if size <= MAX_BYTES:
            return page
        limits = limits.halved()
    raise BadArtefact(
        "MTH-0803",
        f"the page of this report has {size} bytes even without its pictures; at most {MAX_BYTES} are written",
        hint="shorten the longest texts of report.json (reasons, departures, setting)",
    )
