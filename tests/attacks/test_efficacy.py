"""Witches' Brew really works on digits, noise of the same size does not, and augmentation of the victim blunts it.

Operating point: 6 % of the set, epsilon 0.5, M = 100, R = 2, tau = 0.4 epsilon. Victims are fresh initialisations with
their own order of the data, trained by a loop of this file.
"""

import pytest
import torch
from torch.nn.functional import cross_entropy

from mithridate.attacks._base import AttackKit
from mithridate.attacks.noise import Noise
from mithridate.attacks.witches_brew import WitchesBrew
from mithridate.data.scenarios import scenarios
from mithridate.data.sources import load
from mithridate.models.spec import ModelSpec
from mithridate.numerics.matching import gradient_cosine
from mithridate.numerics.rng import generator
from mithridate.numerics.warp import Shift

pytestmark = pytest.mark.slow

TARGETS = 8
SHIFT = Shift(law="integer", max_px=1, flip=False, fill="black")
BREW = WitchesBrew(restarts=2, steps=100, step_size=0.4, step_unit="epsilon")


def trained(digits, examples, seed, *, augment=None):
    spec = ModelSpec(name="mlp", num_classes=10, channels=1, size=8, mean=digits.mean, std=digits.std)
    net, gen = spec.build(seed), generator(seed, "order")
    x, y = pixels(examples), examples.labels
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for epoch in range(40):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * 0.1 ** sum(epoch >= milestone for milestone in (14, 24, 35))
        for rows in torch.randperm(len(y), generator=gen).split(64):
            seen = x[rows]
            if augment is not None:
                seen = augment.apply(seen, augment.draw(len(rows), (8, 8), gen), torch.zeros(1))
            optimizer.zero_grad()
            cross_entropy(net(seen), y[rows]).backward()
            optimizer.step()
    return net.eval()


def pixels(examples):
    return examples.images.gather(torch.arange(len(examples))).float() / 255


def accuracy(net, examples):
    return float((net(pixels(examples)).argmax(1) == examples.labels).float().mean())


def fooled(net, digits, scenario):
    x = digits.test.images.gather(torch.tensor(scenario.targets)).float() / 255
    return bool((net(x).argmax(1) == scenario.adversarial_class).all())


@pytest.fixture(scope="module")
def brewed():
    """Data, clean surrogate, and for every scenario its packs; nothing is augmented."""
    digits = load("digits")
    surrogate = trained(digits, digits.train, 1000)
    kit = AttackKit(data=digits, surrogates=(surrogate,))
    chosen = scenarios("random", digits, budget=0.06, epsilon=0.5, count=TARGETS, seed=0)
    packs = [(s, BREW.craft(kit, s, seed=0), Noise().craft(kit, s, seed=0)) for s in chosen]
    return digits, surrogate, packs


@pytest.fixture(scope="module")
def outcomes(brewed):
    """Success of brew and noise, and accuracies of the brewed victims, all without augmentation."""
    digits, _, packs = brewed
    hits, controls, accuracies = [], [], []
    for k, (scenario, pack, noise) in enumerate(packs):
        victim = trained(digits, pack.apply(digits.train), k)
        hits.append(fooled(victim, digits, scenario))
        controls.append(fooled(trained(digits, noise.apply(digits.train), k), digits, scenario))
        accuracies.append(accuracy(victim, digits.test))
    return hits, controls, accuracies


def test_the_attack_succeeds_and_noise_does_not(brewed, outcomes):
    digits, surrogate, _ = brewed
    hits, controls, accuracies = outcomes
    assert sum(hits) >= TARGETS / 2
    assert sum(controls) == 0
    assert accuracy(surrogate, digits.test) - sum(accuracies) / TARGETS <= 0.015


def test_the_matching_loss_becomes_small(brewed):
    losses = [pack.manifest["record"]["matching_loss"] for _, pack, _ in brewed[2]]
    assert sum(losses) / TARGETS < 0.1


def test_brewed_poisons_are_aligned_with_the_target_and_noise_is_not(brewed):
    digits, surrogate, packs = brewed
    for scenario, pack, noise in packs:
        rows = torch.tensor(scenario.targets)
        wanted = torch.full_like(rows, scenario.adversarial_class)
        theirs = (digits.test.images.gather(rows).float() / 255, wanted)
        brew, control = (gradient_cosine(surrogate, (p.images.float() / 255, p.labels), theirs) for p in (pack, noise))
        assert brew == pytest.approx(1 - pack.manifest["record"]["matching_loss"], abs=1e-4)
        assert brew > control + 0.2


def test_a_victim_that_augments_is_hard_to_hit_with_poisons_that_were_brewed_without(brewed, outcomes):
    digits, _, packs = brewed
    plain = sum(outcomes[0])
    augmented = sum(
        fooled(trained(digits, pack.apply(digits.train), k, augment=SHIFT), digits, scenario)
        for k, (scenario, pack, _) in enumerate(packs)
    )
    assert plain - augmented >= 0.4 * TARGETS
