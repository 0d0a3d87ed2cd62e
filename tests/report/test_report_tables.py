"""Tables of a report that is no grid of attacks: checked, shown by every renderer, and never markup."""

import csv
import io
import json

import pytest
from documents import audit_document, paper_document
from page import Page
from rich.console import Console

from mithridate.core.errors import BadArtefact
from mithridate.report.html import render_html
from mithridate.report.schema import validate
from mithridate.report.text import render_csv, render_junit, render_markdown, render_terminal

TABLE = {
    "title": "Best accuracy by rule",
    "columns": ["rule", "accuracy", "=steps"],
    "rows": [["krum", "92.4 % (90.1 to 94.7)", 300], ["<b>|evil|</b>", "1.0 %", 0.123456]],
    "note": "Five seeds.",
}


def document(*tables: dict[str, object]) -> dict[str, object]:
    empty = {"cells": [], "comparisons": [], "targets": [], "alignment": [], "pictures": [], "target_pictures": []}
    return paper_document() | empty | {"crafting": [], "tables": list(tables or (TABLE,))}


def terminal(value: dict[str, object]) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(render_terminal(value, 100))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_every_renderer_shows_the_table_and_no_empty_grid() -> None:
    value = json.loads(json.dumps(document()))
    shown = {"html": Page(render_html(value)).text(), "markdown": render_markdown(value), "terminal": terminal(value)}
    for name, text in shown.items():
        for word in ("Best accuracy by rule", "krum", "90.1 to 94.7", "300", "0.1235", "Five seeds."):
            assert word in text, (name, word)
        assert "Attack success" not in text, name
        assert "The share of trials" not in text, name
    assert render_junit(value)


def test_csv_is_the_tables_one_after_the_other() -> None:
    rows = list(csv.reader(io.StringIO(render_csv(document(TABLE, TABLE)))))
    assert len(rows) == 6
    assert rows[0] == rows[3] == ["rule", "accuracy", "'=steps"]
    assert rows[1] == ["krum", "92.4 % (90.1 to 94.7)", "300"]
    assert rows[2][2] == "0.123456"


def test_an_audit_keeps_its_grid_beside_a_table() -> None:
    value = audit_document(tables=[TABLE])
    page = Page(render_html(value)).text()
    assert "Attack success and clean accuracy" in page
    assert "Best accuracy by rule" in page
    assert next(csv.reader(io.StringIO(render_csv(value))))[0] == "scenario"


def test_entries_are_data_and_never_markup() -> None:
    html = render_html(document())
    assert "<b>|evil|</b>" not in html
    assert "&lt;b&gt;|evil|&lt;/b&gt;" in html
    assert "<b>" not in render_markdown(document())
    assert "<b>|evil|</b>" in terminal(document())


def test_long_tables_are_cut_with_a_count() -> None:
    long = TABLE | {"rows": [[f"rule {k}", "x", k] for k in range(5000)]}
    assert "more rows are in report.json" in Page(render_html(document(long))).text()
    assert "more rows are in report.json" in terminal(document(long))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"rows": [["krum", 1]]}, "row 1 has 2 entries under 3 columns"),
        ({"columns": []}, "columns"),
        ({"title": " "}, "title"),
        ({"rows": [["krum", 1.0, None]]}, "rows"),
    ],
)
def test_tables_that_do_not_hold_together_are_refused(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(BadArtefact, match="MTH-0801") as error:
        validate(document(TABLE | change))
    assert complaint in str(error.value)
