"""`mithridate own`: mark a data set of one's own, and later prove that a model was trained on it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mithridate.cli import own_mark, own_verify
from mithridate.cli._owning import SECRET, figures_view, option
from mithridate.cli._session import Session, command, path_word, table
from mithridate.cli._verb import JsonFlag, verb
from mithridate.core.errors import ExitCode, Misuse

DEFAULT_DEMO = Path("mithridate-runs") / "own-demo"

app = typer.Typer(
    name="own",
    help="Mark a data set of your own, and later prove that a model was trained on it.\n\n"
    "keygen, commit, publish the commitment, mark, publish the data; later verify, and anybody can check.",
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def own(
    ctx: Any,
    demo: Annotated[
        bool, typer.Option("--demo", help="Mark the embedded digits, train an innocent and a guilty model, ask both.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the demonstration.", min=0)] = 0,
    out: Annotated[Path | None, option("--out -o", "DIR", "Folder for what the demonstration writes.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run the demonstration, or the verb that was named."""
    session = ctx.find_object(Session) or Session()
    session.json = session.json or as_json
    if ctx.invoked_subcommand is not None:
        if demo:
            raise Misuse("MTH-1079", f"--demo stands alone, and {ctx.invoked_subcommand!r} was given too")
        return
    if not demo:
        session.text(ctx.get_help())
        return
    _demo(session, out or DEFAULT_DEMO, seed)


# Typer hands over a context of a private class of its own to whoever asks for a `typer.Context`.
own.__annotations__["ctx"] = typer.Context
app.callback(invoke_without_command=True)(own)


def _demo(session: Session, folder: Path, seed: int) -> None:
    from mithridate.ownership.extra import need_extra

    need_extra()
    session.work_in(folder, mark="commitment.json")
    from mithridate.audit.owning_demo import run_demo

    demo = run_demo(folder, seed, progress=session.progress())
    document = demo.document()
    both = {name: document[name] for name in ("innocent", "guilty")}
    session.result(
        document,
        f"{document['marked_images']} of 1,437 digits carry marks of at most {document['epsilon']:g}; "
        f"the innocent model was trained without them, the guilty one with them.",
        figures_view(both),
        *(f"{name}: {found['verdict']['sentence']}" for name, found in both.items()),
        *(f"test accuracy, {name}: {found['accuracy']:.3f}" for name, found in both.items()),
        *(
            f"certificate: {found['certificate']}; check it with: "
            f"{command('own', 'check', path_word(Path(found['certificate'])))}"
            for found in both.values()
        ),
        "The secret of the demonstration is known to everybody: what it marks proves nothing.",
    )
    raise typer.Exit(int(ExitCode.PASS if demo.as_promised else ExitCode.GATE_FAILED))


@verb
def keygen(
    session: Session,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where to write the secret.")] = SECRET,
) -> None:
    """Make the secret from which all keys are derived, readable by you alone and never shown.

    Keep a copy in a safe place: without it nothing more can be proven, by nobody.
    """
    from mithridate.ownership.secret import Secret

    secret = Secret.new()
    public = secret.public_key
    secret.write(out)
    session.result(
        {"secret": str(out), "public_key": public},
        f"wrote {out}, which only you can read; keep a copy in a safe place",
        f"public key: {public}",
        f"next: {command('own', 'commit', 'DATASET', '--secret', path_word(out))}",
    )


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What is expected of the test, and how sure one wants to be."""

    topk: Annotated[int, typer.Option("--topk", metavar="K", help="Answers of the model that count.", min=1)] = 1
    hit_rate: Annotated[
        str,
        typer.Option(
            "--hit-rate", metavar="SHARE", help="Of keys that a guilty model hits; `own selfcheck` measures it."
        ),
    ] = "0.5"
    alpha: Annotated[str, typer.Option("--alpha", metavar="P", help="Level at which ownership is shown.")] = "0.001"
    power: Annotated[
        float, typer.Option("--power", metavar="P", help="Chance of success that is wanted.", min=0.01, max=0.9999)
    ] = 0.9
    run: Annotated[
        int, typer.Option("--run", metavar="N", help="Which verification: later ones need more hits.", min=1)
    ] = 1
    no_beacon: Annotated[
        bool, typer.Option("--no-beacon", help="Convince also those who think that 2^64 secrets were tried.")
    ] = False


@verb
def plan(
    session: Session,
    classes: Annotated[int, typer.Option("--classes", metavar="C", help="Classes of the data.", min=2)],
    test: PlanOptions,
    keys: Annotated[
        list[int] | None, option("--keys", "N", "Keys of one test, may be repeated; else a range is shown.")
    ] = None,
) -> None:
    """Say how many keys and hits a proof needs, before anything is marked. Needs no data.

    Exit code: 3 if no number of keys up to 500 reaches the power that is wanted.
    """
    from mithridate.audit.owning_plan import prospects

    found = prospects(
        keys,
        topk=test.topk,
        classes=classes,
        hit_rate=test.hit_rate,
        alpha=test.alpha,
        wanted=test.power,
        run=test.run,
        grindable=test.no_beacon,
    )
    rows = [
        (row["keys"], "out of reach" if row["hits_needed"] is None else row["hits_needed"], f"{row['power']:.4f}")
        for row in found["table"]
    ]
    least = found["keys_needed"]
    said = (
        f"{least} keys find a guilty model with a chance of {test.power:g} or more, if it hits {test.hit_rate} of them."
        if least is not None
        else found["reason"]
    )
    session.result(found, said, table(("keys", "hits needed", "power"), rows))
    raise typer.Exit(int(ExitCode.PASS if least is not None else ExitCode.INCONCLUSIVE))


for _name, _function in {
    "keygen": keygen,
    "commit": own_mark.commit,
    "mark": own_mark.mark,
    "selfcheck": own_mark.selfcheck,
    "plan": plan,
    "verify": own_verify.verify,
    "check": own_verify.check,
}.items():
    app.command(_name)(_function)
