"""`mithridate doctor`: what is installed and found here, so that a failure can be explained before it happens."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from mithridate import __version__
from mithridate.cli._session import Session, table
from mithridate.cli._verb import verb
from mithridate.core.errors import ExitCode

_MIN_FREE_MIB = 1024
_DISTRIBUTION = "mithridate"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at. `ok` is None where its absence is no fault."""

    what: str
    found: str
    ok: bool | None
    advice: str = ""


@verb
def doctor(session: Session) -> None:
    """Report what is installed and found here: Python, packages, extras, data sets, device, threads, disk.

    Exit code: 0, or 4 if something needed is missing.
    """
    findings = [*_python(), *_packages(), *_extras(), *_data(), *_device(), *_disk()]
    healthy = all(finding.ok is not False for finding in findings)
    words = {True: "ok", False: "MISSING", None: "-"}
    session.result(
        {"healthy": healthy, "mithridate": __version__, "findings": [asdict(finding) for finding in findings]},
        table(("", "what", "found", "advice"), [(words[f.ok], f.what, f.found, f.advice) for f in findings]),
        "everything needed is here" if healthy else "something needed is missing: see the lines marked MISSING",
    )
    if not healthy:
        raise typer.Exit(int(ExitCode.INTERNAL))


def _python() -> Iterator[Finding]:
    enough = sys.version_info >= (3, 11)
    yield Finding(
        what="python",
        found=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        ok=enough,
        advice="" if enough else "install Python 3.11 or newer",
    )


def _requirements() -> dict[str, list[str]]:
    """Return the direct dependencies by extra; those of the core under the empty name."""
    from importlib.metadata import requires

    found: dict[str, list[str]] = {}
    for line in requires(_DISTRIBUTION) or []:
        spec, _, marker = line.partition(";")
        extra = marker.partition("extra ==")[2].strip().strip("'\"")
        name = spec.strip()
        for end, character in enumerate(name):
            if not (character.isalnum() or character in "-_."):
                name = name[:end]
                break
        found.setdefault(extra, []).append(name)
    return found


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _packages() -> Iterator[Finding]:
    for name in _requirements().get("", []):
        version = _version(name)
        advice = "" if version else f"pip install {_DISTRIBUTION}"
        yield Finding(what=name, found=version or "not installed", ok=version is not None, advice=advice)


def _extras() -> Iterator[Finding]:
    for extra, names in sorted(_requirements().items()):
        if extra in ("", "dev"):
            continue
        missing = [name for name in names if _version(name) is None]
        here = ", ".join(f"{name} {_version(name)}" for name in names if name not in missing)
        yield Finding(
            what=f"extra {extra}",
            found=here if not missing else f"not installed: {', '.join(missing)}",
            ok=None if missing else True,
            advice=f"pip install '{_DISTRIBUTION}[{extra}]'" if missing else "",
        )


def _data() -> Iterator[Finding]:
    from mithridate.data.names import SOURCES

    root = os.environ.get("MITHRIDATE_DATA")
    yield Finding(
        what="MITHRIDATE_DATA",
        found=root or "not set",
        ok=None if root is None else Path(root).is_dir(),
        advice="" if root and Path(root).is_dir() else "set it to the folder that has NAME/{train,test}.parquet",
    )
    for name in SOURCES:
        if name == "digits":
            yield Finding(what="data set digits", found="embedded in scikit-learn", ok=True)
            continue
        files = [Path(root) / name / f"{split}.parquet" for split in ("train", "test")] if root else []
        here = bool(files) and all(file.is_file() for file in files)
        yield Finding(
            what=f"data set {name}", found="in MITHRIDATE_DATA" if here else "not here", ok=True if here else None
        )
    cache = cache_folder()
    used = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()) if cache.is_dir() else 0
    yield Finding(what="cache of decoded data", found=f"{used >> 20:,} MiB in {cache}", ok=True)


def cache_folder() -> Path:
    """Return where decoded data sets are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mithridate"


def _device() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    if _version("torch") is None:
        yield Finding(what="cpu", found=f"cores: {cores}", ok=True)
        return
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding(what="torch works", found=f"{type(error).__name__}: {error}", ok=False, advice="install it again")
        return
    yield Finding(what="cpu", found=f"cores: {cores}, threads of torch: {torch.get_num_threads()}", ok=True)
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(index).total_memory >> 30
            yield Finding(what=f"cuda:{index}", found=f"{torch.cuda.get_device_name(index)}, {memory} GiB", ok=True)
    else:
        yield Finding(what="cuda", found="no device", ok=None)


def _disk() -> Iterator[Finding]:
    for what, path in (("disk here", Path()), ("disk of the cache", cache_folder())):
        place = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        free = shutil.disk_usage(place).free >> 20
        enough = free >= _MIN_FREE_MIB
        yield Finding(
            what=what,
            found=f"{free:,} MiB free",
            ok=enough,
            advice="" if enough else f"runs need space; free at least {_MIN_FREE_MIB} MiB",
        )
