"""BadNets and Blended: what is published, what the pack claims, exports, refusals; and that the promise holds."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from mithridate.attacks._base import AttackKit
from mithridate.attacks.badnets import BadNets
from mithridate.attacks.blended import Blended
from mithridate.attacks.noise import Noise
from mithridate.attacks.witches_brew import WitchesBrew
from mithridate.core.artefacts import new_artefact
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.core.registry import Registry
from mithridate.data.packs import PoisonPack, export_pack, import_pack, verify_pack
from mithridate.data.scenarios import Scenario, scenarios
from mithridate.data.sources import load
from mithridate.evaluation.backdoor import judge_backdoor, published_poisons
from mithridate.numerics.triggers import blend, patch
from mithridate.training.contracts import contract
from mithridate.training.loop import train

ATTACKS = (BadNets(), Blended())


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def draw(data, source="trigger", *, budget=0.02, threat="other-classes", count=1, seed=0, epsilon=1.0):
    return scenarios(source, data, budget=budget, epsilon=epsilon, count=count, seed=seed, threat=threat)


@pytest.fixture(scope="module")
def scenario(digits):
    return draw(digits)[0]


@pytest.fixture(scope="module")
def kit(digits):
    return AttackKit(data=digits)


def test_scenarios_with_a_trigger(digits):
    found = draw(digits, count=3)
    assert [(one.name, one.adversarial_class, one.targets) for one in found] == [
        (f"trigger/{k}", k, ()) for k in range(3)
    ]
    assert draw(digits, "trigger:2")[0] == found[2]
    assert all(Scenario.from_json(one.to_json()) == one for one in found)
    for one in found:
        labels = digits.train.labels[torch.tensor(one.poison_ids)]
        assert len(labels) == 29 and not (labels == one.adversarial_class).any() and len(labels.unique()) > 5
    assert set(draw(digits, budget=0.01)[0].poison_ids) < set(found[0].poison_ids)
    every = torch.tensor(draw(digits, budget=0.5, threat="random-subset")[0].poison_ids)
    assert 40 < (digits.train.labels[every] == 0).sum() < 110
    assert (digits.train.labels[torch.tensor(draw(digits, threat="single-class")[0].poison_ids)] == 0).all()


def test_impossible_scenarios_with_a_trigger(digits, scenario):
    for code, settings in (
        ("MTH-0310", {"threat": "self-betrayal"}),
        ("MTH-0310", {"threat": "third-party"}),
        ("MTH-0308", {"count": 11}),
        ("MTH-0302", {"budget": 0.95}),
        ("MTH-0306", {"source": "trigger:10"}),
    ):
        with pytest.raises(Misuse, match=code):
            draw(digits, **settings)
    for change in ({"targets": (1,)}, {"target_class": 3}):
        with pytest.raises(Misuse, match="MTH-0309"):
            dataclasses.replace(scenario, **change)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.method)
def test_a_pack_is_stamped_images_under_the_wanted_label(attack, kit, scenario, digits, tmp_path):
    pack = attack.craft(kit, scenario, seed=3)
    clean = digits.train.images.gather(pack.ids)
    assert torch.equal(pack.images, pack.trigger.stamp(clean))
    assert (pack.labels == 0).all()
    poisoned = pack.apply(digits.train)
    others = torch.ones(len(digits.train), dtype=torch.bool)
    others[pack.ids] = False
    rest = others.nonzero().squeeze(1)
    assert torch.equal(poisoned.images.gather(rest), digits.train.images.gather(rest))
    assert torch.equal(poisoned.labels[rest], digits.train.labels[rest])
    assert (poisoned.labels[pack.ids] == 0).all()
    pack.save(tmp_path / "pack")
    again = PoisonPack.load(tmp_path / "pack")
    assert again == pack and again == attack.craft(kit, scenario, seed=3)
    checks = {check.name: check for check in verify_pack(tmp_path / "pack", digits)}
    assert all(check.passed for check in checks.values()) and "exactly this trigger" in checks["trigger"].detail
    assert verify_pack(tmp_path / "pack")[-1].passed is None


def test_the_defaults_of_the_papers():
    assert BadNets().trigger((3, 32, 32), seed=0) == patch((3, 32, 32), size=3)
    assert BadNets().trigger((1, 8, 8), seed=5) == patch((1, 8, 8), size=2)
    mixed = Blended().trigger((3, 32, 32), seed=0)
    assert mixed.mask.unique().tolist() == [pytest.approx(0.2)]
    assert mixed != Blended().trigger((3, 32, 32), seed=1)


def test_a_pattern_from_a_file(kit, scenario, tmp_path):
    path = tmp_path / "cat.png"
    wanted = blend(torch.eye(8)[None], ratio=1.0)
    wanted.save(path)
    pack = Blended(pattern=str(path), ratio=0.4).craft(kit, scenario, seed=0)
    assert pack.trigger == blend(torch.eye(8)[None], ratio=0.4)


@pytest.mark.parametrize("kind", ["png", "parquet", "npz"])
def test_exports_come_back_with_the_trigger(kind, kit, scenario, digits, tmp_path):
    for attack in ATTACKS:
        pack = attack.craft(kit, scenario, seed=1)
        export_pack(pack, tmp_path / attack.method, format=kind)
        assert import_pack(tmp_path / attack.method, format=kind, data=digits) == pack
    with pytest.raises(Misuse, match="MTH-0324"):
        export_pack(pack, tmp_path / "b", format="benchmark", data=digits)


def test_another_trigger_in_the_folder_is_found(kit, scenario, digits, tmp_path):
    pack = BadNets().craft(kit, scenario, seed=1)
    pack.save(tmp_path / "pack")
    shutil.copytree(tmp_path / "pack", tmp_path / "bad")
    other = patch((1, 8, 8), size=1).arrays()
    np.savez(tmp_path / "bad" / "trigger.npz", **other)
    assert [check.passed for check in verify_pack(tmp_path / "bad", digits)] == [False]
    # the same with checksums of files made to fit: the claims name the trigger's content
    with new_artefact(tmp_path / "worse", kind="poison-pack") as draft:
        draft.manifest.update(pack.manifest)
        np.savez(draft.path / "poisons.npz", ids=pack.ids, images=pack.images, labels=pack.labels)
        np.savez(draft.path / "trigger.npz", **other)
    with pytest.raises(BadArtefact, match="MTH-0323"):
        PoisonPack.load(tmp_path / "worse")


def test_poisons_that_are_more_than_stamped_are_said_to_be(kit, scenario, digits, tmp_path):
    from mithridate.data.packs import make_pack, with_trigger

    pack = BadNets().craft(kit, scenario, seed=1)
    images = pack.images.clone()
    images[0, 0, 0, 0] ^= 1
    other = make_pack(digits.train, scenario, images, attack="x", config={}, seed=0, record={}, labels=pack.labels)
    other = with_trigger(other, digits.train, pack.trigger)
    assert (pack.manifest["trigger"]["stamped"], other.manifest["trigger"]["stamped"]) == (True, False)
    other.save(tmp_path / "pack")
    checks = {check.name: check for check in verify_pack(tmp_path / "pack", digits)}
    assert checks["trigger"].passed and "not merely" in checks["trigger"].detail


def test_packs_without_a_trigger_are_as_before(digits, kit):
    pack = Noise().craft(kit, draw(digits, "random", threat="single-class", epsilon=0.1)[0], seed=0)
    assert pack.trigger is None and "trigger" not in pack.manifest


def test_the_control_has_the_labels_and_no_trigger(kit, scenario, digits):
    pack = Noise().craft(kit, scenario, seed=0)
    assert torch.equal(pack.images, digits.train.images.gather(pack.ids))
    assert (pack.labels == 0).all() and pack.trigger is None


def test_kinds_are_not_mixed_up(kit, scenario, digits):
    with pytest.raises(Misuse, match="MTH-0335"):
        BadNets().craft(kit, draw(digits, "random", threat="single-class")[0], seed=0)
    with pytest.raises(Misuse, match="MTH-0335"):
        WitchesBrew(restarts=1, steps=1).craft(kit, scenario, seed=0)
    with pytest.raises(Misuse, match="MTH-0321"):
        BadNets().craft(kit, dataclasses.replace(scenario, epsilon=0.5), seed=0)
    assert Blended().craft(kit, dataclasses.replace(scenario, epsilon=0.25), seed=0).manifest["epsilon"]["levels"] <= 63


def test_modules_say_which_scenarios_they_need():
    registry = Registry("mithridate.attacks", "attack")
    assert {name: registry.constant(name, "SCENARIO") for name in registry.names()} == {
        "badnets": "trigger",
        "blended": "trigger",
        "noise": None,
        "witches-brew": None,
    }
    assert all("1" in registry.describe(attack.method).source for attack in ATTACKS)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.method)
def test_the_trigger_works_where_it_was_planted_and_nowhere_else(attack, kit, digits):
    """The claim on digits, five per cent, the small perceptron: the control is the same network without poisons."""
    pack = attack.craft(kit, draw(digits, budget=0.05)[0], seed=0)
    plan = contract("digits-mlp40", digits, "mlp")
    planted = judge_backdoor(
        train(plan.poisoned(pack), 0), digits.test, pack.trigger, 0, poisons=published_poisons(digits.train, pack)
    )
    clean = judge_backdoor(train(plan, 0), digits.test, pack.trigger, 0)
    assert planted.attack_success_rate >= 0.8 and clean.attack_success_rate <= 0.05
    assert clean.clean_accuracy - planted.clean_accuracy <= 0.02
    assert planted.heal_poisons.rate < 0.1 and clean.heal_test.rate > 0.8
