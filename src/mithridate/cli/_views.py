"""What results look like on a terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mithridate.cli._session import Session, table

if TYPE_CHECKING:
    from rich.console import RenderableType


def show_run(session: Session, document: Mapping[str, Any], folder: Path) -> None:
    """Print a finished run: the verdict, the table, where the report is.

    Args:
        session: Where to print.
        document: A report document (`mithridate.report/1`).
        folder: The run folder.
    """
    if session.json:
        session.result(document)
        return
    from mithridate.report.text import render_terminal

    page = folder / "report.html"
    session.result(document, render_terminal(document, session.console().width), f"report: {page}")


def pairs(document: Mapping[str, Any]) -> "RenderableType":
    """Return a two-column table of the plain values of a document; lists and mappings on one line each."""
    return table(("", ""), [(key.replace("_", " "), _plain(value)) for key, value in document.items()])


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return "-" if value is None else str(value)
