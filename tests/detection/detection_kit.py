"""Features with a planted second population, and small networks on the digits, poisoned by hand."""

import functools

import torch
from torch import nn
from torch.nn import functional

from mithridate.data.examples import Examples
from mithridate.data.sources import load
from mithridate.data.stores import ResidentStore
from mithridate.detection._base import ScanInput


class Headed(nn.Module):
    """Flattens images and puts a linear head on them: the features are the pixels."""

    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(pixels, classes)

    def forward(self, x):
        return self.head(x.flatten(1))


class Perceptron(nn.Module):
    """One hidden layer: trains in a fraction of a second."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        return self.head(functional.relu(self.hidden(x.flatten(1))))


class Conv(nn.Module):
    """Has spatial maps."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.head = nn.Linear(6, classes)

    def forward(self, x):
        return self.head(functional.relu(self.conv(x)).amax((2, 3)))


def built(make, seed=0):
    """Build a network from a seed without touching the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def images(n=120, classes=4, side=4, seed=0):
    gen = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 1, side, side), generator=gen).to(torch.uint8)
    labels = torch.arange(n) % classes
    return Examples("noise", ResidentStore(pixels), labels, tuple("abcdefghij"[:classes]))


def given_features(features, labels, classes=None):
    """A scan's input with features made by hand; the model is never called."""
    classes = classes or int(labels.max()) + 1
    blank = Examples(
        "made", ResidentStore(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8)), labels, ("x",) * classes
    )
    logits = torch.zeros(len(labels), classes)
    return ScanInput(features=features.float(), logits=logits, labels=labels, examples=blank, model=nn.Identity())


def planted(seed=0, *, n=100, classes=6, e=12, poisons=8, shift=7.0):
    """Gaussian classes; the first rows of class 0 are shifted one way. Returns features, labels, poisons."""
    gen = torch.Generator().manual_seed(seed)
    labels = torch.arange(n * classes) % classes
    features = torch.randn(n * classes, e, generator=gen, dtype=torch.float64)
    features += 5 * torch.randn(classes, e, generator=gen, dtype=torch.float64)[labels]
    ids = (labels == 0).nonzero().squeeze(1)[:poisons]
    direction = functional.normalize(torch.randn(e, generator=gen, dtype=torch.float64), dim=0)
    features[ids] += shift * direction
    bad = torch.zeros(len(labels), dtype=torch.bool)
    bad[ids] = True
    return features, labels, bad


@functools.cache
def digits():
    return load("digits").train


def stamped(seed, rate, *, target=0, side=2):
    """Digits with a white patch in the corner of some rows, which are relabelled; and which rows these are."""
    data = digits()
    gen = torch.Generator().manual_seed(100 + seed)
    others = (data.labels != target).nonzero().squeeze(1)
    ids = others[torch.randperm(len(others), generator=gen)[: round(rate * len(data))]].sort().values
    bad = torch.zeros(len(data), dtype=torch.bool)
    bad[ids] = True
    pixels = data.images.gather(ids)
    pixels[:, :, -side:, -side:] = 255
    return data.overlay(ids, pixels, torch.full((len(ids),), target)), bad


def trained(data, seed, *, epochs=25):
    """Train the perceptron with plain momentum SGD."""
    net = built(Perceptron, seed)
    gen = torch.Generator().manual_seed(seed)
    x, y = data.images.gather(torch.arange(len(data))).float() / 255, data.labels
    steps = epochs * -(-len(x) // 64)
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    decay = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 1 - step / steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=gen).split(64):
            opt.zero_grad()
            functional.cross_entropy(net(x[rows]), y[rows]).backward()
            opt.step()
            decay.step()
    return net.eval()
