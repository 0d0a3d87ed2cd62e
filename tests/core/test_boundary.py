"""The decode boundary: good bytes come back as they were; bad ones give `BadArtefact` and nothing else."""

import io
import json
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mithridate.core.boundary import (
    Caps,
    decode_image,
    read_bytes,
    read_json,
    read_npz,
    read_parquet,
    read_safetensors,
    read_yaml,
    sniff,
)
from mithridate.core.errors import BadArtefact


def encoded(pixels: np.ndarray, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def picture(mode: str, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((12, 9)).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


def code_of(call) -> str:
    with pytest.raises(BadArtefact) as caught:
        call()
    return caught.value.code


def mutants(data: bytes, count: int, *, seed: int) -> Iterator[bytes]:
    """Yield damaged copies: cut at either end, or with one to four bytes changed, or both."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        start, stop = 0, len(data)
        if rng.random() < 0.3:
            start, stop = (
                sorted(rng.integers(0, len(data) + 1, 2)) if rng.random() < 0.2 else (0, rng.integers(len(data)))
            )
        damaged = bytearray(data[start:stop])
        for place in rng.integers(0, max(len(damaged), 1), rng.integers(1, 5)):
            if damaged:
                damaged[place] = rng.integers(256)
        yield bytes(damaged)


def damage(read: Callable[[Path], object], path: Path, count: int) -> None:
    """Read damaged copies of a file: a value or the one error, and neither always."""
    refused = 0
    for damaged in mutants(path.read_bytes(), count, seed=0):
        # Overwriting would wait for the disk on some file systems.
        path.unlink()
        path.write_bytes(damaged)
        try:
            read(path)
        except BadArtefact as error:
            assert error.code.startswith("MTH-02"), error
            refused += 1
    assert 0.2 * count < refused < count


colours = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
greys = colours[:, :, 0].copy()


# Images


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_images_come_back_exactly(format, options):
    data = encoded(colours, format, **options)
    assert sniff(data) == format.lower()
    np.testing.assert_array_equal(decode_image(data), colours)


def test_grey_images_keep_one_channel_unless_told():
    data = encoded(greys, "PNG")
    np.testing.assert_array_equal(decode_image(data), greys[:, :, None])
    np.testing.assert_array_equal(decode_image(data, mode="RGB"), np.repeat(greys[:, :, None], 3, axis=2))
    assert decode_image(encoded(colours, "PNG"), mode="L").shape == (9, 12, 1)


def test_sixteen_bits_are_scaled_and_not_clipped():
    levels = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    expected = [[0, 0, 1, 1, 128, 255]]
    data = encoded(levels, "PNG")
    np.testing.assert_array_equal(decode_image(data)[:, :, 0], expected)
    assert decode_image(data, mode="RGB").shape == (1, 6, 3)


@pytest.mark.parametrize(
    ("mode", "format", "channels"),
    [
        ("1", "PNG", 1),
        ("L", "PNG", 1),
        ("LA", "PNG", 1),
        ("P", "PNG", 3),
        ("RGBA", "PNG", 3),
        ("L", "JPEG", 1),
        ("CMYK", "JPEG", 3),
        ("RGBA", "WEBP", 3),
    ],
)
def test_modes(mode, format, channels):
    found = decode_image(picture(mode, format))
    assert found.shape == (9, 12, channels)
    assert found.dtype == np.uint8


def test_a_palette_with_transparency_gives_no_warning():
    image = Image.fromarray(colours).quantize(8)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes(range(8)))
    assert decode_image(buffer.getvalue()).shape == (9, 12, 3)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_animations_are_refused(format):
    frames = [Image.fromarray(colours), Image.fromarray(255 - colours)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:])
    assert code_of(lambda: decode_image(buffer.getvalue())) == "MTH-0204"


@pytest.mark.parametrize("format", ["GIF", "TIFF", "BMP", "ICO"])
def test_other_formats_are_refused(format):
    assert code_of(lambda: decode_image(encoded(colours, format))) == "MTH-0201"


def test_the_cap_names_the_image_and_the_sizes():
    with pytest.raises(BadArtefact, match="cat has 12 x 9 pixels, at most 107 are accepted"):
        decode_image(encoded(colours, "PNG"), max_pixels=107, name="cat")
    assert decode_image(encoded(colours, "PNG"), max_pixels=108).shape == (9, 12, 3)


WHOLE = [
    encoded(colours, "PNG"),
    encoded(colours, "JPEG"),
    encoded(colours, "WEBP"),
    encoded(colours, "WEBP", lossless=True),
    picture("RGBA", "WEBP"),
]


@pytest.mark.parametrize("data", WHOLE, ids=["png", "jpeg", "webp", "webp-lossless", "webp-alpha"])
def test_truncated_images(data):
    refused = 0
    for length in range(len(data)):
        try:
            assert decode_image(data[:length]).shape[:2] == (9, 12)
        except BadArtefact:
            refused += 1
    assert refused > 0.8 * len(data)


def test_damaged_images_give_pixels_or_one_error():
    refused = 0
    for number, data in enumerate(WHOLE):
        for damaged in mutants(data, 400, seed=number):
            try:
                assert decode_image(damaged, max_pixels=1 << 20).dtype == np.uint8
            except BadArtefact as error:
                assert error.code in ("MTH-0200", "MTH-0201", "MTH-0202", "MTH-0204")
                refused += 1
    assert 200 < refused < 1990


# Files


@pytest.mark.parametrize(
    "read", [read_bytes, read_parquet, read_npz, read_safetensors, read_json], ids=lambda read: read.__name__
)
@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "device", "nul", "empty", "garbage"])
def test_what_is_no_file_of_the_format(read, kind, tmp_path):
    path = tmp_path / "file"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "nul":
        path = tmp_path / "a\0b"
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "garbage":
        path.write_bytes(b"garbage" * 10)
    if read is read_bytes and kind in ("empty", "garbage"):
        assert read(path) == path.read_bytes()
        return
    expected = ("MTH-0200", "MTH-0201", "MTH-0202") if kind in ("empty", "garbage") else ("MTH-0208",)
    assert code_of(lambda: read(path)) in expected


def test_the_size_of_a_file_is_capped(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(101))
    assert code_of(lambda: read_bytes(path, Caps(file_bytes=100))) == "MTH-0202"
    assert len(read_bytes(path, Caps(file_bytes=101))) == 101


# Parquet


TABLE = pa.table(
    {"image": [{"bytes": bytes([k]) * 50, "path": f"{k}.png"} for k in range(100)], "label": list(range(100))},
    schema=pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={"classes": "a,b"},
    ),
)


@pytest.fixture
def table(fast_path):
    path = fast_path / "t.parquet"
    pq.write_table(TABLE, path, row_group_size=30)
    return path


def test_parquet_comes_back_with_its_metadata(table):
    found = read_parquet(table)
    assert found.equals(TABLE)
    assert found.schema.metadata[b"classes"] == b"a,b"
    chosen = read_parquet(table, ["label"])
    assert chosen.column_names == ["label"]
    assert chosen.schema.metadata[b"classes"] == b"a,b"
    assert chosen.column("label").to_pylist() == list(range(100))


def test_an_empty_table_keeps_its_columns(tmp_path):
    pq.write_table(TABLE.slice(0, 0), tmp_path / "t.parquet")
    assert read_parquet(tmp_path / "t.parquet").schema.equals(TABLE.schema)


def test_a_missing_column_names_those_that_are_there(table):
    with pytest.raises(BadArtefact, match="no column 'img'") as caught:
        read_parquet(table, ["label", "img"])
    assert caught.value.code == "MTH-0203"
    assert caught.value.hint == "it has 'image', 'label'"


def test_damaged_parquet(table):
    damage(read_parquet, table, 600)


# NPZ


def npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy_header(descr: object, shape: object, *, fortran: bool = False) -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape!r}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zipped(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


ARRAYS = {
    "images": colours,
    "labels": np.arange(5),
    "floats": np.array([[math.nan, math.inf], [0.5, -0.0]], dtype=np.float32),
    "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "flags": np.array([True, False]),
    "names": np.array(["cat", "dög"]),
    "scalar": np.array(3),
    "empty": np.zeros((0, 4)),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_exactly(save, tmp_path):
    save(tmp_path / "a.npz", **ARRAYS)
    found = read_npz(tmp_path / "a.npz")
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        assert found[name].flags.writeable


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (npz(x=np.array([{"a": 1}], dtype=object)), "MTH-0204"),
        (npz(x=np.zeros(3, dtype=[("a", "i4")])), "MTH-0204"),
        (npz(x=np.zeros(3, dtype=complex)), "MTH-0204"),
        (npz(x=np.zeros(3, dtype="datetime64[s]")), "MTH-0204"),
        (zipped([("x.npy", npy_header("<f8", (3,)) + bytes(23))]), "MTH-0205"),
        (zipped([("x.npy", npy_header("<f8", (3,)) + bytes(25))]), "MTH-0205"),
        (zipped([("x.npy", npy_header("<f8", (-3,)) + bytes(24))]), "MTH-0204"),
        (zipped([("x.npy", npy_header("<f8", (1 << 62, 1 << 62)))]), "MTH-0202"),
        (zipped([("x.npy", npy_header("|O", (3,)) + b"cos\nsystem\n(S'true'\ntR.")]), "MTH-0204"),
        (zipped([("x.npy", b"\x93NUMPY\x03\x00" + bytes(60))]), "MTH-0204"),
        (zipped([("x.npy", b"not npy")]), "MTH-0200"),
        (zipped([("x.npy", b"")]), "MTH-0200"),
    ],
)
def test_arrays_that_are_refused(data, code, tmp_path):
    (tmp_path / "a.npz").write_bytes(data)
    assert code_of(lambda: read_npz(tmp_path / "a.npz")) == code


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name_are_refused(tmp_path):
    whole = npy_header("<f8", (1,)) + bytes(8)
    (tmp_path / "a.npz").write_bytes(zipped([("x.npy", whole), ("x.npy", whole)]))
    assert code_of(lambda: read_npz(tmp_path / "a.npz")) == "MTH-0206"


def test_every_flipped_byte_of_npz_data_is_found_by_the_zip(tmp_path):
    data = npz(x=np.arange(40, dtype=np.uint8))
    start = data.index(bytes(range(40)))
    path = tmp_path / "a.npz"
    for place in range(start, start + 40):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert code_of(lambda: read_npz(path)) == "MTH-0200"


def test_damaged_npz(fast_path):
    path = fast_path / "a.npz"
    path.write_bytes(npz(images=colours[:2], labels=np.arange(5)))
    damage(read_npz, path, 1500)


# Safetensors


TENSORS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([True, False]), "n": np.array(7)}


def test_tensors_come_back_exactly(tmp_path):
    safetensors.numpy.save_file(TENSORS, tmp_path / "m.safetensors")
    found = read_safetensors(tmp_path / "m.safetensors")
    assert found.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        assert found[name].flags.writeable


def raw_safetensors(header: object, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_bfloat16_becomes_float32_exactly(tmp_path):
    values = np.array([1.0, -2.5, math.inf, 2.0**-120], dtype=np.float32)
    halves = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    header = {"w": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}
    (tmp_path / "m.safetensors").write_bytes(raw_safetensors(header, halves))
    np.testing.assert_array_equal(read_safetensors(tmp_path / "m.safetensors")["w"], values.reshape(2, 2))


def entry(start: int, stop: int, shape: list[int] | None = None, dtype: str = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape or [stop - start], "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    "data",
    [
        raw_safetensors({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)),
        raw_safetensors({"a": entry(0, 4)}, bytes(3)),
        raw_safetensors({"a": entry(0, 4)}, bytes(5)),
        raw_safetensors({"a": entry(0, 4, [2, 3])}, bytes(4)),
        raw_safetensors({"a": entry(0, 4, [1 << 40, 1 << 40])}, bytes(4)),
        raw_safetensors({"a": entry(0, 4, dtype="F8_E4M3")}, bytes(4)),
        raw_safetensors({"a": entry(0, 4, dtype="PICKLE")}, bytes(4)),
        raw_safetensors(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{}}', bytes(1)),
        raw_safetensors(b"[" * 5000, b""),
        struct.pack("<Q", 1 << 60) + b"{}",
        b"\1\2",
    ],
)
def test_tensors_that_are_refused(data, tmp_path):
    (tmp_path / "m.safetensors").write_bytes(data)
    assert code_of(lambda: read_safetensors(tmp_path / "m.safetensors")).startswith("MTH-02")


def test_damaged_safetensors(fast_path):
    path = fast_path / "m.safetensors"
    safetensors.numpy.save_file(TENSORS, path)
    damage(read_safetensors, path, 1500)


# JSON


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(plain)
def test_json_comes_back_exactly(value):
    assert read_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (b'{"a": 1, "b": 2, "a": 1}', "MTH-0206", "repeats the key 'a'"),
        (b'{"x": {"a": 1, "a": 2}}', "MTH-0206", "repeats the key 'a'"),
        (b"[NaN]", "MTH-0206", "NaN"),
        (b"[-Infinity]", "MTH-0206", "-Infinity"),
        (b"{", "MTH-0200", "line 1"),
        (b"", "MTH-0200", ""),
        (b"[1] [2]", "MTH-0200", "Extra data"),
        (b"\xff\xfe", "MTH-0200", "UnicodeDecodeError"),
        (b'"\\ud800"', "MTH-0200", "UnicodeEncodeError"),
        (b'{"\\udc00": 1}', "MTH-0200", "UnicodeEncodeError"),
        (b"[" * 33 + b"]" * 33, "MTH-0202", "levels deep"),
        (b"[" * 100_000, "MTH-0200", "RecursionError"),
        (b"9" * 5000, "MTH-0200", "ValueError"),
    ],
)
def test_json_that_is_refused(text, code, words):
    with pytest.raises(BadArtefact) as caught:
        read_json(text)
    assert caught.value.code == code
    assert words in caught.value.message


def test_json_depth_at_the_cap_is_read():
    value = read_json(b"[" * 32 + b"]" * 32)
    for _ in range(31):
        value = value[0]
    assert value == []


def test_json_entries_are_counted_before_parsing():
    assert code_of(lambda: read_json(b"[" + b"0," * 100 + b"0]", caps=Caps(entries=100))) == "MTH-0202"
    assert len(read_json(b"[" + b"0," * 99 + b"0]", caps=Caps(entries=100))) == 100


@given(st.binary(max_size=60))
@example(b"\xef\xbb\xbf{}")
def test_any_bytes_are_json_or_one_error(data):
    try:
        read_json(data)
    except BadArtefact as error:
        assert error.code.startswith("MTH-02")


# YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# nothing\n", None),
        ("a: 1\nb: [x, 'y', \"z\"]\n", {"a": 1, "b": ["x", "y", "z"]}),
        ("a: 1e-3\nb: 1.\nc: -.5\nd: 6.02e+23", {"a": 0.001, "b": 1.0, "c": -0.5, "d": 6.02e23}),
        ("a: true\nb: False\nc: ~\nd:\ne: null", {"a": True, "b": False, "c": None, "d": None, "e": None}),
        (
            "a: no\nb: on\nc: 2020-01-01\nd: 12:30\ne: 1_000",
            {"a": "no", "b": "on", "c": "2020-01-01", "d": "12:30", "e": "1_000"},
        ),
        ("a: 010\nb: 0x1f\nc: 0o17\nd: '1'", {"a": 10, "b": 31, "c": 15, "d": "1"}),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
        ("a: .inf\nb: -.Inf", {"a": math.inf, "b": -math.inf}),
        ("epsilon: 16/255", {"epsilon": "16/255"}),
        ("---\na: 1\n...\n", {"a": 1}),
    ],
)
def test_yaml_values(text, value):
    assert read_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", "MTH-0206", "line 3: the key 'a' is given twice, first on line 1"),
        ("a: &x 1\nb: *x\n", "MTH-0207", "line 2: the alias *x is not accepted"),
        ("a:\n  <<: {b: 1}\n  b: 2\n  <<: {}\n", "MTH-0206", "line 4: the key '<<' is given twice"),
        ("a: !!python/object/apply:os.system ['true']\n", "MTH-0207", "line 1: the tag tag:yaml.org,2002:python"),
        ("a: !!int 3\n", "MTH-0207", "line 1: the tag"),
        ("1: a\n", "MTH-0206", "line 1: the key '1' is no text"),
        ("? [a]\n: b\n", "MTH-0206", "the key \"['a']\" is no text"),
        ("null: a\n", "MTH-0206", "the key 'None' is no text"),
        ("a: 1\n---\nb: 2\n", "MTH-0207", "line 2: a second document begins"),
        ("a: [1, 2\nb: 3\n", "MTH-0207", "line 2"),
        ("a: b: c\n", "MTH-0207", "line 1"),
        ("a:\n\t- 1\n", "MTH-0207", "line 2"),
        ("a: \0", "MTH-0200", "special characters are not allowed"),
        ("a: '\ud800'", "MTH-0200", "UnicodeEncodeError"),
        ("[" * 17 + "]" * 17, "MTH-0202", "line 1: nested too deeply"),
        ("%YAML 9.9\n---\na: 1\n", "MTH-0207", "line 1"),
        ("a: " + "9" * 5000, "MTH-0200", "ValueError"),
    ],
)
def test_yaml_that_is_refused(text, code, words):
    with pytest.raises(BadArtefact) as caught:
        read_yaml(text, "audit.yaml")
    assert caught.value.code == code
    assert caught.value.message.startswith("audit.yaml")
    assert words in caught.value.message


config = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["no", "16/255", "a b", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc_: #'", min_size=1), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text("abc", min_size=1), config, max_size=4))
def test_what_is_dumped_is_read_back(value):
    assert read_yaml(yaml.safe_dump(value)) == value


@settings(max_examples=300)
@given(st.text(alphabet="ab:-?{}[]&*!|>'\"%@`#,\n \t0.~<", max_size=60))
def test_any_text_is_yaml_or_one_error(text):
    try:
        read_yaml(text)
    except BadArtefact as error:
        assert error.code.startswith("MTH-02")


def test_errors_of_decoders_stay_short():
    with pytest.raises(BadArtefact) as caught:
        read_json(b'{"' + b"k" * 10_000 + b'": x}')
    assert len(caught.value.message) < 400


def test_crc_of_png_is_checked():
    data = bytearray(encoded(colours, "PNG"))
    place = bytes(data).index(b"IDAT") + 10
    data[place] ^= 1
    assert zlib.crc32(bytes(data))
    assert code_of(lambda: decode_image(bytes(data))) == "MTH-0200"
