"""What travels in one gRPC message: several whole frames, or a chunk of one that is longer than a message.

    batch    u8 1 | frame | frame | ...                       at most 256
    chunk    u8 2 | header of the frame | offset u64 | piece
    answer   session u64 | round u64 | verdict u8 | verdict u8 | ...

The answer has a verdict for each frame of a batch, one for a chunk; `session` tells that the peer was started anew.
"""

import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mithridate.byzantine.messages import HEADER_BYTES, Frame, Header, announced_bytes, decode_header, encode_header
from mithridate.byzantine.transport._mailbox import Mailbox, Verdict
from mithridate.core.errors import BadArtefact

BATCH_FRAMES: Final = 256
MORE: Final = 7
"""The verdict on a chunk whose frame is not complete yet."""
_BATCH, _CHUNK = b"\x01", b"\x02"
_OFFSET = struct.Struct("<Q")
_ANSWER = struct.Struct("<QQ")
_CHUNK_START = 1 + HEADER_BYTES + _OFFSET.size
OVERHEAD: Final = 256
"""A message may be longer than `message_bytes` by this much."""
_SLOWEST = 100_000
"""Bytes a second below which a long frame is given up, after a grace of `stall_seconds`."""


def batch(frames: Sequence[Frame]) -> bytes:
    """Return the message of whole frames."""
    return b"".join((_BATCH, *(part for frame in frames for part in (encode_header(frame), frame.body()))))


def chunks(frame: Frame, size: int) -> Iterator[bytes]:
    """Yield the messages of a long frame."""
    header, body = encode_header(frame), frame.body()
    for offset in range(0, len(body), size):
        yield b"".join((_CHUNK, header, _OFFSET.pack(offset), body[offset : offset + size]))


def read_answer(data: bytes, count: int) -> tuple[int, int, list[int]]:
    """Return session, round and `count` verdicts; what a peer does not answer, or wrongly, counts as refused."""
    if len(data) < _ANSWER.size:
        return 0, 0, [Verdict.REFUSED] * count
    session, number = _ANSWER.unpack_from(data)
    verdicts = [code if code <= MORE else int(Verdict.REFUSED) for code in data[_ANSWER.size : _ANSWER.size + count]]
    return session, number, verdicts + [int(Verdict.REFUSED)] * (count - len(verdicts))


@dataclass
class _Partial:
    """A long frame of which some is here."""

    header: Header
    raw: bytes
    body: bytearray
    until: float
    filled: int = 0
    crc: int = 0


class Reader:
    """Reads the messages of one peer into the mailbox; whatever they are, it answers and never raises.

    Args:
        mailbox: Where frames go.
        sender: The peer.
        session: Our own session, for the answers.
    """

    def __init__(self, mailbox: Mailbox, sender: int, session: int) -> None:
        self.mailbox, self.sender, self.session = mailbox, sender, session
        self._partial: _Partial | None = None

    @property
    def waiting(self) -> float | None:
        """How many seconds the frame that is on its way may still take; None if there is none."""
        return None if self._partial is None else max(0.0, self._partial.until - time.monotonic())

    @property
    def reserved(self) -> int:
        """Bytes taken for a frame that is on its way."""
        return 0 if self._partial is None else len(self._partial.body)

    def drop(self, reason: str) -> None:
        """Give up the frame that is on its way."""
        self._partial = None
        self.mailbox.refuse(self.sender, reason)

    def read(self, message: bytes) -> tuple[bytes, list[int]]:
        """Take one message; return the answer and its verdicts."""
        verdicts: list[int] = []
        try:
            if message[:1] == _BATCH:
                self._read_batch(memoryview(message)[1:], verdicts)
            elif message[:1] == _CHUNK:
                verdicts.append(self._read_chunk(memoryview(message)))
            else:
                raise BadArtefact("MTH-0900", f"a message of {len(message)} bytes is neither frames nor a chunk")
        except BadArtefact as error:
            self._partial = None
            self.mailbox.refuse(self.sender, error.code)
            verdicts.append(Verdict.REFUSED)
        return _ANSWER.pack(self.session, self.mailbox.round) + bytes(verdicts), verdicts

    def _read_batch(self, rest: memoryview, verdicts: list[int]) -> None:
        while rest:
            if len(verdicts) == BATCH_FRAMES:
                raise BadArtefact("MTH-0900", f"a message of node {self.sender} has more than {BATCH_FRAMES} frames")
            try:
                header = decode_header(rest, self.mailbox.schema, sender=self.sender)
                body = rest[HEADER_BYTES : HEADER_BYTES + header.nbytes]
                verdicts.append(self.mailbox.admit(header.frame(bytes(body))))
            except BadArtefact as error:
                # What is well formed and not for us may have honest frames after it.
                if error.code == "MTH-0900" or announced_bytes(rest) > len(rest):
                    raise
                self.mailbox.refuse(self.sender, error.code)
                verdicts.append(Verdict.REFUSED)
            rest = rest[announced_bytes(rest) :]

    def _read_chunk(self, message: memoryview) -> int:
        if len(message) < _CHUNK_START:
            raise BadArtefact("MTH-0900", f"a chunk of {len(message)} bytes is cut off")
        raw = bytes(message[1 : 1 + HEADER_BYTES])
        (offset,) = _OFFSET.unpack_from(message, 1 + HEADER_BYTES)
        if offset == 0:
            header = decode_header(raw, self.mailbox.schema, sender=self.sender)
            verdict = self._begin(header, raw)
            if verdict is not Verdict.KEPT:
                return verdict
        partial, piece = self._partial, message[_CHUNK_START:]
        if partial is None or partial.raw != raw or partial.filled != offset or not piece:
            raise BadArtefact("MTH-0900", f"a chunk of node {self.sender} at byte {offset} continues nothing")
        if len(piece) > len(partial.body) - offset:
            raise BadArtefact("MTH-0900", f"a chunk of node {self.sender} ends beyond its frame")
        partial.body[offset : offset + len(piece)] = piece
        partial.filled += len(piece)
        partial.crc = zlib.crc32(piece, partial.crc)
        if partial.filled < len(partial.body):
            return MORE
        self._partial = None
        return self.mailbox.admit(partial.header.frame(partial.body, crc=partial.crc))

    def _begin(self, header: Header, raw: bytes) -> Verdict:
        """Take memory for a long frame, unless it would not be kept anyway."""
        self._partial = None
        verdict = self.mailbox.preview(header.slot, sender=self.sender, nbytes=header.nbytes, crc=header.crc)
        if verdict is Verdict.KEPT:
            until = time.monotonic() + self.mailbox.limits.stall_seconds + header.nbytes / _SLOWEST
            self._partial = _Partial(header, raw, bytearray(header.nbytes), until)
        else:
            self.mailbox.refuse(self.sender, verdict.name.lower())
        return verdict
