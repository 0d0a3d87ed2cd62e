"""Whether a model was healed: the trigger on held-out images, before and after, and what it cost."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mithridate.core.errors import Misuse
from mithridate.core.intervals import Rate, wilson
from mithridate.core.pool import Tell, silent
from mithridate.core.registry import closest
from mithridate.core.verdicts import Gate, Status, Verdict
from mithridate.data.examples import Examples
from mithridate.evaluation.backdoor import Count, judge_backdoor, predictions
from mithridate.numerics.rng import generator
from mithridate.numerics.triggers import Trigger, from_png
from mithridate.unlearning._reverse import Reconstruction, Search, reconstruct

Record = dict[str, Any]
COLLAPSE = 0.2
"""A class whose accuracy falls by more than this was destroyed, not healed."""
WORKING = 0.75
"""A reconstruction that moves fewer images than this is no trigger."""
_EPOCHS, _IMAGES, _COST = 40, 300, 0.64
_SURVIVES, _CONTROLS, _LEAST = 0.5, 4, 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """A trigger and the class that it stands for.

    Args:
        trigger: The trigger.
        target: The class.
        certain: Whether it is known to be one that was planted: a small map of images into a class exists in every
            network, and a reconstruction may be such a natural one.
    """

    trigger: Trigger
    target: int
    certain: bool = True


def probe_of_png(path: Path, target: str | None, net: nn.Module, test: Examples) -> Probe:
    """Return the trigger of an image file with its target class.

    Args:
        path: See `numerics.triggers.from_png`.
        target: A class by name or number; None takes what triggered images of other classes are taken for
            most.
        net: The network before healing.
        test: Held-out images.

    Raises:
        BadArtefact: 02xx, there is no such image.
        Misuse: MTH-0887 for an unknown class.
    """
    trigger = from_png(path, test.images.shape)
    if target is not None:
        return Probe(trigger=trigger, target=target_of(target, test.classes))
    return Probe(trigger=trigger, target=likeliest_target(net, test, trigger))


def likeliest_target(net: nn.Module, test: Examples, trigger: Trigger) -> int:
    """Return the class that triggered images of other classes are taken for most."""
    found = predictions(net, test, trigger=trigger)
    wrong = found[found != test.labels.to(found.device)]
    return int((wrong if len(wrong) else found).mode().values)


def target_of(text: str, classes: tuple[str, ...]) -> int:
    """Return a class from its name or number.

    Raises:
        Misuse: MTH-0887, there is no such class.
    """
    if text in classes:
        return classes.index(text)
    if text.isascii() and text.isdecimal() and int(text) < len(classes):
        return int(text)
    near = closest(text, classes)
    raise Misuse(
        "MTH-0887",
        f"there is no class {text!r}; classes are {', '.join(classes[:12])}{', ...' if len(classes) > 12 else ''}, "
        f"numbered from 0",
        hint=f"did you mean {near!r}?" if near else "",
    )


def reconstructed(
    net: nn.Module,
    data: Examples,
    *,
    seed: int,
    label: int | None = None,
    after: nn.Module | None = None,
    tell: Tell = silent,
) -> Probe | None:
    """Return the trigger that a network seems to carry (Neural Cleanse), None if no class stands out.

    Natural triggers survive a healing, planted ones do not. So where no trigger is much smaller than those of the other
    classes, it may be the one that alone has ceased to work.

    Args:
        net: The network before healing.
        data: Images to reconstruct it on; their labels are not looked at.
        seed: Which of them are taken, and where the search begins.
        label: The class that is suspected, which is compared with a few others; None takes the one whose trigger is an
            outlier among all.
        after: The network after healing, if it is there.
        tell: Told how far it is.
    """
    _, height, width = data.images.shape
    search = Search(epochs=_EPOCHS, samples=_IMAGES, cost=_COST / (height * width))
    classes = None if label is None else tuple((label + step) % len(data.classes) for step in range(_CONTROLS + 1))
    found = reconstruct(net, data, classes=classes, search=search, seed=seed, progress=tell)
    target = label if label is not None else next(iter(found.infected), None)
    certain = target in found.infected
    if target is None and after is not None:
        target = _undone(found, after, data, seed)
    if target is None or found.success[target] < WORKING:
        return None
    whole = found.triggers[target]
    name = f"reconstructed, {found.sizes[target]:.1f} pixels"
    return Probe(trigger=Trigger(whole.mask, whole.pattern, name), target=target, certain=certain)


def _undone(found: Reconstruction, after: nn.Module, data: Examples, seed: int) -> int | None:
    """Return the one class whose trigger no longer works, while those of most other classes do."""
    order = torch.randperm(len(data), generator=generator(seed, "verify", "images"))[:_IMAGES]
    some = data.select(order)
    kept: dict[int, float] = {}
    for label, trigger in found.triggers.items():
        if found.success[label] >= WORKING:
            seen = predictions(after, some, trigger=trigger)
            others = some.labels.to(seen.device) != label
            kept[label] = float((seen[others] == label).double().mean()) if bool(others.any()) else 1.0
    least = min(kept, key=kept.__getitem__, default=None)
    if least is None or len(kept) < _LEAST:
        return None
    usual = statistics.median(rate for label, rate in kept.items() if label != least)
    return least if usual >= _SURVIVES and kept[least] <= usual / 2 else None


def measured(
    net: nn.Module,
    test: Examples,
    probe: Probe | None,
    *,
    poisons: Examples | None = None,
    suspects: Examples | None = None,
) -> Record:
    """Return what a network does, as plain JSON: see `evaluation.backdoor`; without a trigger, what needs none."""
    if probe is not None:
        outcome = judge_backdoor(net, test, probe.trigger, probe.target, poisons=poisons, suspects=suspects)
        return outcome.to_record()
    right = predictions(net, test) == test.labels
    suspected = None if suspects is None else Count.of(predictions(net, suspects) == suspects.labels)
    return {
        "target_class": None,
        "clean": Count.of(right).to_record(),
        "attack": None,
        "heal_test": None,
        "heal_poisons": None,
        "suspects": None if suspected is None else suspected.to_record(),
        "per_class": [Count.of(right[test.labels == label]).to_record() for label in range(len(test.classes))],
    }


def verdict(found: Mapping[str, Any], *, gate: Gate, budget: float, converged: bool = True) -> Verdict:
    """Return whether a network was healed.

    Args:
        found: `before` and `after` as `measured` returns them, and `classes`.
        gate: What the attack success rate must meet afterwards, by its interval.
        budget: How much clean accuracy may be lost, a share.
        converged: Whether the healer says that it reached its aim.
    """
    before, after = found["before"], found["after"]
    lost = before["clean"]["rate"] - after["clean"]["rate"]
    reasons = list(_harm(found, lost, budget))
    if not converged:
        reasons.append("the healer did not reach its aim within its guard")
    cost = f"clean accuracy {before['clean']['rate']:.1%} before and {after['clean']['rate']:.1%} after"
    if before["attack"] is None:
        reasons.append("no trigger is known and none was reconstructed: what it still does is not known")
        return Verdict(
            Status.FAIL if len(reasons) > 1 else Status.INCONCLUSIVE, f"Not verified: {cost}.", tuple(reasons)
        )
    was, now = rate_of(before["attack"]), rate_of(after["attack"])
    words = (
        f"the trigger works on {was.point:.1%} of the images before and on {now.point:.1%} after "
        f"(95 % interval {now.low:.1%} to {now.high:.1%}, {now.successes} of {now.trials}); {cost}"
    )
    if gate.judge(was) is Status.PASS:
        reasons.append(f"{gate} held before: there was nothing to heal, or this is not the trigger")
        return Verdict(Status.INCONCLUSIVE, f"Inconclusive: {words}.", tuple(reasons))
    harmed = lost > budget + 1e-9 or bool(_collapsed(found))
    status = Status.FAIL if harmed else gate.judge(now)
    if status is Status.FAIL and not harmed and not found.get("certain", True):
        status = Status.INCONCLUSIVE
        reasons.append(
            "the trigger was reconstructed, and what is left of it may be natural: every network has small triggers"
        )
    elif status is not Status.PASS:
        reasons.append(f"{gate} is {'undecided' if status is Status.INCONCLUSIVE else 'not met'}")
    head = {Status.PASS: "Healed", Status.FAIL: "Not healed", Status.INCONCLUSIVE: "Inconclusive"}[status]
    return Verdict(status, f"{head}: {words}.", tuple(reasons))


def rate_of(record: Mapping[str, Any]) -> Rate:
    """Return a rate with its interval from the record of a count."""
    return wilson(record["successes"], record["trials"])


def class_changes(found: Mapping[str, Any]) -> dict[str, float]:
    """Return the change of accuracy of each class that was tested."""
    pairs = zip(found["classes"], found["before"]["per_class"], found["after"]["per_class"], strict=True)
    return {name: after["rate"] - before["rate"] for name, before, after in pairs if before["trials"]}


def _collapsed(found: Mapping[str, Any]) -> list[str]:
    return [name for name, change in class_changes(found).items() if change < -COLLAPSE]


def _harm(found: Mapping[str, Any], lost: float, budget: float) -> list[str]:
    reasons = [
        f"accuracy of class {name!r} fell by more than {100 * COLLAPSE:.0f} points" for name in _collapsed(found)
    ]
    if lost > budget + 1e-9:
        reasons.append(f"clean accuracy fell by {lost:.1%}, more than the budget of {budget:.1%}")
    return reasons
