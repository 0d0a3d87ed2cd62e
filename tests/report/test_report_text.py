"""Terminal, Markdown, JUnit and CSV: they say what the page says, and fit their media."""

import csv
import io
import re
import xml.etree.ElementTree as ET

import pytest
from documents import audit_document, cell, large_document, paper_document
from page import Page, spaced
from rich.console import Console

from mithridate.core.errors import BadArtefact
from mithridate.report import _format as fmt
from mithridate.report.formats import FORMATS
from mithridate.report.html import render_html
from mithridate.report.text import STEP_SUMMARY_BYTES, render_csv, render_junit, render_markdown, render_terminal

STATUSES = ("pass", "fail", "inconclusive")


def terminal(document: dict[str, object], width: int = 140, **options: object) -> str:
    console = Console(file=io.StringIO(), width=width, **options)  # type: ignore[arg-type]
    console.print(render_terminal(document, width))
    return console.file.getvalue()  # type: ignore[attr-defined]


def rows_of_html(document: dict[str, object]) -> list[tuple[str, ...]]:
    table = re.search(r'<table class="results".*?</table>', render_html(document), re.S)
    assert table is not None
    rows = []
    for row in re.findall(r'<tr role="row">(<th scope="row".*?)</tr>', table.group(), re.S):
        page = Page(row)
        attack, defense = (element.text for element in page.all("bdi"))
        numbers = [
            element.text for element in page.all("td") for element in page.elements if element.tag in ("b", "small")
        ]
        hits, _, rate, interval, accuracy, accuracy_interval = numbers[1:7]
        rows.append((attack, defense, hits, rate, interval, accuracy, accuracy_interval))
    return rows


def rows_of_markdown(document: dict[str, object]) -> list[tuple[str, ...]]:
    lines = [line for line in render_markdown(document).splitlines() if line.startswith("| ")]
    start = next(i for i, line in enumerate(lines) if line.startswith("| Attack |"))
    cells = [[item.strip() for item in line.strip("|").split("|")] for line in lines[start + 2 : start + 8]]
    return [(row[0].removesuffix(" (control)"), *row[1:]) for row in cells]


def rows_of_terminal(document: dict[str, object]) -> list[tuple[str, ...]]:
    rows = []
    for line in terminal(document).splitlines():
        fields = re.split(r"\s{2,}", line.strip())
        if re.fullmatch(r"\d+/\d+", fields[2] if len(fields) > 2 else ""):
            kept = [field for field in fields[1:] if not re.search("[├┤●○┊]", field)]
            rows.append((fields[0].removesuffix(" (control)"), *kept))
    return rows


def rows_of_csv(document: dict[str, object]) -> list[tuple[str, ...]]:
    rows = []
    for row in csv.DictReader(io.StringIO(render_csv(document))):
        low, high = float(row["interval_low"]), float(row["interval_high"])
        clean = float(row["clean_accuracy_low"]), float(row["clean_accuracy_high"])
        rows.append(
            (
                row["attack"],
                row["defense"],
                f"{row['successes']}/{row['trials']}",
                fmt.percent(float(row["attack_success_rate"])),
                fmt.percent_range((low, high)),
                fmt.percent(float(row["clean_accuracy"])),
                fmt.percent_range(clean),
            )
        )
    return rows


def test_all_renderers_agree_on_every_number() -> None:
    document = audit_document()
    expected = [
        (
            entry["attack"],
            entry["defense"],
            f"{entry['successes']}/{entry['trials']}",
            fmt.percent(entry["attack_success_rate"]),
            fmt.percent_range(tuple(entry["interval"])),
            fmt.percent(entry["clean_accuracy"]),
            fmt.percent_range(tuple(entry["clean_accuracy_interval"])),
        )
        for entry in document["cells"]  # type: ignore[attr-defined]
    ]
    assert len(expected) == 6
    assert rows_of_html(document) == expected
    assert rows_of_markdown(document) == expected
    assert rows_of_terminal(document) == expected
    assert rows_of_csv(document) == expected


