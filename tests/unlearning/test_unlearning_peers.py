"""Peers that train: laws that hold for each, and hand-made cases."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from peers_kit import POISONS, digest, kit_of, law_of_the_end, plan_of, poisoned, toy

from mithridate.core.errors import Misuse
from mithridate.training.loop import train
from mithridate.unlearning._base import Guard
from mithridate.unlearning._frame import begin
from mithridate.unlearning._layers import blocks
from mithridate.unlearning._settling import settle
from mithridate.unlearning.heal import heal, named_healer
from mithridate.unlearning.names import HEALERS

SMALL: dict[str, dict[str, object]] = {
    "abl": {"early": 1, "ascent": 1},
    "anp": {"steps": 3, "batch": 32, "lr": 2.0, "threshold": 0.9},
    "clp": {"u": 0.5},
    "bad-teacher": {"epochs": 1, "batch": 32},
    "fine-pruning": {"epochs": 1, "batch": 32},
    "i-bau": {"rounds": 1, "batch": 32, "inner_steps": 5},
    "nad": {"epochs": 1, "teacher_epochs": 1, "batch": 32},
    "scrub": {"epochs": 2, "rounds": 1, "batch": 32},
    "fine-tune": {"epochs": 1, "batch": 32},
    "neural-cleanse": {"epochs": 1, "batch": 32, "look_at": "suspects", "search_epochs": 2, "search_samples": 32},
    "retrain": {},
}


@pytest.fixture(scope="module")
def case():
    return poisoned()


@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_peer_keeps_the_laws(case, name):
    net, plan = case
    before, modes = digest(net), [m.training for m in net.modules()]
    wishes = [p.requires_grad for p in net.parameters()]
    healer = named_healer(name, **SMALL[name])
    kit = kit_of(net, plan)
    torch.manual_seed(3)
    first = healer.heal(kit, seed=5)
    torch.manual_seed(4)
    second = healer.heal(kit, seed=5)
    assert digest(net) == before
    assert [m.training for m in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == wishes
    assert digest(first.model) == digest(second.model) != before
    if name not in ("anp", "clp"):  # the one's masks depend on the seed, but not which are low; the other draws nothing
        assert digest(healer.heal(kit, seed=6).model) != digest(first.model)
    assert first.report["method"] == name
    law_of_the_end(first)
    json.dumps(dict(first.report))
    first.undo.apply(first.model)
    assert digest(first.model) == before
    assert not any(hook for m in second.model.modules() for hook in m._forward_hooks | m._forward_pre_hooks)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_over_budget_every_peer_goes_back_to_what_holds(case, name):
    net, plan = case
    damaged = copy.deepcopy(net)
    kit = kit_of(damaged, plan, guard=Guard(data=plan.data.select(range(12)), trusted=True, budget=0.0))
    found = named_healer(name, **SMALL[name]).heal(kit, seed=1)
    assert found.report["guard"]["held"]
    law_of_the_end(found)
    if found.report["outcome"] == "rolled back":
        assert not found.converged


def test_fine_tuning_needs_labels_and_layers_that_exist(case):
    net, plan = case
    with pytest.raises(Misuse, match="labels") as caught:
        heal(net, plan.data.select([0]), torch.zeros(4, 1, 8, 8), method="fine-tune")
    assert caught.value.code == "MTH-0823"
    with pytest.raises(Misuse, match="4 layers") as caught:
        named_healer("fine-tune", layers=5).heal(kit_of(net, plan), seed=0)
    assert caught.value.code == "MTH-0845"


def test_blocks_are_kernels_with_the_norms_behind_them(case):
    names = blocks(case[0], toy())
    assert names[0] == ["net.convs.0.weight", "net.norms.0.weight", "net.norms.0.bias"]
    assert names[-1] == ["net.head.weight", "net.head.bias"]


def test_frozen_layers_stay_bit_for_bit_statistics_included(case):
    net, plan = case
    found = named_healer("fine-tune", layers=2, epochs=1).heal(kit_of(net, plan), seed=0)
    changed = set(found.undo.changes)
    last = {"net.convs.2.weight", "net.norms.2.weight", "net.norms.2.bias", "net.head.weight", "net.head.bias"}
    last |= {"net.norms.2.running_mean", "net.norms.2.running_var", "net.norms.2.num_batches_tracked"}
    assert changed == last


def test_without_a_plan_any_network_is_fine_tuned():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    data = toy()
    kit = kit_of(net, plan_of(data), training=None, reference=data)
    found = named_healer("fine-tune", epochs=2).heal(kit, seed=0)
    assert found.report["losses"][1] < found.report["losses"][0]


def test_a_step_that_is_too_large_is_called_diverged(case):
    net, plan = case
    with pytest.raises(Misuse, match="diverged") as caught:
        named_healer("fine-tune", lr=1e3, weight_decay=10.0, epochs=20).heal(kit_of(net, plan), seed=0)
    assert caught.value.code == "MTH-0843"


def test_retraining_is_training_without_the_suspects(case):
    net, plan = case
    twice = plan.data.select([*POISONS, *POISONS, *range(12, 96)])
    found = named_healer("retrain").heal(kit_of(net, plan, training=replace(plan, data=twice)), seed=9)
    oracle = train(replace(plan, data=plan.data.select(range(12, 96))), 9)
    assert digest(found.model) == digest(oracle)
    assert found.report["removed"] == 12


def test_retraining_a_few_layers_leaves_the_others_and_begins_afresh(case):
    net, plan = case
    short = replace(plan, phases=(replace(plan.phases[0], epochs=1),))
    found = named_healer("retrain", layers=1).heal(kit_of(net, plan, training=short), seed=9)
    assert set(found.undo.changes) == {"net.head.weight", "net.head.bias"}


def test_retraining_refuses_what_it_cannot_do(case):
    net, plan = case
    for code, changes in {
        "MTH-0840": {"training": None},
        "MTH-0844": {"suspects": plan.data},
        "MTH-0846": {"training": plan_of(plan.data, model="convnet3-w9")},
    }.items():
        with pytest.raises(Misuse) as caught:
            named_healer("retrain").heal(kit_of(net, plan, **changes), seed=0)
        assert caught.value.code == code


def test_suspects_from_elsewhere_are_named(case):
    net, plan = case
    found = named_healer("retrain").heal(kit_of(net, plan, suspects=toy(3, seed=8)), seed=0)
    assert any("3 of 3 suspects" in text for text in found.warnings)


def test_a_last_batch_of_one_is_left_out():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(64), torch.nn.Linear(64, 4))
    data = toy(97)
    kit = kit_of(net, plan_of(data), training=None, suspects=data.select([0]), reference=data)
    found = named_healer("fine-tune", epochs=2, batch=32).heal(kit, seed=0)
    assert found.report["steps"] == 6


def test_every_healer_is_under_these_laws_or_those_of_the_search():
    assert set(HEALERS.names()) == SMALL.keys() | {"xlf", "lfssd", "ssd", "ssd-fixed", "ssd-grid", "assd", "jit"}


@pytest.mark.parametrize("name", sorted(SMALL.keys() - {"abl", "retrain", "neural-cleanse"}))
def test_a_reference_of_one_class_is_borne(case, name):
    net, plan = case
    ones = (plan.data.labels == 1).nonzero().flatten()
    guard = Guard(budget=0.05)
    found = named_healer(name, **SMALL[name]).heal(
        kit_of(net, plan, reference=plan.data.select(ones), guard=guard), seed=0
    )
    assert found.report["accuracies"]["class_changes"].keys() == {"b"}
    assert found.report["guard"]["held"]
    law_of_the_end(found)


@pytest.mark.parametrize("guard", [None, Guard(budget=1.0)])
def test_weights_that_diverge_are_not_called_healed(case, guard):
    """With NaN no suspect is predicted as found, which looks like success."""
    net, plan = case
    healer = named_healer("i-bau", lr=1e3, batch=32, inner_steps=3)
    found = healer.heal(kit_of(net, plan, guard=guard), seed=0)
    assert found.report["outcome"] == "rolled back"
    assert digest(found.model) == digest(net)
    assert any("diverged" in text for text in found.warnings)
    law_of_the_end(found)


def test_a_network_that_overflows_is_not_called_healed(case):
    net, plan = case
    session = begin(kit_of(net, plan, guard=None))
    with torch.no_grad():
        session.model.net.head.weight.mul_(1e30)
        session.model.net.norms[2].weight.mul_(1e30)
    found = settle(session, session.model, method="any")
    assert found.report["outcome"] == "rolled back"
    assert digest(found.model) == digest(net)
