"""`mithridate craft`: make poison packs, one for each scenario, to test one's own pipeline with."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import typer

from mithridate.cli._options import (
    AttackerOptions,
    ConfigArgument,
    JobOptions,
    OutOption,
    Setting,
    VictimOptions,
    configured,
)
from mithridate.cli._session import Session, table
from mithridate.cli._verb import verb


@dataclass(frozen=True, kw_only=True)
class _OneAttack:
    name: str | None

    def settings(self) -> Iterator[Setting]:
        yield "--attack", ("attacks",), None if self.name is None else [self.name]


@verb
def craft(
    session: Session,
    victim: VictimOptions,
    attacker: AttackerOptions,
    job: JobOptions,
    config: ConfigArgument = None,
    attack: Annotated[
        str | None,
        typer.Option(
            "--attack", metavar="NAME", help="Attack; NAME:option=value,... sets options.", show_default=False
        ),
    ] = None,
    out: OutOption = None,
) -> None:
    """Craft poison packs against the recipe of a victim: a clean surrogate is trained, then the poisons.

    A pack is a folder with the poisoned pixels and a manifest of everything claimed about them; `mithridate verify`
    recomputes the claims. Packs are for testing pipelines that are your own.
    """
    from mithridate.cli.audit import RUNS, run_name

    resolved = configured(config, victim, attacker, job, _OneAttack(name=attack))
    folder = out or RUNS / f"craft-{run_name(resolved, config.stem if config else '')}"
    folder.mkdir(parents=True, exist_ok=True)
    session.folder = folder
    from mithridate.audit.run import run_crafting

    packs = run_crafting(resolved, folder, progress=session.progress())
    session.result(
        {"folder": str(folder), "packs": [str(path) for path in packs]},
        table(("pack",), [(path,) for path in packs]),
        f"next: mithridate verify {packs[0] if packs else folder} --data {resolved.data.source}",
    )
