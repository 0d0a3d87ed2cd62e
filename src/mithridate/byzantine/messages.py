"""Frames: what nodes say to each other, as a fixed binary header and a payload of exactly known size.

A header is 64 bytes, little-endian:

    magic 4s | version u8 | layer u8 | dtype u8 | zero u8 | kind 16s | round u64 | phase u32 | sender u32 | origin u32
    | numel u64 | nbytes u64 | crc32 u32

Every field is held against what the receiver expects of this kind before a byte is allocated for the payload. `sender`
is never believed: it must be the peer that the connection belongs to. `layer` and `origin` belong to the broadcast
layers, in which a node also speaks about the frame of another one: a slot is what may be said once.
"""

import functools
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mithridate.core.errors import BadArtefact, Misuse

MAGIC = b"MTHB"
VERSION = 1
BYTES = "bytes"
_HEADER = struct.Struct("<4sBBBB16sQIIIQQI")
HEADER_BYTES = _HEADER.size
DTYPES: dict[str, tuple[int, np.dtype[Any]]] = {
    BYTES: (0, np.dtype("u1")),
    "float32": (1, np.dtype("<f4")),
    "float64": (2, np.dtype("<f8")),
    "float16": (3, np.dtype("<f2")),
    "uint16": (4, np.dtype("<u2")),
    "int64": (5, np.dtype("<i8")),
}
"""Wire code and NumPy type; bfloat16 travels as uint16."""
LAYERS = ("data", "echo", "ready", "fetch", "have", "proof")
"""What a frame does: it is a node's own word, or part of a broadcast layer."""
_WHOLE = ("data", "have")
_KIND = re.compile(r"[a-z][a-z0-9-]{0,15}")
_DTYPE_NAMES = {code: name for name, (code, _) in DTYPES.items()}
_U32, _U64 = 1 << 32, 1 << 64


class Slot(NamedTuple):
    """What one sender may say once."""

    kind: str
    round: int
    phase: int
    layer: str
    origin: int


