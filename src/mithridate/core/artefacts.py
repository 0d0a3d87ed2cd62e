"""Artefacts: folders with a manifest, written aside, synced, renamed when whole, and verified when read.

`manifest.json` holds the schema version, the kind, versions of packages, whatever the writer adds, and the size and
sha256 of every file. Decoders are no corruption check (a damaged parquet or safetensors file often decodes); this is.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mithridate.core.boundary import read_json
from mithridate.core.environment import environment
from mithridate.core.errors import BadArtefact, Misuse, WorkError

SCHEMA = 1
MANIFEST = "manifest.json"


@dataclass
class Draft:
    """A folder that becomes an artefact: write files below `path`, add facts to `manifest`."""

    path: Path
    manifest: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Artefact:
    """A verified folder."""

    path: Path
    manifest: Mapping[str, Any]


@contextlib.contextmanager
def new_artefact(path: Path, *, kind: str, overwrite: bool = False) -> Iterator[Draft]:
    """Yield a draft beside `path` and rename it to `path` when the block ends; on an error nothing is left.

    Raises:
        Misuse: `path` exists and `overwrite` is false.
        WorkError: The disk is full or not writable.
    """
    if path.exists() and not overwrite:
        raise Misuse("MTH-0701", f"{path} exists already", hint="choose another name, or remove it")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        draft = Draft(aside)
        yield draft
        with disk_errors(path):
            _finish(draft, kind)
            _replace(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def open_artefact(path: Path, kind: str) -> Artefact:
    """Return the artefact after checking every file against the manifest.

    Raises:
        Misuse: There is no artefact at `path`, or it is of another kind.
        BadArtefact: A file is missing, altered or unlisted, or the manifest is damaged or of a newer schema.
    """
    if not (path / MANIFEST).is_file():
        raise Misuse("MTH-0702", f"{path} is no {kind}: it has no {MANIFEST}")
    manifest = read_json(path / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise BadArtefact("MTH-0703", f"{path / MANIFEST} is not a manifest")
    if manifest.get("schema") != SCHEMA:
        raise BadArtefact(
            "MTH-0704",
            f"{path} has schema {manifest.get('schema')!r}; this version reads schema {SCHEMA}",
            hint="update mithridate",
        )
    if manifest.get("kind") != kind:
        raise Misuse("MTH-0702", f"{path} is a {manifest.get('kind')!r}, not a {kind!r}")
    if manifest.get("seal") != _seal(manifest) or (path / MANIFEST).read_bytes() != _canonical(manifest):
        raise BadArtefact("MTH-0705", f"{path / MANIFEST} was altered: its seal does not match its content")
    _check_files(path, manifest["files"])
    return Artefact(path, manifest)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and survive a crash right after."""
    with disk_errors(path, len(data)):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
            _sync(path.parent)
        finally:
            Path(name).unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn an operating system's refusal to write into a `WorkError` that names the path."""
    try:
        yield
    except OSError as error:
        size = "" if needed is None else f" ({needed} bytes)"
        hint = "free some space and run the same command again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise WorkError(
            "MTH-0706", f"cannot write {path}{size}: {error.strerror or error}", hint=hint or "check the path"
        ) from error


def sha256_of(path: Path) -> str:
    """Return the hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(manifest: Mapping[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "seal"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    """Return the one way in which a manifest is written, so that not even a space can change unnoticed."""
    return (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()


def _finish(draft: Draft, kind: str) -> None:
    files = sorted(path for path in draft.path.rglob("*") if path.is_file())
    listing = {
        path.relative_to(draft.path).as_posix(): {"sha256": sha256_of(path), "size": path.stat().st_size}
        for path in files
    }
    manifest = {"schema": SCHEMA, "kind": kind, "versions": environment(), **draft.manifest, "files": listing}
    manifest = json.loads(json.dumps(manifest))
    manifest["seal"] = _seal(manifest)
    (draft.path / MANIFEST).write_bytes(_canonical(manifest))
    for path in (*files, draft.path / MANIFEST):
        _sync(path)
    draft.path.chmod(0o755)
    _sync(draft.path)


def _replace(aside: Path, path: Path) -> None:
    if path.exists():
        old = aside.with_name(aside.name + ".old")
        path.rename(old)
        aside.rename(path)
        shutil.rmtree(old)
    else:
        aside.rename(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_files(path: Path, files: Mapping[str, Any]) -> None:
    present = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file() or p.is_symlink()} - {MANIFEST}
    for name in sorted(present - set(files)):
        raise BadArtefact("MTH-0707", f"{path / name} is not listed in the manifest")
    for name, facts in files.items():
        if name not in present:
            raise BadArtefact("MTH-0708", f"{path / name} is listed in the manifest and missing")
        found = sha256_of(path / name)
        if not isinstance(facts, dict) or found != facts.get("sha256"):
            raise BadArtefact(
                "MTH-0709", f"{path / name} was altered or truncated: sha256 {found[:12]}... is not the manifest's"
            )
