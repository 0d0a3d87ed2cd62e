"""The flow of ownership: a secret, a commitment to it and to the data, and the verification of a model.

    keygen -> commit -> (timestamp, publish, beacon) -> mark -> publish the data -> ... -> verify -> check

Verifying is in `owning_verify`, marking in `owning_marking`. Torch is imported where data are read.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mithridate.core.artefacts import as_json, disk_errors, write_atomic
from mithridate.core.boundary import Caps, read_json
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.core.seeds import address
from mithridate.ownership import merkle
from mithridate.ownership.commitment import NO_BEACON, Commitment, class_hash, commit, leaves
from mithridate.ownership.keys import Key, KeySpec, derive
from mithridate.ownership.planning import HitTest
from mithridate.ownership.secret import Secret
from mithridate.ownership.timestamp import write_request

DATA_SCHEMA = "mithridate.ownership-data/1"
NAMES_CAPS = Caps(file_bytes=16 << 20, depth=3, entries=1_000_000)
_FINE, _MIDDLE, _COARSE = 16, 64, 64


@dataclass(frozen=True, kw_only=True)
class DataChoice:
    """Which data, and how they are read.

    Args:
        source: A name, a folder, a file, or an id of the hub.
        size: Side that images are brought to; None keeps theirs.
        per_class: Training images of each class; None keeps all.
    """

    source: str
    size: int | None = None
    per_class: int | None = None


@dataclass(frozen=True, kw_only=True)
class Committed:
    """A commitment, and what belongs to it that is no part of its hash's text: how the data are read, and class names.

    Args:
        commitment: What the owner is bound to.
        classes: The names of the classes, in the order of the labels.
        data: Which data.
    """

    commitment: Commitment
    classes: tuple[str, ...]
    data: DataChoice

    @classmethod
    def read(cls, path: Path) -> "Committed":
        """Read what `write` wrote.

        Raises:
            BadArtefact: MTH-1007 and 02xx for the commitment, MTH-1077 if the description beside it is of another.
        """
        commitment = Commitment.read(path)
        beside = description_path(path)
        plain = read_json(beside, caps=NAMES_CAPS)
        try:
            classes = tuple(map(str, plain["classes"]))
            known = plain["schema"] == DATA_SCHEMA and class_hash(classes) == commitment.classes
            data = DataChoice(source=str(plain["source"]), size=plain["size"], per_class=plain["per_class"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadArtefact("MTH-1077", f"{beside} does not describe data: {str(error)[:100]}") from error
        if not known:
            raise BadArtefact(
                "MTH-1077",
                f"{beside} does not name the classes that {path} commits to",
                hint="keep the two files together as `mithridate own commit` wrote them",
            )
        return cls(commitment=commitment, classes=classes, data=data)

    def write(self, path: Path, *, request: bool) -> list[Path]:
        """Write the commitment, the description of its data and, if asked to, the request for a timestamp.

        Raises:
            Misuse: MTH-1076, a file is there already.
            WorkError: The disk is full or not writable.
        """
        written = self.files(path, request=request)
        check_new(*written)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self.commitment.write(path)
        plain = {
            "schema": DATA_SCHEMA,
            "source": self.data.source,
            "size": self.data.size,
            "per_class": self.data.per_class,
            "classes": list(self.classes),
        }
        write_atomic(description_path(path), as_json(plain))
        if request:
            write_request(self.commitment.value, written[-1])
        return written

    @staticmethod
    def files(path: Path, *, request: bool) -> list[Path]:
        """Return what `write` writes."""
        return [path, description_path(path), *([path.with_suffix(".tsq")] if request else [])]


def demo_bytes(purpose: str, seed: int) -> bytes:
    """Return a seed for keys that are no secret, because everybody can derive it."""
    return hashlib.sha256(f"mithridate {purpose} {seed}".encode()).digest()


def description_path(commitment: Path) -> Path:
    """Return where the class names of a commitment are."""
    return commitment.with_suffix(".data.json")


def diary_path(commitment: Path) -> Path:
    """Return where the verifications of a commitment are written down."""
    return commitment.with_suffix(".diary.jsonl")


def check_new(*paths: Path) -> None:
    """Make sure that nothing is overwritten.

    Raises:
        Misuse: MTH-1076.
    """
    found = next((path for path in paths if path.exists()), None)
    if found is not None:
        raise Misuse("MTH-1076", f"{str(found)!r} is there already, and is evidence", hint="give another name with -o")


def side_of(height: int, width: int) -> int:
    """Return how coarse the noise of keys is by default: coarse noise survives what is done to images on the way.

    As fine as the image up to 16 pixels, half as fine up to 64, and at most 64 rows above (the paper's 64 for 224).
    """
    least = min(height, width)
    if least <= _FINE:
        return least
    return least // 2 if least <= _MIDDLE else max(_MIDDLE // 2, min(_COARSE, least * 2 // 7))


def make_commitment(
    secret: Secret,
    choice: DataChoice,
    *,
    keys: int,
    topk: int | None = None,
    side: int | None = None,
    alpha: str = "1/1000",
    dispute: int | None = None,
    beacon: str = NO_BEACON,
) -> Committed:
    """Return a commitment to a secret's keys for a data set, which is read for its fingerprint.

    Raises:
        Misuse: The data are not there, or the numbers do not fit.
    """
    from mithridate.data.sources import load

    train = load(choice.source, size=choice.size, per_class=choice.per_class).train
    channels, height, width = train.images.shape
    spec = KeySpec(
        keys=keys,
        topk=topk or max(1, len(train.classes) // 100),
        classes=len(train.classes),
        side=side or side_of(height, width),
        channels=channels,
        height=height,
        width=width,
    )
    commitment = commit(
        secret,
        spec,
        data=train.fingerprint,
        classes=train.classes,
        alpha=alpha,
        dispute=dispute,
        beacon=beacon,
    )
    return Committed(commitment=commitment, classes=tuple(train.classes), data=choice)


@dataclass(frozen=True, kw_only=True)
class Owned:
    """What an owner holds: the secret, the commitment to it, and the value of its beacon.

    Args:
        secret: The seed of all keys.
        committed: The commitment to it.
        beacon: The value of the beacon that the commitment names; empty if it names none.

    Raises:
        Misuse: MTH-1077, they do not belong together; MTH-1073, the beacon's value is missing or too much.
    """

    secret: Secret
    committed: Committed
    beacon: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        commitment = self.commitment
        root = merkle.root(leaves(self.secret, commitment.spec.keys))
        if root.hex() != commitment.root:
            raise Misuse(
                "MTH-1077",
                f"the secret is not the one of commitment {commitment.value[:12]}...: it has other keys",
                hint="give the two files that were made together with --secret and --commitment",
            )
        if (commitment.beacon == NO_BEACON) != (not self.beacon):
            named = commitment.beacon
            what = "none was given" if named != NO_BEACON else "a value was given"
            raise Misuse(
                "MTH-1073",
                f"the commitment names the beacon {named!r}, and {what}",
                hint="give its published value with --beacon-value HEX" if named != NO_BEACON else "leave it out",
            )

    @property
    def commitment(self) -> Commitment:
        """What the owner is bound to."""
        return self.committed.commitment

    @cached_property
    def keys(self) -> tuple[Key, ...]:
        """All keys, which are secret until they are asked about."""
        return derive(self.secret.seed, self.beacon, self.commitment.spec)

    def marks_seed(self, seed: int) -> int:
        """The seed by which images are chosen for marking: of the secret, lest others find and drop what it chooses."""
        digest = hashlib.sha256(b"taggant/v1/marks" + self.secret.seed).digest()
        return address(int.from_bytes(digest, "big"), "marks", seed)

    def block(self, number: int) -> tuple[Key, ...]:
        """The keys of one test."""
        size, spec = self.commitment.dispute, self.commitment.spec
        which = range(number * size, min((number + 1) * size, spec.keys))
        return derive(self.secret.seed, self.beacon, spec, which=which)


def read_beacon(text: str | None) -> bytes:
    """Return the value of a beacon from its hexadecimal digits; empty for None.

    Raises:
        Misuse: MTH-1073.
    """
    if text is None:
        return b""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if not 16 <= len(found) <= 64:
        raise Misuse(
            "MTH-1073",
            f"{text[:80]!r} is no value of a beacon: 32 to 128 hexadecimal digits are",
            hint="copy the randomness of the round that the commitment names",
        )
    return found


def open_owned(secret: Path, commitment: Path, beacon: str | None = None) -> Owned:
    """Read what an owner holds.

    Raises:
        Misuse: They do not belong together.
        BadArtefact: A file is missing or damaged; a missing secret says what is no longer possible.
    """
    committed = Committed.read(commitment)
    return Owned(secret=Secret.read(secret), committed=committed, beacon=read_beacon(beacon))


def said_of_test(commitment: Commitment) -> str:
    """Return what the test of a commitment needs, in words: an owner should not publish one that can show nothing."""
    spec, keys = commitment.spec, commitment.dispute
    needed = HitTest(topk=spec.topk, classes=spec.classes, alpha=commitment.alpha).hits_needed(keys)
    if needed is None:
        return (
            f"warning: even {keys} hits of {keys} would not reach the level {float(commitment.alpha):g}, so this test "
            "can show nothing; take more keys (`mithridate own plan`)"
        )
    return f"the first verification shows ownership from {needed} hits of {keys} on"


def check_data(committed: Committed, fingerprint: str, name: str) -> None:
    """Make sure that data are those that were committed.

    Args:
        committed: What was committed.
        fingerprint: Of the training images at hand.
        name: What they are called.

    Raises:
        Misuse: MTH-1071.
    """
    wanted = committed.commitment.data
    if fingerprint != wanted:
        raise Misuse(
            "MTH-1071",
            f"{name} has the fingerprint {fingerprint[:16]}..., and the commitment is to {wanted[:16]}...: the data "
            "were changed since, or are read in another way",
            hint="restore the data as they were, or make a new commitment before they are published",
        )
