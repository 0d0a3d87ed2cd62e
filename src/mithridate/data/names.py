"""The names of data sets, checked without importing torch."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from mithridate.core.errors import Misuse
from mithridate.core.registry import Registry, closest

SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "digits": "1,797 grey 8x8 images of scikit-learn, embedded: works offline",
        "mnist": "70,000 grey 28x28 digits, from $MITHRIDATE_DATA or the hub",
        "fashion-mnist": "70,000 grey 28x28 articles of clothing, from $MITHRIDATE_DATA or the hub",
        "cifar10": "60,000 colour 32x32 photographs, from $MITHRIDATE_DATA or the hub",
    }
)

PLUGINS = Registry(None, "data set", "mithridate.datasets", reserved=SOURCES)
"""Data sets of other distributions, by entry points of the group `mithridate.datasets`."""


def source_path(source: str) -> Path:
    """Return a source as a path; a user that does not exist leaves the tilde as it is."""
    return Path(os.path.expanduser(source))  # noqa: PTH111 - Path.expanduser raises for unknown users


def check_source(source: str) -> None:
    """Check the name of a data set: a known name, a folder, a parquet or npz file, or `hf:owner/name[@revision]`.

    Raises:
        Misuse: MTH-0101 for a name that is none of these, MTH-0122 for a missing folder or a malformed hub id.
    """
    if source in SOURCES:
        return
    if source.startswith("hf:"):
        owner, slash, name = source.removeprefix("hf:").partition("@")[0].partition("/")
        if owner and slash and name and "/" not in name:
            return
        hint = "write hf:owner/name or hf:owner/name@commit"
        raise Misuse("MTH-0122", f"data set {source!r} is no hub id", hint=hint)
    path = source_path(source)
    # These two answer no for names that no path can have, where those of Path raise.
    if (source and os.path.isdir(path)) or (path.suffix in (".parquet", ".npz") and os.path.isfile(path)):  # noqa: PTH112, PTH113
        return
    if source in PLUGINS.names():
        return
    if "/" in source or source.startswith(("~", ".")) or path.suffix in (".parquet", ".npz"):
        raise Misuse("MTH-0122", f"data set {source!r}: there is no such folder or file", hint="give one that exists")
    known = (*SOURCES, *PLUGINS.names())
    near = closest(source, known)
    rest = "or a folder, a parquet or npz file, or hf:owner/name"
    raise Misuse(
        "MTH-0101",
        f"unknown data set {source!r}; there are: {', '.join(known)}, {rest}",
        hint=f"did you mean {near!r}?" if near else "",
    )
