"""`mithridate train`: train one victim, on clean or on poisoned data, with or without a defense."""

from pathlib import Path
from typing import Annotated

import typer

from mithridate.cli._options import ConfigArgument, OneMethod, OutOption, VictimOptions, configured
from mithridate.cli._session import Session
from mithridate.cli._verb import verb
from mithridate.cli.verify import check_pack_folder


@verb
def train(
    session: Session,
    victim: VictimOptions,
    config: ConfigArgument = None,
    pack: Annotated[
        Path | None, typer.Option("--pack", metavar="DIR", help="Poison pack to train on.", show_default=False)
    ] = None,
    defense: Annotated[
        str | None,
        typer.Option(
            "--defense", metavar="NAME", help="Defense; NAME:option=value,... sets options.", show_default=False
        ),
    ] = None,
    out: OutOption = None,
) -> None:
    """Train one model by a victim contract and save its weights as safetensors.

    With --pack it is trained on the poisoned data, and the result says what it makes of the pack's targets.
    """
    if pack is not None:
        check_pack_folder(pack)
    from mithridate.cli.audit import RUNS, run_name

    resolved = configured(config, victim, OneMethod(flag="--defense", key="defenses", name=defense))
    folder = out or RUNS / f"train-{run_name(resolved, config.stem if config else '')}"
    session.work_in(folder, mark="checkpoint")
    from mithridate.audit.single import run_training
    from mithridate.cli._views import pairs

    document = run_training(resolved, folder, pack=pack, progress=session.progress())
    session.result(document, pairs(document))
