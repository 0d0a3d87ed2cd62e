"""`mithridate status`: how far a run is, read from its ledger without disturbing it."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from mithridate.cli._session import Session, table
from mithridate.cli._verb import verb
from mithridate.core.errors import Misuse


@verb
def status(session: Session, run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]) -> None:
    """Say how far a run is: finished jobs by kind, when the last one finished, and what is left."""
    ledger = run / "ledger.jsonl"
    if not ledger.is_file():
        raise Misuse(
            "MTH-0780",
            f"{str(run)!r} is no run folder: it has no ledger.jsonl",
            hint="`mithridate audit` prints the folder of its run",
        )
    from mithridate.core.ledger import Ledger

    records = Ledger(ledger).records()
    started = _last_start(run / "events.jsonl") or {}
    total = started.get("jobs")
    kinds = Counter(_kind(name) for name in records)
    document: dict[str, Any] = {
        "run": str(run),
        "finished": len(records),
        "total": total,
        "complete": total is not None and len(records) >= total,
        "report": (run / "report.json").is_file(),
        "last_change": datetime.fromtimestamp(ledger.stat().st_mtime, UTC).isoformat(timespec="seconds"),
        "by_kind": dict(sorted(kinds.items())),
    }
    session.result(
        document,
        table(("kind", "finished"), sorted(kinds.items())),
        f"{len(records)} of {'an unknown number of' if total is None else total} jobs finished, "
        f"the last at {document['last_change']}",
        _next_step(document, run, started.get("command")),
    )


def _kind(name: str) -> str:
    """`victim/witches-brew/none/3/0` counts as `victim witches-brew against none`."""
    parts = name.split("/")
    if parts[0] == "victim" and len(parts) > 2:
        return f"victim {parts[1]} against {parts[2]}"
    return " ".join(parts[:2]) if parts[0] == "craft" else parts[0]


def _last_start(events: Path) -> dict[str, Any] | None:
    """Return the last start event."""
    from mithridate.core.events import read_events

    starts = [e for e in read_events(events) if e.get("event") == "start" and isinstance(e.get("jobs"), int)]
    return starts[-1] if starts else None


def _next_step(document: dict[str, Any], run: Path, typed: object) -> str:
    if document["report"]:
        return f"report: {run / 'report.html'}"
    if document["complete"] and (run / "packs").is_dir():
        return f"packs: {run / 'packs'}"
    again = typed if isinstance(typed, str) and typed else "run the same command again"
    return f"to go on: {again}"
