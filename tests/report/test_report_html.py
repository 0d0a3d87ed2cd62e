"""The page: complete, self-contained, bounded, accessible, deterministic."""

import copy
import hashlib
import importlib.resources
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import audit_document, cell, large_document, paper_document, photo, trace, triple
from page import Page, spaced

from mithridate.core.errors import BadArtefact
from mithridate.report.html import CSP, MAX_BYTES, render_html
from mithridate.report.pictures import png_uri
from mithridate.report.schema import validate

STATUSES = ("pass", "fail", "inconclusive")


@pytest.fixture(scope="module")
def html() -> str:
    return render_html(audit_document())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.mark.parametrize("status", STATUSES)
def test_the_verdict_is_first_and_in_words(status: str) -> None:
    document = audit_document(status)
    page = Page(render_html(document))
    card = next(element for element in page.all("section"))
    assert card.attributes["class"] == f"verdict {status}"
    words = card.text.split()
    assert words[0] == {"pass": "Pass", "fail": "Fail", "inconclusive": "Inconclusive"}[status]
    assert document["verdict"]["sentence"] in spaced(card.text)  # type: ignore[index]
    assert all(reason in spaced(card.text) for reason in document["verdict"]["reasons"])  # type: ignore[index]
    assert "asr<0.1" in spaced(card.text)
    assert page.all("title")[0].text.startswith(words[0])


def test_the_three_verdicts_differ_in_shape_not_only_in_colour() -> None:
    icons = {
        re.search(r'<svg viewBox="0 0 48 48".*?</svg>', render_html(audit_document(s)), re.S).group() for s in STATUSES
    }
    assert len(icons) == 3


def test_every_section_is_there(page: Page) -> None:
    text = page.text()
    document = audit_document()
    for fact in ("resnet18-w16 (0.70 M parameters)", "16/255", "fast-scratch20", "mithridate audit run/config.yaml"):
        assert fact in text
    for fact in ("p = 0.00012", "p < 0.0001", "Fisher exact", "restarts: 8", "2.13.0", "56 min 52 s", "1 h 00 min"):
        assert fact in text
    for entry in document["crafting"]:  # type: ignore[attr-defined]
        assert entry["scenario"] in text
    for meaning in ("Inconclusive", "neither a pass nor a fail", "Controls", "it is no proof against"):
        assert meaning in text
    sources = [element.attributes["src"] for element in page.all("img")]
    shown = [picture[kind] for picture in document["pictures"] for kind in ("clean", "poison", "difference")]  # type: ignore[attr-defined]
    assert sources[: len(shown)] == shown
    assert len(sources) == len(shown) + len(document["target_pictures"])  # type: ignore[arg-type]


def test_the_paper_block_lists_published_measured_and_departures() -> None:
    text = Page(render_html(paper_document())).text()
    for fact in ("91.25 % (SE 6.14)", "Table 1, row 4", "70.0 % (48.1–85.5 %)", "0.2481", "20 epochs instead of 40."):
        assert fact in text
    assert "Departures" not in Page(render_html(audit_document())).text()


def test_interval_chart_shows_the_numbers_of_the_row(html: str) -> None:
    chart = re.search(r'<svg class="ci" role="img" aria-label="70.0\s%, interval 48.1–85.5\s%">(.*?)</svg>', html)
    assert chart is not None
    assert '<line class="gate" x1="10%" x2="10%"' in chart.group(1)
    assert '<line x1="48.1%" x2="85.5%" y1="50%" y2="50%"/>' in chart.group(1)
    assert '<circle cx="70%" cy="50%"' in chart.group(1)
    rows = re.findall(r'<svg class="ci[^"]*" role="img".*?</svg>', html)
    assert len(rows) == 6
    assert all(len(row) < 1024 for row in rows)
    assert sum('class="ci control"' in row for row in rows) == 4


