"""Checking a certificate: everything is recomputed from what it reveals, without torch and without the secret.

Each failure is one reason in words. A certificate that holds is worth what its caveats leave of it: above all, that the
model gave these answers is the owner's word, until somebody asks the model again about the revealed keys.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from mithridate.core.boundary import Caps, read_bytes, read_json
from mithridate.core.errors import BadArtefact
from mithridate.ownership import merkle
from mithridate.ownership.certificate import (
    OUTSIDE,
    PROTOCOL,
    SCHEMA,
    Evidence,
    evidence_document,
    software,
    statement,
    test_document,
    to_sign,
    weigh,
)
from mithridate.ownership.commitment import NO_BEACON, Commitment, leaf
from mithridate.ownership.diary import Run, digest, head, read_time, time_text
from mithridate.ownership.keys import MAX_KEYS, Key, key_label, key_of
from mithridate.ownership.planning import factor
from mithridate.ownership.secret import signed_by
from mithridate.ownership.timestamp import open_stamp

CAPS = Caps(file_bytes=16 << 20, depth=8, entries=1_000_000)
_MAX_RUNS = 100_000


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a certificate is worth.

    Args:
        valid: Whether everything in it follows from what it reveals.
        reasons: Why it is not valid, one for each failure.
        caveats: What a valid certificate does not prove by itself, such as a timestamp that nobody checked.
        evidence: What was recomputed; None where that was not possible.
        shown: Whether it is valid and ownership is shown at the committed level, for those who trust that the owner
            did not try many secrets.
        shown_to_sceptics: The same, for those who do not: they go by a beacon only if an authority that they trust
            vouches for the timestamp before it.
    """

    valid: bool
    reasons: tuple[str, ...]
    caveats: tuple[str, ...] = ()
    evidence: Evidence | None = None
    shown: bool = False
    shown_to_sceptics: bool = False


def check(
    document: object, *, authorities: Sequence[bytes] = (), earlier: Sequence[Mapping[str, object]] = ()
) -> Report:
    """Recompute a certificate; it does not raise for what the certificate holds.

    Args:
        document: The certificate, as read from JSON.
        authorities: Certificates, PEM, of timestamp authorities that the reader trusts.
        earlier: Other certificates of the same owner, whose chains of verifications this one's must continue.

    Raises:
        Misuse: MTH-1000 without the extra `ownership`.
    """
    if isinstance(document, dict) and document.get("schema") != SCHEMA:
        return _invalid(f"it is no certificate of {SCHEMA}: its schema is {str(document.get('schema'))[:80]!r}")
    try:
        shape = _Shape.model_validate(document)
        commitment = Commitment.of(shape.commitment)
    except ValidationError as error:
        return _invalid(*(_words(item) for item in error.errors()[:20]))
    except BadArtefact as error:
        return _invalid(error.message)
    assert isinstance(document, dict)
    others, doubts = _others(shape, document, commitment, earlier)
    reasons = [*_signature(shape, document, commitment), *_runs(shape, commitment), *others]
    reasons += [*_test(shape, commitment), *_beacon(shape, commitment), *_timestamp(shape, commitment, authorities)]
    subseeds = _revealed(shape, commitment)
    run = _run(shape)
    evidence = None
    queries = list(_queries(shape, subseeds, commitment))
    reasons += queries
    # No more keys than were committed to for one test: their number bounds the work.
    if len(subseeds) == len(shape.queries) == len(run.keys) == commitment.dispute:
        grindable = not shape.beacon.value or shape.timestamp.kind == "none"
        answers = [query.returned for query in shape.queries]
        beacon, classes = bytes.fromhex(shape.beacon.value), commitment.spec.classes
        labels = [key_label(content, beacon, classes) for content in subseeds]
        evidence = weigh(commitment, labels, answers, run.number, grindable=grindable)
        expected = evidence_document(evidence)
        expected["statement"] = statement(commitment, evidence, run, grindable=grindable)
        reasons += [
            f"{name} is not what follows from the answers" for name in expected if document[name] != expected[name]
        ]
    elif not queries:
        reasons.append("there is not one answer for each key")
    if reasons:
        return Report(valid=False, reasons=tuple(reasons), evidence=evidence)
    assert evidence is not None
    alpha, trusted = commitment.alpha, bool(authorities)
    shown = evidence.adjusted <= alpha
    # A timestamp that nobody vouches for protects from nothing.
    resistant = evidence.resistant if trusted else evidence.p_value * factor(run.number, grindable=True)
    return Report(
        valid=True,
        reasons=(),
        caveats=(*_caveats(shape, trusted=trusted), *doubts),
        evidence=evidence,
        shown=shown,
        shown_to_sceptics=resistant <= alpha,
    )


