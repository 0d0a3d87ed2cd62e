"""The report as text: for a terminal, for a step summary (Markdown), for CI (JUnit) and for spreadsheets (CSV).

All four render the same document as the HTML page and share its words and numbers. Outside text is data: rich `Text`
without markup, Markdown with every active character escaped, XML through a serialiser, CSV with a formula guard.
"""

import csv
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

import yaml
from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mithridate.core.verdicts import Gate, Status
from mithridate.report import _format as fmt
from mithridate.report._view import (
    WORDS,
    Row,
    TextTable,
    against_gate,
    by_scenario,
    confidence,
    gate_line,
    judged,
    paper_rows,
    row_of,
    self_reports,
    text_tables,
)
from mithridate.report.schema import Cell, Report, validate

STEP_SUMMARY_BYTES = 1_000_000
_STYLES = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}
_CHART_COLUMNS = 25
_MOST_ROWS = 60
_WIDE, _MEDIUM, _NARROW = 112, 92, 66
_CSV_COLUMNS = (
    *("scenario", "attack", "defense", "targets", "victims", "trials", "successes", "attack_success_rate"),
    *("interval_low", "interval_high", "interval_method"),
    *("clean_accuracy", "clean_accuracy_low", "clean_accuracy_high", "seconds"),
)
_MARKDOWN_ACTIVE = re.compile(r"([\\`*_{}\[\]|~$#]|:(?=//)|(?<=www)\.|^[-+=]|(?<=^\d)[.)](?= ))")
_FORMULA_STARTS = tuple("=+-@|＝＋－＠")


def _interval_bar(cell: Cell, gate: Gate | None, *, control: bool) -> Text:
    """An interval drawn in characters on an axis from 0 to 1."""
    marks = [" "] * _CHART_COLUMNS
    if gate is not None:
        marks[round(gate.threshold * (_CHART_COLUMNS - 1))] = "┊"
    if cell.interval is not None:
        low, high = (round(end * (_CHART_COLUMNS - 1)) for end in cell.interval)
        marks[low : high + 1] = "─" * (high - low + 1)
        marks[low], marks[high] = "├", "┤"
    if cell.attack_success_rate is not None:
        marks[round(cell.attack_success_rate * (_CHART_COLUMNS - 1))] = "○" if control else "●"
    return Text("".join(marks), style="" if control else "bold", no_wrap=True)


def _axis() -> Text:
    return Text("0" + "50".center(_CHART_COLUMNS - 2) + "100 %", no_wrap=True)


def _terminal_row(row: Row, gate: Gate | None, width: int) -> list[RenderableType]:
    dim = "dim" if row.control else ""
    attack = Text(_attack(row), style=dim, overflow="fold")
    if width < _NARROW:
        attack.append(f"\n{row.defense}", style="dim")
        return [attack, Text(row.hits), Text(f"{row.rate}\n{row.interval}"), Text(row.accuracy)]
    cells: list[RenderableType] = [attack, Text(row.defense, style=dim, overflow="fold"), Text(row.hits, style=dim)]
    cells += [Text(row.rate, style=dim or "bold", no_wrap=True), Text(row.interval, style=dim, no_wrap=True)]
    if width >= _WIDE:
        cells.append(_interval_bar(row.cell, gate, control=row.control))
    cells.append(Text(row.accuracy, style=dim, no_wrap=True))
    if width >= _MEDIUM:
        cells.append(Text(row.accuracy_interval, style=dim, no_wrap=True))
    return cells


