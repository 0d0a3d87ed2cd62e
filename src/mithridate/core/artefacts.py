"""Artefacts: folders with a manifest, written aside, synced, renamed when whole, and verified when read.

`manifest.json` holds the schema, the kind, versions, what the writer adds, and the size and sha256 of every file. It
seals itself: its text is canonical and its last line is the sha256 of the rest, so no byte of the folder can change
unnoticed. That finds damage and careless editing; somebody who writes a new seal is found by signatures only.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mithridate.core.boundary import Caps, read_json
from mithridate.core.environment import versions
from mithridate.core.errors import BadArtefact, Misuse, MithridateError, WorkError

SCHEMA = "mithridate.artefact/1"
MANIFEST = "manifest.json"
_SEAL = "seal"
_RESERVED = ("schema", "kind", "files", _SEAL)
_CAPS = Caps(file_bytes=64 << 20, entries=4_000_000)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_EXCHANGE = 2


@dataclass
class Draft:
    """A folder that becomes an artefact: write files below `path`, add facts to `manifest`."""

    path: Path
    manifest: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Artefact:
    """A verified folder.

    Args:
        path: Where it lies.
        manifest: Everything that the manifest says.
        seal: The sha256 that stands for the whole content.
    """

    path: Path
    manifest: Mapping[str, Any]
    seal: str


@contextlib.contextmanager
def new_artefact(path: Path, *, kind: str, overwrite: bool = False) -> Iterator[Draft]:
    """Yield a draft beside `path` and rename it to `path` when the block ends; on an error nothing is left.

    Killed at any moment, `path` is absent, or whole and old, or whole and new. What a killed process left beside it is
    removed by the next one that writes there.

    Raises:
        Misuse: MTH-0701 when `path` exists and `overwrite` is false, or holds something that is no artefact.
        WorkError: MTH-0706 when the disk is full or not writable.
    """
    _check_place(path, overwrite=overwrite)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _aside(path, folder=True) as aside:
            draft = Draft(aside)
            yield draft
            _finish(draft, kind, path)
            _check_place(path, overwrite=overwrite)
            _place(aside, path)


def open_artefact(path: Path, kind: str) -> Artefact:
    """Return the artefact after checking every file against the manifest, and the manifest against its seal.

    Raises:
        BadArtefact: MTH-0702 when there is none at `path` or one of another kind, MTH-0704 for a newer schema,
            MTH-0703 or MTH-0705 for a damaged or altered manifest, MTH-0707 to MTH-0709 for its files.
    """
    source = path / MANIFEST
    if not source.is_file():
        what = f"it has no {MANIFEST}" if path.is_dir() else "there is no such folder"
        raise BadArtefact("MTH-0702", f"{path} is no {kind}: {what}", hint="check the path")
    manifest = _read_manifest(source)
    if manifest["kind"] != kind:
        raise BadArtefact("MTH-0702", f"{path} is a {str(manifest['kind'])[:60]!r}, not a {kind!r}")
    _check_files(path, manifest["files"])
    return Artefact(path, manifest, manifest[_SEAL])


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, so that it survives a crash right after.

    Raises:
        WorkError: MTH-0706 when the disk is full or not writable; an older file of the name stays as it was.
    """
    with disk_errors(path, len(data)), _aside(path, folder=False) as aside:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        sync_folder(path.parent)


def as_json(value: object) -> bytes:
    """Return plain JSON as it is written to files: indented, with a line break at its end."""
    return (json.dumps(value, indent=1) + "\n").encode()


