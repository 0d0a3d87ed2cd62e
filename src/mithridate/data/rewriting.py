"""Where the training images of a data set lie on disk, and writing the set again with a few of them replaced.

Image folders and parquet files keep everything else: other files and tables are copied byte for byte with their times;
a table in which an image changes keeps its columns, schema, metadata, compression and row groups. Sets that are no such
files (embedded, arrays, the Hugging Face hub) are written as parquet first, images and labels only. The new set appears
whole or not at all, beside the old one, never in its place.
"""

import contextlib
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mithridate.core.artefacts import disk_errors
from mithridate.core.boundary import read_bytes, read_parquet
from mithridate.core.errors import Misuse
from mithridate.data._decoding import encode_png, resize
from mithridate.data._parquet import image_column
from mithridate.data._raw import RawSplit
from mithridate.data.names import source_path
from mithridate.data.sources import read_raw

__all__ = ["Located", "Place", "encoded", "locate", "resize", "write_changed"]


@dataclass(frozen=True)
class Place:
    """One image on disk.

    Args:
        file: An image file, or a table.
        row: The row of the table; None for an image file.
    """

    file: Path
    row: int | None = None

    def __str__(self) -> str:
        return str(self.file) if self.row is None else f"{self.file}, row {self.row}"


@dataclass(frozen=True)
class Located:
    """The training images of a source.

    Args:
        root: The folder below which all its files lie.
        places: Where each training image is, in the order of `load`.
        single: The set is one file of that folder, which may hold other things.
    """

    root: Path
    places: tuple[Place, ...]
    single: bool = False


def locate(source: str, *, scratch: Path | None = None) -> Located:
    """Return where the training images of a data set are.

    Args:
        source: As `data.sources.load` takes it.
        scratch: A new folder to which a set without files of encoded images (embedded, arrays, the hub) is written
            first, as parquet; None refuses such a set.

    Raises:
        Misuse: MTH-1040, the set is no image folder and no parquet file; or as `load` does.
    """
    raw = read_raw(source)
    if raw.record.get("kind") == "folder":
        root = source_path(source)
        return Located(root, tuple(Place(root / raw.train.where(row)) for row in range(len(raw.train))))
    if raw.record.get("kind") == "parquet":
        split = [raw.train.where(row).rsplit(", row ", 1) for row in range(len(raw.train))]
        places = tuple(Place(Path(file), int(row)) for file, row in split)
        return Located(places[0].file.parent, places, single=source_path(source).is_file())
    if scratch is not None:
        scratch.mkdir(parents=True)
        with disk_errors(scratch):
            for part, name in ((raw.train, "train"), (raw.test, "test")):
                _write_split(part, raw.classes, scratch / f"{name}.parquet")
        return Located(scratch, tuple(Place(scratch / "train.parquet", row) for row in range(len(raw.train))))
    raise Misuse(
        "MTH-1040",
        f"{source} has no files that marked images could be written to",
        hint="give an image folder, a parquet file or a folder of them",
    )


def _write_split(split: RawSplit, classes: tuple[str, ...], file: Path) -> None:
    """Write a split as Hugging Face would: encoded images and numbered labels, named in the metadata."""
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(classes)}}
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema({"image": kind, "label": pa.int64()}, metadata=about)
    start = 0
    with pq.ParquetWriter(file, schema) as writer:
        for batch in split.batches():
            images = [item if isinstance(item, bytes) else encode_png(item) for item in batch]
            cells = pa.array([{"bytes": image, "path": None} for image in images], kind)
            labels = pa.array(split.labels[start : start + len(batch)], pa.int64())
            writer.write_table(pa.table([cells, labels], schema=schema))
            start += len(batch)


def encoded(places: Sequence[Place]) -> Iterator[bytes]:
    """Yield the bytes of these images, in this order; each table is opened once if its images come in a row.

    Raises:
        Misuse: MTH-1041, a table holds pixels and not encoded images.
        BadArtefact: A file cannot be read.
    """
    file, column = None, None
    for place in places:
        if place.row is None:
            yield read_bytes(place.file)
            continue
        if place.file != file:
            name = image_column(place.file)
            file, column = place.file, read_parquet(place.file, [name])[name]
            _check_encoded(place.file, column.type)
        assert column is not None
        value = column[place.row].as_py()
        yield value["bytes"] if isinstance(value, dict) else value


def write_changed(located: Located, changed: Mapping[Place, bytes], out: Path, *, whole: bool = True) -> None:
    """Write a data set with some images replaced.

    Args:
        located: The set.
        changed: The new bytes of the images that change.
        out: A folder that does not exist yet.
        whole: Copy everything else too; otherwise only files in which something changed.

    Raises:
        Misuse: MTH-1042, `out` exists or lies in the set itself.
        WorkError: The disk is full or not writable.
    """
    root, out = located.root.resolve(), out.absolute()
    if out.exists() or out.resolve().is_relative_to(root):
        raise Misuse(
            "MTH-1042",
            f"{out} exists already, or lies inside {located.root}",
            hint="give a new folder: the data set itself is never written to",
        )
    by_file: dict[Path, dict[int | None, bytes]] = defaultdict(dict)
    for place, data in changed.items():
        by_file[place.file][place.row] = data
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    with disk_errors(out), _removed_on_error(part):
        if whole:
            _copy(located, part)
        for file, rows in by_file.items():
            target = part / file.relative_to(located.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            if None in rows:
                target.write_bytes(rows[None])
            else:
                _write_table(file, {row: data for row, data in rows.items() if row is not None}, target)
            shutil.copystat(file, target)
        part.rename(out)


def _copy(located: Located, part: Path) -> None:
    if not located.single:
        shutil.copytree(located.root, part)
        return
    part.mkdir(parents=True)
    file = located.places[0].file
    shutil.copy2(file, part / file.name)


@contextlib.contextmanager
def _removed_on_error(part: Path) -> Iterator[None]:
    try:
        yield
    finally:
        if part.exists():
            shutil.rmtree(part)


def _check_encoded(file: Path, kind: pa.DataType) -> None:
    inner = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(inner) or pa.types.is_large_binary(inner)):
        raise Misuse(
            "MTH-1041",
            f"{file} holds its images as {kind}, not as encoded files",
            hint="store them as PNG in a column of bytes",
        )


def _write_table(file: Path, rows: Mapping[int, bytes], target: Path) -> None:
    table = read_parquet(file)
    about = pq.ParquetFile(file).metadata
    name = image_column(file)
    place = table.schema.get_field_index(name)
    chunks, start = [], 0
    for chunk in table[name].chunks:
        inside = {row - start: data for row, data in rows.items() if start <= row < start + len(chunk)}
        chunks.append(_replaced(chunk, inside) if inside else chunk)
        start += len(chunk)
    new = table.set_column(place, table.schema.field(place), pa.chunked_array(chunks, type=table[name].type))
    first = about.row_group(0)
    codec = first.column(0).compression
    pq.write_table(
        new.replace_schema_metadata(table.schema.metadata),
        target,
        compression="none" if codec == "UNCOMPRESSED" else codec.lower(),
        row_group_size=first.num_rows,
    )


def _replaced(chunk: pa.Array, inside: Mapping[int, bytes]) -> pa.Array:
    values: list[Any] = chunk.to_pylist()
    for row, data in inside.items():
        values[row] = {**values[row], "bytes": data} if isinstance(values[row], dict) else data
    return pa.array(values, type=chunk.type)
