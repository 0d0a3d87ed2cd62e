"""Sources: every way in gives the same content, once imported and once from the cache."""

import functools
import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from store_makers import encode, random_images, tree, write_folder, write_pair, write_parquet

from mithridate.core.errors import BadArtefact
from mithridate.data import sources
from mithridate.data.sources import DataSet, load, source_names
from mithridate.data.stores import MappedStore, ResidentStore


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mithridate" / "data"


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("shared-cache")


def named(name: str, cache: Path, **options) -> DataSet:
    """Load a named set of the development data, or skip.

    Another process imports it, without the run-time type checks of the tests, which cost more than the decoding.
    """
    root = Path(os.environ.get("MITHRIDATE_DATA", ""))
    if not os.environ.get("MITHRIDATE_DATA") or not (root / name / "train.parquet").is_file():
        pytest.skip(f"{name} is absent; set MITHRIDATE_DATA to a folder with {name}/train.parquet")
    import_elsewhere(name, options.get("store", "resident"), cache)
    return load(name, cache=cache, **options)


@functools.cache
def import_elsewhere(name: str, store: str, cache: Path) -> None:
    code = "import sys, pathlib; from mithridate.data.sources import load; "
    code += "load(sys.argv[1], store=sys.argv[2], cache=pathlib.Path(sys.argv[3]))"
    subprocess.run([sys.executable, "-c", code, name, store, str(cache)], check=True, timeout=600)


def everything(examples) -> torch.Tensor:
    return examples.images.gather(torch.arange(len(examples)))


# Digits


def test_digits_are_those_of_scikit_learn_in_the_published_split():
    from sklearn.datasets import load_digits

    data = load("digits")
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert data.train.images.shape == (1, 8, 8) and data.train.classes == tuple("0123456789")
    raw = load_digits()
    order = np.random.RandomState(0).permutation(1797)
    for examples, rows in ((data.train, order[:1437]), (data.test, order[1437:])):
        assert examples.labels.tolist() == raw.target[rows].tolist()
        pixels = everything(examples)[:, 0].numpy()
        assert np.abs(pixels / 255 - raw.images[rows] / 16).max() <= 0.5 / 255 + 1e-9
        assert set(np.unique(pixels).tolist()) == {round(level * 255 / 16) for level in range(17)}


def test_the_digits_never_change():
    assert load("digits").fingerprint == "a9368487eac189803753896523edc417293c4bbfacdc1c31373c48bd05b345a2"


def test_digits_leave_nothing_on_disk(own_cache):
    load("digits")
    assert not own_cache.exists()


def test_statistics_are_those_of_the_training_pixels():
    data = load("digits")
    pixels = everything(data.train).double() / 255
    assert data.mean == pytest.approx([pixels.mean().item()], abs=1e-12)
    assert data.std == pytest.approx([pixels.std(correction=0).item()], abs=1e-12)


def test_per_class_keeps_the_first_of_each_class():
    whole, part = load("digits"), load("digits", per_class=7)
    rows = part.train.columns["row"]
    assert len(part.train) == 70 and len(part.test) == 360
    assert rows.tolist() == sorted(rows.tolist())
    for label in range(10):
        assert rows[part.train.rows_of_class(label)].tolist() == whole.train.rows_of_class(label)[:7].tolist()
    assert part.train.fingerprint == whole.train.select(rows).fingerprint
    assert (part.mean, part.std) == (whole.mean, whole.std)
    assert part.fingerprint != whole.fingerprint


# Parquet, folders, npz: one content


@pytest.fixture
def pair(tmp_path) -> Path:
    return write_pair(tmp_path / "pair", names=["cat", "dog"])


def test_parquet_gives_the_pixels_that_went_in(pair):
    data = load(str(pair))
    assert data.train.classes == data.test.classes == ("cat", "dog")
    for examples, count, seed in ((data.train, 20, 1), (data.test, 10, 2)):
        expected = np.stack(random_images(count, seed=seed)).transpose(0, 3, 1, 2)
        assert np.array_equal(everything(examples).numpy(), expected)
        assert examples.labels.tolist() == [k % 2 for k in range(count)]
    pixels = everything(data.train).double() / 255
    assert data.mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist(), abs=1e-12)
    assert data.std == pytest.approx(pixels.std(dim=(0, 2, 3), correction=0).tolist(), abs=1e-12)


