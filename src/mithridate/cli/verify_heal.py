"""`mithridate verify-heal`: what a trigger does to a model before and after it was healed."""

from pathlib import Path
from typing import Annotated

import typer

from mithridate.cli._healing import ModelOptions, check_model_path
from mithridate.cli._session import Session, table
from mithridate.cli._verb import verb
from mithridate.cli.heal import TriggerOptions
from mithridate.core.errors import Misuse


@verb
def verify_heal(
    session: Session,
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="The model that was healed.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="The healed model.")],
    known: TriggerOptions,
    options: ModelOptions,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="DATA", help="Whose test images; by default the model's data.", show_default=False
        ),
    ] = None,
    gate: Annotated[
        str, typer.Option("--gate", metavar="TEST", help="What the interval of the attack success rate must meet.")
    ] = "asr<0.2",
    budget: Annotated[
        str, typer.Option("--budget", metavar="SHARE", help="Most clean accuracy that may be lost: 0.03, or 3%.")
    ] = "0.03",
) -> None:
    """Compare two models on held-out images, with and without the trigger.

    Without --trigger and --pack a trigger is reconstructed from the model before: the smallest of all classes' if it is
    an outlier, else the one that alone has ceased to work. Exit code: 0 healed, 1 not healed, 3 inconclusive: the
    trigger did not work before either, may be a natural one, or none was found.
    """
    from mithridate.core.units import parse_rate
    from mithridate.core.verdicts import Gate

    allowed, judged = parse_rate(budget, "budget"), Gate.parse(gate)
    if judged.metric != "asr":
        raise Misuse("MTH-0733", f"gate {gate!r}: a healing is judged by asr", hint="write for example asr<0.1")
    check_model_path(after)
    opened = options.opened(before, data)
    from mithridate.audit.healing import both
    from mithridate.audit.healing_demo import shown
    from mithridate.audit.healing_report import class_table, outcome_table, plain_verdict, rates
    from mithridate.audit.opening import healed_of, probe_of
    from mithridate.audit.verifying import verdict
    from mithridate.core.pool import silent

    healed = healed_of(opened, after, device=options.device)
    progress = session.progress()
    tell = (
        shown(progress, "reconstruction of the trigger") if known.trigger is None and opened.probe is None else silent
    )
    probe, origin = probe_of(opened, known.trigger, known.target, seed=options.seed, after=healed, tell=tell)
    progress.close()
    found = both(opened.model, healed, opened.data.test, probe, poisons=opened.poisons)
    outcome = verdict(found, gate=judged, budget=allowed)
    document = {
        **rates(found),
        "healed": outcome.exit_code == 0,
        "trigger": origin,
        "target_class": None if probe is None else opened.about.classes[probe.target],
        "verdict": plain_verdict(outcome, gate),
        "before": found["before"],
        "after": found["after"],
    }
    views = [table(part["columns"], part["rows"]) for part in (outcome_table(found), class_table(found))]
    session.result(document, outcome.sentence, *outcome.reasons, *views)
    raise typer.Exit(int(outcome.exit_code))
