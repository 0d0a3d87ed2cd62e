"""What a number was measured with: versions and hardware, without names of hosts, users or paths."""

import os
import platform
from importlib import metadata

_PACKAGES = ("mithridate", "torch", "numpy", "scipy", "scikit-learn", "pyarrow", "pillow", "safetensors")


def environment() -> dict[str, str | int]:
    """Return versions and hardware as plain JSON; imports none of the packages."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 1,
        **{name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
