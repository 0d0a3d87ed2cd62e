"""`mithridate own commit`, `mark` and `selfcheck`: what an owner does before the data are published."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mithridate.cli._owning import (
    COMMITMENT,
    SECRET,
    DatasetArgument,
    OwnerOptions,
    ReadOptions,
    SecretOption,
    option,
)
from mithridate.cli._session import Session, command, path_word, table
from mithridate.cli._verb import verb
from mithridate.core.errors import ExitCode, Misuse

if TYPE_CHECKING:
    from mithridate.audit.owning_marking import Training

MARKED = Path("marked")


@dataclass(frozen=True, kw_only=True)
class KeyOptions:
    """What the keys and the test are."""

    keys: Annotated[int, typer.Option("--keys", metavar="K", help="Keys in all.", min=1, rich_help_panel="Test")] = 20
    dispute: Annotated[
        int | None,
        option("--dispute", "N", "Keys that one test asks about, the others are kept; by default all.", "Test"),
    ] = None
    topk: Annotated[
        int | None,
        option("--topk", "K", "Answers of a model that count; by default one in a hundred classes.", "Test"),
    ] = None
    side: Annotated[
        int | None,
        option("--side", "N", "Rows and columns of the keys' noise; coarser noise survives more.", "Test"),
    ] = None
    alpha: Annotated[
        str,
        typer.Option("--alpha", metavar="P", help="Level at which ownership is shown.", rich_help_panel="Test"),
    ] = "0.001"
    beacon: Annotated[
        str,
        typer.Option(
            "--beacon",
            metavar="NAME",
            help="Public value to come that is mixed in, such as a drand round.",
            rich_help_panel="Test",
        ),
    ] = "none"


@verb
def commit(
    session: Session,
    dataset: DatasetArgument,
    read: ReadOptions,
    test: KeyOptions,
    secret: SecretOption = SECRET,
    timestamp: Annotated[
        str, typer.Option("--timestamp", metavar="request|none", help="Write a request for a trusted timestamp.")
    ] = "request",
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where to write it.")] = COMMITMENT,
) -> None:
    """Bind yourself to the keys, to the data as they are before marking, and to the test.

    Publish the commitment, best with a trusted timestamp, before the data and before the value of its beacon is known.
    """
    if timestamp not in ("request", "none"):
        raise Misuse(
            "MTH-1067",
            f"--timestamp is request or none here, got {timestamp!r}",
            hint="the answer of the authority is given to `mithridate own verify`",
        )
    choice = read.choice(dataset)
    from mithridate.audit.owning import Committed, check_new, make_commitment, said_of_test
    from mithridate.ownership.secret import Secret

    check_new(*Committed.files(out, request=timestamp == "request"))
    committed = make_commitment(
        Secret.read(secret),
        choice,
        keys=test.keys,
        topk=test.topk,
        side=test.side,
        alpha=test.alpha,
        dispute=test.dispute,
        beacon=test.beacon,
    )
    written = committed.write(out, request=timestamp == "request")
    found = committed.commitment
    lines = [
        f"commitment {found.value}",
        f"{found.spec.keys} keys, {found.dispute} a test, top {found.spec.topk} of {found.spec.classes} classes, "
        f"images of {found.spec.height} x {found.spec.width}; wrote {', '.join(map(str, written))}",
    ]
    if timestamp == "request":
        lines.append(f"send {written[-1]} to a timestamp authority (RFC 3161) and keep its answer, {out.stem}.tsr")
    lines.append(said_of_test(found))
    if found.beacon == "none":
        lines.append(
            "note: without a beacon, certificates also state the p-value for those who think that many secrets were "
            "tried, which is 2^64 times as large"
        )
    lines.append("publish the commitment now, before the data")
    lines.append(f"next: {command('own', 'mark', dataset, '--commitment', path_word(out))}")
    session.result({"commitment": found.document(), "written": [str(path) for path in written]}, *lines)


@dataclass(frozen=True, kw_only=True)
class MarkOptions:
    """How strongly images are marked."""

    budget: Annotated[
        str | None, option("--budget", "N|SHARE", "Images of each key: a number, or a share such as 0.1%.", "Marks")
    ] = None
    total_budget: Annotated[
        str | None, option("--total-budget", "N|SHARE", "Images of all keys together.", "Marks")
    ] = None
    epsilon: Annotated[
        str | None, option("--epsilon", "K/255", "Largest change of a pixel, in [0, 1] units.", "Marks")
    ] = None
    steps: Annotated[int | None, option("--steps", "N", "Steps of each start.", "Marks")] = None
    views: Annotated[int | None, option("--views", "N", "Augmentation draws of every step.", "Marks")] = None
    restarts: Annotated[int | None, option("--restarts", "N", "Independent starts.", "Marks")] = None
    mode: Annotated[str | None, option("--mode", "NAME", "attractors, attractors-selective or betrayal.", "Marks")] = (
        None
    )
    perceptual: Annotated[
        str | None, option("--perceptual", "NAME", "Penalty on what the eye sees: none, high-pass, ssim.", "Marks")
    ] = None
    weight: Annotated[float | None, option("--weight", "X", "Weight of that penalty.", "Marks")] = None

    def given(self) -> dict[str, Any]:
        """Return what was given.

        Raises:
            Misuse: A budget or epsilon cannot be read.
        """
        from mithridate.core.units import parse_epsilon

        return {
            "budget": _budget(self.budget, "--budget"),
            "total_budget": _budget(self.total_budget, "--total-budget"),
            "epsilon": None if self.epsilon is None else float(parse_epsilon(self.epsilon)),
            "steps": self.steps,
            "views": self.views,
            "restarts": self.restarts,
            "mode": self.mode,
            "perceptual": self.perceptual,
            "weight": self.weight,
        }


@dataclass(frozen=True, kw_only=True)
class SurrogateOptions:
    """The networks that marks are made at, trained as users of the data will train."""

    surrogate: Annotated[
        list[Path] | None,
        option("--surrogate", "DIR", "A model that `mithridate train` wrote; may be repeated.", "Surrogates"),
    ] = None
    surrogates: Annotated[
        int,
        typer.Option(
            "--surrogates", metavar="N", help="How many are trained otherwise.", min=1, rich_help_panel="Surrogates"
        ),
    ] = 1
    model: Annotated[str | None, option("--model", "NAME", "The network that is trained.", "Surrogates")] = None
    recipe: Annotated[str | None, option("--recipe", "NAME", "How it is trained: a victim contract.", "Surrogates")] = (
        None
    )
    epochs: Annotated[
        int | None, option("--epochs", "N", "Passes over the data, if not the recipe's.", "Surrogates")
    ] = None
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:N or mps.", rich_help_panel="Surrogates")
    ] = "cpu"
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="Of surrogates and marks.", min=0, rich_help_panel="Surrogates")
    ] = 0

    def check(self) -> None:
        """Refuse what cannot be, before anything heavy is imported."""
        from mithridate.audit.names import check_recipe
        from mithridate.cli._healing import check_model_path
        from mithridate.models.names import check_name

        for path in self.surrogate or ():
            check_model_path(path)
        if self.model is not None:
            check_name(self.model)
        if self.recipe is not None:
            check_recipe(self.recipe)

    def training(self) -> "Training":
        """Return how surrogates are had."""
        from mithridate.audit.owning_marking import Training

        return Training(
            model=self.model,
            recipe=self.recipe,
            surrogates=self.surrogates,
            paths=tuple(self.surrogate or ()),
            epochs=self.epochs,
            device=self.device,
        )


@dataclass(frozen=True, kw_only=True)
class TryOptions:
    """The test that is tried."""

    keys: Annotated[int, typer.Option("--keys", metavar="K", help="Keys of one test.", min=1)] = 20
    topk: Annotated[
        int | None, option("--topk", "K", "Answers of a model that count; by default one in a hundred classes.")
    ] = None
    side: Annotated[int | None, option("--side", "N", "Rows and columns of the keys' noise.")] = None
    alpha: Annotated[str, typer.Option("--alpha", metavar="P", help="Level at which ownership is shown.")] = "0.001"
    victims: Annotated[
        int, typer.Option("--victims", metavar="N", help="Models with and models without marks.", min=1)
    ] = 3
    power: Annotated[
        float, typer.Option("--power", metavar="P", help="Chance of success that is wanted.", min=0.01, max=0.9999)
    ] = 0.8


def _budget(text: str | None, flag: str) -> float | int | None:
    """Read a number of images, or a share of the data.

    Raises:
        Misuse: MTH-1069.
    """
    if text is None:
        return None
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1e9 or (value >= 1 and value != int(value)):
        raise Misuse("MTH-1069", f"{flag} is a share below 1 or a whole number of images, got {text!r}")
    return int(value) if value >= 1 else value


@verb
def mark(
    session: Session,
    dataset: DatasetArgument,
    owner: OwnerOptions,
    how: MarkOptions,
    nets: SurrogateOptions,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="New folder for the marked data.")] = MARKED,
    manifest: Annotated[
        Path | None, option("--manifest", "FILE", "Which images are marked, for you alone; by default OUT.marks.json.")
    ] = None,
) -> None:
    """Change a few images, within epsilon and under their true labels, so that models trained on them answer the keys.

    Only these images change, in their own files and formats; what has no files is written as one npz file.
    """
    from mithridate.data.names import check_source

    check_source(dataset)
    nets.check()
    given = how.given()
    owned = owner.opened()
    from mithridate.audit.owning_marking import Target, mark_data, marking_of

    private = manifest or out.with_name(f"{out.name}.marks.json")
    config = marking_of(dataset, given)
    found = mark_data(
        owned,
        dataset,
        config,
        nets.training(),
        Target(out=out, manifest=private),
        seed=nets.seed,
        progress=session.progress(),
    )
    session.result(
        found,
        f"{found['marked_images']} images ({found['share']:.2%}) carry {found['keys']} keys: cosine "
        f"{found['cosine']:.2f} (clean {found['clean_cosine']:.2f}), PSNR {found['psnr']:.1f} dB",
        *(f"note: {note}" for note in found["notes"]),
        f"wrote {found['data']}; publish this",
        f"wrote {found['manifest']}; keep this to yourself",
        "next: before you publish, see whether these marks would be found: "
        + command("own", "selfcheck", dataset, "--marked", found["data"], "--commitment", path_word(owner.commitment)),
    )


@verb
def selfcheck(
    session: Session,
    dataset: DatasetArgument,
    read: ReadOptions,
    how: MarkOptions,
    nets: SurrogateOptions,
    test: TryOptions,
    owner: OwnerOptions,
    marked: Annotated[
        str | None,
        option("--marked", "DATA", "What `own mark` wrote of DATASET: try these marks, with your secret."),
    ] = None,
) -> None:
    """Train models with and without marks, with keys that are thrown away, and say whether the test would find them.

    With --marked, nothing is marked: models are trained on marked data as they were written, and asked about the keys
    of the commitment's first test. They are not kept, and nothing is written into the diary.

    Exit code: 0 the power at the measured share of hits is what is wanted or more; 3 it is less.
    """
    choice = read.choice(dataset)
    nets.check()
    given = how.given()
    if marked is not None:
        _only_trained(given, nets)
        owned = owner.opened()
        from mithridate.audit.owning_trial import try_written

        found, about = try_written(
            owned,
            dataset,
            marked,
            nets.training(),
            victims=test.victims,
            seed=nets.seed,
            progress=session.progress(),
        )
        last = "Nothing of this is evidence: the models were trained by yourself. Keep them, and the keys, to yourself."
    else:
        from mithridate.audit.owning_marking import Trying, marking_of, try_marks

        trying = Trying(keys=test.keys, topk=test.topk, side=test.side, alpha=test.alpha, victims=test.victims)
        found, about = try_marks(
            choice, marking_of(dataset, given), nets.training(), trying, seed=nets.seed, progress=session.progress()
        )
        last = "Nothing of this is evidence: the keys were made for the check and are thrown away."
    document = {**about, **found.to_json(), "wanted_power": test.power}
    rows = [
        ("guilty" if trial.guilty else "innocent", f"{trial.hits} of {found.keys}", f"{float(trial.p_value):.3g}")
        for trial in found.trials
    ]
    needed = "more than there are keys" if found.needed is None else found.needed
    cost = found.accuracy_cost
    session.result(
        document,
        f"hits of guilty models: {found.hit_rate:.0%}; hits needed: {needed}; power {found.power:.2f} "
        f"(at least {found.power_low:.2f} with 95 % confidence)",
        table(("model", "hits", "p-value"), rows),
        f"{about['marked_images']} images marked, {about['share']:.2%}, PSNR {about['psnr']:.1f} dB"
        + ("" if cost is None else f"; accuracy {cost:+.2%} lost"),
        *(f"note: {note}" for note in about["notes"]),
        last,
    )
    raise typer.Exit(int(ExitCode.PASS if found.power >= test.power else ExitCode.INCONCLUSIVE))


def _only_trained(given: dict[str, Any], nets: SurrogateOptions) -> None:
    """Refuse what makes marks beside marks that are there.

    Raises:
        Misuse: MTH-1078.
    """
    making = [name for name, value in given.items() if value is not None] + ["surrogate"] * bool(nets.surrogate)
    if making:
        flag = f"--{making[0].replace('_', '-')}"
        raise Misuse("MTH-1078", f"{flag} says how marks are made, and --marked names marks that are there")