def test_alignment_chart_is_to_scale() -> None:
    level = {
        "attack": "a",
        "defense": "d",
        "epochs": [0.0, 1.0],
        "mean": [0.0, 1.0],
        "low": [0.0, 0.5],
        "high": [0.0, 1.0],
    }
    html = render_html(audit_document(alignment=[level]))
    assert '<polyline class="s0" points="0,300 1000,0"/>' in html
    assert '<polygon class="s0" points="0,300 1000,0 1000,150 0,300"/>' in html


def test_odd_traces_do_not_break_the_chart() -> None:
    point = {"attack": "a", "defense": "d", "epochs": [3], "mean": [0], "low": [0], "high": [0]}
    empty = {"attack": "a", "defense": "d", "epochs": [], "mean": [], "low": [], "high": []}
    long = trace("a", "d", 0.3, epochs=5000)
    page = Page(render_html(audit_document(alignment=[point, empty, long])))
    lines = [element.attributes["points"] or "" for element in page.all("polyline")]
    assert [len(points.split()) for points in lines] == [1, 200]
    assert not Page(render_html(audit_document(alignment=[empty]))).all("polyline")


def test_nothing_counted_is_not_a_number() -> None:
    nothing = cell("witches-brew", "none", 0, 0, clean_accuracy=None, clean_accuracy_interval=None)
    html = render_html(audit_document(cells=[nothing]))
    row = re.search(r'<tr role="row"><th scope="row".*?</tr>', html, re.S)
    assert row is not None
    assert "0/0" in row.group()
    assert row.group().count("n/a") >= 5
    assert "<circle" not in row.group()


def test_the_smallest_document_renders() -> None:
    document = audit_document()
    small = {key: document[key] for key in ("schema", "kind", "title", "created", "verdict")} | {"cells": []}
    page = Page(render_html(small))
    assert document["verdict"]["sentence"] in page.text()  # type: ignore[index]


# --- self-contained


def test_policy_comes_before_everything_that_it_governs(html: str) -> None:
    metas = Page(html).all("meta")
    assert metas[0].attributes == {"charset": "utf-8"}
    assert metas[1].attributes == {"http-equiv": "Content-Security-Policy", "content": CSP}
    assert CSP.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")


@pytest.mark.parametrize("document", [audit_document(), paper_document(), audit_document("inconclusive", triples=0)])
def test_no_script_no_request_no_handler(document: dict[str, object]) -> None:
    html = render_html(document)
    page = Page(html)
    assert not {element.tag for element in page.elements} & {
        *("script", "iframe", "object", "embed", "form", "base", "audio", "video", "use", "image", "foreignobject")
    }
    for element in page.elements:
        assert not [key for key in element.attributes if key.startswith("on")]
        for key in ("src", "href", "srcset", "xlink:href", "data", "action", "poster", "background"):
            value = element.attributes.get(key)
            assert value is None or value.startswith(("data:", "#")), (element.tag, key, value)
    style = page.all("style")[0].text
    assert "url(" not in style
    assert "@import" not in style
    assert "</style" not in style


# --- bounded


def test_two_hundred_cells_and_twelve_triples_fit() -> None:
    html = render_html(large_document(cells=200, triples=12))
    assert len(html.encode()) <= MAX_BYTES == 1_000_000
    page = Page(html)
    assert len([e for e in page.all("svg") if "ci" in (e.attributes.get("class") or "").split()]) == 200
    assert len([e for e in page.all("figure") if e.attributes.get("class") == "triple"]) == 12


def test_large_pictures_are_left_out_with_a_count() -> None:
    noise = png_uri(photo(5, 128))
    document = large_document()
    document["pictures"] = [triple(0) | {"clean": noise, "poison": noise, "difference": noise} for _ in range(40)]
    html = render_html(document)
    assert len(html.encode()) <= MAX_BYTES
    shown = len([e for e in Page(html).all("figure") if e.attributes.get("class") == "triple"])
    assert 1 <= shown <= 12
    assert f"{40 - shown} more pictures are in report.json." in html


