"""Running an audit: the grid on a ledger, resumable at any moment, and the report at its end."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mithridate.audit.assembly import Assembly, assemble, pack_path
from mithridate.audit.config import AuditConfig, to_yaml
from mithridate.audit.jobs import Worker
from mithridate.audit.summary import summarise
from mithridate.core.artefacts import disk_errors, write_atomic
from mithridate.core.errors import Misuse
from mithridate.core.events import EventLog, NullProgress, Progress
from mithridate.core.ledger import Ledger
from mithridate.core.pool import Done, Job, run_jobs
from mithridate.report.html import render_html

Document = dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """A finished audit: its report document and where it lies."""

    document: Document
    folder: Path
    assembly: Assembly


def run_audit(
    config: AuditConfig,
    folder: Path,
    *,
    progress: Progress | None = None,
    command: str = "",
    decorate: Callable[[Document, Assembly], Document] = lambda document, _: document,
) -> Finished:
    """Run what is not yet in the folder's ledger, then summarise and write the reports.

    Args:
        config: The audit. A folder belongs to one configuration.
        folder: The run folder; made if absent.
        progress: Shown while jobs run.
        command: What the user typed, for the report.
        decorate: Adds to the document before it is written (used by papers).

    Raises:
        Misuse: The folder holds another audit, or the configuration does not fit the data.
        WorkError: Another process works on the folder, the disk is full, a worker died.
    """
    assembly, records = _worked(config, folder, progress, lambda assembly: assembly.jobs())
    document = decorate(summarise(assembly, records, command=command), assembly)
    write_atomic(folder / "report.json", (json.dumps(document, indent=1) + "\n").encode())
    write_atomic(folder / "report.html", render_html(document).encode())
    return Finished(document, folder, assembly)


def run_crafting(config: AuditConfig, folder: Path, *, progress: Progress | None = None) -> list[Path]:
    """Craft the packs of every attack of the configuration and return their folders; resumes like an audit."""
    assembly, _ = _worked(config, folder, progress, lambda assembly: assembly.crafting_jobs())
    labels = [label for label in assembly.attacks if label != "noise"] or list(assembly.attacks)
    return [pack_path(folder, label, scenario) for label in labels for scenario in assembly.scenarios]


def _worked(
    config: AuditConfig, folder: Path, progress: Progress | None, choose: Callable[[Assembly], list[Job]]
) -> tuple[Assembly, dict[str, dict[str, Any]]]:
    """Run the chosen jobs that the ledger does not have, and return all records."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with Ledger(folder / "ledger.jsonl").open() as ledger:
        _claim(folder, config)
        assembly = assemble(config, folder)
        with disk_errors(folder):
            (folder / "cells").mkdir(exist_ok=True)
            (folder / "packs").mkdir(exist_ok=True)
        _work(choose(assembly), assembly, ledger, progress or NullProgress())
        return assembly, ledger.records()


def num_workers(config: AuditConfig) -> int:
    """Return how many processes run jobs: one per core, and one alone on an accelerator."""
    if config.jobs != "auto":
        return int(config.jobs)
    return (
        1
        if config.device != "cpu"
        else len(os.sched_getaffinity(0))
        if sys.platform == "linux"
        else os.cpu_count() or 1
    )


def one_thread() -> None:
    """Every job runs on one thread, so that its numbers do not depend on how many run beside it."""
    torch.set_num_threads(1)


def _work(jobs: list[Job], assembly: Assembly, ledger: Ledger, progress: Progress) -> None:
    events, finished = EventLog(assembly.folder / "events.jsonl"), ledger.records()
    left = [job for job in jobs if job.name not in finished]
    progress.start(len(jobs), "audit")
    progress.advance(len(jobs) - len(left), "resumed")
    events.write({"event": "start", "jobs": len(jobs), "left": len(left)})
    begun, threads = time.monotonic(), torch.get_num_threads()
    try:
        workers = num_workers(assembly.config)
        results = run_jobs(left, Worker(assembly), workers=workers, setup=one_thread, finished=list(finished))
        for word in results:
            if isinstance(word, Done):
                ledger.append(word.name, word.result)
                events.write({"event": "done", "job": word.name, "seconds": word.result["seconds"]})
                progress.advance(1, word.name)
        events.write({"event": "end", "seconds": round(time.monotonic() - begun, 3)})
    finally:
        torch.set_num_threads(threads)
        progress.close()


def _claim(folder: Path, config: AuditConfig) -> None:
    """Bind the folder to the configuration, whatever runs at once (`jobs` never changes a number)."""
    text, path = to_yaml(config.model_copy(update={"jobs": "auto"})), folder / "config.yaml"
    if not path.exists():
        write_atomic(path, text.encode())
        return
    before = path.read_text(encoding="utf-8")
    if before != text:
        raise Misuse(
            "MTH-0720",
            f"{folder} holds an audit with another configuration: {_first_difference(before, text)}",
            hint="choose another folder with --out, or remove this one",
        )


def _first_difference(before: str, now: str) -> str:
    pairs: Mapping[int, tuple[str, str]] = dict(enumerate(zip(before.splitlines(), now.splitlines(), strict=False)))
    was, wanted = next(((a, b) for a, b in pairs.values() if a != b), ("", ""))
    return f"it has '{was.strip()}', now '{wanted.strip()}' is asked"
