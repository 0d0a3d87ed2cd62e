"""Running a reproduction: an audit with the paper's block and verdict in its report, or the paper's own grid."""

from pathlib import Path
from typing import cast

from mithridate.audit.assembly import Assembly
from mithridate.audit.machine import check_device
from mithridate.audit.run import run_audit
from mithridate.core.errors import Misuse
from mithridate.core.events import Progress
from mithridate.core.registry import Registry
from mithridate.papers._base import AbstractAuditPaper, AbstractGridPaper, Document, Scale
from mithridate.papers._grid import run_grid

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
    reused: Path | None = None,
) -> Document:
    """Run a paper's audit or grid at a scale, write its report and return the document.

    Args:
        name: The paper, see `mithridate list papers`.
        scale: `smoke` takes a minute, `cpu` about an hour on two cores, `paper` is the published setting.
        folder: The run folder; resumes if it holds this reproduction.
        seed: The one seed of the run.
        device: Where networks run.
        progress: Shown while jobs run.
        command: What the user typed, for the report.
        reused: Folder of a finished run whose results are taken over where they are this one's too.

    Raises:
        Misuse: MTH-0722, the paper is no audit and nothing can be taken over; or what `run_audit` raises.
    """
    check_device(device)
    paper = PAPERS.load(name)()
    size = cast(Scale, scale)
    if isinstance(paper, AbstractGridPaper):
        if reused is not None:
            raise Misuse(
                "MTH-0722",
                f"the reproduction of {name} is a grid of its own jobs, which takes over no audit",
                hint="leave --reuse out",
            )
        return run_grid(paper, scale=size, folder=folder, seed=seed, device=device, progress=progress, command=command)
    assert isinstance(paper, AbstractAuditPaper), f"{name} is neither an audit nor a grid"

    def decorate(document: Document, _assembly: Assembly) -> Document:
        return {
            **document,
            "kind": "paper",
            "title": f"{paper.title}, reproduced at scale {scale}",
            "verdict": paper.verdict(document),
            "paper": paper.block(size, paper.measured(document)),
        }

    config = paper.config(size).model_copy(update={"seed": seed, "device": device})
    return run_audit(config, folder, progress=progress, command=command, reused=reused, decorate=decorate).document
