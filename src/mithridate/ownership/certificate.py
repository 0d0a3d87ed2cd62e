"""The certificate: everything that a third party needs to recompute a verification, signed by the owner.

It reveals the subseeds of the keys that were asked about, with Merkle proofs, and not a byte of any other. All figures
are exact fractions beside their logarithms; `checking.check` recomputes each of them. That the model gave these answers
is the owner's word, until somebody asks the model again about the revealed keys.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import mithridate
from mithridate.core.artefacts import as_json, sha256_of, write_atomic
from mithridate.core.errors import Misuse
from mithridate.ownership import merkle
from mithridate.ownership.canonical import Document, canonical, fraction_text, tagged
from mithridate.ownership.commitment import NO_BEACON, Commitment, leaves
from mithridate.ownership.diary import Run, head, now, read_time, time_text
from mithridate.ownership.keys import Key, derive, subseed
from mithridate.ownership.planning import factor
from mithridate.ownership.secret import Secret
from mithridate.ownership.significance import binomial_tail, log10_text
from mithridate.ownership.timestamp import Stamp

SCHEMA = "mithridate.ownership-certificate/1"
PROTOCOL = "taggant/v1"
TEST = "binomial-top-k"
OUTSIDE = -1
"""What stands in an answer for a label that is none of the data set's classes."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """One question and its answer.

    Args:
        index: The number of the key.
        image: The sha256 of the image that was sent: `Key.digest`.
        returned: The model's answers, best first, at most `topk`, as numbers of our classes; `OUTSIDE` for a label
            that is none of these. Empty for an abstention or a malformed answer, which is a miss.
        time: When, as `diary.now` gives it.
    """

    index: int
    image: str
    returned: tuple[int, ...]
    time: str

    @classmethod
    def of(cls, key: Key, returned: Sequence[int], *, time: str | None = None) -> "Query":
        """Return the record of what a model answered to a key."""
        moment = now() if time is None else time
        return cls(index=key.index, image=key.digest, returned=tuple(returned), time=moment)

    def document(self) -> Document:
        """Return the query as certificates have it."""
        return {"index": self.index, "image": self.image, "returned": list(self.returned), "time": self.time}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a certificate's figures follow from; all of it exact.

    Args:
        hits: Keys whose label is among the first `topk` answers.
        keys: How many were asked about.
        p_value: The chance of so many hits or more if the model does not depend on the labels.
        adjusted: The p-value times m (m + 1) for verification number m, at most 1: valid however many models are
            asked and whenever the owner stops, because 1/2 + 1/6 + 1/12 + ... = 1.
        resistant: That, times 2^64 unless a beacon was drawn after a trusted timestamp of the commitment: what
            somebody believes who thinks that the owner tried 2^64 secrets.
    """

    hits: int
    keys: int
    p_value: Fraction
    adjusted: Fraction
    resistant: Fraction


def weigh(
    commitment: Commitment, labels: Sequence[int], returned: Sequence[Sequence[int]], run: int, *, grindable: bool
) -> Evidence:
    """Return the evidence in a model's answers.

    Args:
        commitment: Has the test.
        labels: Of the keys that were asked about.
        returned: The answers, in the same order.
        run: The number of the verification, from 1.
        grindable: Whether no beacon after a trusted timestamp protects from trying seeds.
    """
    spec = commitment.spec
    hits = sum(label in answer[: spec.topk] for label, answer in zip(labels, returned, strict=True))
    p_value = binomial_tail(hits, keys=len(labels), topk=spec.topk, classes=spec.classes)
    adjusted, resistant = (min(Fraction(1), p_value * factor(run, grindable=often)) for often in (False, grindable))
    return Evidence(hits=hits, keys=len(labels), p_value=p_value, adjusted=adjusted, resistant=resistant)


def issue(
    secret: Secret,
    commitment: Commitment,
    run: Run,
    queries: Sequence[Query],
    *,
    beacon: bytes = b"",
    stamp: Stamp | None = None,
) -> Document:
    """Return the signed certificate of a verification, whatever its outcome.

    Args:
        secret: The owner's; only the subseeds of the run's keys go into the certificate.
        commitment: To this secret.
        run: As `Diary.begin` gave it before the queries.
        queries: One for each of the run's keys, in their order.
        beacon: The value that the commitment names; empty if it names none.
        stamp: The trusted timestamp of the commitment; None is stated in the certificate.

    Raises:
        Misuse: MTH-1015 when secret, commitment, run, beacon and queries do not fit together.
    """
    _check_parts(secret, commitment, run, beacon)
    keys = derive(secret.seed, beacon, commitment.spec, which=run.keys)
    _check_queries(commitment, keys, queries, run, stamp)
    answers = [query.returned for query in queries]
    grindable = not beacon or stamp is None
    evidence = weigh(commitment, [key.label for key in keys], answers, run.number, grindable=grindable)
    tree = leaves(secret, commitment.spec.keys)
    start, stop = run.keys.start, run.keys.stop
    document: Document = {
        "schema": SCHEMA,
        "protocol": PROTOCOL,
        "commitment": commitment.document(),
        "timestamp": stamp_document(stamp),
        "beacon": {"id": commitment.beacon, "value": beacon.hex()},
        "test": test_document(commitment, run),
        "revealed": [subseed(secret.seed, index).hex() for index in run.keys],
        "proof": [item.hex() for item in merkle.proof(tree, start, stop)],
        "queries": [query.document() for query in queries],
        **evidence_document(evidence),
        "runs": {"record": run.record, "chain": list(run.chain), "head": head(commitment.value, run.chain)},
        "statement": statement(commitment, evidence, run, grindable=grindable),
        "software": software(),
        "issued": now(),
        "public_key": secret.public_key,
    }
    return {**document, "signature": secret.sign(to_sign(document)).hex()}


