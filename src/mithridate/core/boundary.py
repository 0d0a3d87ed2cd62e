"""The decode boundary: every byte from a file, a hub or a peer passes here.

A function sniffs the format, checks declared sizes against caps before anything is allocated, decodes, and raises
`BadArtefact` and nothing else for whatever is wrong with the bytes. Nothing here unpickles, evaluates or imports.
"""

import ast
import io
import json
import math
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import yaml

from mithridate.core.errors import BadArtefact, MithridateError, Misuse

if TYPE_CHECKING:
    import pyarrow

T = TypeVar("T")
_MIB = 1 << 20


@dataclass(frozen=True)
class Caps:
    """Upper bounds on what may be decoded: bytes of a file, bytes in memory, nesting depth, entries."""

    file_bytes: int = 8 << 30
    memory_bytes: int = 16 << 30
    depth: int = 32
    entries: int = 1_000_000


DEFAULT_CAPS = Caps()
TEXT_CAPS = Caps(file_bytes=64 * _MIB, memory_bytes=512 * _MIB)
CONFIG_CAPS = Caps(file_bytes=_MIB, memory_bytes=16 * _MIB, depth=16, entries=10_000)
MAX_PIXELS = 64 * 1024 * 1024
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"PAR1", "parquet"),
    (b"PK\x03\x04", "zip"),
    (b"\x93NUMPY", "npy"),
)
_FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
_KINDS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


