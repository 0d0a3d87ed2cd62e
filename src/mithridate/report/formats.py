"""The formats of `mithridate report`: their names, the files they are written to, and their renderers."""

from collections.abc import Callable
from typing import NamedTuple

from mithridate.report.html import render_html
from mithridate.report.text import render_csv, render_junit, render_markdown


class Format(NamedTuple):
    """A way to write a report; every renderer takes the document of report.json and returns text for UTF-8."""

    file_name: str
    render: Callable[[object], str]


FORMATS: dict[str, Format] = {
    "html": Format("report.html", render_html),
    "md": Format("report.md", render_markdown),
    "junit": Format("report.junit.xml", render_junit),
    "csv": Format("report.csv", render_csv),
}
