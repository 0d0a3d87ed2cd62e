"""`mithridate audit`: poison a pipeline on purpose, with controls, and say what came of it."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mithridate.cli._options import (
    AttackerOptions,
    ConfigArgument,
    GridOptions,
    JobOptions,
    OutOption,
    ReuseOption,
    VictimOptions,
    configured,
)
from mithridate.cli._session import Session, command
from mithridate.cli._verb import verb

if TYPE_CHECKING:
    from mithridate.audit.config import AuditConfig

RUNS = Path("mithridate-runs")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where the run lives, and whether it takes place."""

    out: OutOption = None
    reuse: ReuseOption = None
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything and print the cost; run nothing.", rich_help_panel="Output"),
    ] = False


@verb
def audit(
    session: Session,
    victim: VictimOptions,
    attacker: AttackerOptions,
    grid: GridOptions,
    job: JobOptions,
    run: RunOptions,
    config: ConfigArgument = None,
    demo: Annotated[bool, typer.Option("--demo", help="Audit the embedded digits: offline, no configuration.")] = False,
) -> None:
    """Poison your own training pipeline in measured doses, and report what happened.

    Trains victims on clean, noisy and poisoned data, with and without defenses. The same command goes on after an
    interruption. Exit code: 0 pass, 1 the gate failed, 2 wrong use, 3 inconclusive, 4 the machine failed.
    """
    resolved = configured(config, victim, attacker, grid, job, use_demo=demo)
    folder = run.out or RUNS / run_name(resolved, "demo" if demo else config.stem if config else "")
    if run.dry_run:
        from mithridate.cli.check import show_estimate

        show_estimate(session, resolved, folder)
        return
    session.work_in(folder)
    from mithridate.audit.run import run_audit
    from mithridate.cli._views import show_run

    finished = run_audit(resolved, folder, progress=session.progress(), command=typed(), reused=run.reuse)
    show_run(session, finished.document, folder)
    raise typer.Exit(int(finished.document["verdict"]["exit_code"]))


def run_name(config: "AuditConfig", stem: str) -> str:
    """Return the name of the run folder: the same configuration gives the same folder, another one another.

    `jobs` and `data.store` never change a number, so they do not change the folder.
    """
    from mithridate.audit.config import to_yaml

    text = to_yaml(config, bound=True)
    name = stem or f"{Path(config.data.source).name or 'data'}-{config.model}"
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in name).strip("-.")[:60]
    return f"{plain or 'audit'}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def typed() -> str:
    """Return the command as the user typed it."""
    return command(*sys.argv[1:])
