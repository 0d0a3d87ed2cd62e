"""Small files that stand for huge values, and a child process that reads each of them under a memory limit.

Run as a program with a folder: reads every file in it and prints one JSON line each: name, error, memory.
"""

import io
import json
import pickle
import resource
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mithridate.core import boundary
from mithridate.core.errors import BadArtefact

MIB = 1 << 20
HEADROOM = 256 * MIB


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, rows: bytes, *, extra: bytes = b"") -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + png_chunk(b"IDAT", zlib.compress(rows, 9)) + png_chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def animation(width: int, height: int) -> bytes:
    """Return two tiny frames on a canvas that the decoder allocates when it is opened."""
    from PIL import Image

    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    data = bytearray(buffer.getvalue())
    data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


def webp(kind: bytes, body: bytes) -> bytes:
    chunk = kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def npy(shape: tuple[int, ...], data: bytes, descr: str = "|u1") -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def npz(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def parquet(table: pa.Table, **options: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def safetensors(header: bytes, body: bytes = b"", *, declared: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if declared is None else declared) + header + body


def make_bombs(folder: Path) -> None:
    """Write one bomb a file; the suffix says which reader gets it."""
    gib = 1 << 30
    value = b"x" * 900_000
    repeated = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), pa.array([value]))
    crowd = bytearray(npz(("x.npy", npy((1,), b"1"))))
    index = crowd.index(b"PK\x01\x02")
    entry = bytes(crowd[index : crowd.index(b"PK\x05\x06")])
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(entry) * 65535, index, 0)
    bombs = {
        "claims-100-gib.npz": npz(("x.npy", npy((100 * gib,), b""))),
        "claims-overflow.npz": npz(("x.npy", npy((1 << 62, 1 << 62), b""))),
        "zeros.npz": npz(("x.npy", npy((gib // 4,), bytes(gib // 4))), method=zipfile.ZIP_DEFLATED),
        "many-zeros.npz": npz(
            *((f"x{k}.npy", npy((16 * MIB,), bytes(16 * MIB))) for k in range(24)), method=zipfile.ZIP_DEFLATED
        ),
        "long-header.npz": npz(("x.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31) + b"(" * 1000)),
        "deep-header.npz": npz(("x.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 9000) + b"(" * 9000)),
        "crowd.npz": bytes(crowd[:index]) + entry * 65535 + end,
        "huge.png": png(1 << 30, 1 << 30, b"0"),
        "wide.png": png((1 << 31) - 1, 1, b"0"),
        "filled.png": png(16_000, 16_000, bytes(16_001 * 16_000)),
        "text.png": png(1, 1, b"\0\0", extra=png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(100 * MIB), 9))),
        "profile.png": png(1, 1, b"\0\0", extra=png_chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(100 * MIB), 9))),
        "huge.jpeg": jpeg(65_500, 65_500),
        "canvas.webp": webp(b"VP8X", b"\x02\0\0\0" + b"\xff\xff\xff" * 2),
        "animation.webp": animation(16_383, 16_383),
        "lossless.webp": webp(b"VP8L", b"\x2f" + struct.pack("<I", 0x3FFF | 0x3FFF << 14) + bytes(20)),
        "lossy.webp": webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 0x3FFF, 0x3FFF) + bytes(20)),
        "zeros.parquet": parquet(pa.table({"x": np.zeros(gib // 32)}), compression="zstd", use_dictionary=False),
        "repeated.parquet": parquet(pa.table({"x": repeated}), store_schema=False),
        "aliases.yaml": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (k, k, b",".join([b"*%c" % (k - 1)] * 9)) for k in range(98, 108)),
        "deep.yaml": b"[" * 500_000,
        "deep-block.yaml": b"".join(b" " * k + b"- \n" for k in range(900)),
        "many.yaml": b"[" + b"a," * 400_000 + b"a]",
        "number.yaml": b"a: " + b"9" * 1_000_000,
        "deep.json": b'{"a":' * 5_000_000,
        "brackets.json": b"[" * 30_000_000,
        "keys.json": b"{" + b",".join(b'"%d":0' % k for k in range(1_500_000)) + b"}",
        "lists.json": b"[" + b"[]," * 3_000_000 + b"[]]",
        "number.json": b"9" * 10_000_000,
        "header.safetensors": safetensors(b"{}", declared=1 << 62),
        "spaces.safetensors": safetensors(b"{" + b" " * (90 * MIB) + b"}"),
        "claims.safetensors": safetensors(
            b'{"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}'
        ),
        "pickle.npz": npz(("x.npy", npy((1,), pickle.dumps([1]), "|O"))),
    }
    for name, data in bombs.items():
        (folder / name).write_bytes(data)


READERS = {
    ".npz": boundary.read_npz,
    ".parquet": boundary.read_parquet,
    ".safetensors": boundary.read_safetensors,
    ".json": boundary.read_json,
    ".yaml": lambda path: boundary.read_yaml(path.read_text()),
    **{suffix: lambda path: boundary.decode_image(path.read_bytes()) for suffix in (".png", ".jpeg", ".webp")},
}


def rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def defuse(folder: Path) -> None:
    """Read every bomb with little memory to spare, and say what happened."""
    import PIL.JpegImagePlugin
    import PIL.PngImagePlugin
    import PIL.WebPImagePlugin  # noqa: F401 - loaded before the memory is limited, as are the others
    import safetensors as library

    assert library and b"a".decode("cp437") == "a"  # the encoding of names in a zip
    armed: list[str] = []
    loaded = set(sys.modules)

    def watch(event: str, details: tuple[object, ...]) -> None:
        new = event == "import" and str(details[0]).partition(".")[0] not in {name.partition(".")[0] for name in loaded}
        if new or event in ("pickle.find_class", "exec", "os.system", "subprocess.Popen", "os.exec", "socket.connect"):
            armed.append(f"{event} {details!r}"[:200])

    pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (pages + 2 * HEADROOM, pages + 2 * HEADROOM))
    sys.addaudithook(watch)
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        before, outcome = rss(), "a value"
        armed.clear()
        try:
            READERS[path.suffix](path)
        except BadArtefact as error:
            outcome = f"{error.code} {error.message}"
        except BaseException as error:  # noqa: BLE001 - what else comes out is the finding
            outcome = f"{type(error).__name__}: {error}"
        sys.stdout.write(
            json.dumps({"name": path.name, "outcome": outcome, "grew": rss() - before, "events": armed}) + "\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    defuse(Path(sys.argv[1]))
