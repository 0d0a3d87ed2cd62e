"""Bad sources: one typed error that names the file, the row and the way out."""

import importlib.util
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from store_makers import encode, random_images, write_folder, write_pair, write_parquet
from test_stores import refused

from mithridate.core.errors import BadArtefact, MithridateError
from mithridate.data import sources
from mithridate.data.sources import load


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["resident", "mapped"])
def store(request) -> str:
    return request.param


ENCODED = [encode(each) for each in random_images(12)]
LABELS = [k % 2 for k in range(12)]


GUESSES = [("cifar", "cifar10"), ("CIFAR-10", "cifar10"), ("fashion_mnist", "fashion-mnist"), ("digit", "digits")]
NO_PIXELS = [(np.nan, "not finite"), (np.inf, "not finite"), (1.5, "divide by 255"), (-0.1, r"\[-0.1")]


@pytest.mark.parametrize(("wrong", "guess"), GUESSES)
def test_an_unknown_name_gives_the_closest(wrong, guess):
    with refused("MTH-0250", wrong, f"did you mean '{guess}'"):
        load(wrong)


def test_an_unknown_name_like_nothing_lists_the_known(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with refused("MTH-0250", "'qqqq'", "digits", "fashion-mnist", "hf:OWNER/NAME"):
        load("qqqq")
    with refused("MTH-0251", "no/such/folder"):
        load("no/such/folder")
    with refused("MTH-0251", "missing.npz"):
        load("missing.npz")
    (tmp_path / "notes.txt").write_text("x")
    with refused("MTH-0250", "notes.txt", ".parquet"):
        load("notes.txt")


def test_a_named_set_that_is_absent_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "has_hub", lambda: False)
    monkeypatch.delenv("MITHRIDATE_DATA", raising=False)
    with refused(
        "MTH-0251", "'cifar10'", "MITHRIDATE_DATA is not set", "cifar10/train.parquet", "digits works offline"
    ):
        load("cifar10")
    monkeypatch.setenv("MITHRIDATE_DATA", str(tmp_path))
    write_parquet(tmp_path / "mnist" / "train.parquet", ENCODED, LABELS)
    with refused("MTH-0251", f"{tmp_path}/mnist has no train.parquet and test.parquet"):
        load("mnist")


@pytest.mark.parametrize("options", [{"size": 3}, {"size": 1025}, {"per_class": 0}, {"per_class": -1}])
def test_options_out_of_range_are_refused_before_anything_is_read(options):
    (value,) = options.values()
    with refused("MTH-0257", str(value)):
        load("no such set", **options)


# Folders


def test_a_folder_without_images(tmp_path):
    (tmp_path / "empty").mkdir()
    with refused("MTH-0252", "empty", "CLASS"):
        load(str(tmp_path / "empty"))
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(ENCODED[0])  # images, but in no class folder
    with refused("MTH-0252", "flat"):
        load(str(tmp_path / "flat"))
    (tmp_path / "text" / "a").mkdir(parents=True)
    (tmp_path / "text" / "a" / "a.txt").write_text("x")
    with refused("MTH-0252", ".webp"):
        load(str(tmp_path / "text"))


def test_an_empty_class_folder(tmp_path):
    root = write_folder(tmp_path / "set", {"cat": random_images(3), "dog": random_images(3)})
    (root / "zebra").mkdir()
    with refused("MTH-0253", "'zebra'", "1 of 3"):
        load(str(root))
    one = write_folder(tmp_path / "one", {"cat": random_images(1), "dog": random_images(1)})
    with refused("MTH-0253", "two images"):
        load(str(one))


def test_images_of_different_sizes_name_two_files(tmp_path, store):
    root = write_folder(tmp_path / "set", {"cat": random_images(4), "dog": random_images(4, size=(9, 7))})
    with refused("MTH-0254", "cat/00", "5 x 6 pixels", "dog/00", "7 x 9", "size=64"):
        load(str(root), store=store)
    assert load(str(root), store=store, size=4).train.images.shape == (3, 4, 4)


