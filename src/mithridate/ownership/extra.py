"""What the extra `ownership` installs: signatures and trusted timestamps; asked for where it is used."""

import importlib.util

from mithridate.core.errors import Misuse

_PACKAGES = {"cryptography": "cryptography", "rfc3161_client": "rfc3161-client"}


def need_extra() -> None:
    """Make sure that the extra is installed.

    Raises:
        Misuse: MTH-1000, naming what is missing.
    """
    missing = [package for name, package in _PACKAGES.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise Misuse(
            "MTH-1000",
            f"certificates are signed and timestamps checked by packages of the extra: {', '.join(missing)} missing",
            hint="pip install 'mithridate[ownership]'",
        )