def check_file(
    path: Path, *, authorities: Sequence[bytes] = (), earlier: Sequence[Mapping[str, object]] = ()
) -> Report:
    """Check the certificate in a file; a file that is no JSON is not valid.

    Raises:
        BadArtefact: MTH-0208 when there is no file that can be read.
        Misuse: MTH-1000 without the extra `ownership`.
    """
    return check_bytes(read_bytes(path, CAPS), authorities=authorities, earlier=earlier)


def check_bytes(
    data: bytes, *, authorities: Sequence[bytes] = (), earlier: Sequence[Mapping[str, object]] = ()
) -> Report:
    """Check the certificate that a text is; a text that is no JSON is not valid.

    Raises:
        Misuse: MTH-1000 without the extra `ownership`.
    """
    try:
        document = read_json(data, caps=CAPS)
    except BadArtefact as error:
        return _invalid(error.message)
    return check(document, authorities=authorities, earlier=earlier)


def revealed_keys(document: object) -> tuple[Commitment, tuple[Key, ...]]:
    """Return a certificate's commitment and the keys that it reveals, so that somebody else can ask about them again.

    Raises:
        BadArtefact: MTH-1014 when this is no certificate, MTH-1007 when its commitment is damaged.
    """
    try:
        shape = _Shape.model_validate(document)
    except ValidationError as error:
        raise BadArtefact("MTH-1014", f"this is no certificate: {_words(error.errors()[0])}") from None
    commitment = Commitment.of(shape.commitment)
    subseeds = _revealed(shape, commitment)
    if not subseeds:
        raise BadArtefact("MTH-1014", f"the {len(shape.revealed)} revealed keys are not those of the commitment")
    beacon = bytes.fromhex(shape.beacon.value)
    keys = (key_of(shape.test.first + k, content, beacon, commitment.spec) for k, content in enumerate(subseeds))
    return commitment, tuple(keys)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


_Hash = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")]
_Signature = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{128}\z")]
_Bytes = Annotated[str, StringConstraints(pattern=r"\A([0-9a-f]{2})*\z", max_length=2000)]
_Text = Annotated[str, StringConstraints(max_length=4000)]


class _Chance(_Strict):
    exact: Annotated[str, StringConstraints(max_length=20_000)]
    log10: Annotated[str, StringConstraints(max_length=40)]


class _Query(_Strict):
    index: int
    image: _Hash
    returned: list[int]
    time: _Text


class _Test(_Strict):
    name: _Text
    first: int
    keys: int
    topk: int
    classes: int


class _Beacon(_Strict):
    id: _Text
    value: _Bytes


class _Stamp(_Strict):
    kind: Literal["none", "rfc3161"]
    time: _Text | None = None
    response: Annotated[str, StringConstraints(max_length=400_000)] | None = None


class _Record(_Strict):
    number: Annotated[int, Field(ge=1, le=_MAX_RUNS)]
    time: _Text
    target: _Text
    first: Annotated[int, Field(ge=0, le=MAX_KEYS)]
    keys: Annotated[int, Field(ge=1, le=MAX_KEYS)]
    topk: int
    beacon: _Text
    salt: Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{32}\z")]


class _Runs(_Strict):
    record: _Record
    chain: Annotated[list[_Hash], Field(min_length=1, max_length=_MAX_RUNS)]
    head: _Hash


class _Software(_Strict):
    name: _Text
    version: _Text
    sha256: _Hash


