"""`mithridate craft`: make poison packs, one for each scenario, to test one's own pipeline with."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from mithridate.cli._options import (
    AttackerOptions,
    ConfigArgument,
    JobOptions,
    OneMethod,
    OutOption,
    VictimOptions,
    configured,
)
from mithridate.cli._session import Session, command, path_word, table
from mithridate.cli._verb import verb
from mithridate.core.errors import Misuse

if TYPE_CHECKING:
    from mithridate.audit.config import AuditConfig


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
    from mithridate.cli.audit import RUNS, run_name, typed

    if attack is not None and attack.partition(":")[0] == "none":
        raise Misuse(
            "MTH-0561", "the attack 'none' makes no poisons", hint="`mithridate list attacks` names the others"
        )
    resolved = configured(config, victim, attacker, job, OneMethod(flag="--attack", key="attacks", name=attack))
    folder = out or RUNS / f"craft-{run_name(resolved, config.stem if config else '')}"
    session.work_in(folder)
    from mithridate.audit.run import run_crafting

    packs = run_crafting(resolved, folder, progress=session.progress(), command=typed())
    session.result(
        {"folder": str(folder), "packs": [str(path) for path in packs]},
        table(("pack",), [(path,) for path in packs]),
        f"next: {command('verify', path_word(packs[0]), '--data', resolved.data.source, *_reading(resolved))}",
    )


def _reading(config: "AuditConfig") -> Iterator[str]:
    """Yield the flags by which `verify` reads the same images."""
    for flag, value in (("--per-class", config.data.per_class), ("--size", config.data.size)):
        if value is not None:
            yield from (flag, str(value))
