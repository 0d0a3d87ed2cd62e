"""Sources: data sets by name, from files of the user, or from the Hugging Face hub.

    digits                       inside scikit-learn, offline
    mnist, fashion-mnist,        $MITHRIDATE_DATA/NAME/{train,test}.parquet; else from the hub, when the extra `hub` is
    cifar10                      installed
    DIR                          an image folder, or a folder with train.parquet and test.parquet
    FILE.parquet, FILE.npz       one file, split 80/20 by a fixed seed unless it holds both splits
    hf:OWNER/NAME@REVISION       a data set of the hub (extra `hub`); the revision may be left out and is recorded
    any other name               a plugin of the group `mithridate.datasets`, if one is installed (see `_plugins`)

Every image passes the decode boundary once, when it is imported; what was imported is kept in a cache of our own (see
`_cache`). Nothing is ever written beside a source, and nothing is fetched that the user did not name.
"""

import hashlib
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch

from mithridate.core.errors import Misuse
from mithridate.core.registry import closest
from mithridate.data._cache import Imported, Kind, Loaded, import_set
from mithridate.data._digits import read_digits
from mithridate.data._folder import read_folder
from mithridate.data._hub import has_hub, read_hub_set
from mithridate.data._npz import read_npz_set
from mithridate.data._parquet import find_files, read_parquet_set
from mithridate.data._plugins import PLUGIN, read_plugin_set
from mithridate.data._raw import RawSet
from mithridate.data.examples import ROW, Examples
from mithridate.data.names import PLUGINS, source_path

DATA_VARIABLE = "MITHRIDATE_DATA"
HUB_PREFIX = "hf:"
SIZES = (4, 1024)


class Named(NamedTuple):
    """A data set that is known by name."""

    hub: str
    classes: tuple[str, ...]
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None


