"""One session of work on a run folder: the jobs that its ledger does not have yet, on processes, with events."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from mithridate.audit.machine import one_thread
from mithridate.core.artefacts import as_json, sha256_of, write_atomic
from mithridate.core.boundary import read_json
from mithridate.core.environment import environment
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.core.events import EventLog, JobNews, Progress, read_events
from mithridate.core.ledger import Ledger
from mithridate.core.pool import Execute, Job, run_jobs

EVENTS = "events.jsonl"


def work_off(
    jobs: Sequence[Job],
    execute: Execute,
    *,
    folder: Path,
    ledger: Ledger,
    workers: int,
    progress: Progress,
    title: str,
    command: str = "",
) -> None:
    """Run what is not yet in the ledger and write down every result as it comes; a result has its `seconds`.

    Args:
        jobs: All jobs of the run.
        execute: Runs one of them.
        folder: The run folder, which gets the events.
        ledger: Open for appending.
        workers: Number of processes.
        progress: Shown while jobs run.
        title: Of the display.
        command: What the user typed, so that `status` can say how to go on.
    """
    events, finished = EventLog(folder / EVENTS), ledger.records()
    left = [job for job in jobs if job.name not in finished]
    progress.start(len(jobs), title)
    progress.advance(len(jobs) - len(left), "resumed")
    events.write({"event": "start", "jobs": len(jobs), "left": len(left), "command": command})
    begun, threads = time.monotonic(), torch.get_num_threads()
    try:
        news = JobNews(events, progress)
        for done in run_jobs(left, execute, workers=workers, setup=one_thread, finished=list(finished), heard=news):
            ledger.append(done.name, done.result)
            events.write({"event": "done", "job": done.name, "seconds": done.result["seconds"]})
            progress.advance(1, done.name)
        events.write({"event": "end", "seconds": round(time.monotonic() - begun, 3)})
    finally:
        torch.set_num_threads(threads)
        progress.close()


def write_manifest(folder: Path, names: Sequence[str], *, seed: int, **more: str) -> None:
    """Write what identifies a finished run: versions, seed, what else the run knows, and the hashes of its files."""
    manifest = {
        "schema": "mithridate.run/1",
        "versions": environment(),
        "seed": seed,
        **more,
        "files": {name: {"sha256": sha256_of(folder / name)} for name in names},
    }
    write_atomic(folder / "manifest.json", as_json(manifest))


def seconds_worked(folder: Path) -> float:
    """Return the wall-clock seconds of all sessions that worked on the folder, from their events."""
    total, begun, last = 0.0, None, None
    for event in read_events(folder / EVENTS):
        at = datetime.fromisoformat(event["at"])
        if event["event"] == "start":
            total += (last - begun).total_seconds() if begun and last else 0.0
            begun = at
        last = at
    return round(total + ((last - begun).total_seconds() if begun and last else 0.0), 3)


def claim(path: Path, config: Mapping[str, Any]) -> None:
    """Bind a run folder to one configuration, which its file `path` keeps.

    Raises:
        Misuse: MTH-0720, the folder holds another run.
    """
    text = as_json(config)
    if not path.exists():
        write_atomic(path, text)
    elif path.read_bytes() != text:
        raise Misuse(
            "MTH-0720",
            f"{path.parent} holds another run: {_difference(path, config)}",
            hint="choose another folder with --out, or remove this one",
        )


def _difference(path: Path, config: Mapping[str, Any]) -> str:
    """Return in which entries a kept configuration differs, in words."""
    try:
        kept = read_json(path)
    except BadArtefact:
        kept = None
    if not isinstance(kept, dict):
        return f"{path.name} is damaged"
    asked = read_json(as_json(config))
    names = [name for name in {**kept, **asked} if kept.get(name) != asked.get(name)]
    return "; ".join(
        f"{name} is {_short(kept.get(name))} there, and {_short(asked.get(name))} is asked for" for name in names[:4]
    )


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:20]}..."
