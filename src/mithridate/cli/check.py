"""`mithridate check`: validate a configuration against its data and say what running it will cost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mithridate.cli._options import AttackerOptions, ConfigArgument, GridOptions, JobOptions, VictimOptions, configured
from mithridate.cli._session import Session
from mithridate.cli._verb import verb

if TYPE_CHECKING:
    from mithridate.audit.config import AuditConfig


@verb
def check(
    session: Session,
    victim: VictimOptions,
    attacker: AttackerOptions,
    grid: GridOptions,
    job: JobOptions,
    config: ConfigArgument = None,
    demo: Annotated[bool, typer.Option("--demo", help="Check the configuration of the demo.")] = False,
) -> None:
    """Validate a configuration, time a few real steps, and print cells, minutes, memory and disk. Runs nothing."""
    resolved = configured(config, victim, attacker, grid, job, use_demo=demo)
    show_estimate(session, resolved, Path())


def show_estimate(session: Session, config: "AuditConfig", folder: Path) -> None:
    """Print what running a configuration will cost; nothing is written."""
    from mithridate.audit.config import to_yaml
    from mithridate.audit.estimate import check as estimate
    from mithridate.cli._text import printable
    from mithridate.cli._views import pairs

    record = estimate(config, folder).to_record()
    document = {"config": config.model_dump(mode="json"), "estimate": record}
    session.result(document, printable(to_yaml(config)), pairs(record))
