"""Neural Cleanse on a backdoored network: the class is found, its trigger works, and training against it removes it."""

from dataclasses import replace
from statistics import median

import pytest
import torch

from mithridate.data.sources import load
from mithridate.evaluation.backdoor import judge_backdoor
from mithridate.numerics.triggers import patch
from mithridate.training.contracts import contract
from mithridate.training.loop import train
from mithridate.unlearning._base import Guard, HealKit
from mithridate.unlearning.heal import named_healer
from mithridate.unlearning.neural_cleanse import Search, reconstruct

TARGET = 0


@pytest.mark.slow
def test_neural_cleanse_finds_the_class_of_badnets_and_unlearns_it():
    digits = load("digits")
    trigger = patch(digits.train.images.shape, size=2)
    others = (digits.train.labels != TARGET).nonzero().flatten()
    ids = others[torch.randperm(len(others), generator=torch.Generator().manual_seed(0))[:140]]
    pixels = trigger.stamp(digits.train.images.gather(ids))
    bad = digits.train.overlay(ids, pixels, torch.full((140,), TARGET))
    plan = replace(contract("digits-cnn30", digits, "convnet3"), data=bad)
    net = train(plan, 0)
    before = judge_backdoor(net, digits.test, trigger, TARGET)
    assert before.attack_success_rate > 0.9

    clean = torch.tensor(sorted(set(range(len(bad))) - set(ids.tolist())))
    some = clean[torch.randperm(len(clean), generator=torch.Generator().manual_seed(1))[:200]]
    found = reconstruct(net, bad.select(some), search=Search(epochs=40, cost=0.01, batch=32))
    assert min(found.sizes, key=found.sizes.__getitem__) == TARGET
    assert found.sizes[TARGET] < median(found.sizes.values()) / 1.8
    assert found.success[TARGET] >= 0.98
    kit = HealKit(model=net, suspects=bad.select(ids[:5]), reference=bad.select(some), training=plan, guard=Guard())
    healed = named_healer("neural-cleanse", look_at="suspects", search_epochs=40, batch=32).heal(kit, seed=0)
    after = judge_backdoor(healed.model, digits.test, trigger, TARGET)
    assert after.attack_success_rate < before.attack_success_rate - 0.3
    assert after.clean_accuracy > before.clean_accuracy - 0.05
