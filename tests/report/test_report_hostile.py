"""P16: hostile names stay text, in every renderer. The twin of each document has harmless names in the same places."""

import csv
import io
import random
import re
import xml.etree.ElementTree as ET

import pytest
from documents import compact_document
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from page import Page
from rich.console import Console

from mithridate.report import _format as fmt
from mithridate.report.html import render_html
from mithridate.report.text import render_csv, render_junit, render_markdown, render_terminal

NAMES = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><script>alert(1)</script>",
    "</title></head><body onload=alert(1)>",
    "<!-- comment",
    "]]><x/>",
    "<?php echo 1 ?>",
    "&lt;b&gt; &amp; &#60;i&#62;",
    "{{ 7 * 7 }}{% include 'style.css' %}{# note #}",
    "${7*7} `id` $(id)",
    "javascript:alert(1)",
    "[bold red]loud[/bold red]",
    "[/x] [link=https://example.org]here[/link]",
    "\x1b[31mred\x1b[0m \x1b]8;;https://example.org\x07link\x1b]8;;\x07",
    "\x9b31m\x9d0;title\x9c",
    "photo\u202egnp.exe",
    "\u200fעברית\u200e \u2066isolate\u2069",
    "two\nlines\r\nand\ttab",
    "nul\x00byte",
    "not utf-8 \udcff\ud800",
    '=HYPERLINK("https://example.org","x")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1:A9)",
    "\t=1+1",
    "＝1+1",
    "a|b|c \\| d",
    "```\n# heading\n```",
    "![x](https://example.org/x.png) [y](https://example.org) <https://example.org>",
    "https://example.org www.example.org a@example.org @everyone #1 ~~s~~ $x$",
    "# heading",
    "1. list",
    "- item",
    "> quote",
    "---",
    "*emphasis* _too_ **bold** <details>",
    "\ufeff\u200b\u00ad",
    "z\u0335\u0321a\u0321\u0335" * 40,
    "A" * 4096,
    "<b>" * 1365,
    "\N{FAMILY}‍\N{MICROSCOPE} 猫 кот قطة",
    "\uffff\ufffe",
    "",
    "   ",
]


def filled(document: dict[str, object], text: str) -> dict[str, object]:
    """The document with `text` in every place that outside text can reach."""
    kept = {"schema", "kind", "created", "status", "interval_method", "clean", "poison", "difference"}

    def fill(value: object, key: str) -> object:
        if isinstance(value, dict):
            grown = {name: fill(item, name) for name, item in value.items()}
            return (
                {f"{text}{i}": item for i, item in enumerate(grown.values())}
                if key in ("config", "environment")
                else grown
            )
        if isinstance(value, list):
            return [fill(item, key) for item in value]
        if not isinstance(value, str) or key in kept or value.startswith("data:image/png"):
            return value
        return f"Said of {text}" if key == "sentence" else text

    return fill(document, "document")  # type: ignore[return-value]


HARMLESS = "plainname"


