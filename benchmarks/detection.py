"""Scans of poisoned and clean digits models: who is suspected, how many rightly, how often clean models are accused.

    python benchmarks/detection.py [--seeds 4] [--clean 12] [--large]

Prints for each attack and rate: models in which anything is suspected, precision of the suspects with its interval, and
the share of the poisons among them; and for clean models the false alarms. Then the cost of each detector on random
features of 50,000 rows and 512 columns, with --large.
"""

import argparse
import time

import torch
from torch import nn
from torch.nn import functional

from mithridate.core.intervals import wilson
from mithridate.data.examples import Examples
from mithridate.data.sources import load
from mithridate.data.stores import ResidentStore
from mithridate.detection._base import ScanInput
from mithridate.detection.names import DETECTORS
from mithridate.detection.scan import scan
from mithridate.numerics.rng import generator
from mithridate.numerics.triggers import Trigger, blend, noise_pattern


class Net(nn.Module):
    """Three convolutions, a maximum over places, a linear head: 56,554 parameters on digits."""

    def __init__(self) -> None:
        super().__init__()

        def block(i: int, o: int, stride: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1), nn.BatchNorm2d(o), nn.ReLU())

        self.body = nn.Sequential(block(1, 32, 1), block(32, 64, 2), block(64, 64, 1))
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.head(self.body(x).amax((2, 3)))


def train(data: Examples, seed: int, epochs: int = 30) -> Net:
    """Train with momentum SGD on a linearly falling rate."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Net()
    gen = generator(seed, "benchmark", "order")
    x, y = data.images.gather(torch.arange(len(data))).float() / 255, data.labels
    steps = epochs * -(-len(x) // 64)
    opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    decay = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 1 - step / steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=gen).split(64):
            opt.zero_grad()
            functional.cross_entropy(net(x[rows]), y[rows]).backward()
            opt.step()
            decay.step()
    return net.eval()


def corner(shape: tuple[int, int, int]) -> Trigger:
    """Return a white patch of 2 x 2 pixels in the corner at the bottom right."""
    mask = torch.zeros(1, *shape[1:])
    mask[:, -2:, -2:] = 1
    return Trigger(mask, torch.ones(shape), "corner")


def poisoned(data: Examples, trigger: Trigger, rate: float, seed: int) -> tuple[Examples, torch.Tensor]:
    """Stamp a share of the images of other classes and label them 0; returns which rows."""
    others = (data.labels != 0).nonzero().squeeze(1)
    order = torch.randperm(len(others), generator=generator(seed, "benchmark", "poisons"))
    ids = others[order[: round(rate * len(data))]].sort().values
    bad = torch.zeros(len(data), dtype=torch.bool)
    bad[ids] = True
    return data.overlay(ids, trigger.stamp(data.images.gather(ids)), torch.zeros(len(ids), dtype=torch.int64)), bad


def report(name: str, rows: list[tuple[int, int, int]]) -> None:
    named, right, poisons = (sum(column) for column in zip(*rows, strict=True))
    alarms = wilson(sum(row[0] > 0 for row in rows), len(rows))
    line = f"{name:16s} suspects in {sum(row[0] > 0 for row in rows)} of {len(rows)} models "
    line += f"[{alarms.low:.2f}, {alarms.high:.2f}]"
    if named:
        precision = wilson(right, named)
        line += f", precision {right}/{named} [{precision.low:.2f}, {precision.high:.2f}]"
    print(line + (f", recall {right}/{poisons}" if poisons else ""), flush=True)


def large() -> None:
    gen = generator(0, "benchmark", "large")
    n, e = 50_000, 512
    labels = torch.arange(n) % 10
    data = Examples("large", ResidentStore(torch.zeros(n, 1, 1, 1, dtype=torch.uint8)), labels, tuple("0123456789"))
    given = ScanInput(
        features=torch.randn(n, e, generator=gen),
        logits=torch.randn(n, 10, generator=gen),
        labels=labels,
        examples=data,
        model=nn.Sequential(nn.Flatten(), nn.Linear(1, 10)),
    )
    for name in DETECTORS.names():
        start = time.perf_counter()
        DETECTORS.load(name)().scores(given)
        print(f"{name:24s} {time.perf_counter() - start:7.2f} s for {n} x {e}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--clean", type=int, default=12)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    data = load("digits").train
    triggers = {
        "badnets": corner(data.images.shape),
        "blended": blend(noise_pattern(data.images.shape, generator(77, "benchmark", "pattern")), ratio=0.2),
    }
    for name, trigger in triggers.items():
        for rate in (0.02, 0.005):
            rows = []
            for seed in range(options.seeds):
                dirty, bad = poisoned(data, trigger, rate, seed)
                found = scan(train(dirty, seed), dirty)
                rows.append((len(found.found), int(bad[found.found].sum()), int(bad.sum())))
            report(f"{name} {rate:.1%}", rows)
    clean = [(len(scan(train(data, seed), data).found), 0, 0) for seed in range(options.clean)]
    report("clean", clean)
    if options.large:
        large()


if __name__ == "__main__":
    main()
