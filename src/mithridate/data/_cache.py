"""The cache of imported data sets: what was decoded once is not decoded again.

An entry is an artefact folder (every file with its sha256 in the manifest, written aside and renamed when whole) below
`$XDG_CACHE_HOME/mithridate/data` or `~/.cache/mithridate/data`. Its name holds a hash of the source's content, the size
asked for, the store, and the versions of the image decoders. `data.json` describes the data set; a resident entry has
raw pixels (`NAME.pixels`), a mapped one encoded images (see `_mapped`), both have labels and row hashes.

Of a mapped entry, the artefact is the subfolder `index`: the image files beside it may be hundreds of gigabytes, so
they are not hashed when the entry is opened; each image is checked when it is decoded.
"""

import hashlib
import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from PIL import __version__ as pillow_version
from PIL import features
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from mithridate.core.artefacts import disk_errors, new_artefact, open_artefact
from mithridate.core.boundary import read_json
from mithridate.core.errors import BadArtefact, Misuse, WorkError
from mithridate.data._importing import Gauge, import_resident, write_mapped
from mithridate.data._mapped import INDEX, MappedStore
from mithridate.data._raw import RawSet
from mithridate.data._rows import HASH_BYTES
from mithridate.data.stores import ResidentStore, Store

Kind = Literal["resident", "mapped"]
_LAYOUT = 1
_SPLITS = ("train", "test")
_KINDS = {"resident": "resident-data", "mapped": "mapped-data-index"}
_log = logging.getLogger(__name__)


class Description(BaseModel):
    """What `data.json` says about an imported data set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layout: Literal[1] = 1
    source: dict[str, Any]
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    counts: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Loaded:
    """The images and the labels of one split."""

    images: Store
    labels: Int64[Tensor, " n"]


@dataclass(frozen=True)
class Imported:
    """An imported data set: its description and its two splits."""

    about: Description
    train: Loaded
    test: Loaded


def cache_root(cache: Path | None) -> Path:
    """Return the folder of the cache; nothing is made."""
    if cache is not None:
        return cache
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mithridate"


def import_set(raw: RawSet, name: str, *, kind: Kind, size: int | None, cache: Path | None) -> Imported:
    """Return a data set from the cache, importing it first when it is not there.

    A damaged entry is imported again. When the cache cannot be written, a resident data set is used without it.

    Raises:
        Misuse: The images are not alike, or do not fit into memory.
        BadArtefact: An image is damaged.
        WorkError: A mapped data set cannot be written.
    """
    if kind == "resident" and not raw.encoded:
        return _into_memory(raw, size)
    entry = cache_root(cache) / "data" / _entry_name(raw, name, kind, size)
    if entry.exists():
        try:
            return _open(entry, kind)
        except (BadArtefact, Misuse) as error:
            _log.warning("%s; it is imported again", error)
    if kind == "mapped":
        _write_mapped(entry, raw, size)
        return _open(entry, kind)
    imported = _into_memory(raw, size)
    try:
        _write_resident(entry, imported)
    except WorkError as error:
        _log.warning("%s; continuing without the cache", error)
    return imported


def _entry_name(raw: RawSet, name: str, kind: Kind, size: int | None) -> str:
    decoders = [pillow_version, *(features.version(codec) for codec in ("libjpeg_turbo", "jpg", "webp"))]
    key = json.dumps([_LAYOUT, raw.record["key"], raw.classes, kind, size, decoders])
    slug = re.sub(r"[^a-z0-9]+", "-", Path(name).name.lower()).strip("-")[:40] or "data"
    return f"{slug}-{hashlib.sha256(key.encode()).hexdigest()[:24]}"


def _describe(raw: RawSet, gauge: Gauge) -> Description:
    assert gauge.first is not None, "an empty split is refused before"
    channels = gauge.channels or 1
    mean, std = gauge.sums.mean_and_std(channels)
    return Description(
        source=dict(raw.record),
        classes=raw.classes,
        shape=(channels, *gauge.first[1:]),
        counts=(len(raw.train), len(raw.test)),
        mean=mean,
        std=std,
    )


def _into_memory(raw: RawSet, size: int | None) -> Imported:
    gauge = Gauge()
    train = import_resident(raw.train, gauge, size=size)
    test = import_resident(raw.test, gauge.for_test(), size=size)
    splits = [
        Loaded(images, torch.from_numpy(split.labels)) for images, split in ((train, raw.train), (test, raw.test))
    ]
    return Imported(_describe(raw, gauge), splits[0], splits[1])


def _write_resident(entry: Path, imported: Imported) -> None:
    with disk_errors(entry), new_artefact(entry, kind=_KINDS["resident"], overwrite=True) as draft:
        for name, split in zip(_SPLITS, (imported.train, imported.test), strict=True):
            images = split.images
            assert isinstance(images, ResidentStore)
            images.pixels.numpy().tofile(draft.path / f"{name}.pixels")
            images.row_hashes().tofile(draft.path / f"{name}.hashes")
            _write_labels(draft.path, name, split.labels.numpy())
        (draft.path / "data.json").write_text(imported.about.model_dump_json())


def _write_mapped(entry: Path, raw: RawSet, size: int | None) -> None:
    with disk_errors(entry):
        entry.mkdir(parents=True, exist_ok=True)
        with new_artefact(entry / INDEX, kind=_KINDS["mapped"], overwrite=True) as draft:
            gauge = Gauge()
            write_mapped(entry, draft.path, "train", raw.train, gauge, size=size)
            write_mapped(entry, draft.path, "test", raw.test, gauge.for_test(), size=size)
            for name, split in zip(_SPLITS, (raw.train, raw.test), strict=True):
                _write_labels(draft.path, name, split.labels)
            (draft.path / "data.json").write_text(_describe(raw, gauge).model_dump_json())


def _write_labels(folder: Path, name: str, labels: NDArray[np.int64]) -> None:
    labels.astype("<i8").tofile(folder / f"{name}.labels")


def _open(entry: Path, kind: Kind) -> Imported:
    folder = open_artefact(entry / INDEX if kind == "mapped" else entry, _KINDS[kind]).path
    try:
        about = Description.model_validate(read_json(folder / "data.json"))
    except ValidationError as error:
        raise BadArtefact("MTH-0263", f"{folder}/data.json is not a description of data: {error}") from error
    splits: list[Loaded] = []
    for name, count in zip(_SPLITS, about.counts, strict=True):
        labels = torch.from_numpy(_array(folder, f"{name}.labels", "<i8", (count,)).astype(np.int64, copy=False))
        if kind == "mapped":
            splits.append(Loaded(MappedStore(entry, name, about.shape), labels))
        else:
            pixels = _array(folder, f"{name}.pixels", "u1", (count, *about.shape))
            hashes = _array(folder, f"{name}.hashes", "u1", (count, HASH_BYTES))
            splits.append(Loaded(ResidentStore(torch.from_numpy(pixels), hashes), labels))
    return Imported(about, splits[0], splits[1])


def _array(folder: Path, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    found: NDArray[Any] = np.fromfile(folder / name, dtype=dtype)
    if found.size != np.prod(shape):
        raise BadArtefact("MTH-0263", f"{folder / name} holds {found.size} values, data.json says {shape}")
    return found.reshape(shape)
