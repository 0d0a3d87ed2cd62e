"""Parquet files: an image column (encoded bytes, or nested lists of numbers) and a label column.

The columns are those that Hugging Face writes: an image is a struct of `bytes` and `path`, a label is a whole number
whose class names stand in the schema's metadata. Plain binary columns, strings as labels and arrays of pixels are read
as well. A split is one file `train.parquet`, or shards `train-*.parquet`, which are read one at a time.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mithridate.core.boundary import read_json, read_parquet
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.data._raw import BATCH, Item, RawSet, RawSplit, as_rows_hwc, check_labels, file_key, halves, to_uint8

IMAGE_NAMES = ("image", "img", "images", "pixels")
LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "y")
TEST_NAMES = ("test", "validation", "valid", "val")
_NO_COLUMN = "MTH-0203"


def find_files(root: Path) -> tuple[list[Path], list[Path]]:
    """Return the parquet files of the training and of the test split in a folder, in order, where there are any."""

    def of(names: Sequence[str]) -> list[Path]:
        for name in names:
            single = root / f"{name}.parquet"
            found = [single] if single.is_file() else sorted(root.glob(f"{name}-*.parquet"))
            if found:
                return found
        return []

    return of(("train",)), of(TEST_NAMES)


@dataclass(frozen=True)
class Tables:
    """One split as tables: the label columns, what the metadata say, and how to get at the image columns.

    Args:
        names: What each table is called in messages.
        labels: The label column of each table.
        classes: The class names in the metadata, or nothing.
        images: Yields the image column of each table, which may be large, one at a time.
    """

    names: tuple[str, ...]
    labels: tuple[pa.ChunkedArray, ...]
    classes: tuple[str, ...]
    images: Callable[[], Iterator[pa.ChunkedArray]]

    @classmethod
    def of_files(cls, files: Sequence[Path]) -> "Tables":
        """Return the split in these files; only the labels are read yet."""
        wanted: Sequence[str] = LABEL_NAMES
        labels = []
        features: dict[str, Any] = {}
        for path in files:
            table, name = _first_column(path, wanted)
            features = features or _features(table.schema.metadata)
            wanted = [name]
            labels.append(table[name])
        image = next((name for name, facts in features.items() if _field(facts, "_type") == "Image"), None)

        def images() -> Iterator[pa.ChunkedArray]:
            wanted: Sequence[str] = [image] if image else IMAGE_NAMES
            for path in files:
                table, name = _first_column(path, wanted)
                wanted = [name]
                yield table[name]

        classes = _field(features.get(wanted[0]), "names")
        return cls(tuple(str(path) for path in files), tuple(labels), _strings(classes), images)

    def _are_strings(self) -> bool:
        return all(pa.types.is_string(each.type) or pa.types.is_large_string(each.type) for each in self.labels)

    def guess(self) -> tuple[str, ...]:
        """Return class names from the labels themselves: the strings in order, or the numbers up to the largest."""
        if self._are_strings():
            found = {name for each in self.labels for name in each.unique().to_pylist() if name is not None}
            return tuple(sorted(found))
        return tuple(str(label) for label in range(int(self._numbers().max(initial=-1)) + 1))

    def _numbers(self) -> NDArray[np.int64]:
        for name, column in zip(self.names, self.labels, strict=True):
            if not pa.types.is_integer(column.type):
                raise Misuse("MTH-0256", f"{name}: labels are {column.type}, but labels are whole numbers or strings")
            if column.null_count:
                row = int(np.flatnonzero(column.is_null().to_numpy())[0])
                raise Misuse("MTH-0242", f"{name}, row {row} has no label", hint="remove rows without a label")
        return np.concatenate([column.to_numpy() for column in self.labels]).astype(np.int64)

    def _codes(self, classes: tuple[str, ...]) -> NDArray[np.int64]:
        if not self._are_strings():
            return self._numbers()
        listed = pa.array(classes, pa.string())
        found = [pc.index_in(column.cast(pa.string()), listed).fill_null(-1).to_numpy() for column in self.labels]
        return np.concatenate(found).astype(np.int64)

    def split(self, classes: tuple[str, ...]) -> RawSplit:
        """Return the split with its labels as numbers of these classes; images are read when they are asked for."""
        ends = np.cumsum([len(column) for column in self.labels])

        def where(row: int) -> str:
            table = min(int(np.searchsorted(ends, row, side="right")), len(ends) - 1)
            return f"{self.names[table]}, row {row - int(ends[table]) + len(self.labels[table])}"

        def batches() -> Iterator[list[Item]]:
            start = 0
            for column in self.images():
                for first in range(0, len(column), BATCH):
                    part = pa.concat_arrays(column.slice(first, BATCH).chunks)
                    yield _items(part, partial(_shifted, where, start + first))
                start += len(column)

        return RawSplit(self._codes(classes), batches, where)


def _shifted(where: Callable[[int], str], start: int, row: int) -> str:
    return where(start + row)


def _field(facts: Any, key: str) -> Any:
    return facts.get(key) if isinstance(facts, dict) else None


def _strings(names: Any) -> tuple[str, ...]:
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def read_parquet_set(train: Sequence[Path], test: Sequence[Path], *, classes: tuple[str, ...] = ()) -> RawSet:
    """Return a data set in parquet files; without test files, one fifth of each class is split off.

    Args:
        train: The files of the training split, in order.
        test: The files of the test split.
        classes: Class names to use when the files name none.

    Raises:
        Misuse: No image or label column is recognised, or the labels do not fit the classes.
        BadArtefact: A file is damaged.
    """
    parts, names = read_tables(Tables.of_files(train), Tables.of_files(test) if test else None, classes)
    return RawSet(*parts, names, {"kind": "parquet", "key": file_key([*train, *test])})


def read_tables(
    train: Tables, test: Tables | None, classes: tuple[str, ...]
) -> tuple[tuple[RawSplit, RawSplit], tuple[str, ...]]:
    """Return both splits and the class names, after checking the labels.

    Raises:
        Misuse: The labels do not fit the classes, or the splits do not fit each other.
    """
    for tables in (train, test or train):
        if not any(len(column) for column in tables.labels):
            raise Misuse("MTH-0252", f"{tables.names[0]} has no rows")
    names = train.classes or (test.classes if test else ()) or classes or train.guess()
    whole = train.split(names)
    check_labels(whole, names, every_class=True)
    if test is None:
        parts = halves(whole, len(names))
    else:
        if test.classes and test.classes != names:
            raise Misuse(
                "MTH-0260", f"{test.names[0]} has the classes {test.classes[:5]}, {train.names[0]} {names[:5]}"
            )
        parts = whole, test.split(names)
        check_labels(parts[1], names, every_class=False)
    if not len(parts[1]):
        raise Misuse("MTH-0253", f"{train.names[0]}: no class has two images, so none is left to test on")
    return parts, names


def image_column(path: Path) -> str:
    """Return the name of the column of images in a parquet file.

    Raises:
        Misuse: No column is recognised.
    """
    table, _ = _first_column(path, LABEL_NAMES)
    features = _features(table.schema.metadata)
    named = next((name for name, facts in features.items() if _field(facts, "_type") == "Image"), None)
    return named or _first_column(path, IMAGE_NAMES)[1]


def _first_column(path: Path, names: Sequence[str]) -> tuple[pa.Table, str]:
    """Return the first of these columns that the file has, as a table with its metadata, and its name."""
    refused: BadArtefact | None = None
    for name in names:
        try:
            return read_parquet(path, [name]), name
        except BadArtefact as error:
            if error.code != _NO_COLUMN:
                raise
            refused = error
    assert refused is not None
    raise Misuse("MTH-0256", f"{path} has no column {' or '.join(names)}", hint=refused.hint) from refused


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """Return the columns' descriptions in the metadata that Hugging Face writes, or nothing."""
    text = (metadata or {}).get(b"huggingface")
    found: Any = read_json(text) if text else {}
    for key in ("info", "features"):
        found = found.get(key, {}) if isinstance(found, dict) else {}
    return found if isinstance(found, dict) else {}


