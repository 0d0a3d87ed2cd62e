"""Checking a certificate: everything is recomputed from what it reveals, without torch and without the secret."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mithridate.ownership.certificate import Evidence


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
        shown_to_sceptics: The same, for those who do not.
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
    """Recompute a certificate; never raises for what it holds.

    Args:
        document: The certificate, as read from JSON.
        authorities: Certificates, PEM, of timestamp authorities that the reader trusts.
        earlier: Other certificates of the same owner, whose chains of verifications this one's must continue.

    Raises:
        Misuse: MTH-1000 without the extra `ownership`.
    """
    raise NotImplementedError


def check_file(
    path: Path, *, authorities: Sequence[bytes] = (), earlier: Sequence[Mapping[str, object]] = ()
) -> Report:
    """Check the certificate in a file; a file that is no JSON is not valid."""
    raise NotImplementedError
