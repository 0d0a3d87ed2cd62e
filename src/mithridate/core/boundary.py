"""The decode boundary: every byte from a file, a hub or a peer passes here.

A function sniffs the format, checks declared sizes against caps before anything is allocated, decodes, and raises
`BadArtefact` and nothing else for whatever is wrong. Nothing here unpickles, evaluates or imports what it reads.
A decoder finds little of the damage that leaves a file readable: the checksums of `artefacts` do.
"""

import contextlib
import io
import json
import math
import mmap
import os
import stat
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mithridate.core._images import FORMATS, pixels
from mithridate.core._yaml import build
from mithridate.core.errors import BadArtefact, MithridateError

if TYPE_CHECKING:
    import pyarrow

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Caps:
    """Upper bounds on what is decoded.

    Args:
        file_bytes: Size of the file.
        memory_bytes: Size of what it decodes to.
        ratio: How many times larger than the file that may be, beyond the first 64 MiB.
        depth: Nesting of JSON and YAML.
        entries: Values in JSON and YAML, arrays in an npz, columns and row groups in parquet.
    """

    file_bytes: int = 8 << 30
    memory_bytes: int = 16 << 30
    ratio: int = 100
    depth: int = 32
    entries: int = 1_000_000

    def decoded(self, size: int) -> int:
        """Return how many bytes a file of `size` bytes may decode to."""
        return min(self.memory_bytes, 64 * _MIB + self.ratio * size)


DEFAULT_CAPS = Caps(entries=10_000)
TEXT_CAPS = Caps(file_bytes=64 * _MIB)
CONFIG_CAPS = Caps(file_bytes=_MIB, depth=16, entries=10_000)
MAX_PIXELS = 24 * _MIB
"""Width times height; decoding takes up to twelve bytes a pixel."""

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"PAR1", "parquet"),
    (b"PK\x03\x04", "zip"),
    (b"\x93NUMPY", "npy"),
)
_TENSOR_KINDS = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?"},
}