def _items(part: pa.Array, where: Callable[[int], str]) -> list[Item]:
    """Return the images of a few rows: encoded bytes, or pixels.

    Raises:
        Misuse: The column holds neither, or an image is missing.
    """
    if pa.types.is_struct(part.type) and part.type.get_field_index("bytes") >= 0:
        part = pc.struct_field(part, "bytes")
    if pa.types.is_binary(part.type) or pa.types.is_large_binary(part.type):
        encoded: list[Item] = part.to_pylist()
        if part.null_count:
            missing = next(row for row, item in enumerate(encoded) if item is None)
            raise Misuse("MTH-0256", f"{where(missing)} has no image bytes", hint="embed the images in the file")
        return encoded
    shape = [len(part)]
    while isinstance(part, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        lengths = pc.list_value_length(part).unique().to_pylist()
        if len(lengths) != 1 or lengths[0] is None:
            raise Misuse("MTH-0254", f"images have different sizes: see the rows from {where(0)} on")
        shape.append(lengths[0])
        part = part.flatten()
    if len(shape) == 1 or not (pa.types.is_integer(part.type) or pa.types.is_floating(part.type)):
        raise Misuse("MTH-0256", f"{where(0)} holds {part.type}, but an image is encoded bytes or a list of numbers")
    side = math.isqrt(shape[1])
    if shape[1:] == [side * side]:  # a flat list of a square grey image
        shape = [shape[0], side, side]
    values = part.to_numpy(zero_copy_only=False).reshape(shape)
    return list(to_uint8(as_rows_hwc(values, where(0)), where(0), where))