class _Shape(_Strict):
    """The form of a certificate; what it says is checked afterwards."""

    schema_: Annotated[Literal["mithridate.ownership-certificate/1"], Field(alias="schema")]
    protocol: Literal["taggant/v1"]
    commitment: dict[str, Any]
    timestamp: _Stamp
    beacon: _Beacon
    test: _Test
    revealed: Annotated[list[_Hash], Field(max_length=MAX_KEYS)]
    proof: Annotated[list[_Hash], Field(max_length=64)]
    queries: Annotated[list[_Query], Field(max_length=MAX_KEYS)]
    hits: int
    p_value: _Chance
    adjusted: _Chance
    resistant: _Chance
    runs: _Runs
    statement: _Text
    software: _Software
    issued: _Text
    public_key: _Hash
    signature: _Signature


assert (SCHEMA, PROTOCOL) == ("mithridate.ownership-certificate/1", "taggant/v1")


def _signature(shape: _Shape, document: dict[str, Any], commitment: Commitment) -> Iterator[str]:
    if shape.public_key != commitment.public_key:
        yield "it is signed with another key than the one that was committed to"
    if not signed_by(commitment.public_key, to_sign(document), bytes.fromhex(shape.signature)):
        yield "the owner's signature does not match: something was altered after it was signed"


def _runs(shape: _Shape, commitment: Commitment) -> Iterator[str]:
    record, chain = shape.runs.record.model_dump(), shape.runs.chain
    if record["number"] != len(chain):
        yield f"it is verification {record['number']}, and {len(chain)} are in the chain: the diary was cut or added to"
    if digest(record) != chain[-1]:
        yield "the record of the verification is not the last of the chain"
    if head(commitment.value, chain) != shape.runs.head:
        yield "the chain of verifications does not lead to its head: one was removed, added or altered"


def _others(
    shape: _Shape, document: dict[str, Any], commitment: Commitment, earlier: Sequence[Mapping[str, object]]
) -> tuple[list[str], list[str]]:
    """Return what contradicts other certificates of the owner, and what is to be said of these."""
    chain = shape.runs.chain
    reasons, caveats = [], []
    for place, other in enumerate(earlier, start=1):
        try:
            past = _Shape.model_validate(other)
            theirs = Commitment.of(past.commitment)
        except (ValidationError, BadArtefact):
            caveats.append(f"certificate {place} to compare with is none, so it says nothing about this one")
            continue
        if theirs.public_key != commitment.public_key:
            caveats.append(f"certificate {place} is of another owner, so it says nothing about this one")
            continue
        message = to_sign(dict(other))
        # By the committed key, not by the one that the certificate names: else anybody could make a second diary.
        if not signed_by(commitment.public_key, message, bytes.fromhex(past.signature)):
            caveats.append(f"certificate {place} is not signed by this owner, so it says nothing about this one")
        elif theirs != commitment:
            caveats.append(
                f"certificate {place} is of another commitment of this owner: whoever makes many has many tries, of "
                "which this certificate counts none"
            )
        elif len(chain) == len(past.runs.chain) and chain == past.runs.chain:
            if message != to_sign(document):
                reasons.append(f"it and certificate {place} are of one verification, and are not the same")
        else:
            shared = min(len(chain), len(past.runs.chain))
            if chain[:shared] != past.runs.chain[:shared]:
                reasons.append(
                    f"its chain of verifications and that of certificate {place} part: there are two diaries"
                )
    return reasons, caveats


def _test(shape: _Shape, commitment: Commitment) -> Iterator[str]:
    run = _run(shape)
    record = run.record
    stated, expected = shape.test.model_dump(), test_document(commitment, run)
    for name in expected:
        if stated[name] != expected[name]:
            yield f"the test has {name} {stated[name]!r}, and {expected[name]!r} was committed to and written down"
    if record["topk"] != commitment.spec.topk:
        yield f"the diary has topk {record['topk']}, and {commitment.spec.topk} was committed to"
    block, rest = divmod(record["first"], commitment.dispute)
    if record["keys"] != commitment.dispute or rest or not 0 <= block < commitment.num_disputes:
        yield f"keys {shape.test.first} and on are none of the blocks of {commitment.dispute} that were committed to"
    elif block >= run.number:
        yield f"block {block} of the keys was used before its turn"


