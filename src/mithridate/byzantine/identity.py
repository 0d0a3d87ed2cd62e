"""Who is who: one certificate a node, all pinned by their fingerprints in the cluster file.

`make_keys` plays the cluster's authority once and forgets its private key, so that nobody can add a node later. A
certificate names the node, and carries the Ed25519 key with which the node signs echoes of the consistent broadcast.
A folder of keys holds `ca.pem`, for each node `node-ID.pem`, and, only on the machine of that node, `node-ID.key` (TLS)
and `node-ID.sign` (echoes), readable by their owner alone.
"""

import datetime
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mithridate.core.artefacts import disk_errors
from mithridate.core.boundary import Caps, read_bytes
from mithridate.core.errors import BadArtefact, Misuse

AUTHORITY = "ca.pem"
_SIGNING = "urn:mithridate:ed25519:"
CAPS = Caps(file_bytes=1 << 16)
_PEM = serialization.Encoding.PEM


def tls_name(node: int) -> str:
    """Return the name that the certificate of a node is for."""
    return f"node-{node}.mithridate.internal"


def fingerprint(certificate: bytes) -> str:
    """Return the sha256 of a PEM certificate's content, in hex.

    Raises:
        BadArtefact: MTH-0920 for bytes that are no certificate.
    """
    return hashlib.sha256(
        _certificate(certificate, "a certificate").public_bytes(serialization.Encoding.DER)
    ).hexdigest()


def make_keys(folder: Path, nodes: Iterable[int], *, days: int = 365) -> dict[int, str]:
    """Make the certificates and keys of a cluster; return each node's fingerprint for the cluster file.

    Args:
        folder: Where to write; made if absent, with permission for its owner alone.
        nodes: The ids.
        days: How long the certificates are valid.

    Raises:
        Misuse: MTH-0924 when there are keys in the folder, or no nodes.
        WorkError: MTH-0706 when it cannot be written.
    """
    numbers = sorted(set(nodes))
    if not numbers or numbers[0] < 0 or days < 1:
        raise Misuse("MTH-0924", f"keys need ids from 0 and at least one day, got {numbers} and {days}")
    if (folder / AUTHORITY).exists():
        hint = "name another folder, or delete this one"
        raise Misuse("MTH-0924", f"{folder} holds the keys of a cluster already", hint=hint)
    now = _now()
    span = (now - datetime.timedelta(days=1), now + datetime.timedelta(days=days))
    authority = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mithridate cluster")])
    builder = _builder(name, name, authority.public_key(), span)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    prints = {}
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for node in numbers:
            secret, signer = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
            leaf = _leaf(node, name, secret.public_key(), signer.public_key(), span)
            certificate = leaf.sign(authority, hashes.SHA256()).public_bytes(_PEM)
            _write(folder / f"node-{node}.key", _private_pem(secret), 0o600)
            _write(folder / f"node-{node}.sign", _private_pem(signer), 0o600)
            _write(folder / f"node-{node}.pem", certificate, 0o644)
            prints[node] = fingerprint(certificate)
        _write(folder / AUTHORITY, builder.sign(authority, hashes.SHA256()).public_bytes(_PEM), 0o644)
    return prints