def twin_of(name: str) -> dict[str, object]:
    """The same document with a harmless name of the same length, so that cuts fall alike."""
    length = len(name.strip())
    return filled(compact_document(), (HARMLESS * (length // len(HARMLESS) + 1))[:length])


HOSTILE = [pytest.param(name, id=f"{i:02d}") for i, name in enumerate(NAMES)]


def shown(name: str) -> str:
    return fmt.name(name.encode("utf-8", "backslashreplace").decode())


def invisible(text: str) -> str:
    return "".join(
        sorted(set(re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]", text)))
    )


def test_there_are_enough_names_and_they_differ_from_their_shown_form() -> None:
    assert len(NAMES) == len(set(NAMES)) >= 30
    assert sum(shown(name) != name for name in NAMES) >= 12


@pytest.mark.parametrize("name", HOSTILE)
def test_html_has_no_element_or_attribute_from_data(name: str) -> None:
    html = render_html(filled(compact_document(), name))
    page = Page(html)
    assert page.structure() == Page(render_html(twin_of(name))).structure()
    assert page.odd == []
    assert shown(name) in page.text()
    assert not invisible(html)
    alts = {element.attributes["alt"] for element in page.all("img")}
    assert any(shown(name) in (alt or "") for alt in alts)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("width", [50, 120])
def test_the_terminal_gets_text_only(name: str, width: int) -> None:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor", legacy_windows=False
    )
    console.print(render_terminal(filled(compact_document(), name), width))
    output = console.file.getvalue()  # type: ignore[attr-defined]
    ours = re.sub(r"\x1b\[[0-9;]*m", "", output)
    assert not invisible(ours)
    assert "\x1b]8" not in output, "no hyperlink"
    colours = set(re.findall(r"\x1b\[([0-9;]*)m", output))
    twin = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor", legacy_windows=False)
    twin.print(render_terminal(filled(compact_document(), HARMLESS), width))
    assert colours == set(re.findall(r"\x1b\[([0-9;]*)m", twin.file.getvalue()))  # type: ignore[attr-defined]
    squeezed = re.sub(r"\s", "", ours)
    assert re.sub(r"\s", "", fmt.sentence(f"Said of {name}".encode("utf-8", "backslashreplace").decode())) in squeezed


def markdown_structure(text: str) -> list[tuple[str, str, int]]:
    found = []
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text):
        found.append((token.type, token.tag, token.nesting))
        for child in token.children or ():
            if child.type == "text_special":
                continue  # an escaped character
            if child.type == "html_inline":
                assert child.content == "<!-- -->", child.content
            elif child.type != "text":
                found.append((child.type, child.tag, child.nesting))
            else:
                assert "\n" not in child.content
    return found


@pytest.mark.parametrize("name", HOSTILE)
def test_markdown_has_no_markup_from_data(name: str) -> None:
    text = render_markdown(filled(compact_document(), name))
    twin = render_markdown(twin_of(name))
    assert markdown_structure(text) == markdown_structure(twin)
    assert not invisible(text)
    outside_code = re.sub(r"(?s)^(`{3,})\n.*?^\1\n", "", text, flags=re.M)
    assert not re.search(r"https?://|www\.|@[A-Za-z]", outside_code), "nothing that GitHub would link by itself"


@pytest.mark.parametrize("name", HOSTILE)
def test_junit_is_well_formed_and_its_structure_is_ours(name: str) -> None:
    def structure(element: ET.Element) -> object:
        return element.tag, sorted(element.attrib), [structure(child) for child in element]

    xml = render_junit(filled(compact_document(), name))
    root = ET.fromstring(xml.encode())
    assert structure(root) == structure(ET.fromstring(render_junit(filled(compact_document(), HARMLESS))))
    assert not invisible(xml)
    assert shown(name) in root.findall(".//testcase")[1].attrib["name"]


@pytest.mark.parametrize("name", HOSTILE)
def test_csv_rows_hold_and_no_cell_is_a_formula(name: str) -> None:
    text = render_csv(filled(compact_document(), name))
    rows = list(csv.reader(io.StringIO(text)))
    assert [len(row) for row in rows] == [15] * 7
    assert text.count("\n") == 7
    assert not invisible(text)
    for row in rows[1:]:
        assert all(not item.lstrip().startswith(tuple("=+-@\t\r|＝＋－＠")) for item in row)
        assert row[0] in (shown(name), "'" + shown(name))


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(), min_size=1, max_size=60), st.integers(0, 3))
@example("\x1f", 0)
@example("\x1f", 1)
def test_generated_names_keep_the_structure(name: str, which: int) -> None:
    document, twin = filled(compact_document(), name), twin_of(name)
    if which == 0:
        assert Page(render_html(document)).structure() == Page(render_html(twin)).structure()
    elif which == 1:
        assert markdown_structure(render_markdown(document)) == markdown_structure(render_markdown(twin))
    elif which == 2:
        ET.fromstring(render_junit(document).encode())
    else:
        assert all(len(row) == 15 for row in csv.reader(io.StringIO(render_csv(document))))


@pytest.mark.slow
def test_spliced_names_keep_the_structure() -> None:
    dice = random.Random(16)
    for _ in range(60):
        name = "".join(piece[dice.randrange(len(piece) + 1) :][:40] for piece in dice.choices(NAMES, k=3))
        document, twin = filled(compact_document(), name), twin_of(name)
        assert Page(render_html(document)).structure() == Page(render_html(twin)).structure(), name
        assert markdown_structure(render_markdown(document)) == markdown_structure(render_markdown(twin)), name