def test_what_defenses_say_of_their_own_work_is_shown() -> None:
    page, terminal_, markdown = (
        Page(render_html(audit_document())),
        terminal(audit_document()),
        render_markdown(audit_document()),
    )
    for text in (page.text(), " ".join(terminal_.split())):
        assert "friendly-noise against noise: friendly noise hardly grew: raise penalty_weight" in text
    assert "- warning of friendly-noise against noise: friendly noise hardly grew: raise penalty\\_weight" in markdown
    assert "friendly-noise against witches-brew: share at bound 0.6213, agreement 0.9417" in terminal_
    assert "| friendly-noise | witches-brew | share at bound | 0.6213 | 0.5871–0.6555 |" in markdown
    table = next(table for table in page.all("table") if "dense" in (table.attributes.get("class") or ""))
    for words in ("share at bound", "0.6213", "0.5871–0.6555", "friendly-noise against witches-brew"):
        assert words in spaced(table.text)
    assert "penalty_weight" not in table.text


def test_without_diagnostics_nothing_is_said_of_them() -> None:
    silent = audit_document(cells=[cell("none", "none", 0, 20)])
    for text in (Page(render_html(silent)).text(), terminal(silent), render_markdown(silent)):
        assert "own work" not in text and "Figure" not in text and "share at bound" not in text


@pytest.mark.parametrize("status", STATUSES)
def test_all_renderers_agree_on_the_verdict(status: str) -> None:
    document = audit_document(status)
    sentence = str(document["verdict"]["sentence"])  # type: ignore[index]
    word = {"pass": "Pass", "fail": "Fail", "inconclusive": "Inconclusive"}[status]
    assert sentence in Page(render_html(document)).text()
    assert f"**{sentence}**".replace("<", "&lt;") in render_markdown(document)
    assert render_markdown(document).splitlines()[0].split(" ", 2)[2].startswith(word)
    shown = " ".join(terminal(document).split())
    assert sentence in shown
    assert shown.split()[1] == word.upper()
    assert sentence in (ET.fromstring(render_junit(document)).find(".//system-out").text or "")  # type: ignore[union-attr]
    for reason in document["verdict"]["reasons"]:  # type: ignore[index]
        assert reason in shown
        assert reason.replace("<", "&lt;") in render_markdown(document)


@pytest.mark.parametrize("width", [20, 40, 65, 66, 80, 92, 112, 200])
def test_the_terminal_stays_within_its_width(width: int) -> None:
    lines = terminal(audit_document(), width).splitlines()
    assert max(len(line) for line in lines) <= width
    if width >= 40:
        assert any("14/20" in line and "70.0\N{NO-BREAK SPACE}%" in line for line in lines)


def test_the_bar_in_the_terminal_is_to_scale() -> None:
    cells = [
        cell("witches-brew", "none", 10, 20, interval=[0.25, 0.75]),
        cell("noise", "none", 0, 20, interval=[0.0, 0.5]),
    ]
    lines = terminal(audit_document(cells=cells)).splitlines()
    assert "  ┊   ├─────●─────┤" in next(line for line in lines if line.startswith("witches-brew"))
    assert "○───────────┤" in next(line for line in lines if line.startswith("noise"))


@pytest.mark.parametrize("width", [40, 80, 140])
def test_nothing_counted_is_not_a_number(width: int) -> None:
    nothing = cell("witches-brew", "none", 0, 0, clean_accuracy=None, clean_accuracy_interval=None)
    document = audit_document("inconclusive", cells=[nothing])
    assert "n/a" in terminal(document, width)
    assert "| 0/0 | n/a | n/a | n/a | n/a |" in render_markdown(document)
    row = next(csv.DictReader(io.StringIO(render_csv(document))))
    assert {row["attack_success_rate"], row["interval_low"], row["clean_accuracy_high"]} == {"n/a"}
    assert "0/0, n/a (n/a); clean accuracy n/a" in render_junit(document)
    for text in (terminal(document, width), render_markdown(document), render_csv(document), render_junit(document)):
        assert "None" not in text
        assert "nan" not in text