def test_fifteen_hundred_cells_are_cut_with_a_count() -> None:
    html = render_html(large_document(cells=1500))
    assert len(html.encode()) <= MAX_BYTES
    shown = html.count('class="ci')
    assert 50 <= shown < 1500
    assert f"{1500 - shown} more cells are in report.json." in html


def test_a_document_that_cannot_fit_is_refused_with_its_size() -> None:
    document = copy.deepcopy(audit_document())
    document["verdict"]["reasons"] = ["long reason " * 200] * 2000  # type: ignore[index]
    with pytest.raises(BadArtefact, match=r"MTH-0803.*has \d+ bytes"):
        render_html(document)


# --- accessible


def test_headings_tables_and_pictures_are_named(page: Page) -> None:
    levels = [int(element.tag[1]) for element in page.elements if re.fullmatch("h[1-6]", element.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(element.attributes.get("alt") for element in page.all("img"))
    assert all("table" not in element.path for element in page.all("table"))
    captions = [element for element in page.all("caption") if element.text.strip()]
    assert len(captions) >= len(page.all("table")) - 1  # the paper's table is named by its region
    for element in page.all("svg"):
        named = element.attributes.get("role") == "img" and element.attributes.get("aria-label")
        assert named or element.attributes.get("aria-hidden") == "true"
    assert all(element.attributes.get("scope") for element in page.all("th"))
    assert page.all("html")[0].attributes["lang"] == "en"


def test_anchors_lead_somewhere_and_ids_are_unique(page: Page) -> None:
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    targets = [(element.attributes["href"] or "")[1:] for element in page.all("a")]
    assert len(targets) >= 6
    assert set(targets) <= set(ids)


def luminance(colour: str) -> float:
    if len(colour) == 4:
        colour = "#" + "".join(2 * digit for digit in colour[1:])
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_text_in_every_theme(page: Page) -> None:
    blocks = re.findall(r":root\{(.*?)\}", page.all("style")[0].text, re.S)
    themes = [dict(re.findall(r"--([\w-]+):(#[0-9a-f]{3,6})", block)) for block in blocks]
    assert len(themes) == 3, "light, dark, print"
    for theme in themes:
        for ink in ("ink", "soft", "mute", "accent"):
            for ground in ("paper", "card"):
                assert contrast(theme[ink], theme[ground]) >= 4.5, (ink, ground, theme)
        for status in STATUSES:
            for ink in (theme[status], theme["ink"]):
                assert contrast(ink, theme[f"{status}-bg"]) >= 4.5, (status, theme)
        for shade in ("h1", "h2", "h3"):
            assert contrast(theme["ink"], theme[shade]) >= 4.5, (shade, theme)
        for line in (f"s{i}" for i in range(6)):
            assert contrast(theme[line], theme["paper"]) >= 3, (line, theme)


# --- deterministic, light


def test_same_document_same_bytes_in_another_process(html: str) -> None:
    script = "import sys, hashlib; sys.path.insert(0, sys.argv[1]); from documents import audit_document; "
    script += "from mithridate.report.html import render_html; "
    script += "print(hashlib.sha256(render_html(audit_document()).encode()).hexdigest())"
    for hash_seed in ("1", "2"):
        answer = subprocess.run(
            [sys.executable, "-c", script, str(Path(__file__).parent)],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert answer.stdout.strip() == hashlib.sha256(html.encode()).hexdigest()


def test_rendering_does_not_touch_the_document() -> None:
    document = audit_document()
    before = copy.deepcopy(document)
    render_html(document)
    assert document == before
    assert render_html(validate(document)) == render_html(document)


def test_the_whole_room_works_without_torch() -> None:
    script = "import sys; import mithridate.report.formats, mithridate.report.pictures; "
    script += "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_templates_are_shipped_and_escape_everything() -> None:
    folder = importlib.resources.files("mithridate.report") / "templates"
    sources = {file.name: file.read_text() for file in folder.iterdir()}
    assert {"report.html", "style.css"} <= set(sources)
    for name, source in sources.items():
        assert "|safe" not in source.replace(" ", ""), name
        assert "autoescape" not in source, name
