"""`mithridate heal`: take out of a trained model what a few poisoned samples have planted in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from mithridate.cli._healing import ModelOptions, method_of
from mithridate.cli._session import Session
from mithridate.cli._verb import verb
from mithridate.core.errors import Misuse
from mithridate.core.units import parse_rate

if TYPE_CHECKING:
    from mithridate.audit.healing import Case, Request
    from mithridate.audit.healing_run import Finished

DEFAULT_OUT = Path("mithridate-runs")


def _option(flags: str, metavar: str, text: str) -> typer.models.OptionInfo:
    found: typer.models.OptionInfo = typer.Option(*flags.split(), metavar=metavar, help=text, show_default=False)
    return found


@dataclass(frozen=True, kw_only=True)
class HealOptions:
    """How to heal, and how much it may cost."""

    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="Healer; NAME:option=value,... sets options.")
    ] = "xlf"
    guard: Annotated[
        str | None,
        _option("--guard", "SHARE|none", "Most accuracy that may be lost on the reference: 0.01, or 1%; none for any."),
    ] = None
    poison_rate: Annotated[
        str | None,
        _option("--poison-rate", "SHARE", "Share of poison in the training data, as far as it is known."),
    ] = None
    trusted: Annotated[bool, typer.Option("--trusted", help="The reference holds no poison.")] = False
    no_clean: Annotated[
        bool, typer.Option("--no-clean", help="Use all suspects; do not drop those that look clean on the way.")
    ] = False
    gate: Annotated[
        str, typer.Option("--gate", metavar="TEST", help="What the interval of the attack success rate must meet.")
    ] = "asr<0.2"
    recipe: Annotated[
        str | None,
        _option(
            "--recipe",
            "NAME",
            "How the model was trained, for methods that train; NAME:option=value,... sets options. By default as "
            "`mithridate train` recorded it.",
        ),
    ] = None

    def request(self, seed: int) -> "Request":
        """Return the request. Raises `Misuse` for whatever is wrong with the flags."""
        name, options = method_of(self.method)
        rate = None if self.poison_rate is None else parse_rate(self.poison_rate, "poison rate")
        budget = None if self.guard in (None, "none") else parse_rate(str(self.guard), "guard")
        from mithridate.core.verdicts import Gate

        if Gate.parse(self.gate).metric != "asr":
            raise Misuse(
                "MTH-0733", f"gate {self.gate!r}: a healing is judged by asr", hint="write for example asr<0.1"
            )
        from mithridate.audit.healing import Request

        return Request(
            method=name,
            options=options,
            guard=budget,
            guarded=self.guard != "none",
            trusted=self.trusted,
            poison_rate=rate,
            clean=not self.no_clean,
            gate=self.gate,
            seed=seed,
            recipe=self.recipe,
        )


@dataclass(frozen=True, kw_only=True)
class TriggerOptions:
    """The trigger, where it is known."""

    trigger: Annotated[
        Path | None,
        _option("--trigger", "PNG", "Image of the trigger, transparent where images show through."),
    ] = None
    target: Annotated[
        str | None,
        _option(
            "--target",
            "CLASS",
            "Class that the trigger stands for; by default that of most suspects, or of most triggered images.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What was found, in which data, and what is to be kept."""

    suspects: Annotated[
        Path | None,
        _option(
            "--suspects", "FILE", "Table that `mithridate scan` wrote, or a text or CSV file with a row id a line."
        ),
    ] = None
    reference: Annotated[
        str | None,
        _option("--reference", "DATA", "Data to keep: usually, and by default, those that the model was trained on."),
    ] = None
    data: Annotated[
        str | None, _option("--data", "DATA", "The data that were scanned, if they are not the reference.")
    ] = None