def write(path: Path, document: Document) -> None:
    """Write a certificate.

    Raises:
        WorkError: MTH-0706 when the disk refuses.
    """
    write_atomic(path, as_json(document))


def to_sign(document: Document) -> bytes:
    """Return what the owner signs: the canonical text without the signature, after a tag."""
    unsigned = {key: value for key, value in document.items() if key != "signature"}
    return tagged("certificate", canonical(unsigned))


def test_document(commitment: Commitment, run: Run) -> Document:
    """Return the test as certificates state it."""
    spec, keys = commitment.spec, run.keys
    return {"name": TEST, "first": keys.start, "keys": len(keys), "topk": spec.topk, "classes": spec.classes}


def stamp_document(stamp: Stamp | None) -> Document:
    """Return the timestamp as certificates have it; that there is none is stated."""
    if stamp is None:
        return {"kind": "none"}
    response = base64.b64encode(stamp.response).decode()
    return {"kind": "rfc3161", "time": time_text(stamp.time), "response": response}


def evidence_document(evidence: Evidence) -> Document:
    """Return the figures as certificates have them."""

    def chance(value: Fraction) -> Document:
        return {"exact": fraction_text(value), "log10": log10_text(value)}

    return {
        "hits": evidence.hits,
        "p_value": chance(evidence.p_value),
        "adjusted": chance(evidence.adjusted),
        "resistant": chance(evidence.resistant),
    }


def statement(commitment: Commitment, evidence: Evidence, run: Run, *, grindable: bool) -> str:
    """Return in words what was tested and found."""
    spec, alpha = commitment.spec, fraction_text(commitment.alpha)
    outcome = "is rejected" if evidence.adjusted <= commitment.alpha else "is not rejected"
    words = (
        f"Null hypothesis: the answers of the model ({run.record['target']}) do not depend on the secret labels of "
        f"keys {run.keys.start} to {run.keys.stop - 1}, which are independent and uniform on {spec.classes} classes; "
        f"each key then has chance {spec.topk}/{spec.classes} to be hit. Hits: {evidence.hits} of {evidence.keys}. "
        f"Verification number {run.number} with this commitment, so the p-value is multiplied by "
        f"{factor(run.number)}; at level {alpha} the null hypothesis {outcome}."
    )
    if grindable:
        words += (
            " No public value that was drawn after a trusted timestamp protects from trying secrets until an innocent "
            "model seems guilty: who does not trust the owner multiplies by 2^64 once more."
        )
    return words


def software() -> Document:
    """Return what issued the certificate: the name, the version, and a hash over the code of this room."""
    sources = {path.name: sha256_of(path) for path in Path(__file__).parent.glob("*.py")}
    digest = hashlib.sha256(canonical(sources)).hexdigest()
    return {"name": "mithridate", "version": mithridate.__version__, "sha256": digest}


def _check_parts(secret: Secret, commitment: Commitment, run: Run, beacon: bytes) -> None:
    if secret.public_key != commitment.public_key:
        message = f"this secret does not belong to the commitment {commitment.value[:12]}..."
        raise Misuse("MTH-1015", message, hint="use the secret that it was made with")
    if bool(beacon) == (commitment.beacon == NO_BEACON):
        held = f"{len(beacon)} bytes were given" if beacon else "no value was given"
        hint = "give the public value that it names, as all who check the certificate will look it up"
        raise Misuse("MTH-1015", f"the commitment names the beacon {commitment.beacon!r}, and {held}", hint=hint)
    expected = {"topk": commitment.spec.topk, "beacon": commitment.beacon, "keys": commitment.dispute}
    other = [name for name, value in expected.items() if run.record.get(name) != value]
    if other or run.keys.stop > commitment.spec.keys:
        raise Misuse("MTH-1015", f"verification {run.number} is of another commitment: {other or run.keys}")


def _check_queries(
    commitment: Commitment, keys: Sequence[Key], queries: Sequence[Query], run: Run, stamp: Stamp | None
) -> None:
    spec = commitment.spec
    if [(query.index, query.image) for query in queries] != [(key.index, key.digest) for key in keys]:
        asked = [query.index for query in queries]
        message = f"keys {run.keys.start} to {run.keys.stop - 1} are asked in this order, got {asked[:20]}"
        raise Misuse("MTH-1015", message, hint="one query for each key, with its own image; a miss is an empty answer")
    for query in queries:
        if len(query.returned) > spec.topk or not all(OUTSIDE <= label < spec.classes for label in query.returned):
            message = f"key {query.index} has the answer {str(query.returned)[:80]}"
            hint = f"at most {spec.topk} numbers from 0 to {spec.classes - 1}, or {OUTSIDE} for another label"
            raise Misuse("MTH-1015", message, hint=hint)
    times = [read_time(run.record["time"]), *(read_time(query.time) for query in queries)]
    if times != sorted(times):
        raise Misuse(
            "MTH-1015", f"the clock went back during verification {run.number}", hint="set it, and verify again"
        )
    if stamp is not None and times[0] < stamp.time:
        message = f"the model was asked at {run.record['time']}, before the timestamp of {time_text(stamp.time)}"
        raise Misuse("MTH-1015", message, hint="set the clock, or verify after the timestamp")
