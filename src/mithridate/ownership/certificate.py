"""The certificate: everything that a third party needs to recompute a verification, signed by the owner.

It reveals the subseeds of the keys that were asked about, with Merkle proofs, and not a byte of any other. All figures
are exact fractions beside their logarithms; `checking.check` recomputes each of them.
"""

import base64
import hashlib
import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import mithridate
from mithridate.core.errors import Misuse
from mithridate.ownership import merkle
from mithridate.ownership.canonical import Document, canonical, fraction_text, tagged
from mithridate.ownership.commitment import NO_BEACON, Commitment
from mithridate.ownership.diary import Run, head, now
from mithridate.ownership.keys import Key, derive, subseed
from mithridate.ownership.secret import Secret
from mithridate.ownership.significance import binomial_tail, log10_text
from mithridate.ownership.timestamp import Stamp

SCHEMA = "mithridate.ownership-certificate/1"
PROTOCOL = "taggant/v1"
TEST = "binomial-top-k"
GRIND = 1 << 64
"""How many seeds somebody might try until an innocent model seems guilty, where no beacon forbids it."""
OUTSIDE = -1
"""The place of a label in an answer that is none of the data set's classes."""


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
    adjusted = min(Fraction(1), p_value * run * (run + 1))
    resistant = min(Fraction(1), adjusted * GRIND) if grindable else adjusted
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
    raise NotImplementedError
