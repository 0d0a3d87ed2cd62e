"""Running a paper's own grid: jobs on a ledger, resumable at any moment, and the report at its end."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mithridate.audit.machine import processes
from mithridate.audit.session import claim, seconds_worked, work_off, write_manifest
from mithridate.core.artefacts import as_json, disk_errors, write_atomic
from mithridate.core.environment import environment
from mithridate.core.events import NullProgress, Progress
from mithridate.core.ledger import Ledger
from mithridate.core.verdicts import Verdict
from mithridate.papers._base import AbstractGridPaper, Document, Scale
from mithridate.report.html import render_html
from mithridate.report.schema import SCHEMA
from mithridate.report.text import render_markdown


def run_grid(
    paper: AbstractGridPaper,
    *,
    scale: Scale,
    folder: Path,
    seed: int,
    device: str,
    progress: Progress | None,
    command: str,
) -> Document:
    """Run the jobs that are not yet in the folder's ledger, write the reports and return the document.

    Raises:
        Misuse: MTH-0720, the folder holds another run.
        WorkError: Another process works on the folder, the disk is full, a worker died.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    config = {"paper": paper.name, "scale": scale, "seed": seed, "device": device}
    jobs = list(paper.jobs(scale))
    with Ledger(folder / "ledger.jsonl").open() as ledger:
        claim(folder / "config.json", config)
        work_off(
            jobs,
            paper.worker_in(folder / "cells", scale, seed=seed, device=device),
            folder=folder,
            ledger=ledger,
            workers=processes(device),
            progress=progress or NullProgress(),
            title=f"{paper.name} at scale {scale}",
            command=command,
        )
        found = ledger.records()
    document = _document(paper, scale, {job.name: found[job.name] for job in jobs}, config, command)
    document["timing"] = {"seconds": seconds_worked(folder), "estimate_seconds": None}
    write_atomic(folder / "report.json", as_json(document))
    write_atomic(folder / "report.html", render_html(document).encode())
    write_atomic(folder / "report.md", render_markdown(document).encode())
    files = ("config.json", "ledger.jsonl", "report.json", "report.html", "report.md")
    write_manifest(folder, files, seed=seed)
    return document


def _document(
    paper: AbstractGridPaper,
    scale: Scale,
    records: Mapping[str, Mapping[str, Any]],
    config: Mapping[str, Any],
    command: str,
) -> Document:
    results = paper.results(scale, records)
    verdict = Verdict(results.status, results.sentence, results.reasons)
    return {
        "schema": SCHEMA,
        "kind": "paper",
        "title": f"{paper.title}, reproduced at scale {scale}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": {
            "status": verdict.status.value,
            "exit_code": int(verdict.exit_code),
            "sentence": verdict.sentence,
            "reasons": list(verdict.reasons),
            "gate": None,
        },
        "setting": [list(row) for row in paper.setting(scale)],
        "cells": [],
        "tables": list(results.tables),
        "comparisons": list(results.comparisons),
        "paper": paper.block(scale, results.measured),
        "config": dict(config),
        "environment": environment(),
        "reproduce": command or f"mithridate reproduce {paper.name} --scale {scale} --seed {config['seed']}",
    }