def test_a_test_split_of_another_size_or_class(tmp_path, store):
    root = tmp_path / "set"
    write_folder(root / "train", {"cat": random_images(4), "dog": random_images(4)})
    write_folder(root / "test", {"cat": random_images(4, size=(9, 9))})
    with refused("MTH-0254", "train/cat", "test/cat/000.png"):
        load(str(root), store=store)
    write_folder(root / "test", {"cat": random_images(4), "horse": random_images(1)})
    with refused("MTH-0260", "'horse'", "cat, dog"):
        load(str(root))


def test_colour_only_in_the_test_split(tmp_path, store):
    root = tmp_path / "set"
    write_folder(root / "train", {"cat": random_images(4, channels=1), "dog": random_images(4, channels=1)})
    write_folder(root / "test", {"cat": random_images(4)})
    with refused("MTH-0260", "test/cat/000.png", "grey"):
        load(str(root), store=store)


@pytest.mark.parametrize(
    "bad", [b"", b"text", ENCODED[0][:50], b"\x89PNG\r\n\x1a\n" + bytes(40), b"GIF89a" + bytes(20)]
)
def test_a_damaged_image_names_its_file(tmp_path, store, bad):
    root = write_folder(tmp_path / "set", {"cat": random_images(10), "dog": random_images(10)})
    (root / "dog" / "004.png").write_bytes(bad)
    with pytest.raises(BadArtefact, match=r"dog/004\.png"):
        load(str(root), store=store)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, store):
    root = write_folder(tmp_path / "set", {"cat": random_images(5), "dog": random_images(5)})
    buffer = io.BytesIO()
    Image.new("1", (6_000, 6_000)).save(buffer, "PNG")
    (root / "cat" / "001.png").write_bytes(buffer.getvalue())
    with pytest.raises(BadArtefact, match=r"cat/001\.png"):
        load(str(root), store=store, size=8)


def test_an_unreadable_file(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "set", {"cat": random_images(5), "dog": random_images(5)})

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with refused("MTH-0261", "000.png|001.png", "Permission denied"):
        load(str(root))


# Tables


def test_a_damaged_image_names_its_row(tmp_path, store):
    write_pair(tmp_path / "set")
    write_parquet(tmp_path / "set" / "train.parquet", [*ENCODED[:9], ENCODED[9][:60], *ENCODED[10:]], LABELS)
    with pytest.raises(BadArtefact, match=r"train\.parquet, row 9"):
        load(str(tmp_path / "set"), store=store)
    write_parquet(tmp_path / "set" / "train.parquet", [*ENCODED[:9], None, *ENCODED[10:]], LABELS)
    with refused("MTH-0256", "train.parquet, row 9", "no image bytes"):
        load(str(tmp_path / "set"), store=store)


def test_labels_that_name_no_class(tmp_path):
    root = tmp_path / "set"
    write_pair(root, names=["a", "b"])
    write_parquet(root / "train.parquet", ENCODED, [*LABELS[:5], 2, *LABELS[6:]], names=["a", "b"])
    with refused("MTH-0242", "train.parquet, row 5 has label 2", r"\[0, 1\]"):
        load(str(root))
    write_parquet(root / "train.parquet", ENCODED, [*LABELS[:5], -1, *LABELS[6:]])
    with refused("MTH-0242", "row 5 has label -1"):
        load(str(root))
    write_parquet(root / "train.parquet", ENCODED, [*LABELS[:5], None, *LABELS[6:]])
    with refused("MTH-0242", "row 5 has no label"):
        load(str(root))
    write_parquet(root / "train.parquet", ENCODED, LABELS, names=["a", "b"])
    write_parquet(root / "test.parquet", ENCODED, [*LABELS[:5], 7, *LABELS[6:]], names=["a", "b"])
    with refused("MTH-0242", "test.parquet, row 5 has label 7"):
        load(str(root))


