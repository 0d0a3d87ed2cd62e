"""Running a healing: its jobs on a ledger, resumable at any moment, and the report at its end."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mithridate.audit.healing import UNFINISHED, Case, Record, Request, Worker, check_case
from mithridate.audit.healing_report import document_of
from mithridate.audit.session import claim, seconds_worked, work_off, write_manifest
from mithridate.core.artefacts import as_json, disk_errors, write_atomic
from mithridate.core.errors import Misuse
from mithridate.core.events import NullProgress, Progress
from mithridate.core.ledger import Ledger
from mithridate.core.pool import Job
from mithridate.core.verdicts import Gate
from mithridate.report.html import render_html
from mithridate.report.text import render_markdown

_CLAIM = "healing.json"


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A healing at its end: the report document, and the records of its jobs; none where there were no suspects."""

    document: Record
    records: Mapping[str, Record]


def run_healing(
    case: Case, request: Request, folder: Path, *, progress: Progress | None = None, command: str = ""
) -> Finished:
    """Clean, heal and verify what is not yet done in the folder, and write the reports.

    Raises:
        Misuse: The parts do not fit each other; MTH-0720, the folder holds another run.
    """
    check_case(case)
    request.healer()
    Gate.parse(request.gate)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    names = ("clean", "heal", "verify") if len(case.suspects.found) else ()
    jobs = [Job(name, names[max(0, place - 1) : place]) for place, name in enumerate(names)]
    records = _worked_off(case, request, folder, jobs, progress if progress and jobs else NullProgress(), command)
    document = document_of(case, request, records, command=command, folder=folder)
    document["timing"] = {"seconds": seconds_worked(folder), "estimate_seconds": None}
    write_reports(document, folder, seed=request.seed)
    return Finished(document=document, records=records)


def write_reports(document: Record, folder: Path, *, seed: int) -> None:
    """Write the report in its three formats, and the manifest."""
    write_atomic(folder / "report.json", as_json(document))
    write_atomic(folder / "report.html", render_html(document).encode())
    write_atomic(folder / "report.md", render_markdown(document).encode())
    write_manifest(folder, ("report.json", "report.html", "report.md"), seed=seed)


def _worked_off(
    case: Case, request: Request, folder: Path, jobs: list[Job], progress: Progress, command: str
) -> Mapping[str, Record]:
    refused = False
    try:
        with Ledger(folder / "ledger.jsonl").open() as ledger:
            named = hashlib.sha256(repr(case.suspects.found.tolist()).encode()).hexdigest()
            what = {"model": case.suspects.model, "data": case.suspects.data, "suspects": named}
            claim(folder / _CLAIM, {**asdict(request), **what})
            try:
                work_off(
                    jobs,
                    Worker(case=case, request=request, folder=folder),
                    folder=folder,
                    ledger=ledger,
                    workers=1,
                    progress=progress,
                    title=f"healing by {request.method}",
                    command=command,
                )
            except Misuse:
                refused = "heal" not in ledger.records()
                raise
            return ledger.records()
    finally:
        if refused:
            _released(folder)


def _released(folder: Path) -> None:
    """Let another request have the folder, after one that was refused before it had healed anything."""
    (folder / _CLAIM).unlink(missing_ok=True)
    (folder / UNFINISHED).unlink(missing_ok=True)
    write_atomic(folder / "ledger.jsonl", b"")
