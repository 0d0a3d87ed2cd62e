"""The commitment: one hash that fixes keys, test and data before anybody knows how a model will answer.

    root  = Merkle root; its leaves are public key || subseed
    value = SHA256("taggant/v1/commit" || root || SHA256(canonical JSON of everything else))

It is published, with a trusted timestamp, before the data are. The seed has 256 bits, so the hash hides the keys and
binds the owner to them. It names the beacon, a public value that is drawn later and mixed into the keys, so that nobody
can try seeds until an innocent model seems guilty; the owner's public key, so that nobody else can sign for it; and how
many keys one dispute asks about, so that nobody can choose a lucky part of them afterwards. The public key is in every
leaf too: else somebody could commit to the same root under a key of their own, while the keys are still unknown, and
issue the same certificates once they are revealed.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from mithridate.core.artefacts import as_json, write_atomic
from mithridate.core.boundary import Caps, read_json
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.ownership import merkle
from mithridate.ownership.canonical import (
    MAX_DIGITS,
    Document,
    canonical,
    fraction_text,
    is_hash,
    read_fraction,
    tagged,
)
from mithridate.ownership.keys import KeySpec, subseed
from mithridate.ownership.secret import Secret

SCHEMA = "mithridate.ownership-commitment/1"
NO_BEACON = "none"
MAX_PIXELS = 1 << 30
"""Of all keys of a dispute: who checks a certificate makes their images."""
_CAPS = Caps(file_bytes=1 << 20, depth=4, entries=1000)


@dataclass(frozen=True, kw_only=True)
class Commitment:
    """What the owner is bound to.

    Args:
        spec: What keys look like, and how models are asked.
        data: The sha256 that stands for the data before they were marked: `Examples.fingerprint`.
        classes: The `class_hash` of its class names, in the order of the labels.
        alpha: The level at which ownership counts as shown, exact.
        dispute: How many keys one test asks about; it divides the number of keys.
        beacon: Which public value will be mixed into the keys, such as `drand quicknet round 12345678`; or `none`.
        public_key: The Ed25519 key of the owner, hexadecimal.
        root: The Merkle root of the subseeds, hexadecimal.
    """

    spec: KeySpec
    data: str
    classes: str
    alpha: Fraction
    dispute: int
    beacon: str
    public_key: str
    root: str

    def __post_init__(self) -> None:
        hashes = {"data": self.data, "classes": self.classes, "public_key": self.public_key, "root": self.root}
        for name, text in hashes.items():
            if not is_hash(text):
                raise Misuse("MTH-1006", f"{name} must be 64 hexadecimal digits, got {str(text)[:80]!r}")
        if not 0 < self.alpha < 1:
            raise Misuse("MTH-1006", f"alpha must be between 0 and 1, got {self.alpha}")
        if isinstance(self.dispute, bool) or self.dispute < 1 or self.spec.keys % self.dispute:
            message = f"the keys of a dispute must divide the {self.spec.keys} keys, got {self.dispute}"
            raise Misuse("MTH-1006", message, hint="the others are kept for later disputes")
        if self.dispute * self.spec.size > MAX_PIXELS:
            message = f"{self.dispute} images of {self.spec.size:,} bytes are more than {MAX_PIXELS:,} for one dispute"
            raise Misuse("MTH-1006", message, hint="use fewer keys for a dispute, or smaller images")
        if self.dispute * math.log10(self.spec.classes) > MAX_DIGITS:
            message = (
                f"{self.dispute} keys among {self.spec.classes} classes give p-values of more than {MAX_DIGITS} digits"
            )
            raise Misuse("MTH-1006", message, hint="use fewer keys for a dispute; 20 are many")
        if not self.beacon or self.beacon != self.beacon.strip() or len(self.beacon) > 200:
            raise Misuse("MTH-1006", f"a beacon is named in 1 to 200 characters, got {self.beacon[:60]!r}")

    @property
    def value(self) -> str:
        """The hash to publish, 64 hexadecimal digits."""
        facts = {key: item for key, item in self._facts().items() if key != "root"}
        return tagged("commit", bytes.fromhex(self.root), hashlib.sha256(canonical(facts)).digest()).hex()

    @property
    def num_disputes(self) -> int:
        """How many tests there are keys for."""
        return self.spec.keys // self.dispute

    def document(self) -> Document:
        """Return the commitment as it is written and put into certificates."""
        return {"schema": SCHEMA, **self._facts(), "value": self.value}

    @classmethod
    def of(cls, document: object, name: str = "the commitment") -> "Commitment":
        """Return the commitment that a document describes.

        Raises:
            BadArtefact: MTH-1007 when it is none, or its value is not that of its content.
        """
        hint = "get a fresh copy of it"
        wanted = {"schema", "value", *(item.name for item in fields(cls))}
        if not isinstance(document, Mapping) or document.get("schema") != SCHEMA or set(document) != wanted:
            raise BadArtefact("MTH-1007", f"{name} is none of {SCHEMA}", hint=hint)
        rest: dict[str, Any] = {key: document[key] for key in ("data", "classes", "dispute", "beacon", "public_key")}
        if not isinstance(document["spec"], Mapping) or not isinstance(rest["beacon"], str):
            raise BadArtefact("MTH-1007", f"{name} has a damaged spec or beacon", hint=hint)
        hashes = [key for key in ("data", "classes", "public_key", "root") if not is_hash(document[key])]
        if hashes or type(rest["dispute"]) is not int:
            message = f"{name} has a damaged {', '.join(hashes) or 'number of keys for a dispute'}"
            raise BadArtefact("MTH-1007", message, hint=hint)
        kinds = {item.name: item.type for item in fields(KeySpec)}
        if {key: type(value) for key, value in document["spec"].items()} != kinds:
            raise BadArtefact(
                "MTH-1007", f"{name} has other entries of spec: {sorted(map(str, document['spec']))}"[:300]
            )
        alpha = read_fraction(document["alpha"], "alpha")
        try:
            found = cls(spec=KeySpec(**document["spec"]), alpha=alpha, root=document["root"], **rest)
        except Misuse as error:
            raise BadArtefact("MTH-1007", f"{name}: {error.message}", hint=hint) from None
        if found.value != document["value"]:
            message = f"{name} was altered: its content has the value {found.value[:12]}..., not the one that it states"
            raise BadArtefact("MTH-1007", message, hint=hint)
        return found

    @classmethod
    def read(cls, path: Path) -> "Commitment":
        """Read a commitment from its file.

        Raises:
            BadArtefact: MTH-1007 when it is none or was altered, 02xx when it cannot be read.
        """
        return cls.of(read_json(path, caps=_CAPS), str(path))

    def write(self, path: Path) -> None:
        """Write the commitment, which is public.

        Raises:
            WorkError: MTH-0706 when the disk refuses.
        """
        write_atomic(path, as_json(self.document()))

    def _facts(self) -> Document:
        facts = asdict(self)
        return {**facts, "alpha": fraction_text(self.alpha)}


def commit(
    secret: Secret,
    spec: KeySpec,
    *,
    data: str,
    classes: Sequence[str],
    alpha: float | str | Fraction = "1/1000",
    dispute: int | None = None,
    beacon: str = NO_BEACON,
) -> Commitment:
    """Return the commitment to a secret's keys.

    Args:
        secret: The owner's.
        spec: What keys look like, and how models are asked.
        data: The sha256 that stands for the data before they are marked: `Examples.fingerprint`.
        classes: Its class names, in the order of the labels.
        alpha: The level; a float means the decimal number that is printed for it.
        dispute: How many keys one test asks about; None asks about all.
        beacon: Which public value will be mixed in, fixed after the commitment's timestamp; `none` for none.

    Raises:
        Misuse: MTH-1006 when these do not fit, MTH-1000 without the extra `ownership`.
    """
    if len(classes) != spec.classes:
        raise Misuse("MTH-1006", f"the keys have labels of {spec.classes} classes, and {len(classes)} were named")
    return Commitment(
        spec=spec,
        data=data,
        classes=class_hash(classes),
        alpha=_exact(alpha),
        dispute=spec.keys if dispute is None else dispute,
        beacon=beacon,
        public_key=secret.public_key,
        root=merkle.root(leaves(secret, spec.keys)).hex(),
    )


def leaves(secret: Secret, count: int) -> list[bytes]:
    """Return what the tree of a secret's keys is over."""
    public = secret.public_key
    return [leaf(public, subseed(secret.seed, index)) for index in range(count)]


def leaf(public_key: str, subseed: bytes) -> bytes:
    """Return what stands in the tree for a key of an owner."""
    return bytes.fromhex(public_key) + subseed


def class_hash(classes: Sequence[str]) -> str:
    """Return the hash of class names in the order of the labels.

    Raises:
        Misuse: MTH-1006 when a name is there twice.
    """
    names = [str(name) for name in classes]
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise Misuse("MTH-1006", f"the class {twice!r} is there twice; a label must mean one class")
    return tagged("classes", canonical(names)).hex()


def _exact(alpha: float | str | Fraction) -> Fraction:
    try:
        return Fraction(str(alpha))
    except (ValueError, ZeroDivisionError):
        raise Misuse("MTH-1006", f"alpha must be a number between 0 and 1, got {str(alpha)[:40]!r}") from None