def test_the_paper_appears_in_text() -> None:
    document = paper_document()
    markdown = render_markdown(document)
    row = "| Success rate, augmented victims | 91.25 % (SE 6.14) | 70.0 % (48.1–85.5 %) | Table 1, row 4 |"
    assert row in markdown
    assert "- departs: One restart instead of eight." in markdown
    assert "published 91.25 % (SE 6.14), measured 70.0 % (48.1–85.5 %)" in terminal(document)


def test_markdown_of_a_large_audit_fits_the_step_summary() -> None:
    assert len(render_markdown(large_document(200)).encode()) < 100_000
    text = render_markdown(large_document(1500))
    assert len(text.encode()) <= STEP_SUMMARY_BYTES
    assert "500 more cells are in report.json." in text


# --- JUnit: one cell, one case; never greener or redder than the verdict


def cases(document: dict[str, object]) -> tuple[ET.Element, list[str]]:
    root = ET.fromstring(render_junit(document))
    verdict, cells = root.findall("testsuite")
    outcomes = []
    for case in cells.findall("testcase"):
        tags = [child.tag for child in case if child.tag != "system-out"]
        outcomes.append(tags[0] if tags else "pass")
    assert len(outcomes) == len(document["cells"])  # type: ignore[arg-type]
    for suite in (verdict, cells):
        assert int(suite.attrib["tests"]) == len(suite.findall("testcase"))
        assert int(suite.attrib["failures"]) == len(suite.findall(".//failure"))
        assert int(suite.attrib["errors"]) == len(suite.findall(".//error"))
        assert int(suite.attrib["skipped"]) == len(suite.findall(".//skipped"))
    return verdict, outcomes


def test_junit_of_a_pass_is_all_green() -> None:
    verdict, outcomes = cases(audit_document("pass"))
    assert outcomes == ["pass"] * 6
    assert (verdict.attrib["failures"], verdict.attrib["errors"]) == ("0", "0")


def test_junit_of_a_fail_judges_defended_cells_only() -> None:
    verdict, outcomes = cases(audit_document("fail"))
    assert verdict.attrib["failures"] == "1"
    assert outcomes == ["pass"] * 5 + ["skipped"]


def test_junit_without_a_defense_judges_the_attack() -> None:
    document = audit_document("fail")
    document["cells"] = document["cells"][:3]  # type: ignore[index]
    assert cases(document)[1] == ["pass", "pass", "failure"]


def test_junit_of_an_inconclusive_run_is_not_green() -> None:
    verdict, outcomes = cases(audit_document("inconclusive"))
    assert verdict.attrib["errors"] == "1"
    assert outcomes == ["pass"] * 5 + ["skipped"]


def test_junit_without_a_gate_on_success_judges_no_cell() -> None:
    for gate in (None, "clean_accuracy>0.9", "nonsense"):
        document = audit_document("fail")
        document["verdict"] = document["verdict"] | {"gate": gate}  # type: ignore[operator]
        verdict, outcomes = cases(document)
        assert outcomes == ["pass"] * 6
        assert verdict.attrib["failures"] == "1"


def test_every_format_renders_refuses_and_repeats() -> None:
    assert list(FORMATS) == ["html", "md", "junit", "csv"]
    assert len({entry.file_name for entry in FORMATS.values()}) == 4
    for entry in FORMATS.values():
        text = entry.render(audit_document())
        assert text
        assert entry.render(audit_document()) == text
        with pytest.raises(BadArtefact, match="MTH-0801"):
            entry.render(audit_document(kind="poem"))
    assert terminal(audit_document()) == terminal(audit_document())
