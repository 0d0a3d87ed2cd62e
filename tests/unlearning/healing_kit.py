"""A poisoned training set of digits, and a network trained on it."""

import dataclasses

import torch

from mithridate.data.examples import Examples
from mithridate.data.sources import load
from mithridate.numerics.rng import generator
from mithridate.numerics.triggers import Trigger, patch
from mithridate.training.contracts import Options, contract
from mithridate.training.loop import train
from mithridate.training.plan import Plan

TARGET = 0


@dataclasses.dataclass(frozen=True)
class Poisoned:
    """A poisoned training set, its trigger, and a network that was trained on it."""

    model: torch.nn.Module
    train: Examples
    clean: Examples
    test: Examples
    trigger: Trigger
    ids: torch.Tensor

    def rows(self, count: int) -> torch.Tensor:
        """The first of the poisons."""
        return self.ids[:count]

    def rest(self, rows: torch.Tensor) -> Examples:
        """The training set without some rows."""
        keep = torch.ones(len(self.train), dtype=torch.bool)
        keep[rows] = False
        return self.train.select(keep.nonzero().flatten())

    def clean_rows(self, count: int, *, target: bool) -> torch.Tensor:
        """Rows that are no poison, of the target class or of others."""
        fit = (self.clean.labels == TARGET) == target
        fit[self.ids] = False
        return fit.nonzero().flatten()[:count]


def poisoned(seed: int, *, model: str = "convnet3", epochs: int | None = None) -> Poisoned:
    """Poison 28 digits with a patch, train, and return everything."""
    data = load("digits")
    trigger = patch(data.train.images.shape, size=2)
    candidates = (data.train.labels != TARGET).nonzero().flatten()
    order = torch.randperm(len(candidates), generator=generator(seed, "poisons"))
    ids = candidates[order[:28]]
    pixels = trigger.stamp(data.train.images.gather(ids))
    dirty = data.train.overlay(ids, pixels, torch.full((28,), TARGET))
    net = train(plan_of(dirty, model=model, epochs=epochs), seed)
    return Poisoned(net, dirty, data.train, data.test, trigger, ids)


def plan_of(train_set: Examples, *, model: str = "convnet3", epochs: int | None = None) -> Plan:
    """The contract of the scaled check on some data; the network takes pixels as they are, without normalisation."""
    plan = contract("digits-cnn30", load("digits"), model, Options(epochs=epochs))
    return dataclasses.replace(plan, data=train_set, model=dataclasses.replace(plan.model, mean=(0.0,), std=(1.0,)))
