"""Poison packs in the formats of other programs: exact round trips, and what is refused."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from pack_makers import CLASSES, cases, make, make_data, make_scenario, perturbed, split, tree
from PIL import Image

from mithridate.core.codes import CODES
from mithridate.core.errors import BadArtefact, Misuse, MithridateError
from mithridate.core.units import Pixels
from mithridate.data.packs import EXPORT_FORMATS, IMPORT_FORMATS, PoisonPack, export_pack, import_pack

few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def refused(code: str, *words: str, kind: type[MithridateError] = Misuse):
    """Expect an error of this code whose message names these words."""
    assert code in CODES
    return pytest.raises(kind, match=rf"(?s)\[{code}\]" + "".join(rf"(?=.*{word})" for word in words))


@pytest.mark.parametrize("format", IMPORT_FORMATS)
@few
@given(case=cases)
def test_an_exported_pack_comes_back_exactly(tmp_path, format, case):
    data, pack = case.build()
    export_pack(pack, tmp_path / "out", format=format, overwrite=True)
    back = import_pack(tmp_path / "out", format=format, data=data)
    assert back == pack
    assert back.images.dtype == torch.uint8 and back.ids.dtype == back.labels.dtype == torch.int64


@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_the_same_pack_is_exported_as_the_same_bytes(tmp_path, format):
    data = make_data()
    for name in ("a", "b"):
        export_pack(make(data), tmp_path / name, format=format, data=data)
    first, second = tree(tmp_path / "a"), tree(tmp_path / "b")
    assert first == second


@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_what_is_at_the_path_stays_unless_asked(tmp_path, format):
    data = make_data()
    export_pack(make(data), tmp_path / "out", format=format, data=data)
    before = tree(tmp_path / "out")
    with pytest.raises(Misuse, match="exists"):
        export_pack(make(data, seed=1), tmp_path / "out", format=format, data=data)
    assert tree(tmp_path / "out") == before
    export_pack(make(data, seed=1), tmp_path / "out", format=format, data=data, overwrite=True)
    assert tree(tmp_path / "out") != before


@pytest.mark.parametrize("format", IMPORT_FORMATS)
def test_an_import_for_other_data_is_refused(tmp_path, format):
    data = make_data()
    export_pack(make(data), tmp_path / "out", format=format)
    with refused("MTH-0301", "toy train"):
        import_pack(tmp_path / "out", format=format, data=make_data(seed=5))
    assert import_pack(tmp_path / "out", format=format, data=data, scenario=make_scenario(data)) == make(data)
    with refused("MTH-0325", "toy/0", "toy/1"):
        import_pack(tmp_path / "out", format=format, data=data, scenario=replace(make_scenario(data), name="toy/1"))


def test_unknown_formats_are_refused_with_the_closest(tmp_path):
    data = make_data()
    with refused("MTH-0324", "did you mean 'parquet'"):
        export_pack(make(data), tmp_path / "out", format="parket")
    with refused("MTH-0324", "png, parquet, npz"):
        import_pack(tmp_path / "out", format="benchmark", data=data)
    two = make_data((2, 3, 3))
    for format in ("png", "parquet", "benchmark"):
        with refused("MTH-0324", "npz"):
            export_pack(make(two), tmp_path / "out", format=format, data=two)
    export_pack(make(two), tmp_path / "two", format="npz")
    assert import_pack(tmp_path / "two", format="npz", data=two) == make(two)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", IMPORT_FORMATS)
def test_nothing_at_the_path_is_one_error(tmp_path, format):
    with pytest.raises((BadArtefact, Misuse)):
        import_pack(tmp_path / "nowhere", format=format, data=make_data())


def foreign(pack: PoisonPack, path, format: str, *, images=None, labels=None, ids=None) -> None:
    """Write the poisons as another program would: without claims."""
    images = (pack.images if images is None else images).numpy()
    labels = (pack.labels if labels is None else labels).numpy()
    ids = (pack.ids if ids is None else ids).numpy()
    if format == "npz":
        with path.open("wb") as file:
            np.savez_compressed(file, ids=ids.astype(np.int32), images=images, labels=labels.astype(np.int16))
        return
    pngs = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(buffer, format="PNG", optimize=True)
        pngs.append(buffer.getvalue())
    if format == "png":
        path.mkdir()
        rows = [
            {"file": f"poison {i}.png", "id": int(row), "label": int(label)}
            for i, (row, label) in enumerate(zip(ids, labels, strict=True))
        ]
        (path / "poisons.json").write_text(json.dumps({"poisons": rows}))
        for row, content in zip(rows, pngs, strict=True):
            (path / row["file"]).write_bytes(content)
        return
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"image": pngs, "label": labels.astype(np.int32), "id": ids}), path)


@pytest.mark.parametrize("format", IMPORT_FORMATS)
def test_poisons_of_another_program_need_a_scenario_and_are_measured(tmp_path, format):
    data = make_data()
    pack = make(data)
    foreign(pack, tmp_path / "out", format)
    with refused("MTH-0325", "scenario"):
        import_pack(tmp_path / "out", format=format, data=data)
    nameless = replace(make_scenario(data), poison_ids=())
    back = import_pack(tmp_path / "out", format=format, data=data, scenario=nameless)
    assert torch.equal(back.images, pack.images) and torch.equal(back.ids, pack.ids)
    assert torch.equal(back.labels, pack.labels)
    assert back.scenario == make_scenario(data)
    assert (back.manifest["attack"], back.manifest["epsilon"]["levels"]) == ("imported", 16)
    with refused("MTH-0321", "16/255", "8/255"):
        tight = replace(nameless, epsilon=Pixels(8 / 255))
        import_pack(tmp_path / "out", format=format, data=data, scenario=tight)


@pytest.mark.parametrize("format", IMPORT_FORMATS)
def test_poisons_of_another_program_that_do_not_fit_are_refused(tmp_path, format):
    data, scenario = make_data(), make_scenario(make_data())
    pack = make(data)
    bad = {
        "twice": {"ids": pack.ids[[0, 0, 1, 2]]},
        "beyond": {"ids": pack.ids + 4000},
        "negative": {"ids": pack.ids - 40},
        "class": {"ids": pack.ids + 1},
        "label": {"labels": pack.labels + 9},
        "size": {"images": pack.images[:, :, :3]},
    }
    for name, change in bad.items():
        foreign(pack, tmp_path / name, format, **change)
        with pytest.raises((BadArtefact, Misuse)) as caught:
            import_pack(tmp_path / name, format=format, data=data, scenario=scenario)
        assert caught.value.code in {"MTH-0304", "MTH-0305", "MTH-0309", "MTH-0320", "MTH-0322"}, name


@pytest.mark.parametrize(
    "listing",
    [
        b"[]",
        b"{}",
        b'{"poisons": 3}',
        b'{"poisons": [[]]}',
        b'{"poisons": [{"file": "a.png", "id": 2}]}',
        b'{"poisons": [{"file": "../a.png", "id": 2, "label": 2}]}',
        b'{"poisons": [{"file": "/etc/passwd", "id": 2, "label": 2}]}',
        b'{"poisons": [{"file": "..\\\\a.png", "id": 2, "label": 2}]}',
        b'{"poisons": [{"file": "a\\u0000.png", "id": 2, "label": 2}]}',
        b'{"poisons": [{"file": "a.png", "id": "2", "label": 2}]}',
        b'{"poisons": [{"file": "a.png", "id": 2.0, "label": 2}]}',
        b'{"poisons": [{"file": "a.png", "id": true, "label": 2}]}',
        b'{"poisons": [{"file": "a.png", "id": -2, "label": 2}]}',
        b'{"poisons": [{"file": "a.png", "id": 99999999999999999999999, "label": 2}]}',
        b'{"poisons": [{"file": "absent.png", "id": 2, "label": 2}]}',
        b'{"poisons": [{"file": "folder.png", "id": 2, "label": 2}]}',
        b'{"poisons": [{"file": "\\ud800.png", "id": 2, "label": 2}]}',
        b'{"poisons": [{"file": "' + b"a" * 300 + b'.png", "id": 2, "label": 2}]}',
        b'{"poisons": [{"file": "text.png", "id": 2, "label": 2}]}',
        b"\xff\xfe",
        b"",
    ],
)
def test_a_listing_that_is_none_is_refused(tmp_path, listing):
    data = make_data()
    folder = tmp_path / "out"
    (folder / "folder.png").mkdir(parents=True)
    (folder / "text.png").write_text("no image")
    (tmp_path / "a.png").write_bytes(b"outside")
    (folder / "poisons.json").write_bytes(listing)
    with pytest.raises((BadArtefact, Misuse)):
        import_pack(folder, format="png", data=data, scenario=make_scenario(data))


# What other programs read


def test_the_png_folder_shows_the_poisons(tmp_path):
    pack = make(make_data())
    export_pack(pack, tmp_path / "out", format="png")
    listing = json.loads((tmp_path / "out" / "poisons.json").read_text())["poisons"]
    assert [row["id"] for row in listing] == pack.ids.tolist()
    assert [row["label"] for row in listing] == pack.labels.tolist()
    for row, image in zip(listing, pack.images, strict=True):
        with Image.open(tmp_path / "out" / row["file"]) as found:
            assert found.format == "PNG"
            np.testing.assert_array_equal(np.asarray(found), image.permute(1, 2, 0).numpy())


def test_the_parquet_file_carries_the_features_of_hugging_face(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    pack = make(make_data())
    export_pack(pack, tmp_path / "out.parquet", format="parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": list(CLASSES)},
        "id": {"_type": "Value", "dtype": "int64"},
    }
    assert str(table.schema.field("image").type) == "struct<bytes: binary, path: string>"
    for row, image in zip(table.column("image").to_pylist(), pack.images, strict=True):
        found = np.asarray(Image.open(io.BytesIO(row["bytes"])))
        np.testing.assert_array_equal(found, image.permute(1, 2, 0).numpy())


def test_the_parquet_file_is_decoded_by_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    pack = make(make_data())
    export_pack(pack, tmp_path / "out.parquet", format="parquet")
    found = datasets.Dataset.from_parquet(str(tmp_path / "out.parquet"), cache_dir=str(tmp_path / "cache"))
    assert found.features["label"].names == list(CLASSES)
    for row, image, label in zip(found, pack.images, pack.labels.tolist(), strict=True):
        assert row["label"] == label
        np.testing.assert_array_equal(np.asarray(row["image"]), image.permute(1, 2, 0).numpy())


def test_the_benchmark_layout_holds_poisons_rows_and_target(tmp_path):
    data = make_data()
    pack = make(data)
    export_pack(pack, tmp_path / "out", format="benchmark", data=data)
    folder = tmp_path / "out"
    assert json.loads((folder / "base_indices.json").read_text()) == pack.ids.tolist()
    listing = json.loads((folder / "poisons.json").read_text())["poisons"]
    assert [row["label"] for row in listing] == pack.labels.tolist()
    for row, image in zip(listing, pack.images, strict=True):
        found = np.asarray(Image.open(folder / row["file"]))
        np.testing.assert_array_equal(found, image.permute(1, 2, 0).numpy())
    target = json.loads((folder / "target.json").read_text())
    assert target == {"file": "target.png", "row": 5, "class": 1, "wanted": 2}
    shown = np.asarray(Image.open(folder / "target.png"))
    np.testing.assert_array_equal(shown, data.test.images.gather(torch.tensor([5]))[0].permute(1, 2, 0).numpy())
    assert {path.suffix for path in folder.iterdir()} == {".png", ".json", ".txt"}


def test_the_benchmark_layout_counts_rows_of_the_complete_data(tmp_path):
    whole = make_data()
    rows = torch.arange(1, 40, 2)  # classes 1 and 3 of the complete set
    kept = replace(whole.train.select(rows), columns={"row": rows})
    data = replace(whole, train=kept)
    scenario = replace(make_scenario(whole), poison_ids=(3, 1), adversarial_class=3, target_class=1)
    from mithridate.data.packs import make_pack

    images = perturbed(data, scenario, levels=16)
    pack = make_pack(kept, scenario, images, attack="x", config={}, seed=0, record={})
    export_pack(pack, tmp_path / "out", format="benchmark", data=data)
    assert json.loads((tmp_path / "out" / "base_indices.json").read_text()) == [7, 3]


def test_the_benchmark_layout_refuses_what_it_cannot_hold(tmp_path):
    data = make_data()
    pack = make(data)
    with refused("MTH-0324", "target"):
        export_pack(pack, tmp_path / "out", format="benchmark")
    with refused("MTH-0301"):
        export_pack(pack, tmp_path / "out", format="benchmark", data=make_data(seed=9))
    other_test = replace(data, test=split("toy test", 4, (3, 4, 5), 0))
    with refused("MTH-0305"):
        export_pack(pack, tmp_path / "out", format="benchmark", data=other_test)
    assert not (tmp_path / "out").exists()
