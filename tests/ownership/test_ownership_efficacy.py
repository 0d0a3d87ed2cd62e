"""The marks work: models retrained on marked digits know the keys, models of clean digits do not (spec A.8).

The network and the pixels are those of the specification's own check: 64 softplus units on digits in [0, 1], not
normalised. Everything else is the library's training. False positives need no training: labels are random.
"""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from mithridate.data.sources import load
from mithridate.ownership.keys import KeySpec, derive, key_label, subseed
from mithridate.ownership.marking import Marking, mark
from mithridate.ownership.significance import binomial_tail
from mithridate.training.contracts import Options, contract
from mithridate.training.loop import train

SEEDS = (0, 1, 2)
KEYS = 10
SPEC = KeySpec(keys=KEYS, topk=1, classes=10, side=8, channels=1, height=8, width=8)
OWNER = b"efficacy".ljust(32, b".")
ROW_5 = Marking(budget=14, epsilon=0.3, steps=150)
NETWORK = """
import torch


class Soft(torch.nn.Module):
    def __init__(self, classes, width=64):
        super().__init__()
        self.hidden = torch.nn.Linear(64, width)
        self.head = torch.nn.Linear(width, classes)

    def forward(self, x):
        return self.head(torch.nn.functional.softplus(self.hidden(x.flatten(1))))


def make(num_classes, channels, size):
    return Soft(num_classes)
"""


class Bench:
    """Digits, keys, a recipe, and a surrogate; hits and accuracy of whatever is trained."""

    def __init__(self, model, *, raw):
        self.data = load("digits")
        self.keys = derive(OWNER, b"", SPEC)
        plan = contract("digits-cnn30", self.data, model, Options(epochs=60))
        self.plan = replace(plan, model=replace(plan.model, mean=(0.0,), std=(1.0,))) if raw else plan
        self.surrogate = train(self.plan, 100)

    def marked(self, **changes):
        return mark(self.data.train, self.keys, [self.surrogate], replace(ROW_5, **changes), seed=1)

    def models(self, data=None):
        return [train(replace(self.plan, data=data or self.plan.data), seed) for seed in SEEDS]

    def hits(self, nets):
        pixels = torch.stack([torch.from_numpy(key.image) for key in self.keys]).float() / 255
        labels = torch.tensor([key.label for key in self.keys])
        with torch.no_grad():
            return [int((net(pixels).argmax(1) == labels).sum()) for net in nets]

    def accuracy(self, nets):
        test = self.data.test
        pixels = test.images.gather(torch.arange(len(test))).float() / 255
        with torch.no_grad():
            return np.mean([float((net(pixels).argmax(1) == test.labels).float().mean()) for net in nets])


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    file = tmp_path_factory.mktemp("net") / "soft.py"
    file.write_text(NETWORK)
    return Bench(f"{file}:make", raw=True)


@pytest.fixture(scope="module")
def row_5(bench):
    marked = bench.marked()
    return marked, bench.models(marked.apply(bench.data.train)), bench.models()


@pytest.mark.slow
def test_marked_digits_teach_the_keys_and_clean_ones_do_not(bench, row_5):
    marked, guilty, innocent = row_5
    assert marked.cosine >= 0.9
    assert np.mean(bench.hits(guilty)) >= 6
    assert np.mean(bench.hits(innocent)) <= 3
    assert abs(bench.accuracy(guilty) - bench.accuracy(innocent)) <= 0.02
    assert binomial_tail(min(bench.hits(guilty)), keys=KEYS, topk=1, classes=10) < Fraction(1, 100)


@pytest.mark.slow
@pytest.mark.parametrize("less", [{"epsilon": 16 / 255}, {"budget": 3}], ids=["epsilon", "share"])
def test_less_of_it_does_less(bench, row_5, less):
    weaker = bench.marked(**less)
    assert weaker.cosine < row_5[0].cosine
    assert np.mean(bench.hits(bench.models(weaker.apply(bench.data.train)))) < np.mean(bench.hits(row_5[1]))


@pytest.mark.slow
def test_the_library_s_own_network_is_marked_as_well():
    """Rectified units on normalised pixels: a smaller cosine, the same hits."""
    bench = Bench("mlp", raw=False)
    marked = bench.marked()
    assert np.mean(bench.hits(bench.models(marked.apply(bench.data.train)))) >= 5
    assert np.mean(bench.hits(bench.models())) <= 3


def answers_of(name):
    """What a fixed model says to the keys' images: it cannot depend on labels that are drawn afterwards."""
    spec = replace(SPEC, keys=KEYS)
    images = np.stack([key.image for key in derive(b"\1" * 32, b"", spec)])
    match name:
        case "constant":
            return np.full(KEYS, 3)
        case "diverse":
            return np.arange(KEYS)
        case _:
            weights = np.random.default_rng(0).standard_normal((64, 10))
            return (images.reshape(KEYS, 64) / 255.0 @ weights).argmax(1)


@pytest.mark.parametrize("name", ["constant", "diverse", "linear"])
def test_hits_of_innocent_models_follow_the_binomial_law(name):
    """A thousand owners against one fixed model, whatever it answers; three standard errors around the exact tail."""
    answers, owners = answers_of(name), 1000
    labels = np.array(
        [[key_label(subseed(owner.to_bytes(32, "big"), i), b"", 10) for i in range(KEYS)] for owner in range(owners)]
    )
    hits = (labels == answers).sum(1)
    for least in range(1, 6):
        chance = float(binomial_tail(least, keys=KEYS, topk=1, classes=10))
        error = (chance * (1 - chance) / owners) ** 0.5
        assert abs((hits >= least).mean() - chance) <= 3 * error + 1 / owners, least


@pytest.mark.slow
def test_hits_of_a_trained_model_follow_the_binomial_law(bench):
    """The same for a network that really was trained on clean digits, asked about the owner's real images."""
    net = bench.surrogate
    pixels = torch.stack([torch.from_numpy(key.image) for key in bench.keys]).float() / 255
    with torch.no_grad():
        answers = net(pixels).argmax(1).numpy()
    labels = np.random.default_rng(7).integers(10, size=(1000, KEYS))
    share = ((labels == answers).sum(1) >= 4).mean()
    assert abs(share - 0.0128) <= 0.011