def sniff(data: bytes) -> str:
    """Return the format that the first bytes announce: png, jpeg, webp, parquet, zip, npy or unknown."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((name for magic, name in _MAGIC if data.startswith(magic)), "unknown")


def decode_image(
    data: bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    mode: Literal["RGB", "L", "RGBA"] | None = None,
    name: str = "image",
) -> NDArray[np.uint8]:
    """Return the pixels of a PNG, JPEG or WebP file as uint8 of shape (h, w, c); alpha is dropped unless asked for.

    Args:
        data: The whole file.
        max_pixels: Largest width times height.
        mode: `RGB`, `L` or `RGBA` to convert; None keeps grey images grey and makes all others RGB.
        name: What the error calls the image.

    Raises:
        BadArtefact: MTH-0201 for another format, MTH-0202 for too many pixels, MTH-0200 for a damaged image.
    """
    kind = sniff(data)
    if kind not in FORMATS:
        raise BadArtefact(
            "MTH-0201",
            f"{name} is no PNG, JPEG or WebP image; it begins with the bytes {data[:8].hex(' ') or '(none)'}",
            hint="convert it to PNG",
        )
    with _sealed(f"{name} is a damaged {kind.upper()} image"):
        return pixels(data, kind, max_pixels=max_pixels, mode=mode, name=name)


def read_bytes(path: Path, caps: Caps = DEFAULT_CAPS) -> bytes:
    """Return the content of a regular file that is not larger than the cap.

    Raises:
        BadArtefact: MTH-0208 when it cannot be read, MTH-0202 when it is too large.
    """
    with _opened(path, caps) as (file, size), _sealed(f"{path} cannot be read"):
        # A size must be given, as the rest of a file that grows meanwhile is unbounded, and no more than it has: the
        # library allocates what is asked for.
        return file.read(size)


def read_parquet(
    path: Path, columns: Sequence[str] | None = None, *, caps: Caps = DEFAULT_CAPS, name: str = ""
) -> "pyarrow.Table":
    """Return columns of a parquet file, validated in full.

    Args:
        path: The file.
        columns: Top-level columns; None reads all of them.
        caps: Bounds; the declared sizes are checked before a page is read, the real ones as rows arrive.
        name: What the error calls the file, its path unless given.

    Raises:
        BadArtefact: MTH-0203 for a missing column, other 02xx for a damaged or too large file.
    """
    what = name or str(path)
    with _opened(path, caps) as (file, size), _sealed(f"{what} is a damaged parquet file"):
        import pyarrow
        import pyarrow.parquet

        if sniff(file.read(4)) != "parquet":
            raise BadArtefact("MTH-0201", f"{what} is no parquet file")
        with pyarrow.parquet.ParquetFile(path, memory_map=False) as table:
            meta, limit = table.metadata, caps.decoded(size)
            _cap(meta.num_columns + meta.num_row_groups, caps.entries, f"{what} has", "columns and row groups")
            missing = [column for column in columns or () if column not in table.schema_arrow.names]
            if missing:
                raise BadArtefact(
                    "MTH-0203",
                    f"{what} has no column {missing[0]!r}",
                    hint=f"it has {', '.join(map(repr, table.schema_arrow.names[:20]))}",
                )
            declared = sum(meta.row_group(k).total_byte_size for k in range(meta.num_row_groups))
            _cap(declared, limit, f"{what} decodes to", "bytes")
            batches, total = [], 0
            # A few rows at a time: one dictionary page can stand for any number of equal, long values.
            for batch in table.iter_batches(32, columns=None if columns is None else list(columns), use_threads=False):
                total += batch.nbytes
                _cap(total, limit, f"{what} decodes to", "bytes or more")
                batch.validate(full=True)
                batches.append(batch)
            schema = table.schema_arrow
            kept = schema if columns is None else pyarrow.schema([schema.field(c) for c in columns], schema.metadata)
        return pyarrow.Table.from_batches(batches).select(kept.names).cast(kept) if batches else kept.empty_table()


def read_npz(path: Path, *, caps: Caps = DEFAULT_CAPS) -> dict[str, NDArray[Any]]:
    """Return the arrays of an npz file; every header is checked against the cap before its array is allocated.

    Numbers, truth values and text are accepted, objects are not. The zip's checksums are verified.

    Raises:
        BadArtefact: 02xx for a damaged or too large file.
    """
    with _opened(path, caps) as (file, size), _sealed(f"{path} is a damaged npz file"):
        _cap(_count_members(file, size), caps.entries, f"{path} has", "arrays")
        arrays: dict[str, NDArray[Any]] = {}
        left = caps.decoded(size)
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name in arrays:
                    raise BadArtefact("MTH-0206", f"{path} holds two arrays of the name {name!r}")
                with archive.open(info) as member:
                    assert isinstance(member, zipfile.ZipExtFile)
                    arrays[name] = _read_npy(member, left, f"{path}, array {name!r}")
                left -= arrays[name].nbytes
        return arrays


def read_safetensors(path: Path, *, caps: Caps = DEFAULT_CAPS) -> dict[str, NDArray[Any]]:
    """Return the tensors of a safetensors file as writable arrays; bfloat16 becomes float32, which holds it exactly.

    Raises:
        BadArtefact: 02xx for a damaged or too large file, MTH-0204 for a type that NumPy has no counterpart of.
    """
    data = read_bytes(path, caps)
    with _sealed(f"{path} is a damaged safetensors file"):
        import safetensors

        (header,) = struct.unpack_from("<Q", data)
        _cap(header, min(16 * _MIB, len(data) - 8), f"{path} declares a header of", "bytes")
        read_json(data[8 : 8 + header], caps=TEXT_CAPS)
        arrays: dict[str, NDArray[Any]] = {}
        for name, tensor in safetensors.deserialize(data):  # type: ignore[no-untyped-call]
            kind = _TENSOR_KINDS.get(tensor["dtype"])
            if kind is None:
                hint = "store the tensors as float32"
                raise BadArtefact("MTH-0204", f"{path}: tensor {name!r} has type {tensor['dtype']}", hint=hint)
            flat = np.frombuffer(tensor["data"], dtype=kind)
            if tensor["dtype"] == "BF16":
                flat = (flat.astype(np.uint32) << 16).view(np.float32)
            arrays[name] = flat.reshape(tensor["shape"])
        return arrays


def read_json(source: Path | bytes, *, caps: Caps = TEXT_CAPS) -> Any:
    """Return a JSON value; repeated keys, numbers that are not finite and lone surrogates are refused.

    Raises:
        BadArtefact: 02xx for anything else than one JSON document within the caps.
    """
    name = str(source) if isinstance(source, Path) else "JSON document"
    data = read_bytes(source, caps) if isinstance(source, Path) else source
    _cap(len(data), caps.file_bytes, f"{name} has", "bytes")
    _cap(data.count(b",") + data.count(b"[") + data.count(b"{"), caps.entries, f"{name} has", "values")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for k, (key, _) in enumerate(pairs) if key in (other for other, _ in pairs[:k]))
            raise BadArtefact("MTH-0206", f"{name} repeats the key {twice[:60]!r}")
        return found

    def refuse(text: str) -> Any:
        raise BadArtefact("MTH-0206", f"{name} holds {text}, which is no JSON number")

    with _sealed(f"{name} is no valid JSON"):
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
        _check_tree(value, caps, name)
        return value


def read_yaml(text: str, name: str = "YAML", *, caps: Caps = CONFIG_CAPS) -> Any:
    """Return a YAML value of plain types, by the core schema of YAML 1.2: `1e-3` is a number, `no` is text.

    Aliases, tags, repeated keys, keys that are no text and several documents are refused; errors give the line.

    Raises:
        BadArtefact: MTH-0207 or MTH-0206 with the line, MTH-0202 beyond the caps.
    """
    with _sealed(f"{name} is no valid YAML"):
        _cap(len(text.encode("utf-8")), caps.file_bytes, f"{name} has", "bytes")
        return build(text, name, depth=caps.depth, entries=caps.entries)


def _check_tree(value: object, caps: Caps, name: str) -> None:
    """Check the nesting and the text of a JSON value; not by recursion, which is what deep nesting attacks."""
    level = [value]
    for depth in range(caps.depth + 2):
        _cap(depth, caps.depth, f"{name} is nested", "levels deep")
        deeper: list[object] = []
        for item in level:
            if isinstance(item, str):
                item.encode("utf-8")
            elif isinstance(item, dict):
                deeper += [*item, *item.values()]
            elif isinstance(item, list):
                deeper += item
        if not any(isinstance(item, dict | list) for item in level):
            return
        level = deeper


def _count_members(file: io.BufferedReader, size: int) -> int:
    """Count the entries of a zip by their signatures, as the index itself may lie and is read whole by the library."""
    start = file.read(4)
    file.seek(0)
    if sniff(start) != "zip":
        raise BadArtefact("MTH-0201", f"{file.name} is no npz file; it begins with {start.hex(' ') or 'nothing'}")
    count = 0
    with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as view:
        place = view.find(b"PK\x01\x02")
        while place >= 0:
            count += 1
            place = view.find(b"PK\x01\x02", place + 4)
    return count


def _read_npy(member: zipfile.ZipExtFile, limit: int, name: str) -> NDArray[Any]:
    """Read one array whose header has been held against `limit` and against the length of its data."""
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, fortran, kind = np.lib.format.read_array_header_1_0(member, max_header_size=10_000)
    elif version == (2, 0):
        shape, fortran, kind = np.lib.format.read_array_header_2_0(member, max_header_size=10_000)
    else:
        raise BadArtefact("MTH-0204", f"{name} is of npy version {version}; versions 1.0 and 2.0 are read")
    if kind.kind not in "biufUS" or any(side < 0 for side in shape):
        raise BadArtefact(
            "MTH-0204", f"{name} has type {kind} and shape {shape}; numbers and text are read, never objects"
        )
    needed = math.prod(shape) * kind.itemsize
    _cap(needed, limit, f"{name} declares", "bytes")
    data = bytearray()
    while block := member.read(min(needed + 1 - len(data), _MIB)):
        data += block
    if len(data) != needed:
        more = "more" if len(data) > needed else f"{len(data)}"
        raise BadArtefact("MTH-0205", f"{name} holds {more} bytes where its header declares {needed}")
    return np.frombuffer(data, dtype=kind).reshape(shape, order="F" if fortran else "C")


@contextlib.contextmanager
def _opened(path: Path, caps: Caps) -> Iterator[tuple[io.BufferedReader, int]]:
    """Open a regular file, which pipes and devices are not, and yield it with its size."""
    hint = "check the path and its permissions"
    try:
        # Without O_NONBLOCK, opening a pipe would wait for a writer.
        file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: PTH123, SIM115
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadArtefact("MTH-0208", f"{path} cannot be read: {reason}", hint=hint) from error
    with file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BadArtefact("MTH-0208", f"{path} is no regular file", hint=hint)
        _cap(status.st_size, caps.file_bytes, f"{path} has", "bytes")
        yield file, status.st_size


def _cap(found: int, cap: int, what: str, unit: str) -> None:
    if found > cap:
        raise BadArtefact("MTH-0202", f"{what} {found:,} {unit}, at most {max(cap, 0):,} are accepted")


@contextlib.contextmanager
def _sealed(message: str) -> Iterator[None]:
    """Turn whatever a decoder raises into one typed error."""
    try:
        yield
    except MithridateError:
        raise
    except Exception as error:  # decoders raise anything on hostile bytes
        reason = " ".join(str(error).split())[:200]
        raise BadArtefact(
            "MTH-0200",
            f"{message}: {type(error).__name__}{': ' if reason else ''}{reason}",
            hint="get a fresh copy of it",
        ) from error
