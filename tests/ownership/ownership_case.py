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
MIIDhzADAgEAMIIDfgYJKoZIhvcNAQcCoIIDbzCCA2sCAQMxDzANBglghkgBZQMEAgEFADBoBgsqhkiG9w0BCRABBKBZBFcwVQIBAQYEKgMEAT
AxMA0GCWCGSAFlAwQCAQUABCBygd32tmHRprYfs7Esr65nIKzIQmvYRav4+AXvdFnQAwIBAhgPMjAyNjExMjExODUwMDBaMAMCAQGgggGoMIIB
pDCCAUqgAwIBAgIUMvjpYD3muqNURy8dupINx0vDrXAwCgYIKoZIzj0EAwIwEjEQMA4GA1UEAwwHdGVzdCBjYTAgFw0yNjExMjExODQ5NTdaGA
8yMTI2MTAyODE4NDk1N1owFjEUMBIGA1UEAwwLdGVzdCBzdGFtcHMwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASMiInKXQQCBWJgvruKOkBU
m71B1f/HvRe7a3Me4wfXHaz6JVv+WIg7cVQpWdxYyT4MoQjVJzeG0JjU21ZpjCMKo3gwdjAMBgNVHRMBAf8EAjAAMA4GA1UdDwEB/wQEAwIHgD
AWBgNVHSUBAf8EDDAKBggrBgEFBQcDCDAdBgNVHQ4EFgQUnIWsTxvKWoyzKaHBS14hFQvjZsswHwYDVR0jBBgwFoAUrLPNkANZXoeON0qUxUoK
Fj/oztwwCgYIKoZIzj0EAwIDSAAwRQIge+hez7I+xd3Bj+pacYYeIh0bvvviSnDdoTrPAALPo5gCIQDGMGteuLXnypNnrH0XvrUq7hmUE2IdY1
0plSHGuVBm3jGCAT0wggE5AgEBMCowEjEQMA4GA1UEAwwHdGVzdCBjYQIUMvjpYD3muqNURy8dupINx0vDrXAwDQYJYIZIAWUDBAIBBQCggaQw
GgYJKoZIhvcNAQkDMQ0GCyqGSIb3DQEJEAEEMBwGCSqGSIb3DQEJBTEPFw0yNjExMjExODUwMDBaMC8GCSqGSIb3DQEJBDEiBCDljH4SDj1CbR
V4nFg6lF3Nxtje4U8qT5wGZhaswaYkIjA3BgsqhkiG9w0BCRACLzEoMCYwJDAiBCB3UDTLzzh/b3o2Ab4XrJ4SwkA7ZqQDqV6ZMoXkIb/vgzAK
BggqhkjOPQQDAgRGMEQCIEgJEQDD/0fsXPdDSWUuinH6i1mqAAF+LtFaqguur9PdAiA4d+f70+3vShvFJ/5O+5w3pxKfmmRbFBADkBPcR0u6dg
==
"""
)
"""What an authority with the certificate AUTHORITY answered to the request for `commitment()`, at 2026-11-21 18:50."""

AUTHORITY = b"""-----BEGIN CERTIFICATE-----
MIIBajCCARCgAwIBAgIUeaHs1GvJkj5D++98g/KGffEeaR8wCgYIKoZIzj0EAwIw
EjEQMA4GA1UEAwwHdGVzdCBjYTAgFw0yNjExMjExODQ5NTZaGA8yMTI2MTAyODE4
NDk1NlowEjEQMA4GA1UEAwwHdGVzdCBjYTBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABOdAMMtZWHTmv/uTPHItRm+TD/3+X8cnSk+zQggosU925CH1hfjtUBNeFl+K
MV0Wzab1vH49dsVmLH1O6cNc7SOjQjBAMA8GA1UdEwEB/wQFMAMBAf8wDgYDVR0P
AQH/BAQDAgIEMB0GA1UdDgQWBBSss82QA1leh443SpTFSgoWP+jO3DAKBggqhkjO
PQQDAgNIADBFAiEA173xFQQ0Nzg8ypkUobaM9KG5Ykpy+uRhwlVGV+NhCEYCIHrj
N1+mkA7ebycmdgwSGqa6fXug58yuqijaHfzPTr2a
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
