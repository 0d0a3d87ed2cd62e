"""Would the test show it? Small victims with and without the marks, before anything is published.

    hits      of models trained anew on the marked data, and on the clean data, with other seeds
    rate      share of hits over all guilty models and keys, and its lower bound at 95 % (keys are the sampling unit)
    power     P( Bin(keys, rate) reaches the hits that `alpha` needs )

The keys that are checked here are seen by models of the owner alone. The check is no verification: nothing of it enters
the diary, and its p-values are not evidence. A low power says beforehand that the published marks would prove nothing.

Cost     one training for each victim.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from mithridate.core.intervals import wilson_bounds
from mithridate.core.params import Checked, In, param
from mithridate.core.pool import Tell, silent
from mithridate.core.seeds import address
from mithridate.data.examples import Examples
from mithridate.evaluation.outcome import logits_of
from mithridate.ownership.keys import Key
from mithridate.ownership.planning import HitTest
from mithridate.ownership.significance import binomial_tail
from mithridate.training.loop import train
from mithridate.training.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Inquiry(Checked):
    """How much is checked."""

    victims: int = param(3, within=In(1, 1000), doc="models of each kind, with and without marks")
    topk: int = param(1, within=In(1, 1_000_000), doc="answers of a model that count")
    alpha: float = param(0.01, within=In(0.0, 1.0, open_lo=True), doc="level of the test")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One model.

    Args:
        guilty: Whether it was trained on the marked data.
        seed: Of its training.
        hits: Keys with their label among its first answers.
        p_value: Of so many hits.
        correct: Test images that it gets right, of `tested`; nothing was tested without a test set.
        tested: Test images.
    """

    guilty: bool
    seed: int
    hits: int
    p_value: Fraction
    correct: int
    tested: int


@dataclass(frozen=True, kw_only=True)
class SelfCheck:
    """What the owner knows beforehand.

    Args:
        trials: The models.
        keys: How many keys each was asked about.
        needed: Hits that `alpha` needs; None if even all keys do not suffice.
        hit_rate: Share of hits of the guilty models.
        power: Chance that such a model is shown to be guilty.
        power_low: The same at the lower bound of the rate.
        alpha: The level.
    """

    trials: tuple[Trial, ...]
    keys: int
    needed: int | None
    hit_rate: float
    power: float
    power_low: float
    alpha: float

    @property
    def accuracy_cost(self) -> float | None:
        """Mean accuracy of the innocent models minus that of the guilty ones; None without a test set."""
        shares = {
            guilty: [each.correct / each.tested for each in self.trials if each.guilty == guilty and each.tested]
            for guilty in (True, False)
        }
        if not all(shares.values()):
            return None
        clean, marked = (sum(found) / len(found) for found in (shares[False], shares[True]))
        return clean - marked

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values; p-values also as exact fractions."""
        trials = [
            asdict(each) | {"p_value": float(each.p_value), "p_value_exact": str(each.p_value)} for each in self.trials
        ]
        return asdict(self) | {"trials": trials, "accuracy_cost": self.accuracy_cost}


def count_hits(net: nn.Module, keys: Sequence[Key], *, topk: int = 1) -> int:
    """Return for how many keys the label is among the first answers of a model (floats in [0, 1] in, logits out)."""
    device = next(net.parameters()).device
    pixels = torch.stack([torch.from_numpy(key.image.copy()) for key in keys]).to(device).float() / 255
    labels = torch.tensor([key.label for key in keys], device=device)
    with torch.no_grad():
        answers = net.eval()(pixels).topk(topk, dim=1).indices
    return int((answers == labels[:, None]).any(1).sum())


def selfcheck(
    plan: Plan,
    marked: Examples,
    keys: Sequence[Key],
    how: Inquiry,
    *,
    test: Examples | None = None,
    seed: int = 0,
    tell: Tell = silent,
) -> SelfCheck:
    """Train models with and without the marks, and say what the test would find.

    Args:
        plan: How a user of the data might train; its data are the clean ones.
        marked: The same images, some of them marked.
        keys: The keys.
        how: How many models, and of which test.
        test: Clean test images, to see what the marks cost.
        seed: Of the trainings; surrogates should have been trained with another one.
        tell: Told `done`, `guilty` and `hits`.
    """
    classes = len(plan.data.classes)
    plans = {True: replace(plan, data=marked), False: plan}
    trials: list[Trial] = []
    for number in range(how.victims):
        for guilty, recipe in plans.items():
            chosen = address(seed, "selfcheck", number)
            net = train(recipe, chosen)
            hits = count_hits(net, keys, topk=how.topk)
            right = 0 if test is None else int((logits_of(net, test).argmax(1).cpu() == test.labels.cpu()).sum())
            p_value = binomial_tail(hits, keys=len(keys), topk=how.topk, classes=classes)
            tested = 0 if test is None else len(test)
            trials.append(Trial(guilty=guilty, seed=chosen, hits=hits, p_value=p_value, correct=right, tested=tested))
            tell({"done": len(trials) / (2 * how.victims), "guilty": guilty, "hits": hits})
    rate = sum(each.hits for each in trials if each.guilty) / (how.victims * len(keys))
    low, _ = wilson_bounds(rate, len(keys))
    test_of_keys = HitTest(topk=how.topk, classes=classes, alpha=how.alpha)
    return SelfCheck(
        trials=tuple(trials),
        keys=len(keys),
        needed=test_of_keys.hits_needed(len(keys)),
        hit_rate=rate,
        power=test_of_keys.power(len(keys), rate),
        power_low=test_of_keys.power(len(keys), low),
        alpha=how.alpha,
    )
