"""The page in a real browser: no console message, no request, nothing wider than the screen, in both themes."""

import re
from collections.abc import Iterator
from pathlib import Path

import chrome
import pytest
from documents import audit_document, large_document, paper_document
from test_report_hostile import NAMES, filled

from mithridate.report.html import render_html

MISSING = chrome.missing()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (apt-get install chromium chromium-driver)"
    ),
]

LONG = "x" * 300
PAGES = {
    "fail": lambda: audit_document("fail"),
    "pass": lambda: audit_document("pass"),
    "inconclusive": lambda: audit_document("inconclusive", triples=0),
    "paper": paper_document,
    "large": large_document,
    "long-names": lambda: filled(paper_document(), LONG),
    "script": lambda: filled(
        paper_document(), "</style><script>fetch('https://example.org')</script><img src=x onerror=alert(1)>"
    ),
    "bidi": lambda: filled(paper_document(), NAMES[16] + NAMES[17]),
}
WIDER = """
const wide = document.documentElement.clientWidth;
return [...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.scroll') && !e.closest('.sr') && !e.closest('thead') && e.getClientRects().length)
  .filter(e => e.getBoundingClientRect().right > wide + 1 || e.getBoundingClientRect().left < -1)
  .map(e => e.tagName + '.' + e.className.toString());
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chrome.Browser]:
    with chrome.browser(tmp_path_factory.mktemp("profile")) as session:
        yield session


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(params=list(PAGES))
def page(request: pytest.FixtureRequest, folder: Path) -> Path:
    path = folder / f"{request.param}.html"
    if not path.exists():
        path.write_text(render_html(PAGES[request.param]()), encoding="utf-8")
    return path


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_page_is_quiet_and_fits(browser: chrome.Browser, page: Path, width: int, theme: str) -> None:
    browser.show(page, width=width, theme=theme)
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.run("return document.documentElement.clientWidth") == width
    assert browser.run("return document.documentElement.scrollWidth") == width
    assert browser.run(WIDER) == []
    background = browser.run("return getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in re.findall(r"\d+", background)[:3]) / 3
    assert brightness > 200 if theme == "light" else brightness < 60
    assert browser.run("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert [entry["message"] for entry in browser.log("browser")] == []
    assert browser.requests() == [page.resolve().as_uri()]


def test_the_policy_is_in_force(browser: chrome.Browser, folder: Path) -> None:
    """The planted fault: the same page with a script, a picture and a style sheet from elsewhere loads none of them."""
    html = render_html(audit_document())
    planted = '<script>window.ran = 1</script><img src="http://127.0.0.1:9/x.png"><link rel="stylesheet" href="http://127.0.0.1:9/x.css">'
    path = folder / "planted.html"
    path.write_text(html.replace("</body>", planted + "</body>"), encoding="utf-8")
    browser.show(path, width=1280)
    assert browser.run("return window.ran === undefined")
    assert len(browser.log("browser")) >= 3, "the log does see refused loads"
    browser.requests()


def test_without_the_policy_the_fault_shows(browser: chrome.Browser, folder: Path) -> None:
    """The tester is tested: a request is seen when nothing forbids it."""
    path = folder / "open.html"
    path.write_text('<!doctype html><img src="http://127.0.0.1:9/x.png">', encoding="utf-8")
    browser.show(path, width=1280)
    assert "http://127.0.0.1:9/x.png" in browser.requests()
    browser.log("browser")


def test_print_shows_what_is_folded(browser: chrome.Browser, folder: Path) -> None:
    path = folder / "print.html"
    path.write_text(render_html(audit_document()), encoding="utf-8")
    browser.show(path, width=1280, theme="dark")
    folded = "getComputedStyle(document.querySelector('details:not([open])'), '::details-content').contentVisibility"
    assert browser.run(f"return {folded}") == "hidden"
    browser.cdp(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    assert browser.run(f"return {folded}") == "visible"
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run("return getComputedStyle(document.querySelector('nav')).display") == "none"
    browser.cdp("Emulation.setEmulatedMedia", media="")
    assert browser.pdf().startswith(b"%PDF")
