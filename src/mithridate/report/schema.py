"""The report document `mithridate.report/1`: what an audit or a reproduction hands to every renderer.

One document, many views: the terminal table, the HTML page, the step summary, the JUnit file and the CSV all render
from it, so that no two of them can disagree. It is plain JSON; `validate` turns it into frozen, checked models.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic.functional_validators import AfterValidator

from mithridate.core.errors import BadArtefact
from mithridate.report._format import plain, shorten

SCHEMA = "mithridate.report/1"
PNG_PREFIX = "data:image/png;base64,"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_MAX_PICTURE_CHARS = 2_000_000
_SHOWN_PROBLEMS = 5
_TOLERANCE = 1e-6


def _png_uri(text: str) -> str:
    if len(text) > _MAX_PICTURE_CHARS:
        raise ValueError(f"picture of {len(text)} characters; at most {_MAX_PICTURE_CHARS} are read")
    if not text.startswith(PNG_PREFIX):
        raise ValueError(f"not a {PNG_PREFIX} URI")
    try:
        data = base64.b64decode(text[len(PNG_PREFIX) :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("the base64 of the picture is damaged") from error
    if not data.startswith(_PNG_MAGIC):
        raise ValueError("the picture is not a PNG file")
    return text


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"interval ends are out of order: {pair[0]} > {pair[1]}")
    return pair


def _instant(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError("not an ISO 8601 time such as 2026-11-14T10:22:00+00:00") from error
    return text


Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Interval = Annotated[tuple[Share, Share], Field(strict=False), AfterValidator(_ordered)]
PngUri = Annotated[str, AfterValidator(_png_uri)]
Instant = Annotated[str, AfterValidator(_instant)]
Scalar = str | int | float
Stripped = Annotated[str, AfterValidator(str.strip)]


class _Strict(BaseModel):
    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True, hide_input_in_errors=True
    )


class Verdict(_Strict):
    """The three-valued outcome. `exit_code` is the one of the process: 0 pass, 1 fail, 3 inconclusive."""

    status: Literal["pass", "fail", "inconclusive"]
    exit_code: int
    sentence: str = Field(pattern=r"\S")
    reasons: Annotated[tuple[str, ...], Field(strict=False)] = ()
    gate: Stripped | None = None

    @model_validator(mode="after")
    def _code_matches_status(self) -> "Verdict":
        expected = {"pass": 0, "fail": 1, "inconclusive": 3}[self.status]
        if self.exit_code != expected:
            raise ValueError(f"status {self.status!r} has exit code {expected}, the document says {self.exit_code}")
        return self


class Figure(_Strict):
    """What a defense measured of itself, by name: mean and extremes over the victims of a cell that have it."""

    name: str
    mean: float
    low: float
    high: float
    victims: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _in_order(self) -> "Figure":
        if self.low > self.high:
            raise ValueError(f"low is {self.low} and high is {self.high}; they are out of order")
        return self


class Cell(_Strict):
    """One cell of the grid: an attack against a defense, counted over targets and victims.

    `diagnostics` are the figures and `warnings` the words that the defense has for its own work; both may be empty.
    """

    scenario: str
    attack: str
    defense: str
    targets: Count
    trials: Count
    successes: Count
    attack_success_rate: Share | None
    interval: Interval | None
    interval_method: Literal["wilson", "clustered", "repeated"] = "wilson"
    clean_accuracy: Share | None
    clean_accuracy_interval: Interval | None
    victims: Count
    seconds: Seconds
    diagnostics: Annotated[tuple[Figure, ...], Field(strict=False)] = ()
    warnings: Annotated[tuple[str, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _counts_agree(self) -> "Cell":
        if self.successes > self.trials:
            raise ValueError(f"{self.successes} successes of {self.trials} trials")
        rate = self.attack_success_rate
        if (rate is None) != (self.trials == 0):
            raise ValueError(f"attack_success_rate is {rate} for {self.trials} trials; it is null exactly when 0")
        if rate is not None and abs(rate - self.successes / self.trials) > _TOLERANCE:
            raise ValueError(f"attack_success_rate is {rate}, but {self.successes} of {self.trials} succeeded")
        return self


class Comparison(_Strict):
    """A difference between two cells and the one-sided p-value of its test."""

    what: str
    p_value: Share | None
    test: str


class TargetResult(_Strict):
    """What happened to one target in one cell, over its victims."""

    scenario: str
    target: int
    target_class: str
    adversarial_class: str
    attack: str
    defense: str
    successes: Count
    trials: Count
    adversarial_probability: Share | None
    matching_loss: float | None = None

    @model_validator(mode="after")
    def _counts_agree(self) -> "TargetResult":
        if self.successes > self.trials:
            raise ValueError(f"{self.successes} successes of {self.trials} trials")
        return self


Numbers = Annotated[tuple[float, ...], Field(strict=False)]


class Alignment(_Strict):
    """Cosine between the poisons' gradient and the attacker's along victim training, per epoch, with a band."""

    attack: str
    defense: str
    epochs: Numbers
    mean: Numbers
    low: Numbers
    high: Numbers

    @model_validator(mode="after")
    def _lengths_agree(self) -> "Alignment":
        lengths = [len(self.epochs), len(self.mean), len(self.low), len(self.high)]
        if len(set(lengths)) != 1:
            raise ValueError(f"epochs, mean, low and high have {lengths} entries; they must be equally many")
        return self


class Picture(_Strict):
    """One poison: the clean image, the poison, and ten times their difference around mid grey, as PNG data URIs."""

    scenario: str
    id: int
    label: str
    clean: PngUri
    poison: PngUri
    difference: PngUri


class TargetPicture(_Strict):
    """The image that the attacker wants misclassified. `class` is what it is, `wanted` what it shall be taken for."""

    scenario: str
    target: PngUri
    class_: str = Field(alias="class")
    wanted: str


class Crafting(_Strict):
    """How the poisons of one scenario were made, as measured on the exported 8-bit pixels."""

    scenario: str
    attack: str
    matching_loss: float | None
    epsilon_measured: str
    poisons: Count
    seconds: Seconds


Published = Annotated[tuple[str, Scalar, str], Field(strict=False)]
Labelled = Annotated[tuple[str, Scalar], Field(strict=False)]


class Paper(_Strict):
    """The claim that a reproduction checks: published values beside measured ones, matched by label."""

    name: str
    claim: str
    citation: str
    departures: Annotated[tuple[str, ...], Field(strict=False)] = ()
    published: Annotated[tuple[Published, ...], Field(strict=False)] = ()
    measured: Annotated[tuple[Labelled, ...], Field(strict=False)] = ()


Entries = Annotated[tuple[Scalar, ...], Field(strict=False)]


class Table(_Strict):
    """Results that are no grid of attacks on targets: text or numbers under named columns."""

    title: str = Field(pattern=r"\S")
    columns: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    rows: Annotated[tuple[Entries, ...], Field(strict=False)]
    note: str = ""

    @model_validator(mode="after")
    def _widths_agree(self) -> "Table":
        for number, row in enumerate(self.rows, start=1):
            if len(row) != len(self.columns):
                raise ValueError(f"row {number} has {len(row)} entries under {len(self.columns)} columns")
        return self


class Timing(_Strict):
    """Wall-clock seconds of the run, and the estimate given before it."""

    seconds: Seconds
    estimate_seconds: Seconds | None = None


class Report(_Strict):
    """The whole document. `confidence` is that of every interval in it."""

    schema_: Literal["mithridate.report/1"] = Field(alias="schema")
    kind: Literal["audit", "paper", "cluster", "healing"]
    title: str
    created: Instant
    verdict: Verdict
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    setting: Annotated[tuple[Labelled, ...], Field(strict=False)] = ()
    cells: Annotated[tuple[Cell, ...], Field(strict=False)]
    tables: Annotated[tuple[Table, ...], Field(strict=False)] = ()
    comparisons: Annotated[tuple[Comparison, ...], Field(strict=False)] = ()
    targets: Annotated[tuple[TargetResult, ...], Field(strict=False)] = ()
    alignment: Annotated[tuple[Alignment, ...], Field(strict=False)] = ()
    pictures: Annotated[tuple[Picture, ...], Field(strict=False)] = ()
    target_pictures: Annotated[tuple[TargetPicture, ...], Field(strict=False)] = ()
    crafting: Annotated[tuple[Crafting, ...], Field(strict=False)] = ()
    paper: Paper | None = None
    config: dict[str, JsonValue] = {}
    environment: dict[str, JsonValue] = {}
    reproduce: Stripped = ""
    timing: Timing | None = None


def _without_surrogates(value: object) -> object:
    """Lone surrogates (file names that are not UTF-8) become visible escapes: no encoding can carry them."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_surrogates(item) for item in value]
    return value


