"""`mithridate own verify` and `check`: ask a model, and check what somebody says came of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mithridate.cli._owning import OwnerOptions, figures_view, option
from mithridate.cli._session import Session, command, path_word
from mithridate.cli._verb import verb
from mithridate.core.errors import ExitCode, Misuse

if TYPE_CHECKING:
    from mithridate.audit.owning import Committed, Owned
    from mithridate.audit.owning_again import Again
    from mithridate.ownership.asking import AbstractOracle, LabelSpace, Query
    from mithridate.ownership.checking import Report

_WAYS = ("--model", "--predictions", "--command", "--http")


@dataclass(frozen=True, kw_only=True)
class AskOptions:
    """Who is asked; exactly one."""

    model: Annotated[
        Path | None, option("--model", "PATH", "A folder of `mithridate train`, or a safetensors file.", "Who is asked")
    ] = None
    predictions: Annotated[
        Path | None, option("--predictions", "CSV", "A table: key, then its labels, best first.", "Who is asked")
    ] = None
    command: Annotated[
        str | None,
        option(
            "--command",
            "'PROGRAM {}'",
            "Started for each key, without a shell; {} is the path of its image. It writes labels, best first, as "
            "JSON, by commas, or one a line.",
            "Who is asked",
        ),
    ] = None
    http: Annotated[
        str | None,
        option("--http", "URL", "Each key is posted to it as PNG; it answers JSON with labels.", "Who is asked"),
    ] = None
    model_name: Annotated[
        str | None, option("--model-name", "NAME", "The network, for a bare safetensors file.", "Who is asked")
    ] = None
    http_token: Annotated[
        str | None,
        option("--http-token", "VARIABLE", "Environment variable that is sent as Authorization.", "Who is asked"),
    ] = None
    class_map: Annotated[
        Path | None,
        option("--class-map", "JSON", "From the model's names of classes to the committed ones.", "Who is asked"),
    ] = None
    deadline: Annotated[
        float,
        typer.Option(
            "--deadline",
            metavar="SECONDS",
            help="For one answer of a command or a service.",
            min=0.1,
            max=3600,
            rich_help_panel="Who is asked",
        ),
    ] = 60.0
    device: Annotated[
        str,
        typer.Option(
            "--device", metavar="NAME", help="For --model: cpu, cuda, cuda:N or mps.", rich_help_panel="Who is asked"
        ),
    ] = "cpu"

    @property
    def named(self) -> list[str]:
        """The flags that name a model."""
        ways = zip(_WAYS, (self.model, self.predictions, self.command, self.http), strict=True)
        return [flag for flag, value in ways if value is not None]

    def check(self, *, needed: bool) -> None:
        """Make sure that one model is named, and in one way.

        Raises:
            Misuse: MTH-1074; MTH-0881, there is no such model.
        """
        given = self.named
        if len(given) > 1 or (needed and not given):
            raise Misuse(
                "MTH-1074",
                f"{' and '.join(given) or 'nothing'} names the model to ask; exactly one of {', '.join(_WAYS)} does",
                hint="mithridate own verify --model PATH; or --queries DIR to write the images of the keys",
            )
        if self.model is not None:
            from mithridate.cli._healing import check_model_path

            check_model_path(self.model)
        if self.model_name is not None:
            from mithridate.models.names import check_name

            check_name(self.model_name)

    def oracle(self, committed: "Committed", space: "LabelSpace") -> "AbstractOracle":
        """Return what is asked."""
        from mithridate.ownership.asking import CommandOracle, HttpOracle, PredictionsOracle

        if self.predictions is not None:
            return PredictionsOracle.read(self.predictions, space)
        if self.command is not None:
            return CommandOracle(self.command, space, deadline=self.deadline)
        if self.http is not None:
            return HttpOracle(self.http, space, token=self.http_token, deadline=self.deadline)
        assert self.model is not None, "checked before"
        from mithridate.audit.owning_verify import model_oracle

        return model_oracle(self.model, committed, space, name=self.model_name, device=self.device)


@dataclass(frozen=True, kw_only=True)
class StampOptions:
    """The trusted timestamp."""

    timestamp: Annotated[
        Path | None, option("--timestamp", "TSR", "The timestamp of the commitment that an authority has sent.")
    ] = None
    authority: Annotated[
        list[Path] | None,
        option("--authority", "PEM", "Certificate of a timestamp authority that is trusted; may be repeated."),
    ] = None


@verb
def verify(
    session: Session,
    owner: OwnerOptions,
    who: AskOptions,
    stamp: StampOptions,
    block: Annotated[
        int, typer.Option("--block", metavar="N", help="Which keys: a new dispute takes the next block.", min=0)
    ] = 0,
    queries: Annotated[
        Path | None,
        option("--queries", "DIR", "Ask nobody: write the images of the keys and a table to fill in."),
    ] = None,
    out: Annotated[
        Path | None,
        option("--out -o", "FILE", "The certificate; by default certificate-N.json for verification N."),
    ] = None,
) -> None:
    """Ask a model about the secret keys and write a signed certificate of what it answered.

    Every verification is written into the diary beside the commitment before the first question, and counts. Exit
    code: 0 ownership is shown, 1 not shown, 2 wrong use, 3 inconclusive: no power, or too few keys were answered.
    """
    who.check(needed=queries is None)
    owned = owner.opened()
    from mithridate.audit import owning, owning_verify
    from mithridate.core.artefacts import disk_errors
    from mithridate.ownership.certificate import write

    space = owning_verify.space_of(owned.committed, who.class_map)
    if queries is not None:
        _write_queries(session, owned, block, queries)
        return
    trusted = owning_verify.open_stamp(stamp.timestamp, owned.commitment, stamp.authority or ())
    oracle = who.oracle(owned.committed, space)
    diary = owning.diary_path(owner.commitment)
    path = out or Path(f"certificate-{owning_verify.next_run(diary, owned.commitment)}.json")
    owning.check_new(path)
    # Before anybody is asked: a verification without its certificate would count all the same.
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    trust = owning_verify.read_authorities(stamp.authority or ()) if trusted else ()
    progress = session.progress()
    progress.start(owned.commitment.dispute, "asking")
    found = owning_verify.verify(
        owned,
        oracle,
        diary,
        block=block,
        stamp=trusted,
        authorities=trust,
        tell=lambda answer: progress.advance(1, answer.kind),
    )
    progress.close()
    write(path, found.certificate)
    document = {**found.summary(), "certificate": str(path)}
    session.result(
        document,
        found.verdict.sentence,
        *found.verdict.reasons,
        figures_view({"this model": document}),
        *(f"note: {caveat}" for caveat in found.report.caveats),
        f"certificate: {path}",
        f"anybody checks it with: {command('own', 'check', path_word(path))}",
    )
    raise typer.Exit(int(found.verdict.exit_code))


def _write_queries(session: Session, owned: "Owned", block: int, folder: Path) -> None:
    from mithridate.audit.owning_verify import queries_of, space_of

    next_step = ("own", "verify", "--predictions")
    _written(session, queries_of(owned, block), space_of(owned.committed), folder, next_step)


def _written(
    session: Session, queries: "Sequence[Query]", space: "LabelSpace", folder: Path, next_step: tuple[str, ...]
) -> None:
    from mithridate.ownership.asking import write_queries

    written = write_queries(queries, space, folder)
    session.result(
        {"written": [str(path) for path in written]},
        f"wrote {len(written) - 1} images and {written[-1]}",
        "show them to the model without saying what they are for, write its labels into the table, best first, then",
        command(*next_step, path_word(written[-1])),
    )


@verb
def check(
    session: Session,
    certificate: Annotated[Path, typer.Argument(metavar="CERTIFICATE", help="What `mithridate own verify` wrote.")],
    who: AskOptions,
    authority: Annotated[
        list[Path] | None,
        option("--authority", "PEM", "Certificate of a timestamp authority that you trust; may be repeated."),
    ] = None,
    earlier: Annotated[
        list[Path] | None,
        option("--earlier", "CERTIFICATE", "Another certificate of the same commitment; may be repeated."),
    ] = None,
    classes: Annotated[
        Path | None,
        option("--classes", "JSON", "Names of the classes: the owner's commitment.data.json.", "Who is asked"),
    ] = None,
    queries: Annotated[
        Path | None,
        option("--queries", "DIR", "Ask nobody: write the images of the revealed keys and a table to fill in."),
    ] = None,
) -> None:
    """Recompute everything in a certificate from what it reveals; needs neither the secret nor torch.

    With a model, ask it again about the revealed keys, as whoever does not take the owner's word does. Exit code: 0 the
    certificate is valid, whatever it shows, and a model that was asked has the same outcome; 1 it is not, with a reason
    for each failure, or the outcome is another; 3 the model gave too few answers.
    """
    who.check(needed=False)
    from mithridate.audit.owning_verify import figures, read_authorities
    from mithridate.core.boundary import read_json
    from mithridate.ownership.checking import CAPS, check_file

    report = check_file(
        certificate,
        authorities=read_authorities(authority or ()),
        earlier=[read_json(path, caps=CAPS) for path in earlier or ()],
    )
    if report.valid and queries is not None:
        _written(
            session, *_revealed(certificate, classes), queries, ("own", "check", str(certificate), "--predictions")
        )
        return
    again = _asked_again(session, certificate, report, who, classes) if report.valid and who.named else None
    document = {
        "valid": report.valid,
        "shown": report.shown,
        "shown_to_sceptics": report.shown_to_sceptics,
        "reasons": list(report.reasons),
        "caveats": list(report.caveats),
        **({} if report.evidence is None else figures(report.evidence)),
    }
    views: list[object] = [f"The certificate is {'valid' if report.valid else 'NOT valid'}."]
    views += [f"reason: {reason}" for reason in report.reasons]
    if report.evidence is not None:
        views.append(figures_view({"this model": document}))
    if report.valid:
        says = "shows" if report.shown else "does not show"
        views.append(f"It {says} at the committed level that the model depends on the marked data.")
    views += [f"note: {caveat}" for caveat in report.caveats]
    if again is not None:
        document["again"] = again.document()
        views += [again.verdict.sentence, *again.verdict.reasons]
    session.result(document, *views)  # type: ignore[arg-type]
    if again is not None:
        raise typer.Exit(int(again.verdict.exit_code))
    raise typer.Exit(int(ExitCode.PASS if report.valid else ExitCode.GATE_FAILED))


def _revealed(certificate: Path, classes: Path | None) -> tuple[list["Query"], "LabelSpace"]:
    """Return the questions of a certificate, and how their answers are read."""
    from mithridate.audit.owning_again import opened
    from mithridate.audit.owning_verify import space_of
    from mithridate.core.boundary import read_json
    from mithridate.ownership.asking import Query
    from mithridate.ownership.checking import CAPS

    committed, keys = opened(read_json(certificate, caps=CAPS), classes)
    return [Query(index=key.index, image=key.image) for key in keys], space_of(committed)


def _asked_again(
    session: Session, certificate: Path, report: "Report", who: AskOptions, classes: Path | None
) -> "Again":
    from mithridate.audit.owning_again import ask_again, opened
    from mithridate.audit.owning_verify import space_of
    from mithridate.core.boundary import read_json
    from mithridate.ownership.checking import CAPS

    document = read_json(certificate, caps=CAPS)
    committed, keys = opened(document, classes)
    oracle = who.oracle(committed, space_of(committed, who.class_map))
    progress = session.progress()
    progress.start(len(keys), "asking again")
    found = ask_again(document, report, committed, keys, oracle, tell=lambda answer: progress.advance(1, answer.kind))
    progress.close()
    return found
