"""Verifying a model: the timestamp of the commitment, who is asked and how, the certificate, and the verdict.

Torch is imported for a network at hand only: tables of predictions, commands and services are asked without it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

from mithridate.audit.owning import NAMES_CAPS, Committed, Owned
from mithridate.core.artefacts import sha256_of
from mithridate.core.boundary import Caps, read_json
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.core.verdicts import Status, Verdict
from mithridate.ownership import planning
from mithridate.ownership.asking import (
    AbstractOracle,
    Answer,
    Asked,
    LabelSpace,
    ModelOracle,
    Query,
    ask_all,
    wrong_size,
)
from mithridate.ownership.canonical import Document
from mithridate.ownership.certificate import Evidence, issue
from mithridate.ownership.certificate import Query as Record
from mithridate.ownership.checking import Report, check
from mithridate.ownership.commitment import Commitment
from mithridate.ownership.diary import Diary, Run
from mithridate.ownership.significance import log10_text
from mithridate.ownership.timestamp import Stamp, read_stamp


def open_stamp(path: Path | None, commitment: Commitment, authorities: Sequence[Path] = ()) -> Stamp | None:
    """Return the timestamp of a commitment.

    Raises:
        BadArtefact: MTH-1008, MTH-1009, it is for something else, or nobody who is trusted vouches for it.
        Misuse: MTH-1072, it lies in the future by this machine's clock.
    """
    if path is None:
        return None
    stamp = read_stamp(path, commitment.value, authorities=read_authorities(authorities))
    check_clock(stamp, datetime.now(UTC))
    return stamp


def read_authorities(paths: Sequence[Path]) -> list[bytes]:
    """Return the certificates of timestamp authorities as they are in their files."""
    from mithridate.core.boundary import read_bytes

    return [read_bytes(path, Caps(file_bytes=1 << 20)) for path in paths]


def check_clock(stamp: Stamp, now: datetime) -> None:
    """Make sure that no model is asked before its keys were committed to.

    Raises:
        Misuse: MTH-1072.
    """
    if now < stamp.time:
        raise Misuse(
            "MTH-1072",
            f"this machine's clock says {now:%Y-%m-%d %H:%M:%S} UTC, and the commitment was stamped at "
            f"{stamp.time:%Y-%m-%d %H:%M:%S} UTC: one of the two is wrong",
            hint="correct the clock, or wait until the time of the stamp has come",
        )


def space_of(committed: Committed, class_map: Path | None = None) -> LabelSpace:
    """Return how answers are read as committed classes.

    Raises:
        BadArtefact: MTH-1075, the class map is none.
        Misuse: MTH-1060, it leads to a class that was not committed.
    """
    names: Mapping[str, str] | None = None
    if class_map is not None:
        names = read_json(class_map, caps=NAMES_CAPS)
        if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
            raise BadArtefact(
                "MTH-1075", f"{class_map} is no JSON object of names", hint='write for example {"tabby cat": "cat"}'
            )
    return LabelSpace(classes=committed.classes, topk=committed.commitment.spec.topk, names=names)


def model_oracle(
    path: Path, committed: Committed, space: LabelSpace, *, name: str | None = None, device: str = "cpu"
) -> ModelOracle:
    """Return a saved network that can be asked.

    Args:
        path: A folder that `mithridate train` wrote, or a safetensors file.
        committed: Its classes and sizes are those of weights without a description.
        space: How its answers are read.
        name: The network, for a file without a description.
        device: Where it shall be.

    Raises:
        Misuse: MTH-0881 to MTH-0885; MTH-1061, it shares no class with the commitment; MTH-1062, it takes images of
            another size.
        BadArtefact: A file is damaged.
    """
    from mithridate.audit.machine import check_device
    from mithridate.models.saved import Description, describe, load_model, weights_path
    from mithridate.models.spec import ModelSpec

    check_device(device)
    spec = committed.commitment.spec
    otherwise = None
    if name is not None:
        # The weights bring mean and deviation with them.
        still = (0.0,) * spec.channels, (1.0,) * spec.channels
        otherwise = Description(
            spec=ModelSpec(
                name=name,
                num_classes=spec.classes,
                channels=spec.channels,
                size=spec.height,
                mean=still[0],
                std=still[1],
            ),
            classes=committed.classes,
        )
    about = describe(path, name=name, otherwise=otherwise)
    shape = (spec.channels, spec.height, spec.width)
    takes = (about.spec.channels, about.spec.size, about.spec.size)
    told = f"model {path.name} ({about.spec.name}), sha256 {sha256_of(weights_path(path))}"
    if takes != shape:
        raise wrong_size(f"the model in {str(path)!r}", takes, shape)
    return ModelOracle(load_model(path, about).to(device), space, classes=about.classes, about=told, shape=shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Verified:
    """A verification.

    Args:
        certificate: The signed document, whatever came of it.
        report: What checking it says.
        evidence: Its figures.
        asked: The answers.
        run: Its number among all verifications.
        verdict: Whether ownership is shown.
        notes: What made keys miss that a model might have hit.
    """

    certificate: Document
    report: Report
    evidence: Evidence
    asked: Asked
    run: Run
    verdict: Verdict
    notes: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """Return the figures as plain JSON."""
        found = self.evidence
        return {
            **figures(found),
            "shown": self.report.shown,
            "shown_to_sceptics": self.report.shown_to_sceptics,
            "run": self.run.number,
            "asked": self.asked.about,
            "answers": dict(self.asked.tally.counts),
            "labels_outside": self.asked.tally.outside,
            "notes": list(self.notes),
            "caveats": list(self.report.caveats),
            "verdict": plain_verdict(self.verdict),
        }


def figures(found: Evidence) -> dict[str, Any]:
    """Return exact evidence as numbers and fractions."""
    exact = {"p_value": found.p_value, "adjusted_p_value": found.adjusted, "resistant_p_value": found.resistant}
    plain: dict[str, Any] = {"hits": found.hits, "keys": found.keys}
    for name, value in exact.items():
        plain[name] = float(value)
        plain[f"{name}_exact"] = f"{value.numerator}/{value.denominator}"
    return {**plain, "log10_p_value": log10_text(found.p_value)}


def plain_verdict(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as plain JSON."""
    return {
        "status": str(verdict.status),
        "sentence": verdict.sentence,
        "reasons": list(verdict.reasons),
        "exit_code": int(verdict.exit_code),
    }


