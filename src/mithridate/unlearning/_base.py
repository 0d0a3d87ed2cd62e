"""What a healer is: an arrow from a poisoned model and what was found of the poison to a healed model and an undo."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mithridate.core.errors import Misuse
from mithridate.core.params import Checked
from mithridate.core.pool import Tell, silent
from mithridate.data.examples import Examples
from mithridate.numerics.shelf import Shelf
from mithridate.training.plan import Plan
from mithridate.unlearning.undo import Undo

ASSUMED_RATE = 0.02
"""The share of poison that data of unknown origin are taken to hold."""
MANY = 50_000
"""The size of the training set if nobody says it: the search then begins as finely as the paper's."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Guard:
    """How much a healer may cost on data that are worth keeping.

    Args:
        data: Examples to watch; None takes those of the reference.
        trusted: Whether these data hold no poison.
        budget: The most accuracy that may be lost on them, a share. None allows 0.01, and as much more as the data may
            hold of poison, because healing flips the poison that is hidden there.
        limit: How many of the data are watched, drawn once.
    """

    data: Examples | None = None
    trusted: bool = False
    budget: float | None = None
    limit: int = 1000

    def __post_init__(self) -> None:
        if self.budget is not None and not 0 <= self.budget <= 1:
            raise Misuse("MTH-0822", f"the budget of a guard is a share in [0, 1], got {self.budget}")
        if self.limit < 1 or (self.data is not None and not len(self.data)):
            raise Misuse("MTH-0822", "a guard needs at least one example to watch", hint="guard=None heals unguarded")


@dataclass(frozen=True, kw_only=True, eq=False)
class HealKit:
    """What the defender has.

    Args:
        model: The poisoned network, pixels in [0, 1] in and logits out. It is never changed.
        suspects: The discovered samples, with the labels under which they were found.
        reference: Data that show what the network is to keep: the rest of the training set, or a few hundred of it, or
            clean data of any kind.
        labelled: Whether the labels of the reference mean anything; methods that need them refuse otherwise.
        poison_rate: The share of poison in the training set, as far as it is known.
        guard: What protects the reference; None heals unguarded.
        num_training: The size of the training set, if it is known.
        training: How the network was trained, for methods that train.
        progress: Told `what` is done now, and how much of it is `done`, a share.
        shelf: Where to keep and find unfinished work, None to start afresh.
    """

    model: nn.Module
    suspects: Examples
    reference: Examples
    labelled: bool = True
    poison_rate: float | None = None
    guard: Guard | None = field(default_factory=Guard)
    num_training: int | None = None
    training: Plan | None = None
    progress: Tell = silent
    shelf: Shelf | None = None

    def __post_init__(self) -> None:
        for name, data in (("suspects", self.suspects), ("reference", self.reference)):
            if not len(data):
                hint = "scan finds suspects" if name == "suspects" else "a hundred examples without labels are enough"
                raise Misuse("MTH-0820", f"there are no {name}, and a healer needs at least one", hint=hint)
        watched = self.guard.data if self.guard is not None and self.guard.data is not None else self.reference
        for name, data in (("reference", self.reference), ("guard's data", watched)):
            if data.images.shape != self.suspects.images.shape:
                raise Misuse(
                    "MTH-0821",
                    f"images of the suspects have shape {self.suspects.images.shape}, of the {name} "
                    f"{data.images.shape}; they must be equal",
                )
        if self.poison_rate is not None and not 0 <= self.poison_rate <= 1:
            raise Misuse("MTH-0822", f"a poison rate is a share in [0, 1], got {self.poison_rate}")
        if self.num_training is not None and self.num_training < 1:
            raise Misuse("MTH-0822", f"a training set has at least one example, got {self.num_training}")

    @property
    def training_size(self) -> int:
        """The size of the training set: as stated, as in the plan, or the largest of what is plausible."""
        if self.num_training is not None:
            return self.num_training
        if self.training is not None:
            return len(self.training.data)
        return max(MANY, len(self.suspects) + len(self.reference))


@dataclass(frozen=True, kw_only=True, eq=False)
class Healed:
    """What a healer returns.

    Args:
        model: A new network.
        report: Plain JSON: `method`, `converged`, `steps`, `alpha`, `percentile`, `frac_dampened`, `accuracies`,
            `guard`, `warnings`, `seconds`, and what else the method has to say.
        undo: What turns the model back into the one that was given.
    """

    model: nn.Module
    report: Mapping[str, Any]
    undo: Undo

    @property
    def converged(self) -> bool:
        """Whether the method reached what it was to reach; where not, the model is the given one or within budget."""
        return bool(self.report["converged"])

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know."""
        return tuple(self.report["warnings"])


@dataclass(frozen=True, kw_only=True)
class AbstractHealer(Checked, ABC):
    """A way to heal. The fields of a subclass are its whole configuration."""

    @abstractmethod
    def heal(self, kit: HealKit, *, seed: int) -> Healed:
        """Return a healed copy of the kit's model.

        Args:
            kit: What the defender has.
            seed: All randomness of the method derives from it.

        Raises:
            Misuse: The kit does not fit the method or the model.
        """

    def label(self) -> str:
        """Return the method's name: that of its file."""
        return type(self).__module__.rpartition(".")[2].replace("_", "-")


def finite(value: float) -> float | None:
    """Return a number as JSON has it: None for NaN and infinity."""
    return float(value) if math.isfinite(value) else None
