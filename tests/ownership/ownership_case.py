"""One small owner for the tests of ownership: a secret, a commitment, a timestamp of it, and answers of models."""

import base64
from collections.abc import Sequence
from pathlib import Path

from mithridate.ownership.certificate import Query, issue
from mithridate.ownership.commitment import Commitment, commit
from mithridate.ownership.diary import Diary
from mithridate.ownership.keys import KeySpec, derive
from mithridate.ownership.secret import Secret
from mithridate.ownership.timestamp import Stamp

SECRET = Secret(bytes(range(32)))
SPEC = KeySpec(keys=6, topk=2, classes=5, side=2, channels=1, height=3, width=4)
BEACON = b"\x07" * 32
CLASSES = ["a", "b", "c", "d", "e"]
LATER = "2026-12-01T00:00:00Z"
"""After the timestamp of the tests, whatever the clock of this machine."""


def commitment(beacon: str = "test beacon round 7", dispute: int = 3) -> Commitment:
    return commit(SECRET, SPEC, data="11" * 32, classes=CLASSES, dispute=dispute, beacon=beacon)


def answers(committed: Commitment, hits: Sequence[bool], block: int = 0, beacon: bytes = BEACON) -> list[Query]:
    """Return the answers of a model that knows some of the labels."""
    which = range(block * committed.dispute, (block + 1) * committed.dispute)
    keys = derive(SECRET.seed, beacon, SPEC, which=which)
    answered = []
    for key, hit in zip(keys, hits, strict=True):
        wrong = [(key.label + shift) % SPEC.classes for shift in (1, 2)]
        answered.append(Query.of(key, [wrong[0], key.label] if hit else wrong, time=LATER))
    return answered


def certificate(
    folder: Path,
    committed: Commitment,
    hits: Sequence[bool] = (True, True, True),
    *,
    beacon: bytes = BEACON,
    stamp: Stamp | None = None,
    target: str = "a model",
) -> dict:
    """Ask a model, which is written down in the folder's diary, and return the certificate."""
    run = Diary(folder / "diary", committed).begin(target)
    return issue(SECRET, committed, run, answers(committed, hits, beacon=beacon), beacon=beacon, stamp=stamp)


RESPONSE = base64.b64decode(
    """
MIIDZTADAgEAMIIDXAYJKoZIhvcNAQcCoIIDTTCCA0kCAQMxDzANBglghkgBZQMEAgEFADBjBgsqhkiG9w0BCRABBKBUBFIwUAIBAQYEKgMEATAx
MA0GCWCGSAFlAwQCAQUABCCXNO4tsattepEOXIqfEqMkiMGKoROBI7QKeuDqgOzNEAIBBxgPMjAyNjExMjExODUwMDBaoIIBqDCCAaQwggFKoAMC
AQICFGhZh8I9Eh7k3dEO+AQ+0p4qC1dDMAoGCCqGSM49BAMCMBIxEDAOBgNVBAMMB3Rlc3QgY2EwIBcNMjYwMTAxMDAwMDAwWhgPMjEyNjAxMDEw
MDAwMDBaMBYxFDASBgNVBAMMC3Rlc3Qgc3RhbXBzMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEGBCIs+yvpApGTYXIP1rI9bTmxFoW7d85qfvb
mAKiSjjdBYcqAkDgUaCSzRuw6KQupdSvu/GgeXeQIk5efCal4qN4MHYwDAYDVR0TAQH/BAIwADAOBgNVHQ8BAf8EBAMCB4AwHQYDVR0OBBYEFHr6
gZMJCH805qdMk7GNzCbl4sIQMB8GA1UdIwQYMBaAFAfFLVJcNT88ZE095aMUcT17WntsMBYGA1UdJQEB/wQMMAoGCCsGAQUFBwMIMAoGCCqGSM49
BAMCA0gAMEUCIGvlfLm52zEg/ziX0bnAbRaRou9zv0KqIXxK7aNoQUKEAiEA330mmXCYxQhcTr5FNa3L2q6zjCE9vUSEv803od8Bu7gxggEgMIIB
HAIBATAqMBIxEDAOBgNVBAMMB3Rlc3QgY2ECFGhZh8I9Eh7k3dEO+AQ+0p4qC1dDMA0GCWCGSAFlAwQCAQUAoIGGMBoGCSqGSIb3DQEJAzENBgsq
hkiG9w0BCRABBDAvBgkqhkiG9w0BCQQxIgQgczVXfmnzq9cwX04SnaEfX8/UTR0XR6IU1G5GWNQ0+UkwNwYLKoZIhvcNAQkQAi8xKDAmMCQwIgQg
HnFWXgx3/2PhT1iH0MEt8hwHCXQC1WTeiVP8jHwRuwcwCgYIKoZIzj0EAwIERzBFAiEAkG9ETf58IKC7kiZfhxS5Hrf4auEgPXD+1tOBkcRxP7cC
IEoUS95kf96F3Hckr7yguZx01zJpjcp75mXb3Qy+fUuT
"""
)
"""What an authority with the certificate AUTHORITY answered to the request for `commitment()`, at 2026-11-21 18:50."""

AUTHORITY = b"""-----BEGIN CERTIFICATE-----
MIIBazCCARCgAwIBAgIUAv0cOvFRZaxkvWEsi2JRblYwXXMwCgYIKoZIzj0EAwIw
EjEQMA4GA1UEAwwHdGVzdCBjYTAgFw0yNjAxMDEwMDAwMDBaGA8yMTI2MDEwMTAw
MDAwMFowEjEQMA4GA1UEAwwHdGVzdCBjYTBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABObGgcJN4y/nwrFzFdQC3dG6Y8jco9VvwbZKGyWnZIHmrTtGQvX60VxvwI+p
ZgEz3zzJCgl8YmtECsQRa4N/y8ujQjBAMA8GA1UdEwEB/wQFMAMBAf8wDgYDVR0P
AQH/BAQDAgIEMB0GA1UdDgQWBBQHxS1SXDU/PGRNPeWjFHE9e1p7bDAKBggqhkjO
PQQDAgNJADBGAiEAylwlwDP/XP6VKA57Qn+DqgFgopc/b+bSnJq+ImCFfoUCIQDK
dhbOqAbpv6JPVijEBR2lpfG+t+G1Zs43CyAtNkE3QA==
-----END CERTIFICATE-----
"""
STRANGER = b"""-----BEGIN CERTIFICATE-----
MIIBcDCCARagAwIBAgIUXZI8wu3cl29ioxFdDv3UdZUb1rcwCgYIKoZIzj0EAwIw
FTETMBEGA1UEAwwKdGVzdCBvdGhlcjAgFw0yNjExMjExODQ5NTZaGA8yMTI2MTAy
ODE4NDk1NlowFTETMBEGA1UEAwwKdGVzdCBvdGhlcjBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABJi2vrcAUXcaYwapVX1QGNKLeX2P8bT6nQMqnydFTL1iPdUbMu+1
lYYLG3G28Ecx9TEl07u6/cLvX/IEKW5waFqjQjBAMA8GA1UdEwEB/wQFMAMBAf8w
DgYDVR0PAQH/BAQDAgIEMB0GA1UdDgQWBBSfAuXd2/dE98V6HuZ/UqH35UsUADAK
BggqhkjOPQQDAgNIADBFAiEA/aqL+8Ui576EULVCGebXrMbzXR82nGswoGLrovT8
PVACIHr7Ht3EOhBBN+U37lfkOKo7xxX18lyIwTNr7n9m1lXG
-----END CERTIFICATE-----
"""
