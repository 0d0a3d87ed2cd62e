"""Running a reproduction: an audit with the paper's block and verdict in its report."""

from pathlib import Path
from typing import cast

from mithridate.audit.assembly import Assembly
from mithridate.audit.run import Finished, run_audit
from mithridate.core.events import Progress
from mithridate.core.registry import Registry
from mithridate.papers._base import AbstractPaper, Document, Scale

PAPERS = Registry("mithridate.papers", "paper", None)


def reproduce(
    name: str,
    *,
    scale: str,
    folder: Path,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
    command: str = "",
) -> Finished:
    """Run a paper's audit at a scale and write its report.

    Args:
        name: The paper, see `mithridate list papers`.
        scale: `smoke` takes a minute, `cpu` about an hour on two cores, `paper` is the published setting.
        folder: The run folder; resumes if it holds this reproduction.
        seed: The one seed of the run.
        device: Where networks run.
        progress: Shown while jobs run.
        command: What the user typed, for the report.
    """
    paper: AbstractPaper = PAPERS.load(name)()
    size = cast(Scale, scale)

    def decorate(document: Document, _assembly: Assembly) -> Document:
        return {
            **document,
            "kind": "paper",
            "title": f"{paper.title}, reproduced at scale {scale}",
            "verdict": paper.verdict(document),
            "paper": {
                "name": paper.name,
                "claim": paper.claim,
                "citation": paper.citation,
                "departures": list(paper.departures(size)),
                "published": [list(row) for row in paper.published],
                "measured": paper.measured(document),
            },
        }

    config = paper.config(size).model_copy(update={"seed": seed, "device": device})
    return run_audit(config, folder, progress=progress, command=command, decorate=decorate)
