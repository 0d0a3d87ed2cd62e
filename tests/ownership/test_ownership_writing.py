"""Marked files: only listed ones change, in their own containers, and epsilon holds after decoding."""

import hashlib
import io
import json
import os
import stat

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, JpegImagePlugin

from mithridate.core.boundary import decode_image
from mithridate.core.errors import Misuse
from mithridate.data.rewriting import encoded, locate
from mithridate.data.sources import load
from mithridate.ownership.encoding import container
from mithridate.ownership.keys import Key
from mithridate.ownership.marking import Marking, Signal, mark
from mithridate.ownership.writing import Writing, write

EPSILON = 16 / 255
LEVELS = 16
SIDE = 16


def smooth(seed, side=SIDE, channels=3):
    """A picture with structure, as photographs have, so that codecs behave as they do on photographs."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(40, 216, (4, 4, 3), dtype=np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    return small if channels == 3 else small.convert("L")


def coded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def exif():
    found = Image.Exif()
    found[0x010E] = "a description"
    return found


OPTIONS = {
    "png": ("PNG", {"dpi": (72, 72)}),
    "jpg": ("JPEG", {"quality": 85, "subsampling": 2, "exif": exif().tobytes()}),
    "webp": ("WEBP", {"quality": 90, "exif": exif().tobytes()}),
}


def folder(root, suffixes=("png",), *, count=10, side=SIDE, channels=3):
    for name, seed in (("cat", 0), ("dog", 1000)):
        (root / name).mkdir(parents=True)
        for k in range(count):
            suffix = suffixes[k % len(suffixes)]
            kind, options = OPTIONS[suffix]
            file = root / name / f"{k:03}.{suffix}"
            file.write_bytes(coded(smooth(seed + k, side, channels), kind, **options))
            os.utime(file, ns=(10**18 + k, 10**18 + k))
    (root / "README.txt").write_text("not an image")
    return root


def table(path, images):
    """Write a table as Hugging Face writes it."""
    path.parent.mkdir(exist_ok=True)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    column = pa.array([{"bytes": data, "path": f"{k}.png"} for k, data in enumerate(images)], kind)
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    found = pa.table(
        {"image": column, "label": pa.array([k % 2 for k in range(len(images))]), "id": range(len(images))}
    )
    found = found.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(found, path, row_group_size=7)
    return path


class Small(torch.nn.Module):
    def __init__(self, channels=3, side=SIDE):
        super().__init__()
        gen = torch.Generator().manual_seed(0)
        self.first = torch.nn.Parameter(torch.randn(channels * side * side, 12, generator=gen) * 0.05)
        self.head = torch.nn.Parameter(torch.randn(12, 2, generator=gen) * 0.3)

    def forward(self, x):
        return torch.nn.functional.softplus(x.flatten(1) @ self.first) @ self.head


def keys(shape, count=2):
    rng = np.random.default_rng(5)
    return [Key(index=i, label=i % 2, image=rng.integers(0, 256, shape, dtype=np.uint8)) for i in range(count)]


def marked(source, *, size=None, budget=3, channels=3):
    data = load(str(source), size=size, cache=source.parent / "cache").train
    net = Small(channels, data.images.shape[1])
    config = Marking(budget=budget, epsilon=EPSILON, steps=12, views=1)
    chosen = keys(data.images.shape)
    marks = mark(data, chosen, [net], config)
    return data, marks, chosen, Signal.of([net], data.images.shape, precision="fp32")


def written(source, out, **options):
    data, marks, chosen, signal = marked(source, **options)
    to = Writing(out=out, manifest=out.parent / "private.json")
    return data, marks, write(str(source), data, marks, chosen, signal=signal, to=to)


def test_only_listed_files_change_and_the_bound_holds_in_every_container(tmp_path):
    source = folder(tmp_path / "set", ("png", "jpg", "webp"), count=12)
    _, marks, result = written(source, tmp_path / "out", budget=6)
    listed = {image.file: image for image in result.images if image.share}
    assert {suffix for name in listed for suffix in (name.rsplit(".")[-1],)} == {"png", "jpg", "webp"}
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        name = str(file.relative_to(source))
        new = tmp_path / "out" / name
        assert new.stat().st_mtime_ns == file.stat().st_mtime_ns
        if name not in listed:
            assert new.read_bytes() == file.read_bytes()
            continue
        change = np.abs(decode_image(new.read_bytes()).astype(int) - decode_image(file.read_bytes()))
        assert 0 < change.max() == listed[name].levels <= LEVELS
        assert hashlib.sha256(new.read_bytes()).hexdigest() == listed[name].sha256_after
    assert len(result.images) == len(marks.rows) == 12
    assert all(key.written > 0.5 * key.marked for key in result.keys)


def test_the_manifest_is_private_and_names_every_image(tmp_path):
    source = folder(tmp_path / "set")
    _, marks, _ = written(source, tmp_path / "out")
    file = tmp_path / "private.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    document = json.loads(file.read_text())
    assert sorted(line["row"] for line in document["written"]) == sorted(marks.rows.tolist())
    assert str(tmp_path) not in json.dumps(document["written"])


def test_the_marked_folder_loads_as_the_marked_examples(tmp_path):
    """PNG is lossless: what was marked in memory is what is read."""
    source = folder(tmp_path / "set")
    data, marks, _ = written(source, tmp_path / "out")
    again = load(str(tmp_path / "out"), cache=tmp_path / "cache").train
    assert again.fingerprint == marks.apply(data).fingerprint


def test_parquet_keeps_everything_but_the_marked_cells(tmp_path):
    images = [coded(smooth(k), "PNG") for k in range(20)]
    file = table(tmp_path / "set" / "train.parquet", images)
    table(tmp_path / "set" / "test.parquet", images[:4])
    data, marks, result = written(tmp_path / "set", tmp_path / "out")
    old, new = pq.read_table(file), pq.read_table(tmp_path / "out" / "train.parquet")
    assert old.schema.equals(new.schema, check_metadata=True)
    assert pq.ParquetFile(tmp_path / "out" / "train.parquet").num_row_groups == pq.ParquetFile(file).num_row_groups
    changed = [row for row in range(20) if old["image"][row] != new["image"][row]]
    assert changed == sorted(image.row_in_file for image in result.images) == sorted(marks.rows.tolist())
    assert old.drop(["image"]).equals(new.drop(["image"]))
    assert (tmp_path / "out" / "test.parquet").read_bytes() == (tmp_path / "set" / "test.parquet").read_bytes()
    assert load(str(tmp_path / "out"), cache=tmp_path / "c2").train.fingerprint == marks.apply(data).fingerprint


def test_resized_images_are_marked_at_their_own_size(tmp_path):
    source = folder(tmp_path / "set", side=40)
    _, _, result = written(source, tmp_path / "out", size=SIDE)
    for image in result.images:
        old, new = (decode_image((root / image.file).read_bytes()) for root in (source, tmp_path / "out"))
        assert new.shape == old.shape == (40, 40, 3)
        assert 0 < np.abs(new.astype(int) - old).max() <= LEVELS
    assert all(key.written > 0.5 * key.marked for key in result.keys)


def test_a_palette_image_is_left_as_it_was(tmp_path):
    source = folder(tmp_path / "set")
    for file in source.rglob("*.png"):
        file.write_bytes(coded(Image.open(file).convert("P"), "PNG"))
    _, _, result = written(source, tmp_path / "out")
    assert len(result.left_out) == len(result.images) == 6
    assert all("mode P" in image.note for image in result.left_out)


def test_jpeg_keeps_tables_sampling_and_exif():
    old = coded(smooth(3), "JPEG", quality=60, subsampling=1, exif=exif().tobytes(), progressive=True)
    box = container(old)
    before, after = (Image.open(io.BytesIO(data)) for data in (old, box.encode(255 - box.pixels)))
    assert after.quantization == before.quantization
    assert JpegImagePlugin.get_sampling(after) == JpegImagePlugin.get_sampling(before) == 1
    assert after.info["progressive"] and after.info["exif"] == before.info["exif"]


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_the_quality_of_webp_is_found(quality):
    assert abs(container(coded(smooth(4, 64), "WEBP", quality=quality)).quality - quality) <= 3


def test_alpha_and_text_stay():
    picture = smooth(1)
    picture.putalpha(Image.fromarray(np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE)))
    box = container(coded(picture, "PNG"))
    after = Image.open(io.BytesIO(box.encode(box.pixels // 2)))
    assert after.mode == "RGBA" and after.getchannel("A").tobytes() == picture.getchannel("A").tobytes()


def test_what_cannot_be_written_is_refused(tmp_path):
    source = folder(tmp_path / "set")
    data, marks, chosen, signal = marked(source)
    with pytest.raises(Misuse, match="MTH-1042"):
        to = Writing(out=source / "inside", manifest=tmp_path / "m.json")
        write(str(source), data, marks, chosen, signal=signal, to=to)
    assert not (tmp_path / "m.json").exists()
    with pytest.raises(Misuse, match="MTH-1040"):
        locate("digits")
    (source / "cat" / "another.png").write_bytes(coded(smooth(77), "PNG"))
    with pytest.raises(Misuse, match="MTH-1043"):
        to = Writing(out=tmp_path / "out", manifest=tmp_path / "m.json")
        write(str(source), data, marks, chosen, signal=signal, to=to)
    assert not (tmp_path / "out").exists()


def test_a_set_without_files_becomes_parquet(tmp_path):
    """The embedded digits, and with them whatever comes from arrays or the hub."""
    located = locate("digits", scratch=tmp_path / "set")
    assert located.root == tmp_path / "set"
    digits, again = load("digits"), load(str(tmp_path / "set"), cache=tmp_path / "cache")
    assert again.fingerprint == digits.fingerprint


def test_one_file_is_written_without_its_neighbours(tmp_path):
    file = table(tmp_path / "set" / "mine.parquet", [coded(smooth(k), "PNG") for k in range(20)])
    table(tmp_path / "set" / "other.parquet", [coded(smooth(k), "PNG") for k in range(4)])
    data, marks, result = written(file, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.parquet"]
    new = load(str(tmp_path / "out" / "mine.parquet"), cache=tmp_path / "c").train
    assert new.fingerprint == marks.apply(data).fingerprint
    assert len(result.images) == 6


def test_places_are_in_the_order_of_the_rows(tmp_path):
    source = folder(tmp_path / "set")
    data = load(str(source), cache=tmp_path / "cache").train
    for row, image in enumerate(encoded(locate(str(source)).places)):
        mine = data.images.gather(torch.tensor([row]))[0].permute(1, 2, 0).numpy()
        assert np.array_equal(decode_image(image), mine)