_DIGITS = tuple("0123456789")
NAMED: Mapping[str, Named] = {
    "mnist": Named("ylecun/mnist", _DIGITS),
    "fashion-mnist": Named(
        "zalando-datasets/fashion_mnist",
        (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
    ),
    "cifar10": Named(
        "uoft-cs/cifar10",
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        # Witches' Brew's constants, of the original images: ours may be a compressed copy with slightly other ones.
        ((0.4914672, 0.4822617, 0.4467701), (0.2470322, 0.2434851, 0.2615879)),
    ),
}


@dataclass(frozen=True, eq=False)
class DataSet:
    """Training and test examples with the channel statistics that a model's first layer uses.

    Args:
        name: The source as the user wrote it.
        train: The training split.
        test: The test split; the same classes and the same shape.
        mean: Mean of each channel of the complete training split, in [0, 1] units.
        std: Standard deviation of each channel of the complete training split, in [0, 1] units.
    """

    name: str
    train: Examples
    test: Examples
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @cached_property
    def fingerprint(self) -> str:
        """The sha256, in hex, of the fingerprints of both splits."""
        return hashlib.sha256(f"{self.train.fingerprint} {self.test.fingerprint}".encode()).hexdigest()


def source_names() -> tuple[str, ...]:
    """Return the names of the data sets that are known by name."""
    return ("digits", *NAMED)


def load(
    source: str,
    *,
    per_class: int | None = None,
    size: int | None = None,
    device: torch.device | str = "cpu",
    store: Kind = "resident",
    cache: Path | None = None,
) -> DataSet:
    """Return a data set.

    Args:
        source: A name, a folder, a file or an id of the hub, as the module describes.
        per_class: Keep the first so many training images of each class; `columns["row"]` then holds their rows in the
            complete training split.
        size: Crop every image to its central square and resize it to so many pixels squared.
        device: Where gathered images arrive.
        store: `resident` holds all pixels in memory; `mapped` keeps encoded images on disk and decodes when gathering.
        cache: The folder of the cache; None is `$XDG_CACHE_HOME/mithridate` or `~/.cache/mithridate`.

    Raises:
        Misuse: The source is unknown or absent, or what it holds is no data set of images that are alike.
        BadArtefact: A file or an image is damaged; it is named.
        WorkError: A mapped data set cannot be written.
    """
    if size is not None and not SIZES[0] <= size <= SIZES[1]:
        raise Misuse("MTH-0257", f"size must be in [{SIZES[0]}, {SIZES[1]}] pixels, got {size}")
    if per_class is not None and per_class < 1:
        raise Misuse("MTH-0257", f"per_class must be at least 1, got {per_class}")
    raw = read_raw(source)
    with PLUGINS.blaming(source) if raw.record.get("kind") == PLUGIN else nullcontext():
        found = import_set(raw, source, kind=store, size=size, cache=cache)
    known = NAMED.get(source)
    statistics = known.statistics if known and size is None else None
    mean, std = statistics or (found.about.mean, found.about.std)
    train = _examples(f"{source} train", found.train, found)
    if per_class is not None:
        train = _first_of_each_class(train, per_class)
    test = _examples(f"{source} test", found.test, found)
    return DataSet(source, train.to(device), test.to(device), mean, std)


def read_raw(source: str) -> RawSet:
    """Return what a source names, with its images not decoded yet.

    Raises:
        Misuse: As `load` does.
    """
    if source == "digits":
        return read_digits()
    if source in NAMED:
        return _read_named(source)
    if source.startswith(HUB_PREFIX):
        return read_hub_set(source.removeprefix(HUB_PREFIX))
    path = source_path(source)
    if source and os.path.exists(path):  # noqa: PTH110 - this one also answers for names that no path can have
        return _read_path(path)
    if source in PLUGINS.names():
        return read_plugin_set(source)
    names = (*source_names(), *PLUGINS.names())
    if "/" in source or path.suffix in (".parquet", ".npz"):
        raise Misuse("MTH-0251", f"{source} does not exist", hint="check the path; relative paths start where you are")
    guess = closest(source, names)
    raise Misuse(
        "MTH-0250",
        f"{source!r} is no data set; known are {', '.join(names)}, image folders, parquet and npz files, and "
        f"{HUB_PREFIX}OWNER/NAME",
        hint=f"did you mean {guess!r}?" if guess else "give the path of a folder or a file",
    )


def _read_named(name: str) -> RawSet:
    known = NAMED[name]
    root = os.environ.get(DATA_VARIABLE, "")
    files = find_files(Path(root) / name) if root else ([], [])
    if all(files):
        return read_parquet_set(*files, classes=known.classes)
    if has_hub():
        return read_hub_set(known.hub, classes=known.classes)
    looked = f"{Path(root) / name} has no train.parquet and test.parquet" if root else f"{DATA_VARIABLE} is not set"
    raise Misuse(
        "MTH-0251",
        f"the data set {name!r} is not on this machine: {looked}",
        hint=f"set {DATA_VARIABLE} to a folder with {name}/train.parquet and {name}/test.parquet, "
        f"or install mithridate[hub] to fetch {known.hub}; digits works offline",
    )


def _read_path(path: Path) -> RawSet:
    if path.is_dir():
        train, test = find_files(path)
        return read_parquet_set(train, test) if train else read_folder(path)
    if path.suffix == ".parquet":
        return read_parquet_set([path], [])
    if path.suffix == ".npz":
        return read_npz_set(path)
    raise Misuse("MTH-0250", f"{path} is neither a folder nor a .parquet or .npz file")


def _examples(name: str, loaded: Loaded, found: Imported) -> Examples:
    return Examples(name, loaded.images, loaded.labels, found.about.classes)


def _first_of_each_class(train: Examples, count: int) -> Examples:
    rows = torch.cat([train.rows_of_class(label)[:count] for label in range(len(train.classes))]).sort().values
    kept = train.select(rows)
    return Examples(kept.name, kept.images, kept.labels, kept.classes, {**kept.columns, ROW: rows})