def test_a_class_without_training_images(tmp_path):
    write_pair(tmp_path / "set", names=["a", "b", "c"])
    with refused("MTH-0253", "'c'", "1 of 3"):
        load(str(tmp_path / "set"))
    path = write_parquet(tmp_path / "gap.parquet", ENCODED, [3 * label for label in LABELS])
    with refused("MTH-0253", "2 of 4", "'1', '2'"):
        load(str(path))


def test_splits_that_name_other_classes(tmp_path):
    root = write_pair(tmp_path / "set", names=["a", "b"])
    write_parquet(root / "test.parquet", ENCODED, LABELS, names=["b", "a"])
    with refused("MTH-0260", "test.parquet", "'b', 'a'"):
        load(str(root))


def test_columns_that_are_not_recognised(tmp_path):
    images = pa.array(ENCODED)
    labels = pa.array(LABELS)
    cases = {
        "no label": ({"image": images, "kind": labels}, "no column label or labels"),
        "no image": ({"photo": images, "label": labels}, "no column image or img"),
        "text images": ({"image": pa.array([str(k) for k in LABELS]), "label": labels}, "encoded bytes"),
        "float labels": ({"image": images, "label": pa.array([0.5] * 12)}, "whole numbers or strings"),
        "odd pixels": ({"image": pa.array([list(range(6))] * 12), "label": labels}, "shape"),
    }
    for name, (columns, words) in cases.items():
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        with refused("MTH-0256", words):
            load(str(tmp_path / f"{name}.parquet"))


