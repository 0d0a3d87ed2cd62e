"""Frames: what is written is read, and nothing else is; refused before memory is taken, and always by one error."""

import random
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mithridate.byzantine.messages import (
    DTYPES,
    HEADER_BYTES,
    LAYERS,
    Expected,
    Frame,
    Schema,
    decode,
    decode_header,
    encode,
)
from mithridate.core.errors import BadArtefact, Misuse

SCHEMA = Schema(
    kinds={
        "gradient": Expected(dtype="float32", numel=10),
        "model": Expected(dtype="float64", numel=3),
        "note": Expected(dtype="bytes", numel=20, exact=False),
    },
    layers=frozenset(LAYERS),
)


def gradient(sender: int = 3, round: int = 5, phase: int = 1, fill: float = 1.5) -> Frame:
    return Frame("gradient", round, phase, sender, np.full(10, fill, np.float32))


def same(a: Frame, b: Frame) -> bool:
    return a.slot == b.slot and a.sender == b.sender and a.dtype == b.dtype and bytes(a.body()) == bytes(b.body())


@given(
    round_=st.integers(0, 2**64 - 1),
    phase=st.integers(0, SCHEMA.phases - 1),
    sender=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(sorted(DTYPES)),
    data=st.binary(max_size=64),
)
def test_what_is_written_is_read(round_, phase, sender, dtype, data):
    item = DTYPES[dtype][1].itemsize
    data = data[: len(data) // item * item]
    payload = data if dtype == "bytes" else np.frombuffer(data, DTYPES[dtype][1])
    frame = Frame("kind-1", round_, phase, sender, payload)
    schema = Schema(kinds={"kind-1": Expected(dtype=dtype, numel=len(payload))})
    wire = encode(frame)
    assert len(wire) == HEADER_BYTES + len(data)
    assert same(decode(wire, schema, sender=sender), frame)


def test_a_frame_is_a_snapshot():
    array = np.zeros(10, np.float32)
    frame = Frame("gradient", 0, 0, 1, array)
    array[:] = 7
    assert not frame.array().any()
    with pytest.raises(ValueError, match="read-only"):
        frame.array()[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        decode(encode(gradient()), SCHEMA, sender=3).array()[0] = 1


def test_the_header_by_hand():
    wire = encode(Frame("note", 2, 1, 3, b"ab", "echo", 4))
    expected = b"MTHB" + bytes([1, 1, 0, 0]) + b"note".ljust(16, b"\0")
    expected += (2).to_bytes(8, "little") + b"".join(k.to_bytes(4, "little") for k in (1, 3, 4))
    expected += (2).to_bytes(8, "little") * 2 + zlib.crc32(b"ab").to_bytes(4, "little")
    assert wire == expected + b"ab"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (Frame("gradient", 0, 0, 3, np.zeros(11, np.float32)), "MTH-0901"),
        (Frame("gradient", 0, 0, 3, np.zeros(9, np.float32)), "MTH-0901"),
        (Frame("gradient", 0, 0, 3, np.zeros(10, np.float64)), "MTH-0901"),
        (Frame("gradient", 0, 0, 3, b"0" * 40), "MTH-0901"),
        (Frame("gradients", 0, 0, 3, np.zeros(10, np.float32)), "MTH-0901"),
        (Frame("gradient", 0, 256, 3, np.zeros(10, np.float32)), "MTH-0901"),
        (Frame("note", 0, 0, 3, b"0" * 21), "MTH-0901"),
        (Frame("note", 0, 0, 3, b"0" * 20_000, "echo"), "MTH-0901"),
        (Frame("gradient", 0, 0, 2, np.zeros(10, np.float32)), "MTH-0903"),
        (Frame("gradient", 0, 0, 3, np.zeros(10, np.float32), "data", 2), "MTH-0903"),
    ],
)
def test_what_is_not_expected_is_refused(frame, code):
    with pytest.raises(BadArtefact) as caught:
        decode(encode(frame), SCHEMA, sender=3)
    assert caught.value.code == code