@dataclass(frozen=True, eq=False)
class Identity:
    """What a node proves itself with, and what it knows its peers by.

    Args:
        me: This node.
        authority: The certificate that signed all others, PEM.
        certificates: Of every node, PEM.
        fingerprints: Of every certificate.
        key: Our private key, PEM.
    """

    me: int
    authority: bytes
    certificates: Mapping[int, bytes]
    fingerprints: Mapping[int, str]
    key: bytes = field(repr=False)
    _signer: ed25519.Ed25519PrivateKey = field(repr=False)
    _verifiers: Mapping[int, ed25519.Ed25519PublicKey] = field(repr=False)

    @classmethod
    def load(cls, folder: Path, me: int, pins: Mapping[int, str]) -> "Identity":
        """Read our keys and everybody's certificates, and hold them against the cluster file.

        Args:
            folder: As `make_keys` wrote it, without the private keys of the others.
            me: Our id.
            pins: The fingerprint of each node, from the cluster file.

        Raises:
            BadArtefact: MTH-0920 for a file that is missing or no key, MTH-0921 for a certificate that does not match
                the cluster file, MTH-0922 for one that is not valid today, MTH-0923 for a key that others may read.
        """
        if me not in pins:
            known = ", ".join(map(str, sorted(pins)))
            raise BadArtefact("MTH-0921", f"node {me} is not in the cluster file, which has {known}")
        certificates, verifiers = {}, {}
        for node, pin in sorted(pins.items()):
            path = folder / f"node-{node}.pem"
            data = read_bytes(path, CAPS)
            certificate = _certificate(data, str(path))
            _check_certificate(certificate, path, node=node, pin=pin)
            certificates[node], verifiers[node] = data, _verifier(certificate, path)
        key, sign = (_secret(folder / f"node-{me}.{kind}") for kind in ("key", "sign"))
        own = _certificate(certificates[me], f"node {me}").public_key()
        if _public(_private(key, folder / f"node-{me}.key")) != _public(own):
            raise BadArtefact("MTH-0921", f"{folder / f'node-{me}.key'} is not the key of node {me}'s certificate")
        signer = _private(sign, folder / f"node-{me}.sign")
        if not isinstance(signer, ed25519.Ed25519PrivateKey) or _public(signer) != _public(verifiers[me]):
            raise BadArtefact("MTH-0921", f"{folder / f'node-{me}.sign'} is not the key of node {me}'s certificate")
        prints = {node: fingerprint(data) for node, data in certificates.items()}
        authority = read_bytes(folder / AUTHORITY, CAPS)
        _certificate(authority, str(folder / AUTHORITY))
        return cls(me, authority, certificates, prints, key, signer, verifiers)

    def sign(self, message: bytes) -> bytes:
        """Return our Ed25519 signature, 64 bytes."""
        return self._signer.sign(message)

    def verify(self, node: int, message: bytes, signature: bytes) -> bool:
        """Tell whether a node signed a message."""
        if node not in self._verifiers:
            return False
        try:
            self._verifiers[node].verify(signature, message)
        except InvalidSignature:
            return False
        return True


_Public = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
_Private = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: _Public, span: tuple[datetime.datetime, datetime.datetime]
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(span[0]).not_valid_after(span[1])


def _leaf(
    node: int,
    issuer: x509.Name,
    public: _Public,
    signing: ed25519.Ed25519PublicKey,
    span: tuple[datetime.datetime, datetime.datetime],
) -> x509.CertificateBuilder:
    raw = signing.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()
    names = [x509.DNSName(tls_name(node)), x509.UniformResourceIdentifier(_SIGNING + raw)]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"node-{node}")])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = _builder(subject, issuer, public, span)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    return builder.add_extension(x509.SubjectAlternativeName(names), critical=False).add_extension(
        usage, critical=False
    )


def _certificate(data: bytes, what: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError as error:
        raise BadArtefact("MTH-0920", f"{what} is no certificate: {str(error)[:80]}") from None


def _check_certificate(certificate: x509.Certificate, path: Path, *, node: int, pin: str) -> None:
    found = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
    wanted = pin.removeprefix("sha256:").replace(":", "").lower()
    if found != wanted:
        message = (
            f"{path} is not the certificate that the cluster file pins for node {node}: it has {found}, not {wanted}"
        )
        raise BadArtefact("MTH-0921", message, hint="copy the keys that belong to this cluster file")
    names = [str(name) for name in _alternatives(certificate).get_values_for_type(x509.DNSName)]
    if tls_name(node) not in names:
        raise BadArtefact("MTH-0921", f"{path} is for {', '.join(names) or 'nobody'}, not for node {node}")
    now = _now()
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= now <= end:
        raise BadArtefact("MTH-0922", f"{path} is valid from {begin:%Y-%m-%d} to {end:%Y-%m-%d}, not today")


def _alternatives(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return x509.SubjectAlternativeName([])


def _verifier(certificate: x509.Certificate, path: Path) -> ed25519.Ed25519PublicKey:
    uris = _alternatives(certificate).get_values_for_type(x509.UniformResourceIdentifier)
    keys = [uri.removeprefix(_SIGNING) for uri in uris if uri.startswith(_SIGNING)]
    try:
        return ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(keys[0]))
    except (IndexError, ValueError):
        raise BadArtefact("MTH-0920", f"{path} carries no key for echoes", hint="make the keys anew") from None


def _secret(path: Path) -> bytes:
    data = read_bytes(path, CAPS)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise BadArtefact("MTH-0923", f"{path} may be read by others (mode {mode:04o})", hint=f"chmod 600 {path}")
    return data


def _private(data: bytes, path: Path) -> _Private:
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise BadArtefact("MTH-0920", f"{path} is no private key: {str(error)[:80]}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise BadArtefact("MTH-0920", f"{path} is a key of another kind: {type(key).__name__}")
    return key


def _public(key: object) -> bytes:
    if isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        key = key.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey)
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _private_pem(key: _Private) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a new file that never had wider permissions than these."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
