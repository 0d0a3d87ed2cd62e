"""Asking a model again about the keys that a certificate reveals: whoever does not take the owner's word for it.

Neither the secret nor the diary is needed. A certificate has a hash of the class names and not the names: they come
from the file that the owner wrote beside the commitment, or labels are numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mithridate.audit.owning import NAMES_CAPS, Committed, DataChoice
from mithridate.audit.owning_verify import tiny
from mithridate.core.boundary import read_json
from mithridate.core.errors import BadArtefact
from mithridate.core.verdicts import Status, Verdict
from mithridate.ownership.asking import AbstractOracle, Answer, Asked, Query, ask_all
from mithridate.ownership.certificate import Evidence, weigh
from mithridate.ownership.checking import Report, revealed_keys
from mithridate.ownership.commitment import Commitment, class_hash
from mithridate.ownership.keys import Key
from mithridate.ownership.planning import HitTest


@dataclass(frozen=True, kw_only=True)
class Again:
    """What a model answers when it is asked again.

    Args:
        evidence: Its hits now, weighed as in the certificate.
        same: Keys that it answers as the certificate says.
        asked: The answers.
        verdict: Whether the outcome is that of the certificate.
    """

    evidence: Evidence
    same: int
    asked: Asked
    verdict: Verdict

    def document(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "asked": self.asked.about,
            "hits": self.evidence.hits,
            "keys": self.evidence.keys,
            "same_answers": self.same,
            "adjusted_p_value": float(self.evidence.adjusted),
            "answers": dict(self.asked.tally.counts),
            "notes": list(self.asked.tally.notes),
            "confirmed": self.verdict.status is Status.PASS,
        }


def opened(document: object, names: Path | None) -> tuple[Committed, tuple[Key, ...]]:
    """Return what a certificate commits to, with the names of the classes, and the keys that it reveals.

    Args:
        document: The certificate.
        names: The file of class names; None has labels be numbers.

    Raises:
        BadArtefact: MTH-1014, this is no certificate; MTH-1077, these are not the classes that it commits to.
    """
    commitment, keys = revealed_keys(document)
    classes = tuple(map(str, range(commitment.spec.classes))) if names is None else _names(names, commitment)
    return Committed(commitment=commitment, classes=classes, data=DataChoice(source="")), keys


def ask_again(
    document: Mapping[str, Any],
    report: Report,
    committed: Committed,
    keys: Sequence[Key],
    oracle: AbstractOracle,
    *,
    tell: Callable[[Answer], None] = lambda answer: None,
) -> Again:
    """Ask a model about the keys of a valid certificate, and compare.

    Args:
        document: The certificate.
        report: What checking it says.
        committed: As `opened` returns it.
        keys: The same.
        oracle: The model.
        tell: Told each answer.
    """
    commitment, run = committed.commitment, int(document["runs"]["record"]["number"])
    asked = ask_all(oracle, [Query(index=key.index, image=key.image) for key in keys], tell=tell)
    answers = [answer.labels or () for answer in asked.answers]
    evidence = weigh(commitment, [key.label for key in keys], answers, run, grindable=False)
    same = sum(list(now) == query["returned"] for now, query in zip(answers, document["queries"], strict=True))
    verdict = _verdict(commitment, report, evidence, asked, run, same)
    return Again(evidence=evidence, same=same, asked=asked, verdict=verdict)


def _verdict(commitment: Commitment, report: Report, found: Evidence, asked: Asked, run: int, same: int) -> Verdict:
    spec, alpha = commitment.spec, commitment.alpha
    figures = (
        f"asked again, it hits {found.hits} of {found.keys} keys, p = {tiny(found.adjusted)}, and answers {same} as "
        "the certificate says"
    )
    shown = found.adjusted <= alpha
    needed = HitTest(topk=spec.topk, classes=spec.classes, alpha=alpha, run=run).hits_needed(found.keys)
    if same < found.keys and not shown and (needed is None or asked.tally.answered < needed):
        return Verdict(Status.INCONCLUSIVE, f"Too few answers: {figures}.", asked.tally.notes)
    if shown == report.shown:
        return Verdict(Status.PASS, f"The model confirms the certificate: {figures}.")
    why = "this is another model, it has changed, it evades the keys, or the owner did not tell the truth"
    return Verdict(Status.FAIL, f"The model does not confirm the certificate: {figures}.", (why, *asked.tally.notes))


def _names(path: Path, commitment: Commitment) -> tuple[str, ...]:
    found = read_json(path, caps=NAMES_CAPS)
    names = found.get("classes") if isinstance(found, dict) else found
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) for name in names)
        or len(set(names)) < len(names)
        or class_hash(names) != commitment.classes
    ):
        raise BadArtefact(
            "MTH-1077",
            f"{path} does not name the classes that the certificate commits to",
            hint="ask the owner for the file that `mithridate own commit` wrote beside the commitment, .data.json",
        )
    return tuple(names)
