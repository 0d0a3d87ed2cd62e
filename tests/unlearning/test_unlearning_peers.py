"""Peers that train: laws that hold for each, and hand-made cases."""

import copy
import json

import pytest
import torch
from peers_kit import digest, kit_of, poisoned, toy

from mithridate.core.errors import Misuse
from mithridate.unlearning._base import Guard
from mithridate.unlearning._layers import blocks
from mithridate.unlearning.heal import heal, named_healer

SMALL: dict[str, dict[str, object]] = {
    "fine-tune": {"epochs": 1, "batch": 32},
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
    assert digest(healer.heal(kit, seed=6).model) != digest(first.model)
    assert first.report["method"] == name
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
    found = named_healer("fine-tune", epochs=2).heal(
        kit_of(net, poisoned_plan(data), training=None, reference=data), seed=0
    )
    assert found.report["losses"][1] < found.report["losses"][0]


def poisoned_plan(data):
    from peers_kit import plan_of

    return plan_of(data)


def test_a_step_that_is_too_large_is_called_diverged(case):
    net, plan = case
    with pytest.raises(Misuse, match="diverged") as caught:
        named_healer("fine-tune", lr=1e3, weight_decay=10.0, momentum=0.99, epochs=60).heal(kit_of(net, plan), seed=0)
    assert caught.value.code == "MTH-0843"