def _beacon(shape: _Shape, commitment: Commitment) -> Iterator[str]:
    if not shape.beacon.id == shape.runs.record.beacon == commitment.beacon:
        yield f"the beacon is {shape.beacon.id!r}, and {commitment.beacon!r} was committed to"
    if bool(shape.beacon.value) == (commitment.beacon == NO_BEACON):
        yield (
            "the beacon has a value although none was committed to" if shape.beacon.value else "the beacon has no value"
        )


def _timestamp(shape: _Shape, commitment: Commitment, authorities: Sequence[bytes]) -> Iterator[str]:
    try:
        times = [read_time(shape.runs.record.time), *(read_time(query.time) for query in shape.queries)]
        times.append(read_time(shape.issued))
    except BadArtefact as error:
        yield error.message
        return
    if times != sorted(times):
        yield "times run backwards: the verification was written down, then the keys asked in order, then it was issued"
    stamp = shape.timestamp
    if stamp.kind == "none":
        if stamp.time is not None or stamp.response is not None:
            yield "the timestamp says that there is none, and holds one"
        return
    try:
        response = base64.b64decode(stamp.response or "", validate=True)
        found = open_stamp(response, commitment.value, authorities=authorities)
    except (binascii.Error, BadArtefact) as error:
        yield f"the timestamp does not hold: {error.message if isinstance(error, BadArtefact) else error}"
        return
    if time_text(found.time) != stamp.time or base64.b64encode(response).decode() != stamp.response:
        yield f"the timestamp is of {time_text(found.time)}, not of {stamp.time}"
    if times[0] < found.time:
        yield f"the model was asked before the commitment's timestamp of {time_text(found.time)}"


def _revealed(shape: _Shape, commitment: Commitment) -> tuple[bytes, ...]:
    """Return the revealed subseeds, or none if they are not those of the commitment, and of one test."""
    contents = [bytes.fromhex(text) for text in shape.revealed]
    proof = [bytes.fromhex(text) for text in shape.proof]
    owned = [leaf(commitment.public_key, content) for content in contents]
    root, count = bytes.fromhex(commitment.root), commitment.spec.keys
    if len(contents) != commitment.dispute or not merkle.verified(root, count, shape.test.first, owned, proof):
        return ()
    return tuple(contents)


def _queries(shape: _Shape, subseeds: Sequence[bytes], commitment: Commitment) -> Iterator[str]:
    if not subseeds:
        yield "the revealed keys are not those of the commitment, at these places"
        return
    first, spec, beacon = shape.test.first, commitment.spec, bytes.fromhex(shape.beacon.value)
    indices = [query.index for query in shape.queries]
    if indices != list(range(first, first + len(subseeds))):
        yield f"the queries are not of the revealed keys in their order: {str(indices)[:100]}"
        return
    for query, content in zip(shape.queries, subseeds, strict=True):
        # One image at a time, as many large ones may not fit into memory.
        if query.image != key_of(query.index, content, beacon, spec).digest:
            yield f"key {query.index} was asked with another image than its own"
        if len(query.returned) > spec.topk or not all(OUTSIDE <= label < spec.classes for label in query.returned):
            yield f"the answer to key {query.index} is not at most {spec.topk} of {spec.classes} classes"


def _caveats(shape: _Shape, *, trusted: bool) -> Iterator[str]:
    yield "that the model gave these answers is the owner's word: ask it again about the revealed keys"
    yield "that there is no other commitment and no other diary is the owner's word too: look for what was published"
    if shape.timestamp.kind == "none":
        yield "no timestamp: only the owner vouches for when the commitment was made"
    elif not trusted:
        yield "the timestamp's signature was not checked: give the certificate of its authority"
    if shape.beacon.value:
        yield f"look up the beacon {shape.beacon.id!r}: it must be {shape.beacon.value}, and younger than the timestamp"
    else:
        yield "no beacon: who does not trust the owner goes by the p-value that is multiplied by 2^64"
    if shape.software.model_dump() != software():
        yield f"issued by other software than this: {shape.software.name} {shape.software.version}"


def _run(shape: _Shape) -> Run:
    return Run(record=shape.runs.record.model_dump(), chain=tuple(shape.runs.chain))


def _words(error: Any) -> str:
    place = ".".join(map(str, error["loc"])) or "the certificate"
    return f"{place}: {error['msg']}"


def _invalid(*reasons: str) -> Report:
    return Report(valid=False, reasons=reasons)
