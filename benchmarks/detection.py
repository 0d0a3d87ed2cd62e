"""Scans of poisoned and clean digits models: who is suspected, how many rightly, how often clean models are accused.

    python benchmarks/detection.py [--seeds 4] [--clean 12] [--rates 0.02 0.005] [--large]

Prints for each attack and rate: models in which anything is suspected, precision of the suspects with its interval, and
the share of the poisons among them; and for clean models the false alarms. Then the cost of each detector on random
features of 50,000 rows and 512 columns, with --large.
"""

import argparse
import time

import torch
from torch import nn

from mithridate.attacks._base import AttackKit
from mithridate.attacks.badnets import BadNets
from mithridate.attacks.blended import Blended
from mithridate.core.intervals import wilson
from mithridate.core.seeds import address
from mithridate.core.units import Pixels
from mithridate.data.examples import Examples
from mithridate.data.packs import PoisonPack
from mithridate.data.scenarios import scenarios
from mithridate.data.sources import DataSet, load
from mithridate.data.stores import ResidentStore
from mithridate.detection._base import ScanInput
from mithridate.detection.names import DETECTORS
from mithridate.detection.scan import scan
from mithridate.numerics.rng import generator
from mithridate.training.contracts import contract
from mithridate.training.loop import train

ATTACKS = {"badnets": BadNets, "blended": Blended}


def network(data: DataSet, seed: int, pack: PoisonPack | None = None) -> nn.Module:
    """Return the network that `heal --demo` trains, on clean or on poisoned digits."""
    plan = contract("digits-cnn30", data, "convnet3")
    return train(plan if pack is None else plan.poisoned(pack), address(seed, "benchmark", "victim"))


def planted(name: str, data: DataSet, rate: float, seed: int) -> PoisonPack:
    """Return the attack's poisons of a share of all images, from the classes other than 0; patterns are drawn anew."""
    own = address(seed, "benchmark", name)
    scenario = scenarios(
        "trigger:0", data, budget=rate, epsilon=Pixels(1.0), count=None, seed=own, threat="other-classes"
    )[0]
    return ATTACKS[name]().craft(AttackKit(data=data, surrogates=()), scenario, seed=own)


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
    parser.add_argument("--rates", type=float, nargs="+", default=[0.02, 0.005])
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    data = load("digits")
    for name in ATTACKS:
        for rate in options.rates:
            rows = []
            for seed in range(options.seeds):
                pack = planted(name, data, rate, seed)
                found = scan(network(data, seed, pack), pack.apply(data.train)).found
                rows.append((len(found), int(torch.isin(found, pack.ids).sum()), len(pack)))
            report(f"{name} {rate:.1%}", rows)
    report("clean", [(len(scan(network(data, seed), data.train).found), 0, 0) for seed in range(options.clean)])
    if options.large:
        large()


if __name__ == "__main__":
    main()