@verb
def heal(
    session: Session,
    how: HealOptions,
    known: TriggerOptions,
    options: ModelOptions,
    sources: SourceOptions,
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL]", help="Folder of `mithridate train`, or safetensors file.", show_default=False
        ),
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Poison, scan and heal a network on the embedded digits; takes nothing else.")
    ] = False,
    out: Annotated[Path | None, _option("--out -o", "DIR", "Folder for the healed model and its report.")] = None,
) -> None:
    """Heal a poisoned model from a few discovered samples, without training it again, and verify it.

    Writes model.safetensors, model.json, undo.safetensors and report.html. Exit code: 0 healed, or left alone because
    there are no suspects; 1 not healed; 2 wrong use; 3 inconclusive, such as where no trigger is known and none that
    could be reconstructed tells.
    """
    suspects, reference, data = sources.suspects, sources.reference, sources.data
    given = {"MODEL": model, "--suspects": suspects, "--reference": reference, "--data": data}
    if demo and any(value is not None for value in given.values()):
        names = ", ".join(name for name, value in given.items() if value is not None)
        raise Misuse("MTH-0125", f"--demo brings its own model and data, and {names} was given too")
    told = reference is not None or data is not None or (model is not None and (model / "model.json").is_file())
    if not demo and (model is None or suspects is None or not told):
        missing = [name for name in ("MODEL", "--suspects", "--reference") if given[name] is None]
        raise Misuse(
            "MTH-0125",
            f"{', '.join(missing)} is missing",
            hint="mithridate heal MODEL --suspects suspects.parquet --reference DATA -o healed; or --demo",
        )
    if suspects is not None and not suspects.is_file():
        raise Misuse(
            "MTH-0867",
            f"there is no file {str(suspects)!r}",
            hint="make it with `mithridate scan MODEL DATA`, or write a row id on each line of a file",
        )
    request = how.request(options.seed)
    folder = out or DEFAULT_OUT / ("heal-demo" if demo else f"healed-{model.stem if model else ''}")
    if demo:
        _demo(session, request, folder)
    assert model is not None and suspects is not None, "checked above"
    options.check(model, reference)
    case = _case(session, model, sources, request, known=known, options=options)
    session.work_in(folder)
    from mithridate.audit.healing_run import run_healing
    from mithridate.cli.audit import typed

    finished = run_healing(case, request, folder, progress=session.progress(), command=typed())
    _show(session, case, finished, request, folder)


def _demo(session: Session, request: "Request", folder: Path) -> NoReturn:
    session.work_in(folder, mark="pack")
    from mithridate.audit.healing_demo import run_demo
    from mithridate.cli.audit import typed

    case, finished = run_demo(folder, request, progress=session.progress(), command=typed())
    _show(session, case, finished, request, folder)


def _show(session: Session, case: "Case", finished: "Finished", request: "Request", folder: Path) -> NoReturn:
    from mithridate.audit.healing_report import summary
    from mithridate.report.text import render_terminal

    document = finished.document
    plain = {**summary(document, case, request, finished.records), "folder": str(folder)}
    wide = render_terminal(document, session.console().width)
    session.result(plain, wide, f"report: {folder / 'report.html'}")
    raise typer.Exit(int(document["verdict"]["exit_code"]))


def _case(
    session: Session,
    model: Path,
    sources: SourceOptions,
    request: "Request",
    *,
    known: TriggerOptions,
    options: ModelOptions,
) -> "Case":
    reference, data = sources.reference, sources.data
    assert sources.suspects is not None, "checked above"
    opened = options.opened(model, data if data is not None else reference)
    if opened.otherwise:
        session.warn(opened.otherwise)
    from mithridate.audit.healing import Case
    from mithridate.audit.recipe import training_plan
    from mithridate.audit.verifying import Probe, probe_of_png, target_of
    from mithridate.data.sources import load
    from mithridate.detection.listed import read_suspects

    table, test = read_suspects(sources.suspects, opened.train, opened.model), opened.data.test
    probe = opened.probe
    if known.trigger is not None:
        label = table.label if known.target is None else target_of(known.target, test.classes)
        probe = probe_of_png(known.trigger, known.target, opened.model, test)
        probe = probe if label is None else Probe(trigger=probe.trigger, target=label)
    kept = None
    if data is not None and reference is not None and data != reference:
        kept = load(reference, size=options.size).train
    return Case(
        about=opened.about,
        model=opened.model,
        data=opened.train,
        suspects=table,
        reference=kept,
        test=test,
        probe=probe,
        poisons=opened.poisons,
        training=training_plan(opened, request.healer(), request.recipe, device=options.device),
        device=options.device,
    )