def sniff(data: bytes) -> str:
    """Return the format that the first bytes announce: png, jpeg, webp, parquet, zip, npy or unknown."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((name for magic, name in _MAGIC if data.startswith(magic)), "unknown")


def decode_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, mode: Literal["RGB", "L"] | None = None, name: str = "image"
) -> np.ndarray:
    """Return the pixels of a PNG, JPEG or WebP file as uint8 of shape (h, w, c), c being 1 or 3.

    Args:
        data: The whole file.
        max_pixels: Largest width times height.
        mode: `RGB` or `L` to convert; None keeps grey images grey and makes all others RGB.
        name: What the error calls the image.
    """
    kind = sniff(data)
    if kind not in _FORMATS:
        raise BadArtefact("MTH-0201", f"{name} is no PNG, JPEG or WebP image (it begins with {data[:8]!r})")

    def decode() -> np.ndarray:
        from PIL import Image

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(data), formats=(_FORMATS[kind],)) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise BadArtefact(
                        "MTH-0202", f"{name} has {width}x{height} pixels, more than the cap of {max_pixels}"
                    )
                wanted = mode or ("L" if image.mode in ("L", "1", "I", "I;16", "LA") else "RGB")
                pixels = np.asarray(image.convert(wanted))
        return pixels[:, :, None] if pixels.ndim == 2 else pixels

    return _guarded(decode, f"{name} is a damaged {kind.upper()} image")


def read_bytes(path: Path, caps: Caps = DEFAULT_CAPS) -> bytes:
    """Return the content of a file that is not larger than the cap."""
    _check_file(path, caps)
    return path.read_bytes()


def read_parquet(path: Path, columns: Sequence[str] | None = None, caps: Caps = DEFAULT_CAPS) -> "pyarrow.Table":
    """Return a table from a parquet file after checking its declared sizes and validating it in full."""
    _check_file(path, caps)

    def decode() -> "pyarrow.Table":
        import pyarrow.parquet

        file = pyarrow.parquet.ParquetFile(path)
        declared = sum(file.metadata.row_group(k).total_byte_size for k in range(file.metadata.num_row_groups))
        if declared > caps.memory_bytes:
            raise BadArtefact("MTH-0202", f"{path} declares {declared} bytes, more than the cap of {caps.memory_bytes}")
        missing = [column for column in columns or () if column not in file.schema_arrow.names]
        if missing:
            raise BadArtefact("MTH-0203", f"{path} has no column {missing[0]!r}; it has {file.schema_arrow.names}")
        table = file.read(columns=list(columns) if columns else None)
        table.validate(full=True)
        return table

    return _guarded(decode, f"{path} is a damaged parquet file")


def read_npz(path: Path, caps: Caps = DEFAULT_CAPS) -> dict[str, np.ndarray]:
    """Return the arrays of an npz file; every header is checked against the cap before its array is allocated."""
    _check_file(path, caps)

    def decode() -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {}
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) > caps.entries:
                raise BadArtefact("MTH-0202", f"{path} has {len(names)} entries, more than the cap of {caps.entries}")
            left = caps.memory_bytes
            for name in names:
                with archive.open(name) as member:
                    array = _read_npy(member, left, f"{path}:{name}")
                left -= array.nbytes
                arrays[name.removesuffix(".npy")] = array
        return arrays

    return _guarded(decode, f"{path} is a damaged npz file")


def _read_npy(member: Any, limit: int, name: str) -> np.ndarray:
    magic = member.read(8)
    if magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2):
        raise BadArtefact("MTH-0201", f"{name} is no npy array")
    size = struct.unpack("<H" if magic[6] == 1 else "<I", member.read(2 if magic[6] == 1 else 4))[0]
    if size > _MIB:
        raise BadArtefact("MTH-0202", f"{name} has a header of {size} bytes")
    header = ast.literal_eval(member.read(size).decode("latin1"))
    kind, shape = np.dtype(header["descr"]), tuple(header["shape"])
    if kind.hasobject or not all(isinstance(n, int) and n >= 0 for n in shape) or header["fortran_order"]:
        raise BadArtefact("MTH-0204", f"{name} has an unsupported layout: {header}")
    needed = math.prod(shape) * kind.itemsize
    if needed > limit:
        raise BadArtefact("MTH-0202", f"{name} declares {needed} bytes, more than the cap of {limit}")
    data = member.read(needed + 1)
    if len(data) != needed:
        raise BadArtefact("MTH-0205", f"{name} holds {len(data)} bytes where its header declares {needed}")
    return np.frombuffer(bytearray(data), dtype=kind).reshape(shape)


def read_safetensors(path: Path, caps: Caps = DEFAULT_CAPS) -> dict[str, np.ndarray]:
    """Return the tensors of a safetensors file as arrays (bfloat16 is refused: store float32)."""
    data = read_bytes(path, caps)

    def decode() -> dict[str, np.ndarray]:
        (size,) = struct.unpack("<Q", data[:8])
        if size > min(100 * _MIB, len(data) - 8):
            raise BadArtefact("MTH-0202", f"{path} declares a header of {size} bytes in a file of {len(data)}")
        header = json.loads(data[8 : 8 + size])
        body, arrays, end = memoryview(data)[8 + size :], {}, 0
        entries = [(name, facts) for name, facts in header.items() if name != "__metadata__"]
        for name, facts in sorted(entries, key=lambda entry: entry[1]["data_offsets"]):
            start, stop = facts["data_offsets"]
            kind = np.dtype(_KINDS[facts["dtype"]])
            if start != end or stop - start != math.prod(facts["shape"]) * kind.itemsize or stop > len(body):
                raise BadArtefact("MTH-0205", f"{path}: tensor {name!r} does not fill bytes {start} to {stop}")
            arrays[name] = np.frombuffer(bytearray(body[start:stop]), dtype=kind).reshape(facts["shape"])
            end = stop
        if end != len(body):
            raise BadArtefact("MTH-0205", f"{path} holds {len(body) - end} bytes after its last tensor")
        return arrays

    return _guarded(decode, f"{path} is a damaged safetensors file")


def read_json(source: Path | bytes, caps: Caps = TEXT_CAPS) -> Any:
    """Return a JSON value; duplicate keys, non-finite numbers and deep nesting are refused."""
    name = str(source) if isinstance(source, Path) else "JSON"
    data = read_bytes(source, caps) if isinstance(source, Path) else source
    if len(data) > caps.file_bytes:
        raise BadArtefact("MTH-0202", f"{name} has {len(data)} bytes, more than the cap of {caps.file_bytes}")
    if _depth(data) > caps.depth:
        raise BadArtefact("MTH-0202", f"{name} is nested deeper than {caps.depth}")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise BadArtefact("MTH-0206", f"{name} repeats a key among {sorted(found)[:5]}")
        return found

    def refuse(text: str) -> Any:
        raise BadArtefact("MTH-0206", f"{name} holds the number {text}, which JSON does not have")

    return _guarded(
        lambda: json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse),
        f"{name} is no valid JSON",
    )


def _depth(data: bytes) -> int:
    """Return how deep brackets nest outside strings, without recursion."""
    deepest = depth = 0
    for token in re.finditer(rb'"(?:[^"\\]|\\.)*"|[\[{\]}]', data):
        if token[0] in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif token[0] in (b"]", b"}"):
            depth -= 1
    return deepest


class _Loader(yaml.SafeLoader):
    """The safe loader without aliases, anchors, tags of objects or repeated keys, and with caps."""

    caps = CONFIG_CAPS

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()
            raise BadArtefact("MTH-0207", f"line {event.start_mark.line + 1}: YAML aliases are not accepted")
        self._level = getattr(self, "_level", 0) + 1
        self._nodes = getattr(self, "_nodes", 0) + 1
        if self._level > self.caps.depth or self._nodes > self.caps.entries:
            raise BadArtefact(
                "MTH-0202", f"the YAML is deeper than {self.caps.depth} or larger than {self.caps.entries}"
            )
        try:
            return super().compose_node(parent, index)
        finally:
            self._level -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool):
                raise BadArtefact("MTH-0206", f"line {key_node.start_mark.line + 1}: {key!r} cannot be a key")
            if key in keys:
                raise BadArtefact("MTH-0206", f"line {key_node.start_mark.line + 1}: the key {key!r} is repeated")
            keys.add(key)
        return super().construct_mapping(node, deep=deep)


def read_yaml(text: str, name: str = "configuration") -> Any:
    """Return a YAML value of plain types; errors give the line."""
    if len(text.encode("utf-8", "surrogatepass")) > CONFIG_CAPS.file_bytes:
        raise BadArtefact("MTH-0202", f"{name} is larger than {CONFIG_CAPS.file_bytes} bytes")

    def decode() -> Any:
        try:
            return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of the safe loader
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else "?"
            raise BadArtefact("MTH-0207", f"{name}, line {line}: {error.problem}") from error

    return _guarded(decode, f"{name} is no valid YAML")


def _check_file(path: Path, caps: Caps) -> None:
    if not path.exists():
        raise Misuse("MTH-0208", f"{path} does not exist", hint="check the path")
    if not path.is_file():
        raise Misuse("MTH-0208", f"{path} is not a file", hint="check the path")
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        raise Misuse("MTH-0208", f"{path} cannot be read: {error.strerror}", hint="check its permissions") from error
    if size > caps.file_bytes:
        raise BadArtefact("MTH-0202", f"{path} has {size} bytes, more than the cap of {caps.file_bytes}")


def _guarded(decode: Callable[[], T], message: str) -> T:
    """Run a decoder; whatever it raises becomes one typed error."""
    try:
        return decode()
    except MithridateError:
        raise
    except (Exception, RecursionError) as error:  # noqa: BLE001 - decoders raise anything on hostile bytes
        reason = " ".join(str(error).split())[:200]
        raise BadArtefact("MTH-0200", f"{message}: {type(error).__name__}: {reason}") from error
