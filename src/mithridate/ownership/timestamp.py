"""Trusted timestamps of a commitment (RFC 3161): a request file to send, a response file to keep.

    mithridate writes   commitment.tsq
    the owner sends it  curl -H 'Content-Type: application/timestamp-query' --data-binary @commitment.tsq URL
    and keeps the body  commitment.tsr
    mithridate reads    commitment.tsr

What is stamped is the commitment's value, as 64 hexadecimal digits in ASCII. The request has no nonce: a nonce proves
that a response is fresh, and for us an old response to the same commitment would prove more, not less.

`cryptography` reads certificates, and verifies no CMS signature and no timestamp; `rfc3161-client` does both, in Rust,
and needs no other package. So the extra has it, and there is no DER reader of our own. It makes no connections either.
"""

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mithridate.core.artefacts import write_atomic
from mithridate.core.boundary import Caps, read_bytes
from mithridate.core.errors import BadArtefact
from mithridate.ownership.extra import need_extra

_CAPS = Caps(file_bytes=1 << 18)
_SHA256 = "2.16.840.1.101.3.4.2.1"


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """A trusted timestamp that belongs to a commitment.

    Args:
        response: The authority's whole response, DER.
        time: When the commitment existed at the latest, UTC.
        verified: Whether a given authority's certificate vouches for it.
    """

    response: bytes
    time: datetime.datetime
    verified: bool


def write_request(value: str, path: Path) -> None:
    """Write the request for a timestamp of a commitment's value.

    Raises:
        Misuse: MTH-1000 without the extra `ownership`.
        WorkError: MTH-0706 when the disk refuses.
    """
    need_extra()
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

    builder = TimestampRequestBuilder(data=value.encode(), hash_algorithm=HashAlgorithm.SHA256, nonce=False)
    write_atomic(path, builder.build().as_bytes())


def read_stamp(path: Path, value: str, *, authorities: Sequence[bytes] = ()) -> Stamp:
    """Read an authority's response from a file, and check that it is for a commitment's value.

    Args:
        path: The response.
        value: Of the commitment.
        authorities: Certificates that are trusted, PEM; without any, the signature is not checked.

    Raises:
        BadArtefact: MTH-1008 when it is none, is a refusal, or is for something else; MTH-1009 when none of the
            authorities vouches for it; 02xx when it cannot be read.
        Misuse: MTH-1000 without the extra `ownership`.
    """
    return open_stamp(read_bytes(path, _CAPS), value, authorities=authorities, name=str(path))


def open_stamp(response: bytes, value: str, *, authorities: Sequence[bytes] = (), name: str = "the timestamp") -> Stamp:
    """Check an authority's response, as `read_stamp` does.

    Raises:
        BadArtefact: MTH-1008, MTH-1009.
        Misuse: MTH-1000 without the extra `ownership`.
    """
    need_extra()
    from rfc3161_client import PKIStatus, decode_timestamp_response

    hint = "send the request again, and keep the response as it comes"
    try:
        found = decode_timestamp_response(response)
        status = PKIStatus(found.status)
        if status is not PKIStatus.GRANTED:
            words = f"the authority answered {status.name.lower()}: {'; '.join(found.status_string)[:200]}"
            raise BadArtefact("MTH-1008", f"{name} is none, {words}", hint=hint)
        imprint, moment = found.tst_info.message_imprint, found.tst_info.gen_time
        kind, message = imprint.hash_algorithm.dotted_string, bytes(imprint.message)
    except (ValueError, TypeError) as error:
        if isinstance(error, BadArtefact):
            raise
        message_text = f"{name} is no RFC 3161 response: {str(error)[:100]}"
        raise BadArtefact("MTH-1008", message_text, hint=hint) from None
    if kind != _SHA256 or message != hashlib.sha256(value.encode()).digest():
        what = message.hex()[:12]
        raise BadArtefact("MTH-1008", f"{name} is for something else ({what}...), not for commitment {value[:12]}...")
    if authorities:
        _verify(response, message, authorities, name)
    return Stamp(response=response, time=moment.astimezone(datetime.UTC), verified=bool(authorities))


def _verify(response: bytes, message: bytes, authorities: Sequence[bytes], name: str) -> None:
    from cryptography import x509
    from rfc3161_client import VerificationError, VerifierBuilder, decode_timestamp_response

    try:
        roots = [certificate for bundle in authorities for certificate in x509.load_pem_x509_certificates(bundle)]
    except ValueError as error:
        hint = "give the certificate of the authority's root in PEM"
        raise BadArtefact("MTH-1009", f"an authority's certificate is none: {str(error)[:100]}", hint=hint) from None
    try:
        VerifierBuilder(roots=roots).build().verify(decode_timestamp_response(response), message)
    except (VerificationError, ValueError) as error:
        hint = "give the certificate of the authority that was asked"
        raise BadArtefact(
            "MTH-1009", f"{name} is not signed by these authorities: {str(error)[:150]}", hint=hint
        ) from None
