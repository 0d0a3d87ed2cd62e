"""What a source hands to the importer: labels, images that are not decoded yet, and how to name each of them.

Shapes   n examples.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mithridate.core.errors import Misuse
from mithridate.core.seeds import address

Item = bytes | NDArray[np.uint8]
"""One image: encoded bytes, or pixels of shape (h, w, c)."""

BATCH = 256
TEST_SHARE = 0.2
HASH_ALL_BELOW = 1 << 30


@dataclass(frozen=True)
class RawSplit:
    """One split before decoding.

    Args:
        labels: The class of each image.
        batches: Yields the images in order, in lists small enough to hold in memory.
        where: Names the image of a row to the user: a file, or a table and its row.
    """

    labels: NDArray[np.int64]
    batches: Callable[[], Iterator[list[Item]]]
    where: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of_pixels(cls, pixels: NDArray[np.uint8], labels: NDArray[np.int64], what: str) -> "RawSplit":
        """Return a split of images that are in memory already, shape (n, h, w, c)."""

        def batches() -> Iterator[list[Item]]:
            for start in range(0, len(pixels), BATCH):
                yield list(pixels[start : start + BATCH])

        return cls(labels, batches, lambda row: f"{what}, row {row}")


@dataclass(frozen=True)
class RawSet:
    """A data set before decoding.

    Args:
        train: The training split.
        test: The test split.
        classes: The name of each class.
        record: Where it came from, for the manifest; its `key` identifies the content for the cache.
        encoded: Whether images must be decoded, which is worth a cache.
    """

    train: RawSplit
    test: RawSplit
    classes: tuple[str, ...]
    record: Mapping[str, Any]
    encoded: bool = True


def pick(split: RawSplit, rows: NDArray[np.int64]) -> RawSplit:
    """Return a split with only these rows, which must ascend; the others are read and dropped."""
    wanted = np.zeros(len(split), dtype=bool)
    wanted[rows] = True

    def batches() -> Iterator[list[Item]]:
        start = 0
        for batch in split.batches():
            yield [item for item, keep in zip(batch, wanted[start : start + len(batch)], strict=True) if keep]
            start += len(batch)

    return RawSplit(split.labels[rows], batches, lambda row: split.where(int(rows[row])))


def read_file(path: Path) -> bytes:
    """Return the bytes of a file that the user named.

    Raises:
        Misuse: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise Misuse("MTH-0261", f"cannot read {path}: {error.strerror}") from error


def file_key(paths: Sequence[Path]) -> str:
    """Identify the content of files for the cache: by their sha256, or when they are huge by name, size and time.

    Raises:
        Misuse: A file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        stats = [path.stat() for path in paths]
        for path, stat in zip(paths, stats, strict=True):
            if sum(each.st_size for each in stats) > HASH_ALL_BELOW:
                digest.update(repr((str(path.resolve()), stat.st_size, stat.st_mtime_ns)).encode())
            else:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise Misuse("MTH-0261", f"cannot read {error.filename}: {error.strerror}") from error
    return digest.hexdigest()


def split_rows(labels: NDArray[np.int64], num_classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return training and test rows, one fifth of each class drawn for the test by a fixed seed.

    A class of two images or more has at least one in each part.
    """
    test: list[NDArray[np.int64]] = []
    for label in range(num_classes):
        rows = np.flatnonzero(labels == label)
        count = min(max(round(TEST_SHARE * len(rows)), 1), len(rows) - 1)
        rng = np.random.default_rng(address(0, "data", "split", label))
        test.append(rng.permutation(rows)[: max(count, 0)])
    chosen = np.sort(np.concatenate(test))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def halves(split: RawSplit, num_classes: int) -> tuple[RawSplit, RawSplit]:
    """Return the training and the test part of a split, as `split_rows` draws them."""
    train, test = split_rows(split.labels, num_classes)
    return pick(split, train), pick(split, test)


def check_labels(split: RawSplit, classes: tuple[str, ...], *, every_class: bool) -> None:
    """Refuse labels that name no class and, where asked, classes that no label names.

    Raises:
        Misuse: As said; the first row or class is named.
    """
    bad = np.flatnonzero((split.labels < 0) | (split.labels >= len(classes)))
    if len(bad):
        row = int(bad[0])
        raise Misuse(
            "MTH-0242",
            f"{split.where(row)} has label {split.labels[row]}, but labels of {len(classes)} classes lie in "
            f"[0, {len(classes) - 1}]",
        )
    if every_class:
        counts = np.bincount(split.labels, minlength=len(classes))
        empty = [classes[label] for label in np.flatnonzero(counts == 0)]
        if empty:
            named = ", ".join(repr(name) for name in empty[:5]) + (", ..." if len(empty) > 5 else "")
            raise Misuse(
                "MTH-0253",
                f"{len(empty)} of {len(classes)} classes have no training image: {named}",
                hint="remove the class or add images to it",
            )


def pixels_from_floats(values: NDArray[np.floating[Any]], where: Callable[[int], str]) -> NDArray[np.uint8]:
    """Return images in [0, 1], rows along the first axis, as uint8.

    Raises:
        Misuse: A pixel is not finite or lies outside [0, 1]; the first such row is named.
    """
    flat = values.reshape(len(values), -1)
    broken = np.flatnonzero(~np.isfinite(flat).all(axis=1))
    if len(broken):
        raise Misuse(
            "MTH-0255",
            f"{where(int(broken[0]))} has pixels that are not finite (NaN or infinity); so have {len(broken) - 1} more "
            "images",
            hint="remove or repair these images",
        )
    outside = np.flatnonzero((flat.min(axis=1) < 0) | (flat.max(axis=1) > 1)) if flat.size else np.array([])
    if len(outside):
        row = int(outside[0])
        raise Misuse(
            "MTH-0255",
            f"{where(row)} has pixels in [{flat[row].min():g}, {flat[row].max():g}], but floating-point pixels lie in "
            "[0, 1]",
            hint="divide by 255, or undo the normalisation",
        )
    scaled: NDArray[np.uint8] = np.rint(values * 255).astype(np.uint8)
    return scaled


def as_rows_hwc(values: NDArray[Any], what: str) -> NDArray[Any]:
    """Return an array of images as (n, h, w, c), told from its shape.

    Raises:
        Misuse: The shape is not that of grey or colour images.
    """
    if values.ndim == 3:
        return values[..., None]
    if values.ndim == 4 and values.shape[-1] in (1, 3):
        return values
    if values.ndim == 4 and values.shape[1] in (1, 3):
        return values.transpose(0, 2, 3, 1)
    raise Misuse(
        "MTH-0256",
        f"{what} has shape {values.shape}, but images are (n, h, w), (n, h, w, c) or (n, c, h, w) with 1 or 3 channels",
    )


def to_uint8(values: NDArray[Any], what: str, where: Callable[[int], str]) -> NDArray[np.uint8]:
    """Return images as uint8 pixels: whole numbers must lie in [0, 255], floating-point numbers in [0, 1].

    Raises:
        Misuse: The values are no pixels.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "f":
        return pixels_from_floats(values, where)
    if values.dtype.kind in "iu":
        if values.size and (values.min() < 0 or values.max() > 255):
            raise Misuse("MTH-0255", f"{what} has pixels in [{values.min()}, {values.max()}], allowed is [0, 255]")
        return values.astype(np.uint8)
    raise Misuse("MTH-0256", f"{what} has type {values.dtype}, but pixels are numbers")
