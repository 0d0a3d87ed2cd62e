"""The diary: every verification is written down, in a chain of hashes, before the model is asked.

    digest_i = SHA256("taggant/v1/run" || canonical JSON of record i)
    head_i   = SHA256("taggant/v1/chain" || head_{i-1} || digest_i),   head_0 from the commitment

A certificate carries all digests, and the record of its own run, whose number says how many verifications there have
been; the p-value is adjusted for that. A run that fails, or that shows nothing, counts as well, because it was written
before it began. The digests of other runs tell nothing about them: each record has a random salt.

What the chain proves is bounded by what was published: an owner who keeps a second diary in secret is found only when
two certificates with chains that do not continue each other appear (`check` compares them).
"""

import datetime
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mithridate.core.errors import BadArtefact, Misuse
from mithridate.core.ledger import Ledger
from mithridate.ownership.canonical import Document, canonical, tagged
from mithridate.ownership.commitment import Commitment

MAX_TARGET = 500
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A verification that was written down.

    Args:
        record: What is written: its number from 1, the time, who is asked, which keys, and how.
        chain: The digests of all records up to this one.
    """

    record: Document
    chain: tuple[str, ...]

    @property
    def number(self) -> int:
        """Which verification this is, from 1."""
        return len(self.chain)

    @property
    def keys(self) -> range:
        """The numbers of the keys that are asked about, in the order of asking."""
        first = int(self.record["first"])
        return range(first, first + int(self.record["keys"]))


class Diary:
    """The diary of one commitment, in a file.

    Args:
        path: Where it is, or is begun.
        commitment: What it belongs to.
    """

    def __init__(self, path: Path, commitment: Commitment) -> None:
        self.path, self.commitment = path, commitment

    def begin(self, target: str, *, block: int = 0) -> Run:
        """Write down that a model will now be asked about a block of keys; call it before the first query.

        Args:
            target: Who is asked, in words that a reader of the certificate understands; a model's sha256 belongs here.
            block: Which keys: the first `commitment.dispute` of them for 0, the next for 1. Block b needs at least b
                earlier runs, so that nobody chooses a lucky block without paying for it.

        Raises:
            Misuse: MTH-1012 for a block that there is not, or not yet, and for a target without a description.
            BadArtefact: MTH-1013 when the diary was altered or belongs to another commitment.
            WorkError: MTH-0710 when another verification writes in this moment, MTH-0706 when the disk refuses.
        """
        if not target.strip() or len(target) > MAX_TARGET:
            raise Misuse("MTH-1012", f"say in 1 to {MAX_TARGET} characters who is asked, got {target[:60]!r}")
        if not 0 <= block < self.commitment.num_disputes:
            last = self.commitment.num_disputes - 1
            raise Misuse("MTH-1012", f"block {block} of keys is not there: they are numbered from 0 to {last}")
        with Ledger(self.path) as ledger:
            ledger.open()
            chain = self._chain(ledger)
            if block > len(chain):
                message = f"block {block} of keys comes after {block} verifications, and the diary has {len(chain)}"
                raise Misuse("MTH-1012", message, hint="use the blocks in their order")
            spec = self.commitment.spec
            record: Document = {
                "number": len(chain) + 1,
                "time": now(),
                "target": target,
                "first": block * self.commitment.dispute,
                "keys": self.commitment.dispute,
                "topk": spec.topk,
                "beacon": self.commitment.beacon,
                "salt": secrets.token_bytes(16).hex(),
            }
            chain = (*chain, digest(record))
            entry = {"record": record, "head": head(self.commitment.value, chain)}
            ledger.append(str(record["number"]), entry)
        return Run(record=record, chain=chain)

    def runs(self) -> tuple[Run, ...]:
        """Return all verifications that were written down, oldest first.

        Raises:
            BadArtefact: MTH-1013 when the diary was altered or belongs to another commitment.
        """
        ledger = Ledger(self.path)
        chain = self._chain(ledger)
        records = [entry["record"] for entry in ledger.records().values()]
        return tuple(Run(record=record, chain=chain[: place + 1]) for place, record in enumerate(records))

    def _chain(self, ledger: Ledger) -> tuple[str, ...]:
        chain: list[str] = []
        for number, (name, entry) in enumerate(ledger.records().items(), start=1):
            record = entry.get("record")
            if name != str(number) or not isinstance(record, dict) or record.get("number") != number:
                hint = "restore the file; a new diary would hide verifications"
                raise BadArtefact("MTH-1013", f"{self.path}: record {number} is missing or out of order", hint=hint)
            chain.append(digest(record))
            if entry.get("head") != head(self.commitment.value, chain):
                message = f"{self.path}: record {number} was altered, or belongs to another commitment"
                raise BadArtefact("MTH-1013", message, hint="restore the file; a new diary would hide verifications")
        return tuple(chain)


def digest(record: Document) -> str:
    """Return the hash of a record."""
    return tagged("run", canonical(record)).hex()


def head(commitment: str, chain: Sequence[str]) -> str:
    """Return the hash that stands for a commitment's whole chain of digests."""
    found = tagged("chain", bytes.fromhex(commitment))
    for item in chain:
        found = tagged("chain", found, bytes.fromhex(item))
    return found.hex()


def now() -> str:
    """Return the time in UTC to the second, as all our documents have it."""
    return time_text(datetime.datetime.now(datetime.UTC))


def time_text(moment: datetime.datetime) -> str:
    """Return a moment as all our documents have it."""
    return moment.astimezone(datetime.UTC).strftime(_TIME)


def read_time(text: object) -> datetime.datetime:
    """Return the moment that a text stands for.

    Raises:
        BadArtefact: MTH-1014 for another form.
    """
    try:
        found = datetime.datetime.strptime(str(text), _TIME).replace(tzinfo=datetime.UTC)
    except ValueError:
        raise BadArtefact("MTH-1014", f"{str(text)[:40]!r} is no time in UTC like 2026-01-31T12:00:00Z") from None
    if time_text(found) != text:
        raise BadArtefact("MTH-1014", f"{str(text)[:40]!r} is no time in UTC like 2026-01-31T12:00:00Z")
    return found
