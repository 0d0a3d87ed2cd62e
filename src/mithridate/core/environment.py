"""What a number was measured with: versions and hardware, without names of hosts, users or paths."""

import os
import platform
import sys
from importlib import metadata

_PACKAGES = ("mithridate", "torch", "numpy", "scipy", "scikit-learn", "pyarrow", "pillow", "safetensors")


def environment() -> dict[str, str | int]:
    """Return versions and hardware as plain JSON; imports none of the packages."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return {
        **versions(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": cores,
        "threads": int(threads) if threads.isdecimal() else cores,
    }


def versions() -> dict[str, str | int]:
    """Return the versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
