"""Poison packs: made, applied, saved, loaded."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from pack_makers import CLASSES, cases, make, make_data, make_scenario, perturbed, tree

from mithridate.core.codes import CODES
from mithridate.core.errors import Misuse, MithridateError
from mithridate.data.packs import PoisonPack, make_pack, verify_pack

few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def refused(code: str, *words: str, kind: type[MithridateError] = Misuse):
    """Expect an error of this code whose message names these words."""
    assert code in CODES
    return pytest.raises(kind, match=rf"(?s)\[{code}\]" + "".join(rf"(?=.*{word})" for word in words))


@few
@given(case=cases)
def test_a_saved_pack_comes_back_exactly(tmp_path, case):
    _, pack = case.build()
    pack.save(tmp_path / "pack", overwrite=True)
    back = PoisonPack.load(tmp_path / "pack")
    assert back == pack
    assert back.images.dtype == torch.uint8 and back.ids.dtype == back.labels.dtype == torch.int64
    assert back.ids.tolist() == list(pack.scenario.poison_ids) == list(back.scenario.poison_ids)
    assert sorted(tree(tmp_path / "pack")) == ["manifest.json", "poisons.npz"]


@few
@given(case=cases)
def test_applying_changes_the_listed_rows_and_no_others(case):
    data, pack = case.build()
    before, after = data.train, pack.apply(data.train)
    every = torch.arange(len(before))
    clean, poisoned = before.images.gather(every), after.images.gather(every)
    listed = torch.zeros(len(before), dtype=torch.bool)
    listed[pack.ids] = True
    assert torch.equal(poisoned[pack.ids], pack.images)
    assert torch.equal(poisoned[~listed], clean[~listed])
    assert torch.equal(after.labels[pack.ids], pack.labels)
    assert torch.equal(after.labels[~listed], before.labels[~listed])
    assert torch.equal(before.images.gather(every), clean)  # the clean split is as it was
    radius = round(pack.manifest["epsilon"]["allowed"] * 255)
    assert int((poisoned.int() - clean.int()).abs().max()) <= radius


def test_radius_zero_gives_the_base():
    data = make_data()
    pack = make(data, levels=0)
    assert torch.equal(pack.images, data.train.images.gather(pack.ids))
    assert pack.apply(data.train).fingerprint == data.train.fingerprint
    assert pack.manifest["epsilon"]["levels"] == 0


def test_a_pack_of_nothing_is_legal():
    data = make_data()
    pack = make(data, poisons=0)
    assert pack.apply(data.train).fingerprint == data.train.fingerprint
    assert pack.manifest["budget"] == {"of_set": 0.0, "of_class": []}


def test_the_manifest_says_what_was_measured():
    data = make_data()
    pack = make(data, poisons=5, levels=16)
    manifest = pack.manifest
    base = data.train.images.gather(pack.ids)
    assert (manifest["attack"], manifest["seed"], manifest["count"]) == ("noise", 0, 5)
    assert manifest["config"] == {"steps": 3, "law": ["sign", 0.5]}
    assert manifest["scenario"] == make_scenario(data, poisons=5).to_json()
    assert manifest["dataset"]["fingerprint"] == data.train.fingerprint
    assert manifest["dataset"]["base_pixels"] == data.train.pixel_hash(pack.ids)
    assert manifest["dataset"]["classes"] == list(CLASSES)
    assert manifest["budget"]["of_set"] == 5 / 40
    share = {"label": 2, "name": "<b>bird</b>", "poisons": 5, "rows": 10, "fraction": 0.5}
    assert manifest["budget"]["of_class"] == [share]
    assert manifest["epsilon"]["levels"] == int((pack.images.int() - base.int()).abs().max()) == 16
    assert manifest["epsilon"]["measured_text"] == manifest["epsilon"]["allowed_text"] == "16/255"
    assert manifest["labels_changed"] == 0
    assert manifest["record"]["loss"] == [1.0, 0.1, None]  # JSON has no word for NaN
    assert set(manifest["made_with"]) == {"mithridate", "torch", "numpy"}
    assert json.loads(json.dumps(manifest, allow_nan=False)) == manifest


def test_changed_labels_are_counted():
    data = make_data()
    pack = make(data, poisons=5, dirty=True)
    assert pack.manifest["labels_changed"] == 5
    assert pack.apply(data.train).labels[pack.ids].tolist() == [0] * 5


def test_the_same_pack_is_saved_as_the_same_payload(tmp_path):
    for name in ("a", "b"):
        make(make_data()).save(tmp_path / name)
    assert tree(tmp_path / "a")["poisons.npz"] == tree(tmp_path / "b")["poisons.npz"]
    assert make(make_data()) == make(make_data()) != make(make_data(), seed=1)


@pytest.mark.parametrize("change", ["pixel", "label", "order", "fewer", "classes"])
def test_a_pack_refuses_other_data(change):
    data = make_data()
    pack = make(data)
    train = data.train
    if change == "pixel":
        other = train.overlay([0], 255 - train.images.gather(torch.tensor([0])))
    elif change == "label":
        other = train.overlay([0], train.images.gather(torch.tensor([0])), torch.tensor([3]))
    elif change == "order":
        other = train.select([1, 0, *range(2, 40)])
    elif change == "fewer":
        other = train.select(range(39))
    else:
        other = type(train)(train.name, train.images, train.labels, ("a", "b", "c", "d"))
    with refused("MTH-0301", train.fingerprint[:16], other.fingerprint[:16]):
        pack.apply(other)


def test_saving_onto_something_is_refused_unless_asked(tmp_path):
    pack = make(make_data())
    pack.save(tmp_path / "pack")
    before = tree(tmp_path / "pack")
    with pytest.raises(MithridateError):
        make(make_data(), seed=1).save(tmp_path / "pack")
    assert tree(tmp_path / "pack") == before
    other = make(make_data(), seed=1)
    other.save(tmp_path / "pack", overwrite=True)
    assert PoisonPack.load(tmp_path / "pack") == other


def make_of(data, images, *, levels=16, **change):
    scenario = make_scenario(data, levels=levels)
    options = {"attack": "x", "config": {}, "seed": 0, "record": {}} | change
    return make_pack(data.train, scenario, images, **options)


def test_images_that_do_not_fit_are_refused():
    data = make_data()
    good = perturbed(data, make_scenario(data), levels=16)
    for bad in (good[:3], good.float() / 255, good[:, :1], good.flatten(1), good.to(torch.int64)):
        with refused("MTH-0320", "uint8", r"\(4, 3, 4, 5\)"):
            make_of(data, bad)
    with refused("MTH-0321", "16/255", "15/255"):
        make_of(data, good, levels=15)
    assert make_of(data, good, levels=17).manifest["epsilon"]["levels"] == 16


@pytest.mark.parametrize("levels", range(1, 255, 7))
def test_the_radius_is_exact_for_every_number_of_levels(levels):
    data = make_data((1, 2, 2))
    assert math.isclose(levels / 255 * 255, levels)
    images = perturbed(data, make_scenario(data), levels=levels)
    base = data.train.images.gather(torch.tensor(make_scenario(data).poison_ids))
    reach = int((images.int() - base.int()).abs().max())
    assert make_of(data, images, levels=reach).manifest["epsilon"]["levels"] == reach
    if reach:
        with refused("MTH-0321"):
            make_of(data, images, levels=reach - 1)


def test_labels_that_do_not_fit_are_refused():
    data = make_data()
    good = perturbed(data, make_scenario(data), levels=16)
    for bad in (
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(4),
        torch.tensor([0, 1, 2, 4]),
        torch.tensor([0, -1, 2, 3]),
    ):
        with refused("MTH-0320", "labels"):
            make_of(data, good, labels=bad)


def test_rows_that_do_not_exist_are_refused():
    data = make_data()
    small = make_data(train=8)
    with refused("MTH-0305", "8 rows"):
        make_of(small, perturbed(data, make_scenario(data), levels=1)) if max(
            make_scenario(data).poison_ids
        ) < 8 else make_pack(
            small.train,
            make_scenario(data),
            perturbed(data, make_scenario(data), levels=1),
            attack="x",
            config={},
            seed=0,
            record={},
        )


def test_values_that_json_does_not_have_are_refused_by_name():
    data = make_data()
    good = perturbed(data, make_scenario(data), levels=16)
    with refused("MTH-0326", r"config.a.b\[1\]", "set"):
        make_of(data, good, config={"a": {"b": [1, {2}]}})
    kept = make_of(data, good, record={"trace": torch.tensor([1.0, math.inf]), "n": np.int64(3), "flag": True})
    assert kept.manifest["record"] == {"trace": [1.0, None], "n": 3, "flag": True}


def test_every_claim_of_a_pack_is_verified(tmp_path):
    data = make_data()
    for dirty in (False, True):
        make(data, dirty=dirty).save(tmp_path / "pack", overwrite=True)
        checks = verify_pack(tmp_path / "pack", data)
        assert [check for check in checks if check.passed is not True] == []
        assert len({check.name for check in checks}) == len(checks) == 11


def test_without_data_the_open_claims_are_named(tmp_path):
    make(make_data()).save(tmp_path / "pack")
    checks = verify_pack(tmp_path / "pack")
    found = {check.name: check.passed for check in checks}
    assert {name for name, passed in found.items() if passed is None} == {
        "dataset fingerprint",
        "base pixels",
        "epsilon",
        "labels",
        "budget of the class",
        "scenario",
    }
    assert {name for name, passed in found.items() if passed} == {"files", "count", "ids", "shape", "budget of the set"}
    assert all("needs the data set" in check.detail for check in checks if check.passed is None)
