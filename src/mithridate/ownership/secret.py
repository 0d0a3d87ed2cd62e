"""The owner's secret: 32 random bytes from which all keys and the signing key are derived.

The file is readable by its owner alone, is never overwritten, and its content is neither printed nor logged. The
signing key is derived under another tag, so that revealing keys tells nothing about it.
"""

import contextlib
import hashlib
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mithridate.core.artefacts import as_json, disk_errors, sync_folder
from mithridate.core.boundary import Caps, read_json
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.ownership.canonical import is_hash, tagged
from mithridate.ownership.extra import need_extra
from mithridate.ownership.keys import SEED_BYTES

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SCHEMA = "mithridate.ownership-secret/1"
LOST = (
    "without it nothing more can be proven with this commitment: no further key can be derived or revealed, no model "
    "asked, and no certificate signed. Certificates that were issued stay valid. Data can be marked anew under a new "
    "secret, for models that are trained on them from then on"
)
_CAPS = Caps(file_bytes=4096, depth=2, entries=16)


@dataclass(frozen=True)
class Secret:
    """The seed of all keys.

    Args:
        seed: 32 bytes, never shown.
    """

    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES:
            raise Misuse("MTH-1004", f"a secret has {SEED_BYTES} bytes, got {len(self.seed)}")

    @classmethod
    def new(cls) -> "Secret":
        """Return a secret from the operating system's source of randomness."""
        return cls(secrets.token_bytes(SEED_BYTES))

    @classmethod
    def read(cls, path: Path) -> "Secret":
        """Read a secret.

        Raises:
            BadArtefact: MTH-1001 when there is none, MTH-1003 when others may read it, MTH-1004 when it is damaged.
        """
        if not path.exists():
            raise BadArtefact("MTH-1001", f"there is no secret at {path}; {LOST}", hint="look for a copy of the file")
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            hint = f"chmod 600 {path}, and keep it as secret as a private key"
            raise BadArtefact("MTH-1003", f"{path} may be read by others (mode {mode:04o})", hint=hint)
        document = read_json(path, caps=_CAPS)
        if not isinstance(document, dict) or document.get("schema") != SCHEMA or not is_hash(document.get("seed")):
            raise BadArtefact("MTH-1004", f"{path} is no secret of {SCHEMA}", hint="restore a copy of the file")
        seed = bytes.fromhex(document["seed"])
        if document.get("check") != _check(seed):
            raise BadArtefact("MTH-1004", f"{path} is damaged: its check digits do not match", hint="restore a copy")
        return cls(seed)

    def write(self, path: Path) -> None:
        """Write the secret to a new file that never had wider permissions than 0600; whole or not at all.

        Raises:
            Misuse: MTH-1002 when something is there: a secret is never overwritten.
            WorkError: MTH-0706 when the disk refuses.
        """
        document = {"schema": SCHEMA, "seed": self.seed.hex(), "check": _check(self.seed)}
        aside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    os.fchmod(file.fileno(), 0o600)
                    file.write(as_json(document))
                    file.flush()
                    os.fsync(file.fileno())
                # A link fails where a rename would replace what is there.
                os.link(aside, path, follow_symlinks=False)
            except FileExistsError:
                hint = "name another file; the data that it marked can be claimed only with it"
                raise Misuse("MTH-1002", f"{path} is there already, and a secret is not replaced", hint=hint) from None
            finally:
                with contextlib.suppress(FileNotFoundError):
                    aside.unlink()
            sync_folder(path.parent)

    @property
    def public_key(self) -> str:
        """The Ed25519 key that checks our signatures, 64 hexadecimal digits.

        Raises:
            Misuse: MTH-1000 without the extra `ownership`.
        """
        return self._signer().public_key().public_bytes_raw().hex()

    def sign(self, message: bytes) -> bytes:
        """Return our Ed25519 signature, 64 bytes.

        Raises:
            Misuse: MTH-1000 without the extra `ownership`.
        """
        return self._signer().sign(message)

    def _signer(self) -> "Ed25519PrivateKey":
        need_extra()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(hashlib.shake_256(b"taggant/v1/sign" + self.seed).digest(32))


def signed_by(public_key: str, message: bytes, signature: bytes) -> bool:
    """Tell whether the holder of a key signed a message.

    Raises:
        Misuse: MTH-1000 without the extra `ownership`.
    """
    need_extra()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _check(seed: bytes) -> str:
    """Return digits that find a damaged file; they tell nothing about the seed."""
    return tagged("check", seed).hex()[:8]