def queries_of(owned: Owned, block: int) -> list[Query]:
    """Return the questions of one test."""
    return [Query(index=key.index, image=key.image) for key in owned.block(block)]


def verify(
    owned: Owned,
    oracle: AbstractOracle,
    diary: Path,
    *,
    block: int = 0,
    stamp: Stamp | None = None,
    authorities: Sequence[bytes] = (),
    tell: Callable[[Answer], None] = lambda answer: None,
) -> Verified:
    """Ask a model about the keys of one test, and issue the certificate of what it answered.

    The verification is written into the diary before the first question, so that it counts whatever comes of it.

    Args:
        owned: Secret, commitment and beacon.
        oracle: The model.
        diary: Where verifications are written down.
        block: Which keys; each dispute should have its own.
        stamp: The trusted timestamp of the commitment.
        authorities: Certificates, PEM, of the authorities that are trusted to have signed it.
        tell: Told each answer.

    Raises:
        Misuse: The block is not there or not yet, or the oracle cannot be asked.
        BadArtefact: MTH-1013, the diary was altered.
    """
    if stamp is not None:
        check_clock(stamp, datetime.now(UTC))
    run = Diary(diary, owned.commitment).begin(oracle.about[:500], block=block)
    keys = owned.block(block)
    asked = ask_all(oracle, [Query(index=key.index, image=key.image) for key in keys], tell=tell)
    records = [
        Record.of(key, answer.labels or (), time=time)
        for key, answer, time in zip(keys, asked.answers, asked.times, strict=True)
    ]
    certificate = issue(owned.secret, owned.commitment, run, records, beacon=owned.beacon, stamp=stamp)
    report = check(certificate, authorities=authorities)
    assert report.valid, f"a certificate that was just issued is valid: {report.reasons}"
    assert report.evidence is not None, "a valid certificate has evidence"
    notes = (*_lacking(oracle, owned.committed), *asked.tally.notes)
    verdict = _verdict(owned.commitment, report, report.evidence, asked, run.number)
    verdict = replace(verdict, reasons=(*verdict.reasons, *notes))
    return Verified(
        certificate=certificate,
        report=report,
        evidence=report.evidence,
        asked=asked,
        run=run,
        verdict=verdict,
        notes=notes,
    )


def next_run(diary: Path, commitment: Commitment) -> int:
    """Return the number of the next verification.

    Raises:
        BadArtefact: MTH-1013, the diary was altered or belongs to another commitment.
    """
    return len(Diary(diary, commitment).runs()) + 1


def _verdict(commitment: Commitment, report: Report, found: Evidence, asked: Asked, run: int) -> Verdict:
    spec, alpha = commitment.spec, commitment.alpha
    needed = planning.HitTest(topk=spec.topk, classes=spec.classes, alpha=alpha, run=run).hits_needed(found.keys)
    figures = (
        f"{found.hits} of {found.keys} keys hit, p = {tiny(found.adjusted)} after {run} "
        f"{'verification' if run == 1 else 'verifications'}, level {float(alpha):g}"
    )
    if report.shown:
        return Verdict(Status.PASS, f"Ownership is shown: {figures}.")
    if needed is None:
        reason = f"even {found.keys} hits of {found.keys} would not reach the level; see `mithridate own plan`"
        return Verdict(Status.INCONCLUSIVE, f"The test has no power: {figures}.", (reason,))
    if asked.tally.answered < needed:
        reason = f"{needed} hits are needed, and {asked.tally.answered} keys were answered at all"
        return Verdict(Status.INCONCLUSIVE, f"Too few answers: {figures}.", (reason,))
    return Verdict(Status.FAIL, f"Ownership is not shown: {figures}.", (f"{needed} hits are needed",))


def _lacking(oracle: AbstractOracle, committed: Committed) -> tuple[str, ...]:
    """Return what is to be said of classes that a network has not: keys of these labels can never be hit."""
    lacking = len(committed.classes) - len(oracle.shared) if isinstance(oracle, ModelOracle) else 0
    if not lacking:
        return ()
    return (
        f"the model lacks {lacking} of {len(committed.classes)} committed classes; keys of these labels are misses",
    )


def tiny(value: Fraction) -> str:
    """Return an exact fraction as a short decimal number, also where it is too small for one."""
    number = float(value)
    return f"{number:.2g}" if number > 1e-300 else f"1e{float(log10_text(value)):.0f}"