def _terminal_table(report: Report, width: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    level = f"{confidence(report)} interval"
    if width < _NARROW:
        titles = ["Attack, defense", "Hits", "Success", "Clean"]
    else:
        titles = ["Attack", "Defense", "Hits", "Success", level]
        titles += [""] if width >= _WIDE else []
        titles += ["Clean accuracy"] if width >= _MEDIUM else ["Clean"]
        titles += [level] if width >= _MEDIUM else []
    for title in titles:
        table.add_column(_axis() if title == "" else title, justify="left")
    gate = gate_line(report)
    groups = by_scenario(report.cells)
    for scenario, rows in groups:
        if len(groups) > 1:
            table.add_row(Text(scenario, style="underline", overflow="fold"))
        for row in rows:
            table.add_row(*_terminal_row(row, gate, width))
    return table


def _terminal_text_table(found: TextTable) -> list[RenderableType]:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column, numeric in zip(found.columns, found.numeric, strict=True):
        table.add_column(Text(column, overflow="fold"), justify="right" if numeric else "left", overflow="fold")
    for row in found.rows:
        table.add_row(*(Text(entry, overflow="fold") for entry in row))
    notes = [f"{found.left_out} more rows are in report.json"] if found.left_out else []
    notes += [found.note] if found.note else []
    return [Text(found.title, style="bold", overflow="fold"), table, *(Text(note, style="dim") for note in notes)]


def _md_text_table(found: TextTable) -> list[str]:
    lines = [f"**{_md(found.title)}**", "", *_md_table([_md(c) for c in found.columns], [list(r) for r in found.rows])]
    lines += [f"{found.left_out} more rows are in report.json.", ""] if found.left_out else []
    return [*lines, *([_md(found.note), ""] if found.note else [])]


def render_terminal(document: object, width: int = 80) -> RenderableType:
    """Render for a terminal of `width` columns: the verdict first, then the table, then how to run it again.

    Raises:
        BadArtefact: MTH-0801 or MTH-0802, not a valid report.
    """
    report = validate(document)
    verdict, word = report.verdict, WORDS[report.verdict.status]
    head = Text(f"{word.mark} {word.word.upper()}  ", style=_STYLES[verdict.status], overflow="fold")
    head.append(fmt.unbroken(fmt.sentence(verdict.sentence)), style="bold not dim default")
    parts: list[RenderableType] = [head]
    reasons = [Text(f"· {fmt.unbroken(fmt.sentence(reason))}", overflow="fold") for reason in verdict.reasons]
    if verdict.gate:
        reasons.append(Text(f"gate {fmt.name(verdict.gate)}, held against the bound of the interval", style="dim"))
    if reasons:
        parts.append(Padding(Group(*reasons), (0, 0, 0, 2), expand=False))
    if report.cells or not report.tables:
        parts += [Text(), _terminal_table(report, width), Text()]
    for table in text_tables(report, _MOST_ROWS):
        parts += [Text(), *_terminal_text_table(table)]
    for comparison in report.comparisons:
        parts.append(
            Text(
                f"{fmt.sentence(comparison.what)}: {fmt.p_value(comparison.p_value)} ({fmt.name(comparison.test)})",
                overflow="fold",
            )
        )
    for found in self_reports(report.cells):
        arm = f"{found.defense} against {found.attack}"
        parts += [Text(f"warning: {arm}: {fmt.unbroken(warning)}", overflow="fold") for warning in found.warnings]
        if found.figures:
            figures = ", ".join(f"{figure} {mean}" for figure, mean, _ in found.figures)
            parts.append(Text(f"{arm}: {figures}", style="dim", overflow="fold"))
    for label, published, _, measured in paper_rows(report):
        parts.append(Text(f"{label}: published {published}, measured {measured}", overflow="fold"))
    if report.reproduce:
        parts.append(Text(f"again: {fmt.sentence(report.reproduce)}", style="dim", overflow="fold"))
    return Constrain(Group(*parts), width)


def _md(text: str) -> str:
    """Text with nothing for Markdown to act on: no emphasis, link, autolink, mention, reference or HTML."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN_ACTIVE.sub(r"\\\1", escaped).replace("@", "@<!-- -->")


def _attack(row: Row) -> str:
    return f"{row.attack} (control)" if row.control else row.attack


def _numbers(row: Row) -> list[str]:
    return [row.hits, row.rate, row.interval, row.accuracy, row.accuracy_interval]


def _md_table(titles: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    return [*lines, *("| " + " | ".join(_md(item) for item in row) + " |" for row in rows), ""]


def _md_block(text: str) -> list[str]:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, fmt.plain_lines(text).rstrip("\n"), fence, ""]


def _md_diagnostics(cells: Sequence[Cell]) -> list[str]:
    found = self_reports(cells)
    lines = [
        f"- warning of {_md(one.defense)} against {_md(one.attack)}: {_md(warning)}"
        for one in found
        for warning in one.warnings
    ]
    rows = [[one.defense, one.attack, *figure] for one in found for figure in one.figures]
    table = _md_table(["Defense", "Attack", "Figure", "Mean", "Extremes"], rows) if rows else []
    return [*lines, *([""] if lines else []), *table]


def _markdown(report: Report, rows: int) -> str:
    verdict, word, level = report.verdict, WORDS[report.verdict.status], confidence(report)
    lines = [
        f"# {word.mark} {word.word}: {_md(fmt.name(report.title))}",
        "",
        f"**{_md(fmt.sentence(verdict.sentence))}**",
        "",
    ]
    lines += [f"- {_md(fmt.sentence(reason))}" for reason in verdict.reasons]
    gate = f"Gate {_md(fmt.name(verdict.gate))}, held against the bound of the interval. " if verdict.gate else ""
    lines += ["", f"{gate}Exit code {verdict.exit_code}.", ""]
    groups = by_scenario(report.cells[:rows])
    titles = [
        "Attack",
        "Defense",
        "Successes",
        "Success rate",
        f"{level} interval",
        "Clean accuracy",
        f"{level} interval",
    ]
    for scenario, members in groups:
        lines += [f"**{_md(scenario)}**", ""]
        lines += _md_table(
            titles,
            [[_attack(row), row.defense, *_numbers(row)] for row in members],
        )
    if len(report.cells) > rows:
        lines += [f"{len(report.cells) - rows} more cells are in report.json.", ""]
    for table in text_tables(report, rows):
        lines += _md_text_table(table)
    if report.comparisons:
        compared = [[fmt.sentence(c.what), fmt.p_value(c.p_value), fmt.name(c.test)] for c in report.comparisons[:rows]]
        lines += _md_table(["Comparison", "p-value", "Test"], compared)
    lines += _md_diagnostics(report.cells[:rows])
    if report.paper is not None:
        lines += [
            f"> {_md(fmt.sentence(report.paper.claim))}",
            ">",
            f"> {_md(fmt.sentence(report.paper.citation))}",
            "",
        ]
        published = [[label, value, measured, source] for label, value, source, measured in paper_rows(report)]
        lines += _md_table(["Quantity", "Published", "Measured", "Source of the published value"], published)
        lines += [f"- departs: {_md(fmt.sentence(departure))}" for departure in report.paper.departures] + [""]
    lines += ["<details><summary>Setting and configuration</summary>", ""]
    if report.setting:
        lines += _md_table(["Setting", "Value"], [[fmt.name(k), fmt.scalar(v)] for k, v in report.setting[:rows]])
    if report.config:
        text = yaml.safe_dump(report.config, sort_keys=False, allow_unicode=True, width=100)
        lines += _md_block(text[: 100 * rows])
    lines += _md_block(fmt.sentence(report.reproduce)) if report.reproduce else []
    return "\n".join([*lines, "</details>", ""])


def render_markdown(document: object) -> str:
    """Render as GitHub-flavoured Markdown that fits a job's step summary (one megabyte).

    Raises:
        BadArtefact: MTH-0801 or MTH-0802, not a valid report.
    """
    report = validate(document)
    text = _markdown(report, 1000)
    for rows in (300, 100, 30, 10):
        if len(text.encode()) <= STEP_SUMMARY_BYTES:
            break
        text = _markdown(report, rows)
    return text


def _judge(case: ET.Element, report: Report, cell: Cell) -> None:
    """Say whether a judged cell meets the gate, never contradicting the verdict of the whole report."""
    gate = gate_line(report)
    if gate is None or report.verdict.status == "pass":
        return
    outcome = against_gate(cell, gate) if report.verdict.status == "fail" else Status.INCONCLUSIVE
    row = row_of(cell)
    message = f"success rate {row.rate} ({row.interval}), gate {fmt.name(report.verdict.gate or '')}"
    if outcome is Status.FAIL:
        ET.SubElement(case, "failure", {"type": "gate", "message": message})
    elif outcome is Status.INCONCLUSIVE:
        ET.SubElement(case, "skipped", {"message": f"inconclusive: {message}"})


def render_junit(document: object) -> str:
    """Render as JUnit XML: one case for the verdict and one per cell.

    A judged cell fails when its whole interval is on the wrong side of the gate, and is skipped when the interval lies
    across it or the verdict is inconclusive. Controls, and undefended cells of an audit of defenses, are references
    and never fail. An inconclusive verdict is an error, since it must not look green.

    Raises:
        BadArtefact: MTH-0801 or MTH-0802, not a valid report.
    """
    report = validate(document)
    verdict, word = report.verdict, WORDS[report.verdict.status]
    cells = ET.Element("testsuite", {"name": "cells"})
    about = judged(report)
    for index, cell in enumerate(report.cells):
        row = row_of(cell)
        title = f"{row.attack} against {row.defense}, {row.scenario}"
        timing = {"time": f"{cell.seconds:.3f}"}
        case = ET.SubElement(cells, "testcase", {"classname": f"mithridate.{report.kind}", "name": title, **timing})
        if index in about:
            _judge(case, report, cell)
        output = ET.SubElement(case, "system-out")
        output.text = f"success {row.hits}, {row.rate} ({row.interval}); clean accuracy {row.accuracy}"
    whole = ET.Element("testsuite", {"name": "verdict"})
    case = ET.SubElement(whole, "testcase", {"classname": f"mithridate.{report.kind}", "name": fmt.name(report.title)})
    if verdict.status != "pass":
        tag = "failure" if verdict.status == "fail" else "error"
        ET.SubElement(case, tag, {"type": verdict.status, "message": fmt.sentence(verdict.sentence)})
    ET.SubElement(case, "system-out").text = f"{word.word}: {fmt.sentence(verdict.sentence)}"
    root = ET.Element("testsuites", {"name": "mithridate"})
    for suite in (whole, cells):
        for attribute, path in (("tests", "testcase"), ("failures", ".//failure"), ("errors", ".//error")):
            suite.set(attribute, str(len(suite.findall(path))))
        suite.set("skipped", str(len(suite.findall(".//skipped"))))
        root.append(suite)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _csv_text(text: str) -> str:
    shown = fmt.name(text)
    return f"'{shown}" if shown.lstrip().startswith(_FORMULA_STARTS) else shown


def _csv_number(value: float | None) -> str:
    return "n/a" if value is None else repr(value)


def render_csv(document: object) -> str:
    """Render the cells as CSV with a header; rates are shares in [0, 1] at full precision, `n/a` for 0 of 0.

    A report without cells is rendered as its tables, one after the other, each with its header.
    Text that a spreadsheet would take for a formula is preceded by an apostrophe.

    Raises:
        BadArtefact: MTH-0801 or MTH-0802, not a valid report.
    """
    report = validate(document)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if report.tables and not report.cells:
        for table in report.tables:
            writer.writerow(map(_csv_text, table.columns))
            writer.writerows([_csv_text(e) if isinstance(e, str) else repr(e) for e in row] for row in table.rows)
        return out.getvalue()
    writer.writerow(_CSV_COLUMNS)
    for cell in report.cells:
        names = [_csv_text(text) for text in (cell.scenario, cell.attack, cell.defense)]
        counts = [cell.targets, cell.victims, cell.trials, cell.successes]
        ends = cell.interval or (None, None)
        accuracy_ends = cell.clean_accuracy_interval or (None, None)
        rates = [_csv_number(value) for value in (cell.attack_success_rate, *ends)]
        accuracies = [_csv_number(value) for value in (cell.clean_accuracy, *accuracy_ends)]
        writer.writerow([*names, *counts, *rates, cell.interval_method, *accuracies, repr(cell.seconds)])
    return out.getvalue()