def test_a_layer_that_is_not_read_is_refused():
    plain = Schema(kinds=SCHEMA.kinds)
    with pytest.raises(BadArtefact, match="nobody expects"):
        decode(encode(Frame("note", 0, 0, 3, b"", "ready")), plain, sender=3)
    assert decode(encode(Frame("note", 0, 0, 3, b"", "ready")), SCHEMA, sender=3).layer == "ready"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Frame("Big", 0, 0, 0, b""),
        lambda: Frame("k" * 17, 0, 0, 0, b""),
        lambda: Frame("k", -1, 0, 0, b""),
        lambda: Frame("k", 0, 2**32, 0, b""),
        lambda: Frame("k", 0, 0, 0, b"", "shout"),
        lambda: Frame("k", 0, 0, 0, np.zeros((2, 2), np.float32)),
        lambda: Frame("k", 0, 0, 0, np.array(["a"])),
        lambda: Expected(dtype="float8", numel=1),
    ],
)
def test_our_own_mistakes_are_misuse(make):
    with pytest.raises(Misuse) as caught:
        make()
    assert caught.value.code == "MTH-0904"


def test_every_single_byte_that_changes_is_noticed():
    wire = encode(gradient())
    for place in range(len(wire)):
        for change in (1, 128, 255):
            damaged = bytearray(wire)
            damaged[place] ^= change
            try:
                frame = decode(bytes(damaged), SCHEMA, sender=3)
            except BadArtefact:
                continue
            # Round, phase and origin may be other numbers: the connection protects them. The payload may not.
            assert frame.slot != gradient().slot
            assert bytes(frame.body()) == bytes(gradient().body())


def test_every_cut_is_noticed():
    wire = encode(gradient())
    for length in range(len(wire)):
        with pytest.raises(BadArtefact):
            decode(wire[:length], SCHEMA, sender=3)
    with pytest.raises(BadArtefact):
        decode(wire + b"\0", SCHEMA, sender=3)


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_give_a_frame_or_one_error(data, magic):
    data = b"MTHB\x01" + data if magic else data
    try:
        decode(data, SCHEMA, sender=3)
    except BadArtefact as error:
        assert error.code in ("MTH-0900", "MTH-0901", "MTH-0903")


def test_mutants_give_an_equal_frame_or_one_error():
    rng = random.Random(0)
    seeds = [
        encode(gradient()),
        encode(Frame("note", 1, 0, 3, b"abc")),
        encode(Frame("note", 1, 0, 3, b"", "ready", 2)),
    ]
    accepted = refused = 0
    for _ in range(20_000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(0, 4)):
            action, place = rng.randrange(4), rng.randrange(len(data) + 1)
            if action == 0 and place < len(data):
                data[place] = rng.randrange(256)
            elif action == 1:
                del data[place : place + rng.randint(1, 8)]
            elif action == 2:
                data[place:place] = rng.randbytes(rng.randint(1, 8))
            elif place + 8 <= len(data):
                data[place : place + 8] = rng.choice((0, 1, 2**31, 2**63, 2**64 - 1)).to_bytes(8, "little")
        try:
            frame = decode(bytes(data), SCHEMA, sender=3)
        except BadArtefact:
            refused += 1
            continue
        accepted += 1
        assert encode(frame) == bytes(data)
    assert accepted > 1000
    assert refused > 1000


def test_an_announced_size_takes_no_memory():
    schema = Schema(kinds={"gradient": Expected(dtype="float32", numel=1 << 28)})
    wire = bytearray(encode(Frame("gradient", 0, 0, 3, np.zeros(4, np.float32))))
    tracemalloc.start()
    try:
        for numel in (1 << 20, 1 << 27, (1 << 28) + 1, 1 << 40, (1 << 62) - 1):
            wire[44:60] = numel.to_bytes(8, "little") + (4 * numel % (1 << 64)).to_bytes(8, "little")
            with pytest.raises(BadArtefact):
                decode(bytes(wire), schema, sender=3)
        # The header alone may be right: then it is for the reader of chunks to take the memory, once.
        wire[44:60] = (1 << 28).to_bytes(8, "little") + (1 << 30).to_bytes(8, "little")
        assert decode_header(bytes(wire), schema, sender=3).nbytes == 1 << 30
        with pytest.raises(BadArtefact):
            decode(bytes(wire), schema, sender=3)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