def test_the_cache_and_the_mapped_store_hold_the_same_content(pair, own_cache):
    fresh = load(str(pair))
    assert len(list(own_cache.iterdir())) == 1
    cached = load(str(pair))
    mapped = load(str(pair), store="mapped")
    again = load(str(pair), store="mapped")
    assert isinstance(cached.train.images, ResidentStore) and isinstance(mapped.train.images, MappedStore)
    for other in (cached, mapped, again):
        assert other.fingerprint == fresh.fingerprint
        assert (other.mean, other.std) == (fresh.mean, fresh.std)
        assert torch.equal(everything(other.test), everything(fresh.test))
    assert len(list(own_cache.iterdir())) == 2


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [None, 4])
def test_mapped_images_equal_resident_ones_byte_for_byte(tmp_path, format, channels, size):
    pair = write_pair(tmp_path / "pair", format=format, channels=channels)
    resident, mapped = load(str(pair), size=size), load(str(pair), store="mapped", size=size)
    assert torch.equal(everything(resident.train), everything(mapped.train))
    assert resident.fingerprint == mapped.fingerprint
    assert resident.train.images.shape == (3 if format == "WEBP" else channels, *((6, 5) if size is None else (4, 4)))


def test_the_cache_is_read_and_not_the_images(pair, monkeypatch):
    load(str(pair))
    monkeypatch.setattr("mithridate.data._decoding.decode", None)
    load(str(pair))


def test_changed_content_is_imported_again(pair):
    before = load(str(pair))
    images = random_images(20, seed=1)
    images[3][0, 0, 0] ^= 1
    write_parquet(
        pair / "train.parquet", [encode(each) for each in images], [k % 2 for k in range(20)], names=["cat", "dog"]
    )
    after = load(str(pair))
    assert after.train.fingerprint != before.train.fingerprint
    assert after.test.fingerprint == before.test.fingerprint


def test_a_source_is_never_written_to(pair, tmp_path):
    folder = write_folder(tmp_path / "folder", {"a": random_images(5), "b": random_images(5, seed=1)})
    before = tree(pair), tree(folder)
    for store in ("resident", "mapped"):
        load(str(pair), store=store)
        load(str(folder), store=store)
    assert (tree(pair), tree(folder)) == before


