"""Running an audit: the grid on a ledger, resumable at any moment, and the report at its end."""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mithridate.audit.assembly import Assembly, assemble, pack_path
from mithridate.audit.config import AuditConfig, to_yaml
from mithridate.audit.estimate import estimate
from mithridate.audit.jobs import Worker
from mithridate.audit.machine import num_workers
from mithridate.audit.reusing import Reused, taken_over
from mithridate.audit.session import seconds_worked, work_off, write_manifest
from mithridate.audit.summary import summarise
from mithridate.core.artefacts import as_json, disk_errors, write_atomic
from mithridate.core.boundary import read_json
from mithridate.core.errors import Misuse
from mithridate.core.events import NullProgress, Progress
from mithridate.core.ledger import Ledger
from mithridate.core.pool import Job
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
    reused: Path | None = None,
    decorate: Callable[[Document, Assembly], Document] = lambda document, _: document,
) -> Finished:
    """Run what is not yet in the folder's ledger, then summarise and write the reports.

    Args:
        config: The audit. A folder belongs to one configuration.
        folder: The run folder; made if absent.
        progress: Shown while jobs run.
        command: What the user typed, for the report.
        reused: Folder of a finished run; the jobs that both have in common are taken over, not run again.
        decorate: Adds to the document before it is written (used by papers).

    Raises:
        Misuse: The folder holds another audit, the configuration does not fit the data, or the run that shall be
            reused has nothing to do with it.
        WorkError: Another process works on the folder, the disk is full, a worker died.
    """
    other = None if reused is None else Reused.open(reused, config)
    assembly, records = _worked(config, folder, progress, command, lambda assembly: assembly.jobs(), other)
    document = decorate(summarise(assembly, records, command=command), assembly)
    document["setting"] += taken_over(folder)
    document["timing"] |= {"seconds": seconds_worked(folder), "estimate_seconds": _estimated_seconds(folder)}
    write_atomic(folder / "report.json", as_json(document))
    write_atomic(folder / "report.html", render_html(document).encode())
    files = ("config.yaml", "ledger.jsonl", "report.json", "report.html")
    write_manifest(folder, files, seed=config.seed, data=assembly.data.fingerprint)
    return Finished(document, folder, assembly)


def run_crafting(
    config: AuditConfig, folder: Path, *, progress: Progress | None = None, command: str = ""
) -> list[Path]:
    """Craft the packs of every attack of the configuration and return their folders; resumes like an audit."""
    assembly, _ = _worked(config, folder, progress, command, lambda assembly: assembly.crafting_jobs())
    labels = [label for label in assembly.attacks if label != "noise"] or list(assembly.attacks)
    return [pack_path(folder, label, scenario) for label in labels for scenario in assembly.scenarios]


def _worked(
    config: AuditConfig,
    folder: Path,
    progress: Progress | None,
    command: str,
    choose: Callable[[Assembly], list[Job]],
    reused: Reused | None = None,
) -> tuple[Assembly, dict[str, dict[str, Any]]]:
    """Run the chosen jobs that neither the ledger nor the reused run has, and return all records."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with Ledger(folder / "ledger.jsonl").open() as ledger:
        _claim(folder, config)
        assembly = assemble(config, folder)
        with disk_errors(folder):
            (folder / "cells").mkdir(exist_ok=True)
            (folder / "packs").mkdir(exist_ok=True)
        if reused is not None:
            reused.copy(assembly, ledger)
        _estimate_once(assembly, ledger.records())
        work_off(
            choose(assembly),
            Worker(assembly),
            folder=folder,
            ledger=ledger,
            workers=num_workers(config),
            progress=progress or NullProgress(),
            title=_title(assembly),
            command=command,
        )
        return assembly, ledger.records()


def _estimated_seconds(folder: Path) -> float | None:
    minutes = read_json(folder / "estimate.json")["minutes"]
    return None if minutes is None else round(60 * minutes, 1)


def _estimate_once(assembly: Assembly, done: Container[str]) -> None:
    """Estimate the cost before the first session of a run, and keep it to compare with what the run took.

    What was taken over from another run is done.
    """
    path = assembly.folder / "estimate.json"
    if not path.exists():
        write_atomic(path, as_json(estimate(assembly, calibrate=True, done=done).to_record()))


def _title(assembly: Assembly) -> str:
    minutes = read_json(assembly.folder / "estimate.json")["minutes"]
    return f"audit (estimate {minutes:g} min)" if minutes and minutes >= 1 else "audit"


def _claim(folder: Path, config: AuditConfig) -> None:
    """Bind the folder to the configuration, but for what never changes a number."""
    text, path = to_yaml(config, bound=True), folder / "config.yaml"
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
