"""A plan is everything that determines a training run except its seed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from mithridate.core.errors import Misuse
from mithridate.data.examples import Examples
from mithridate.data.packs import PoisonPack
from mithridate.models.spec import ModelSpec
from mithridate.training._base import AbstractView
from mithridate.training.step import Step


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One step, repeated for a number of passes over the data."""

    step: Step
    epochs: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Data and recipe.

    Attributes:
        data: The training set.
        model: How to build the network.
        phases: What happens, in order. A stage that two consecutive phases share keeps its state between them.
        precision: `fp32`, or `bf16` for autocast inside the network; parameters, losses and optimiser stay float32.
        device: Where to train.
        pretrained: Weights to begin with, by name, or None for a fresh initialisation.
        head_only: Freeze everything but the last linear layer, and keep the network in evaluation mode. The head is
            initialised afresh.
    """

    data: Examples
    model: ModelSpec
    phases: tuple[Phase, ...]
    precision: Literal["fp32", "bf16"] = "fp32"
    device: str = "cpu"
    pretrained: Mapping[str, Tensor] | None = None
    head_only: bool = False

    @property
    def epochs(self) -> int:
        """Passes over the data in all."""
        return sum(phase.epochs for phase in self.phases)

    @property
    def num_steps(self) -> int:
        """Updates in all."""
        return sum(phase.epochs * phase.step.draw.steps_per_epoch(len(self.data)) for phase in self.phases)

    def poisoned(self, pack: PoisonPack) -> "Plan":
        """Return the plan with the pack applied to its data."""
        return replace(self, data=pack.apply(self.data))

    def mapped(self, change: Callable[[Step], Step], *, begin: int = 0) -> "Plan":
        """Return the plan with `change` applied to the step of every phase from epoch `begin` on."""
        phases: list[Phase] = []
        done = 0
        for phase in self.phases:
            before = min(max(begin - done, 0), phase.epochs)
            if before:
                phases.append(replace(phase, epochs=before))
            if before < phase.epochs:
                phases.append(Phase(step=change(phase.step), epochs=phase.epochs - before))
            done += phase.epochs
        return replace(self, phases=tuple(phases))

    def with_view(self, view: AbstractView, *, begin: int = 0) -> "Plan":
        """Return the plan with `view` put before the other views from epoch `begin` on."""
        if begin < 0:
            raise Misuse("MTH-0505", f"a view begins at an epoch of 0 or later, got {begin}")
        return self.mapped(lambda step: replace(step, views=(view, *step.views)), begin=begin)
