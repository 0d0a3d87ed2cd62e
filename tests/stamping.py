"""A timestamp authority (RFC 3161) as small as it can be, so that a request can be followed to its certificate."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_FROM, _UNTIL = datetime(2026, 1, 1, tzinfo=UTC), datetime(2126, 1, 1, tzinfo=UTC)


def der(tag: int, *parts: bytes) -> bytes:
    """Return a value with its tag and length, by the distinguished rules."""
    body = b"".join(parts)
    size = len(body)
    if size < 128:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def _number(value: int) -> bytes:
    return der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _name(dotted: str) -> bytes:
    """Return an object identifier."""
    first, second, *rest = map(int, dotted.split("."))
    body = [40 * first + second]
    for arc in rest:
        digits = [arc & 0x7F]
        while arc := arc >> 7:
            digits.append(0x80 | arc & 0x7F)
        body += reversed(digits)
    return der(0x06, bytes(body))


def _sequence(*parts: bytes) -> bytes:
    return der(0x30, *parts)


_SHA256 = _sequence(_name("2.16.840.1.101.3.4.2.1"), der(0x05))


@dataclass(frozen=True, kw_only=True)
class Authority:
    """An authority: the certificate of its root, and the one and the key that it signs with."""

    root: x509.Certificate
    signer: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def new(cls, name: str = "test ca") -> Self:
        above, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        root = _certificate(name, above, name, above, authority=True)
        return cls(root=root, signer=_certificate("test stamps", key, name, above, authority=False), key=key)

    @property
    def pem(self) -> bytes:
        return self.root.public_bytes(serialization.Encoding.PEM)

    def answer(self, request: bytes, moment: datetime) -> bytes:
        """Return the response to a request for a sha-256, which stands behind the only 32 bytes of an octet string."""
        place = request.index(b"\x04\x20") + 2
        imprint = _sequence(_SHA256, der(0x04, request[place : place + 32]))
        when = der(0x18, moment.strftime("%Y%m%d%H%M%SZ").encode())
        token = _sequence(_number(1), _name("1.2.3.4.1"), imprint, _number(7), when)
        content = _sequence(_name("1.2.840.113549.1.9.16.1.4"), der(0xA0, der(0x04, token)))
        certificate = self.signer.public_bytes(serialization.Encoding.DER)
        signed = _sequence(
            _number(3), der(0x31, _SHA256), content, der(0xA0, certificate), der(0x31, self._signed(token, certificate))
        )
        return _sequence(_sequence(_number(0)), _sequence(_name("1.2.840.113549.1.7.2"), der(0xA0, signed)))

    def _signed(self, token: bytes, certificate: bytes) -> bytes:
        def attribute(kind: str, value: bytes) -> bytes:
            return _sequence(_name(kind), der(0x31, value))

        mine = der(0x04, hashlib.sha256(certificate).digest())
        attributes = sorted(
            (
                attribute("1.2.840.113549.1.9.3", _name("1.2.840.113549.1.9.16.1.4")),
                attribute("1.2.840.113549.1.9.4", der(0x04, hashlib.sha256(token).digest())),
                attribute("1.2.840.113549.1.9.16.2.47", _sequence(_sequence(_sequence(mine)))),
            )
        )
        signature = self.key.sign(der(0x31, *attributes), ec.ECDSA(hashes.SHA256()))
        issuer = _sequence(self.signer.issuer.public_bytes(), _number(self.signer.serial_number))
        algorithm = _sequence(_name("1.2.840.10045.4.3.2"))
        return _sequence(_number(1), issuer, _SHA256, der(0xA0, *attributes), algorithm, der(0x04, signature))


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey, *, authority: bool
) -> x509.Certificate:
    def called(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    usage = x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(called(name))
        .issuer_name(called(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if not authority:
        above = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        stamps = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
        builder = builder.add_extension(above, critical=False).add_extension(stamps, critical=True)
    return builder.sign(signer, hashes.SHA256())