@contextlib.contextmanager
def disk_errors(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn the operating system's refusal into a `WorkError` that names the path and, if known, the bytes needed.

    Raises:
        WorkError: MTH-0706.
    """
    try:
        yield
    except MithridateError:
        raise
    except OSError as error:
        size = "" if needed is None else f" ({needed:,} bytes)"
        if error.errno in _NO_SPACE:
            hint = f"{_free(path)}free some space and run the same command again"
        else:
            hint = "check the path and its permissions"
        reason = error.strerror or str(error)
        if error.filename is not None and not str(error.filename).startswith(str(path)):
            reason += f" ({error.filename})"
        raise WorkError("MTH-0706", f"cannot write {path}{size}: {reason}", hint=hint) from error


def sha256_of(path: Path) -> str:
    """Return the hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_place(path: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise Misuse("MTH-0701", f"{path} exists already", hint="choose another name, or remove it")
    if path.is_symlink() or not (path / MANIFEST).is_file():
        raise Misuse("MTH-0701", f"{path} exists and is no artefact, so it is not replaced", hint="choose another name")


@contextlib.contextmanager
def _aside(path: Path, *, folder: bool) -> Iterator[Path]:
    """Yield a new folder or file beside `path`, locked while it lives; what is left of it at the end is removed."""
    aside = path.parent / f".{path.name}.{secrets.token_hex(6)}.partial"
    with _locked(path.parent):
        _remove_left_overs(path)
        if folder:
            aside.mkdir()
        else:
            aside.touch()
        lock = os.open(aside, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield aside
    finally:
        os.close(lock)
        _remove(aside)


def _remove_left_overs(path: Path) -> None:
    """Remove what writers of `path` left that are gone: they held a lock, which the kernel released."""
    pattern = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{12}\.partial")
    for found in [entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name)]:
        with contextlib.suppress(OSError):
            lock = os.open(found, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(found)
            finally:
                os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep others from looking for left-overs until a new one has its own lock."""
    lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _finish(draft: Draft, kind: str, path: Path) -> None:
    """Write the manifest and make sure that everything is on the disk."""
    taken = [key for key in _RESERVED if key in draft.manifest and (key, draft.manifest[key]) != ("kind", kind)]
    if taken:
        raise Misuse("MTH-0703", f"{path}: the manifest key {taken[0]!r} is reserved")
    files = sorted(found for found in draft.path.rglob("*") if found.is_file())
    folders = sorted(found for found in draft.path.rglob("*") if found.is_dir())
    listing = {
        file.relative_to(draft.path).as_posix(): {"sha256": sha256_of(file), "size": file.stat().st_size}
        for file in files
    }
    manifest = {"schema": SCHEMA, "kind": kind, "versions": versions(), **draft.manifest, "files": listing}
    try:
        text = _canonical(manifest)
    except (TypeError, ValueError) as error:
        raise Misuse("MTH-0703", f"{path}: the manifest holds what JSON has not: {error}") from error
    (draft.path / MANIFEST).write_bytes(_sealed(text))
    for found in (*files, draft.path / MANIFEST, *reversed(folders), draft.path):
        sync_folder(found)


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    """Return the one text of a manifest, without its seal: sorted, so that it does not depend on how it was made."""
    return json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False).encode()


def _sealed(text: bytes) -> bytes:
    """Return the text with its sha256 as a last entry."""
    return text.removesuffix(b"\n}") + f',\n "{_SEAL}": "{hashlib.sha256(text).hexdigest()}"\n}}\n'.encode()


def _read_manifest(source: Path) -> dict[str, Any]:
    manifest = read_json(source, caps=_CAPS)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("schema"), str):
        raise BadArtefact("MTH-0703", f"{source} is no manifest of mithridate")
    schema = manifest["schema"]
    if schema != SCHEMA:
        name, _, version = schema.partition("/")
        if name == SCHEMA.partition("/")[0] and version.isdecimal():
            hint = "update mithridate"
            raise BadArtefact(
                "MTH-0704", f"{source} has schema {schema[:60]!r}; this version reads {SCHEMA!r}", hint=hint
            )
        raise BadArtefact("MTH-0703", f"{source} has schema {schema[:60]!r}, which is not {SCHEMA!r}")
    unsealed = {key: value for key, value in manifest.items() if key != _SEAL}
    if _sealed(_canonical(unsealed)) != source.read_bytes():
        hint = "get a fresh copy, or make it again"
        raise BadArtefact("MTH-0705", f"{source} was altered: its seal does not match its content", hint=hint)
    if not isinstance(manifest.get("files"), dict) or not isinstance(manifest.get("kind"), str):
        raise BadArtefact("MTH-0703", f"{source} is no manifest of mithridate: it has no kind or no list of files")
    return manifest


def _check_files(path: Path, files: Mapping[str, Any]) -> None:
    present = {
        found.relative_to(path).as_posix() for found in path.rglob("*") if not found.is_dir() or found.is_symlink()
    }
    for name in sorted(present - files.keys() - {MANIFEST}):
        raise BadArtefact("MTH-0707", f"{path / name} is not listed in the manifest", hint="remove it")
    for name, facts in files.items():
        file = path / name
        if name not in present or file.is_symlink() or not file.is_file():
            raise BadArtefact(
                "MTH-0708", f"{path}: {name!r} is listed in the manifest and missing", hint="get a fresh copy"
            )
        try:
            size, found = file.stat().st_size, sha256_of(file)
        except OSError as error:
            raise BadArtefact("MTH-0708", f"{file} cannot be read: {error.strerror}") from error
        if not isinstance(facts, dict) or size != facts.get("size") or found != facts.get("sha256"):
            raise BadArtefact(
                "MTH-0709",
                f"{file} was altered or truncated: it has {size:,} bytes with sha256 {found[:12]}..., "
                f"which the manifest does not say",
                hint="get a fresh copy, or make it again",
            )


def _place(aside: Path, path: Path) -> None:
    """Rename the draft to its place; an artefact that is there is exchanged in one step and removed afterwards."""
    if not os.path.lexists(path):
        aside.rename(path)
    elif not _exchanged(aside, path):
        # Without the system call there is a moment in which `path` is absent, never one in which it is half written.
        old = aside.with_name(f".{path.name}.{secrets.token_hex(6)}.old")
        path.rename(old)
        aside.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    sync_folder(path.parent)


def _exchanged(aside: Path, path: Path) -> bool:
    """Swap two folders by Linux's renameat2, which is in no module of Python; tell whether that worked."""
    if sys.platform != "linux":
        return False
    at = -100
    failed: int = ctypes.CDLL(None).renameat2(at, os.fsencode(aside), at, os.fsencode(path), _EXCHANGE)
    return failed == 0


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _free(path: Path) -> str:
    place = next((folder for folder in path.absolute().parents if folder.is_dir()), None)
    return "" if place is None else f"{shutil.disk_usage(place).free:,} bytes are free there; "
