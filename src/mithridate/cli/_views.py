"""What a finished run looks like on a terminal: the verdict, the table, where the report is."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mithridate.cli._session import printable, table

if TYPE_CHECKING:
    from rich.console import RenderableType

_COLUMNS = ("attack", "defense", "success", "95 % interval", "clean accuracy", "trials")


def run_view(document: Mapping[str, Any], folder: Path | None) -> list["RenderableType"]:
    """Return the parts to print, the verdict first.

    Args:
        document: A report document (`mithridate.report/1`).
        folder: The run folder, when it is to be named.
    """
    verdict = document["verdict"]
    parts: list[RenderableType] = [f"{str(verdict['status']).upper()}: {printable(verdict['sentence'])}"]
    parts += [f"  {printable(reason)}" for reason in verdict["reasons"]]
    parts.append(table(_COLUMNS, [_row(cell) for cell in document["cells"]]))
    if folder is not None:
        parts.append(f"report  {folder / 'report.html'}")
        parts.append(f"again   {printable(str(document.get('reproduce', '')))}")
    return parts


def pairs_view(document: Mapping[str, Any]) -> list["RenderableType"]:
    """Return a two-column table of the plain values of a document; lists and mappings are counted or joined."""
    return [table(("", ""), [(key.replace("_", " "), _plain(value)) for key, value in document.items()])]


def _row(cell: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(cell["attack"]),
        str(cell["defense"]),
        _percent(cell["attack_success_rate"]),
        _range(cell["interval"]),
        _percent(cell["clean_accuracy"]),
        f"{cell['successes']} of {cell['trials']}",
    )


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f} %"


def _range(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return "-" if value is None else str(value)