def test_a_damaged_cache_entry_is_imported_again(pair, own_cache, caplog):
    fresh = load(str(pair))
    (entry,) = own_cache.iterdir()
    for name in ("train.pixels", "data.json", "manifest.json", "test.labels"):
        content = bytearray((entry / name).read_bytes())
        content[len(content) // 2] ^= 1
        (entry / name).write_bytes(bytes(content))
        with caplog.at_level(logging.WARNING):
            assert load(str(pair)).fingerprint == fresh.fingerprint
        assert "imported again" in caplog.text
        caplog.clear()
    load(str(pair))
    assert not caplog.text


def test_a_cache_that_cannot_be_written_is_done_without(pair, tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("a file where the cache should be")
    with caplog.at_level(logging.WARNING):
        data = load(str(pair), cache=blocked)
    assert "continuing without the cache" in caplog.text
    assert data.fingerprint == load(str(pair)).fingerprint
    with pytest.raises(Exception, match="MTH-0706"):
        load(str(pair), cache=blocked, store="mapped")


def test_a_failed_import_leaves_nothing(pair, own_cache, tmp_path):
    images = [encode(each) for each in random_images(20)]
    images[19] = images[19][:40]
    write_parquet(pair / "train.parquet", images, [k % 2 for k in range(20)], names=["cat", "dog"])
    for store in ("resident", "mapped"):
        with pytest.raises(BadArtefact, match="row 19"):
            load(str(pair), store=store)
    assert not tree(own_cache)


def test_folder_parquet_and_npz_agree(tmp_path):
    train, test = (
        {"a": random_images(4), "b": random_images(4, seed=1)},
        {"a": random_images(2, seed=2), "b": random_images(2, seed=3)},
    )
    folder = tmp_path / "folder"
    write_folder(folder / "train", train)
    write_folder(folder / "test", test)
    (folder / "train" / ".hidden").mkdir()
    (folder / "train" / "a" / "notes.txt").write_text("not an image")
    (folder / "README.md").write_text("not a class")
    labels = [0] * 4 + [1] * 4, [0] * 2 + [1] * 2
    flat = [[*part["a"], *part["b"]] for part in (train, test)]
    table = tmp_path / "table"
    for name, images, numbers in zip(("train", "test"), flat, labels, strict=True):
        write_parquet(table / f"{name}.parquet", [encode(each) for each in images], numbers, names=["a", "b"])
    np.savez(
        tmp_path / "set.npz",
        train_images=np.stack(flat[0]),
        train_labels=np.array(labels[0])[:, None],
        test_images=np.stack(flat[1]) / 255,
        test_labels=np.array(labels[1], dtype=np.uint8),
        classes=np.array(["a", "b"]),
    )
    found = [load(str(path)) for path in (folder, table, tmp_path / "set.npz")]
    assert len({data.fingerprint for data in found}) == 1
    assert found[0].train.classes == ("a", "b")


def test_one_table_is_split_by_a_fixed_seed_within_each_class(tmp_path):
    images = [encode(each) for each in random_images(50)]
    path = write_parquet(tmp_path / "all.parquet", images, [0] * 30 + [1] * 20)
    data = load(str(path))
    assert np.bincount(data.train.labels).tolist() == [24, 16]
    assert np.bincount(data.test.labels).tolist() == [6, 4]
    both = torch.cat([everything(data.train), everything(data.test)])
    assert len({image.numpy().tobytes() for image in both}) == 50
    np.savez(tmp_path / "all.npz", images=np.stack(random_images(50)), labels=np.array([0] * 30 + [1] * 20))
    assert load(str(tmp_path / "all.npz")).fingerprint == data.fingerprint
    folder = write_folder(tmp_path / "all", {"0": random_images(50)[:30], "1": random_images(50)[30:]})
    assert load(str(folder)).fingerprint == data.fingerprint


def test_shards_are_one_split(tmp_path):
    images = [encode(each) for each in random_images(12)]
    labels = [k % 2 for k in range(12)]
    for root, parts in (
        (tmp_path / "one", [slice(0, 12)]),
        (tmp_path / "many", [slice(0, 5), slice(5, 6), slice(6, 12)]),
    ):
        for k, part in enumerate(parts):
            write_parquet(root / f"train-{k:05}-of-{len(parts):05}.parquet", images[part], labels[part])
        write_parquet(root / "validation.parquet", images[:4], labels[:4])
    one, many = load(str(tmp_path / "one")), load(str(tmp_path / "many"))
    assert one.fingerprint == many.fingerprint and len(many.train) == 12
    write_parquet(
        tmp_path / "many" / "train-00002-of-00003.parquet", [*images[6:9], b"no image", *images[10:]], labels[6:]
    )
    with pytest.raises(BadArtefact, match=r"train-00002-of-00003\.parquet, row 3"):
        load(str(tmp_path / "many"))


def test_other_spellings_of_a_table_are_read(tmp_path):
    images = random_images(10, size=(4, 4), channels=1)
    encoded = [encode(each) for each in images]
    names = ["x", "y"]
    text = pa.array([names[k % 2] for k in range(10)])
    tables = {
        "binary": pa.table({"img": pa.array(encoded, pa.binary()), "fine_label": text}),
        "nested": pa.table({"image": pa.array([each[..., 0].tolist() for each in images]), "label": text}),
        "deep": pa.table({"image": pa.array([each.tolist() for each in images]), "label": text}),
        "flat": pa.table({"pixels": pa.array([(each.ravel() / 255).tolist() for each in images]), "y": text}),
        "fixed": pa.table(
            {"image": pa.FixedSizeListArray.from_arrays(np.concatenate(images).ravel(), 16), "label": text}
        ),
        "dictionary": pa.table({"image": pa.array(encoded), "label": text.cast(pa.large_string())}),
    }
    prints = set()
    for name, table in tables.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
        data = load(str(tmp_path / f"{name}.parquet"))
        assert data.train.classes == ("x", "y") and data.train.images.shape == (1, 4, 4)
        prints.add(data.fingerprint)
    assert len(prints) == 1


@pytest.mark.parametrize("store", ["resident", "mapped"])
@pytest.mark.parametrize("first_grey", [True, False])
def test_grey_images_among_colour_ones_are_repeated_over_the_channels(tmp_path, store, first_grey):
    grey, colour = random_images(150, channels=1), random_images(150, seed=1)
    order = [*grey, *colour] if first_grey else [*colour, *grey]
    write_parquet(tmp_path / "set" / "train.parquet", [encode(each) for each in order], [k % 2 for k in range(300)])
    write_parquet(tmp_path / "set" / "test.parquet", [encode(each) for each in grey[:4]], [0, 1, 0, 1])
    data = load(str(tmp_path / "set"), store=store)
    expected = np.stack([each.repeat(3 // each.shape[2], axis=2) for each in order]).transpose(0, 3, 1, 2)
    assert np.array_equal(everything(data.train).numpy(), expected)
    assert data.test.images.shape == (3, 6, 5)
    hashes = [hashlib.sha256(image.tobytes()).digest() for image in expected]
    assert [row.tobytes() for row in data.train.images.row_hashes()] == hashes
    assert data.mean == pytest.approx((expected / 255).mean(axis=(0, 2, 3)), abs=1e-12)


def test_size_crops_to_the_centre_and_resizes(tmp_path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200  # the central square
    tall = np.full((40, 10, 3), 200, np.uint8)
    tall[:15] = tall[25:] = 0
    folder = write_folder(tmp_path / "folder", {"a": [wide] * 3, "b": [tall] * 3})
    data = load(str(folder), size=8)
    assert data.train.images.shape == (3, 8, 8)
    assert everything(data.train).unique().tolist() == [200]


def test_resizing_leaves_images_of_the_right_size_alone(tmp_path):
    images = random_images(6, size=(8, 8))
    folder = write_folder(tmp_path / "folder", {"a": images[:3], "b": images[3:]})
    assert load(str(folder), size=8).fingerprint == load(str(folder)).fingerprint


def test_class_names_come_from_the_file_then_from_the_name(tmp_path, monkeypatch):
    monkeypatch.setenv("MITHRIDATE_DATA", str(tmp_path))
    images = [encode(each) for each in random_images(20)]
    labels = [k % 10 for k in range(20)]
    for split in ("train", "test"):
        write_parquet(tmp_path / "cifar10" / f"{split}.parquet", images, labels)
        write_parquet(tmp_path / "mnist" / f"{split}.parquet", images, labels, names=[f"n{k}" for k in range(10)])
    assert load("cifar10").train.classes[:3] == ("airplane", "automobile", "bird")
    assert load("mnist").train.classes[3] == "n3"
    assert load(str(tmp_path / "cifar10")).train.classes[3] == "3"


# The development data


@pytest.mark.slow
def test_cifar10_is_the_original_in_its_order(shared_cache):
    data = named("cifar10", shared_cache)
    assert (len(data.train), len(data.test)) == (50_000, 10_000)
    assert data.train.images.shape == (3, 32, 32)
    assert data.train.classes == sources.NAMED["cifar10"].classes
    assert torch.bincount(data.train.labels).tolist() == [5000] * 10
    # The first labels of data_batch_1 and of test_batch, as everybody who has opened them knows.
    assert data.train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert data.test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert data.mean == (0.4914672, 0.4822617, 0.4467701) and data.std == (0.2470322, 0.2434851, 0.2615879)
    pixels = everything(data.train)[::10].double() / 255
    assert pixels.mean(dim=(0, 2, 3)).tolist() == pytest.approx(data.mean, abs=0.01)


@pytest.mark.slow
def test_cifar10_is_the_same_mapped(shared_cache):
    data, mapped = named("cifar10", shared_cache), named("cifar10", shared_cache, store="mapped")
    index = torch.randint(0, 50_000, (500,), generator=torch.Generator().manual_seed(0))
    assert mapped.fingerprint == data.fingerprint
    assert torch.equal(mapped.train.images.gather(index), data.train.images.gather(index))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "first"), [("mnist", [5, 0, 4, 1, 9]), ("fashion-mnist", [9, 0, 0, 3, 0])])
def test_the_grey_sets_are_the_originals(name, first, shared_cache):
    data = named(name, shared_cache, per_class=50)
    assert data.train.images.shape == (1, 28, 28) and len(data.test) == 10_000
    assert len(data.train) == 500
    assert named(name, shared_cache).train.labels[:5].tolist() == first


def test_digits_need_no_network():
    armed = True
    seen = []
    sys.addaudithook(lambda event, facts: seen.append(event) if armed and event.startswith("socket.") else None)
    load("digits")
    armed = False
    assert not seen
    assert source_names() == ("digits", "mnist", "fashion-mnist", "cifar10")