def _problem(error: Mapping[str, object]) -> str:
    where = ""
    location = error["loc"]
    for part in location if isinstance(location, tuple) else ():
        where += f"[{part}]" if isinstance(part, int) else f".{plain(str(part))}"
    message = re.sub(r"^Value error, ", "", str(error["msg"]))
    return f"{shorten(where.lstrip('.') or 'document', 80)}: {shorten(plain(message), 200)}"


def validate(document: object) -> Report:
    """Check a report document and return it as frozen models.

    Args:
        document: The content of report.json, or an already validated report, which is returned as it is.

    Raises:
        BadArtefact: MTH-0801 names each field that is wrong (the first five); MTH-0802 names a schema that this
            version does not read.
    """
    if isinstance(document, Report):
        return document
    schema = document.get("schema") if isinstance(document, Mapping) else None
    if schema != SCHEMA:
        shown = shorten(plain(repr(schema)), 60)
        raise BadArtefact(
            "MTH-0802",
            f"this is not a report that this version reads: schema is {shown}, it must be {SCHEMA!r}",
            hint="render it with the version of mithridate that wrote it, or run the audit again",
        )
    try:
        return Report.model_validate(_without_surrogates(document))
    except ValidationError as error:
        problems = [_problem(item) for item in error.errors(include_url=False, include_input=False)]
        more = len(problems) - _SHOWN_PROBLEMS
        listed = "; ".join(problems[:_SHOWN_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        raise BadArtefact(
            "MTH-0801",
            f"the report document is not valid: {listed}",
            hint="report.json is written by `mithridate audit`; run it again in the same folder to rewrite it",
        ) from None


def json_schema() -> dict[str, object]:
    """The JSON Schema of the document, for tools that read report.json."""
    return Report.model_json_schema(by_alias=True)