@dataclass(frozen=True, eq=False)
class Frame:
    """One message.

    Args:
        kind: What it is about, such as `gradient`: small letters, digits and dashes, at most 16.
        round: The training step.
        phase: The sub-round within the step.
        sender: The node that says it.
        payload: Bytes, or an array of one of `DTYPES`; a writable array is copied, so that it may change afterwards.
        layer: One of `LAYERS`.
        origin: The node whose frame is spoken about; the sender unless given.
    """

    kind: str
    round: int
    phase: int
    sender: int
    payload: NDArray[Any] | bytes
    layer: str = "data"
    origin: int = -1

    def __post_init__(self) -> None:
        if _KIND.fullmatch(self.kind) is None:
            raise Misuse("MTH-0904", f"the kind of a frame must match {_KIND.pattern}, got {self.kind!r}")
        in_range = 0 <= self.round < _U64 and 0 <= self.phase < _U32 and 0 <= self.sender < _U32
        if self.layer not in LAYERS or not in_range or not -1 <= self.origin < _U32:
            place = f"layer {self.layer!r}, round {self.round}, phase {self.phase}, sender {self.sender}"
            raise Misuse("MTH-0904", f"a frame of {place}, origin {self.origin} cannot be written", hint="0 or above")
        if self.origin < 0:
            object.__setattr__(self, "origin", self.sender)
        if isinstance(self.payload, np.ndarray):
            object.__setattr__(self, "payload", _settled(self.payload))

    @property
    def slot(self) -> Slot:
        """What this frame says, whatever its payload."""
        return Slot(self.kind, self.round, self.phase, self.layer, self.origin)

    @property
    def dtype(self) -> str:
        """The name of the payload's type."""
        return BYTES if isinstance(self.payload, bytes) else self.payload.dtype.name

    @property
    def numel(self) -> int:
        """The number of entries of the payload."""
        return len(self.payload)

    @property
    def nbytes(self) -> int:
        """The size of the payload."""
        return len(self.payload) if isinstance(self.payload, bytes) else self.payload.nbytes

    @functools.cached_property
    def crc(self) -> int:
        """The crc32 of the payload."""
        return zlib.crc32(self.body())

    def body(self) -> memoryview:
        """Return the payload as bytes, without a copy."""
        view = memoryview(self.payload) if isinstance(self.payload, bytes) else memoryview(self.payload.data)
        return view.cast("B") if self.nbytes else memoryview(b"")

    def array(self) -> NDArray[Any]:
        """Return the payload as an array, bytes as uint8."""
        return np.frombuffer(self.payload, np.uint8) if isinstance(self.payload, bytes) else self.payload


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the payload of a kind must be.

    Args:
        dtype: One of `DTYPES`.
        numel: The number of entries.
        exact: False lets there be fewer.
    """

    dtype: str
    numel: int
    exact: bool = True

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES or self.numel < 0:
            known = ", ".join(DTYPES)
            raise Misuse("MTH-0904", f"no payload has {self.numel} entries of {self.dtype!r}", hint=f"types: {known}")

    @property
    def nbytes(self) -> int:
        """The greatest size in bytes."""
        return self.numel * DTYPES[self.dtype][1].itemsize


@dataclass(frozen=True, kw_only=True)
class Schema:
    """All that a node is willing to read.

    Args:
        kinds: What each kind holds.
        layers: Which layers there are: `data` alone for plain broadcast.
        phases: Phases are below this number.
        control_bytes: The greatest payload of the layers that do not carry the data themselves.
    """

    kinds: Mapping[str, Expected]
    layers: frozenset[str] = frozenset({"data"})
    phases: int = 256
    control_bytes: int = 16384

    def expected(self, kind: str, layer: str) -> Expected | None:
        """Return what a frame must hold, or None if there is to be no such frame."""
        if kind not in self.kinds or layer not in self.layers:
            return None
        return self.kinds[kind] if layer in _WHOLE else Expected(dtype=BYTES, numel=self.control_bytes, exact=False)

    @property
    def largest(self) -> int:
        """The greatest payload in bytes."""
        sizes = [expected.nbytes for expected in self.kinds.values()]
        return max([0 if self.layers <= set(_WHOLE) else self.control_bytes, *sizes])


@dataclass(frozen=True)
class Header:
    """A header that was read and found to announce what is expected."""

    slot: Slot
    sender: int
    dtype: str
    nbytes: int
    crc: int

    def frame(self, body: bytes | bytearray, *, crc: int | None = None) -> Frame:
        """Return the frame of this header and its payload.

        Args:
            body: The payload; a bytearray is taken over and must not be written to any more.
            crc: Its checksum, if that is known.

        Raises:
            BadArtefact: MTH-0900 when length or checksum differ.
        """
        if len(body) != self.nbytes:
            raise BadArtefact("MTH-0900", f"a frame announces {self.nbytes} bytes and holds {len(body)}")
        if (zlib.crc32(body) if crc is None else crc) != self.crc:
            raise BadArtefact("MTH-0900", f"the payload of a {self.slot.kind} frame of node {self.sender} is damaged")
        payload: NDArray[Any] | bytes = bytes(body)
        if self.dtype != BYTES:
            payload = np.frombuffer(body, DTYPES[self.dtype][1])
            payload.flags.writeable = False
        slot = self.slot
        frame = Frame(slot.kind, slot.round, slot.phase, self.sender, payload, slot.layer, slot.origin)
        object.__setattr__(frame, "crc", self.crc)
        return frame


def encode_header(frame: Frame) -> bytes:
    """Return the 64 bytes that precede the payload of a frame."""
    kind, code = frame.kind.encode("ascii"), DTYPES[frame.dtype][0]
    start = (MAGIC, VERSION, LAYERS.index(frame.layer), code, 0, kind, frame.round, frame.phase)
    return _HEADER.pack(*start, frame.sender, frame.origin, frame.numel, frame.nbytes, frame.crc)


def encode(frame: Frame) -> bytes:
    """Return a frame as bytes."""
    return b"".join((encode_header(frame), frame.body()))


def decode_header(data: bytes | memoryview, schema: Schema, *, sender: int) -> Header:
    """Read a header and hold it against the schema; nothing of the payload's size is allocated.

    Args:
        data: At least 64 bytes.
        schema: What is expected.
        sender: The node at the other end of the connection.

    Raises:
        BadArtefact: MTH-0900 for bytes that are no header, MTH-0901 for a kind, type, size or phase that is not
            expected, MTH-0903 for the name of another node.
    """
    if len(data) < HEADER_BYTES:
        raise BadArtefact("MTH-0900", f"a frame of {len(data)} bytes is cut off; its header alone has {HEADER_BYTES}")
    fields = _HEADER.unpack_from(data)
    magic, version, layer, code, zero, name, round_, phase, claimed, origin, numel, nbytes, crc = fields
    if magic != MAGIC or version != VERSION or zero:
        start = bytes(data[:8]).hex(" ")
        raise BadArtefact("MTH-0900", f"these bytes are no frame of version {VERSION}: they begin with {start}")
    kind = name.rstrip(b"\0").decode("ascii", "replace")
    if layer >= len(LAYERS) or code not in _DTYPE_NAMES or _KIND.fullmatch(kind) is None:
        raise BadArtefact("MTH-0900", f"a frame has layer {layer}, type {code} and kind {kind!r}, which do not exist")
    if claimed != sender:
        raise BadArtefact("MTH-0903", f"node {sender} sent a frame in the name of node {claimed}")
    slot = Slot(kind, round_, phase, LAYERS[layer], origin)
    announced = Header(slot, sender, _DTYPE_NAMES[code], nbytes, crc)
    check_expected(slot, announced.dtype, numel, schema, sender=sender)
    if nbytes != numel * DTYPES[announced.dtype][1].itemsize:
        raise BadArtefact("MTH-0900", f"a frame announces {numel} entries of {announced.dtype} in {nbytes} bytes")
    return announced


def announced_bytes(data: bytes | memoryview) -> int:
    """Return the size of a whole frame as its header announces it, which nobody has checked."""
    return HEADER_BYTES + int(_HEADER.unpack_from(data)[11])


def check_expected(slot: Slot, dtype: str, numel: int, schema: Schema, *, sender: int) -> None:
    """Hold what a frame announces against the schema.

    Raises:
        BadArtefact: MTH-0901.
    """
    expected = schema.expected(slot.kind, slot.layer)
    if expected is None or slot.phase >= schema.phases:
        what = f"{slot.layer} frame of kind {slot.kind!r} and phase {slot.phase}"
        raise BadArtefact("MTH-0901", f"node {sender} sent a {what}, which nobody expects")
    if slot.layer == "data" and slot.origin != sender:
        raise BadArtefact("MTH-0903", f"node {sender} sent the data of node {slot.origin} as its own")
    if dtype != expected.dtype or numel > expected.numel or (expected.exact and numel != expected.numel):
        wanted = f"{'' if expected.exact else 'at most '}{expected.numel} of {expected.dtype}"
        message = f"node {sender} sent a {slot.kind} frame with {numel} entries of {dtype}, expected {wanted}"
        raise BadArtefact("MTH-0901", message)


def decode(data: bytes | memoryview, schema: Schema, *, sender: int) -> Frame:
    """Return the frame that fills these bytes.

    Raises:
        BadArtefact: MTH-0900, MTH-0901 or MTH-0903, as `decode_header` does; also for bytes that are left over.
    """
    header = decode_header(data, schema, sender=sender)
    body = memoryview(data)[HEADER_BYTES:]
    if len(body) != header.nbytes:
        raise BadArtefact("MTH-0900", f"a frame announces {header.nbytes} bytes and holds {len(body)}")
    return header.frame(bytes(body))


def _settled(payload: NDArray[Any]) -> NDArray[Any]:
    """Return a flat array in wire order that nobody writes to any more."""
    name = payload.dtype.name
    if name not in DTYPES or payload.ndim != 1:
        shape, known = payload.shape, ", ".join(list(DTYPES)[1:])
        raise Misuse("MTH-0904", f"a payload must be a vector of {known}, got shape {shape} of {name}")
    if not payload.flags.writeable and payload.flags.c_contiguous and payload.dtype == DTYPES[name][1]:
        return payload
    fresh = np.array(payload, DTYPES[name][1], order="C", copy=True)
    fresh.flags.writeable = False
    return fresh
