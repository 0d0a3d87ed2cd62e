"""What a network makes of a trigger: the metrics of backdoors and of their healing, each as successes of trials.

    clean          clean test images                          -> their class
    attack         test images with the trigger               -> the target class      (attack success rate)
    heal_test      the same                                   -> their class           (healed; robust accuracy)
    heal_poisons   the poisons as they were published         -> the class of their clean image
    suspects       what somebody suspects to be poison        -> the label it was found with
    per_class      clean test images of each class            -> their class

Images whose class is the target class are in neither `attack` nor the two `heal` counts: they are of that class anyway.
Every prediction is compared with the label of its own row, so that the order of the rows changes nothing.

Paper    Goel et al. (TMLR 2024), arXiv 2402.14015, corrective accuracy; Schoepf et al. (2024), Potion.
Departs  the public code of both reads a shuffled loader and then indexes its predictions by poison id, and counts
         images of the target class; neither is done here, so numbers differ from theirs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from mithridate.core.intervals import Rate, wilson
from mithridate.data.examples import Examples
from mithridate.data.packs import PoisonPack
from mithridate.evaluation.outcome import logits_of
from mithridate.numerics.triggers import Trigger


@dataclass(frozen=True)
class Count:
    """Successes of trials; there may be none of either."""

    successes: int
    trials: int

    @property
    def rate(self) -> float | None:
        """The observed rate, None without trials."""
        return self.successes / self.trials if self.trials else None

    def interval(self, confidence: float = 0.95) -> Rate | None:
        """Return the rate with Wilson's interval over the images, None without trials."""
        return wilson(self.successes, self.trials, confidence) if self.trials else None

    def __add__(self, other: "Count") -> "Count":
        return Count(self.successes + other.successes, self.trials + other.trials)

    @classmethod
    def of(cls, hits: Bool[Tensor, " n"]) -> "Count":
        """Count what is true."""
        return cls(int(hits.sum()), len(hits))

    def to_record(self) -> dict[str, object]:
        """Return successes, trials, rate and interval as plain JSON; the last two are null without trials."""
        found = self.interval()
        bounds = None if found is None else [found.low, found.high]
        return {"successes": self.successes, "trials": self.trials, "rate": self.rate, "interval": bounds}


@dataclass(frozen=True, kw_only=True)
class BackdoorOutcome:
    """One network before one trigger; see the module. What was not asked for is None."""

    target_class: int
    clean: Count
    attack: Count
    heal_test: Count
    per_class: tuple[Count, ...]
    heal_poisons: Count | None = None
    suspects: Count | None = None

    @property
    def clean_accuracy(self) -> float | None:
        """Accuracy on clean test images."""
        return self.clean.rate

    @property
    def attack_success_rate(self) -> float | None:
        """Share of the triggered test images of other classes that are taken for the target class."""
        return self.attack.rate

    def to_record(self) -> dict[str, object]:
        """Return the outcome as plain JSON."""
        counts: Mapping[str, Count | None] = {
            "clean": self.clean,
            "attack": self.attack,
            "heal_test": self.heal_test,
            "heal_poisons": self.heal_poisons,
            "suspects": self.suspects,
        }
        plain = {name: None if count is None else count.to_record() for name, count in counts.items()}
        return {
            "target_class": self.target_class,
            **plain,
            "per_class": [count.to_record() for count in self.per_class],
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class TriggeredHits:
    """Which test images with the trigger are taken for the target class, by row.

    Args:
        rows: The test rows that count: all that are not of the target class, in order.
        hit: Whether each is taken for the target class.
        healed: Whether each is taken for what it is.
    """

    rows: Int64[Tensor, " n"]
    hit: Bool[Tensor, " n"]
    healed: Bool[Tensor, " n"]


def judge_backdoor(
    net: nn.Module,
    test: Examples,
    trigger: Trigger,
    target_class: int,
    *,
    poisons: Examples | None = None,
    suspects: Examples | None = None,
) -> BackdoorOutcome:
    """Return what a network makes of a trigger, in evaluation mode; its modes are restored.

    Args:
        net: Takes images in [0, 1] and returns logits.
        test: Clean images with their classes.
        trigger: The trigger; it is stamped on the 8-bit images.
        target_class: The class that it stands for.
        poisons: Poisoned images with the classes of their clean images, as `published_poisons` returns them.
        suspects: Images with the labels that they were found with.

    Raises:
        Misuse: MTH-0331, the trigger does not fit the images.
    """
    predicted = predictions(net, test)
    labels = test.labels.to(predicted.device)
    right = predicted == labels
    hits = triggered_hits(net, test, trigger, target_class)
    return BackdoorOutcome(
        target_class=target_class,
        clean=Count.of(right),
        attack=Count.of(hits.hit),
        heal_test=Count.of(hits.healed),
        per_class=tuple(Count.of(right[labels == label]) for label in range(len(test.classes))),
        heal_poisons=None if poisons is None else _accuracy(net, poisons, leaving_out=target_class),
        suspects=None if suspects is None else _accuracy(net, suspects),
    )


def triggered_hits(net: nn.Module, test: Examples, trigger: Trigger, target_class: int) -> TriggeredHits:
    """Return what the network makes of every test image with the trigger, those of the target class left out."""
    rows = (test.labels != target_class).nonzero().squeeze(1)
    predicted = predictions(net, test, rows=rows, trigger=trigger)
    labels = test.labels[rows].to(predicted.device)
    return TriggeredHits(rows=rows, hit=predicted == target_class, healed=predicted == labels)


def published_poisons(train: Examples, pack: PoisonPack) -> Examples:
    """Return the poisons of a pack with the classes of their clean images, for `heal_poisons`.

    Args:
        train: The clean training split that the pack was made for.
        pack: The poisons.

    Raises:
        Misuse: MTH-0301, the pack was made for other data.
    """
    pack.check_base(train)
    return train.overlay(pack.ids, pack.images).select(pack.ids)


def predictions(
    net: nn.Module, data: Examples, *, rows: Int64[Tensor, " n"] | None = None, trigger: Trigger | None = None
) -> Int64[Tensor, " n"]:
    """Return the predicted classes of some rows (all by default), with a trigger if one is given, in evaluation mode.

    Images are moved to where the network is.
    """
    if not len(data if rows is None else rows):
        return torch.zeros(0, dtype=torch.int64)
    return logits_of(net, data, rows, trigger=trigger).argmax(1)


def _accuracy(net: nn.Module, data: Examples, *, leaving_out: int | None = None) -> Count:
    """Count the rows whose label the network predicts, without those of one class."""
    rows = torch.arange(len(data), device=data.labels.device)
    if leaving_out is not None:
        rows = rows[data.labels != leaving_out]
    predicted = predictions(net, data, rows=rows)
    return Count.of(predicted == data.labels[rows].to(predicted.device))