def test_a_table_that_is_no_table_or_has_no_rows(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 this is not a table PAR1")
    with pytest.raises(BadArtefact, match=r"x\.parquet"):
        load(str(tmp_path / "x.parquet"))
    write_parquet(tmp_path / "y.parquet", [], [])
    with refused("MTH-0252", "y.parquet has no rows"):
        load(str(tmp_path / "y.parquet"))
    write_pair(tmp_path / "set", names=["a", "b"])
    write_parquet(tmp_path / "set" / "test.parquet", [], [])
    with refused("MTH-0252", "test.parquet"):
        load(str(tmp_path / "set"))


# Pixels as numbers


def float_table(path: Path, images: np.ndarray) -> Path:
    pq.write_table(
        pa.table({"image": pa.array(images.tolist()), "label": pa.array([k % 2 for k in range(len(images))])}), path
    )
    return path


@pytest.mark.parametrize(("value", "words"), NO_PIXELS)
def test_floats_that_are_no_pixels_name_their_row(tmp_path, value, words):
    images = np.random.default_rng(0).random((10, 4, 4))
    images[6, 1, 2] = value
    with refused("MTH-0255", "x.parquet, row 6", words):
        load(str(float_table(tmp_path / "x.parquet", images)))
    np.savez(tmp_path / "x.npz", images=images, labels=np.array([k % 2 for k in range(10)]))
    with refused("MTH-0255", "row 6", words):
        load(str(tmp_path / "x.npz"))


def test_lists_of_different_sizes(tmp_path):
    rows = [[[1, 2], [3, 4]]] * 5 + [[[1, 2, 3], [4, 5, 6]]]
    pq.write_table(
        pa.table({"image": pa.array(rows), "label": pa.array([k % 2 for k in range(6)])}), tmp_path / "x.parquet"
    )
    with refused("MTH-0254", "different sizes"):
        load(str(tmp_path / "x.parquet"))


def test_arrays_that_do_not_fit(tmp_path):
    images, labels = np.zeros((10, 4, 4), np.uint8), np.arange(10) % 2
    pair = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    cases = [
        ({"pictures": images, "labels": labels}, "MTH-0256", "pictures"),
        ({"images": images, "labels": labels[:9]}, "MTH-0241", "10 images"),
        ({"images": images, "labels": labels * 0.5}, "MTH-0256", "float64"),
        ({"images": np.zeros((10, 4, 4, 4), np.uint8), "labels": labels}, "MTH-0256", r"\(10, 4, 4, 4\)"),
        ({"images": np.zeros((10, 4), np.uint8), "labels": labels}, "MTH-0256", r"\(10, 4\)"),
        ({"images": images.astype(np.int64) + 256, "labels": labels}, "MTH-0255", "256"),
        ({"images": images.astype(bool), "labels": labels}, "MTH-0256", "bool"),
        ({"images": images[:0], "labels": labels[:0]}, "MTH-0252", "empty"),
        ({"images": images, "labels": labels - 1}, "MTH-0242", "label -1"),
        ({"images": images, "labels": labels * 2}, "MTH-0253", "'1'"),
        ({"images": images[:2], "labels": labels[:2]}, "MTH-0253", "two images"),
        ({**pair, "train_labels": labels * 2}, "MTH-0253", "'1'"),
        ({**pair, "test_labels": labels + 1}, "MTH-0242", "test_images, row 1 has label 2"),
        ({**pair, "classes": np.array(["a"])}, "MTH-0242", "row 1 has label 1"),
    ]
    for arrays, code, words in cases:
        np.savez(tmp_path / "x.npz", **arrays)
        with refused(code, words):
            load(str(tmp_path / "x.npz"))
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(BadArtefact, match=r"x\.npz"):
        load(str(tmp_path / "x.npz"))


def test_pixels_that_do_not_fit_into_memory(tmp_path, monkeypatch):
    pair = write_pair(tmp_path / "set")
    monkeypatch.setattr("mithridate.data._importing.os.sysconf", lambda name: 40)
    with refused("MTH-0262", "20 images", "--store.* to mapped"):
        load(str(pair))
    assert len(load(str(pair), store="mapped").train) == 20


# The hub


def test_ids_of_the_hub_are_checked_before_anything_is_fetched(monkeypatch):
    for wrong in ("cifar10", "a/b/c", "../etc", "a/b@", "a b/c", ""):
        with refused("MTH-0258", "hf:OWNER/NAME"):
            load(f"hf:{wrong}")
    monkeypatch.setattr("mithridate.data._hub.has_hub", lambda: False)
    with refused("MTH-0258", "hf:owner/name", r"mithridate\[hub\]"):
        load("hf:owner/name@abc123")


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="the extra hub is not installed")
def test_what_the_library_of_the_hub_holds_is_read_like_parquet(tmp_path, monkeypatch):
    import datasets

    from mithridate.data import _hub
    from mithridate.data._cache import import_set

    pair = write_pair(tmp_path / "set", names=["a", "b"])
    expected = load(str(pair))
    files = {split: str(pair / f"{split}.parquet") for split in ("train", "test")}
    splits = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "hub"))
    found = import_set(_hub.from_splits(splits, "owner/name", "abc"), "x", kind="resident", size=None, cache=tmp_path)
    assert found.about.classes == ("a", "b") and found.about.source["revision"] == "abc"
    assert np.array_equal(found.train.images.row_hashes(), expected.train.images.row_hashes())

    def offline(name, revision):
        raise ConnectionError(f"cannot reach {name}")

    monkeypatch.setattr(datasets, "load_dataset_builder", offline)
    with refused("MTH-0258", "owner/name", "cannot reach"):
        load("hf:owner/name")


def test_every_refusal_is_typed(tmp_path):
    (tmp_path / "dir.parquet").mkdir()
    for source in (
        "",
        ".",
        "~",
        "/dev/null",
        "\0",
        "a" * 5000,
        str(tmp_path / "dir.parquet"),
        "hf:",
        "digits/",
        "[/red]",
    ):
        with pytest.raises(MithridateError):
            load(source)
