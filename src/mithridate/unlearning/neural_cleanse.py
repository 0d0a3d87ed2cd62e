"""Neural Cleanse: reconstruct a trigger for each class, and unlearn those that are suspiciously small.

    index_t = | size_t - median | / (1.4826 MAD),  infected: index > 2 and size below the median
    theta <- SGD on the reference, a fifth of which bears an infected class's trigger and keeps its own label

Paper    Wang et al., Neural Cleanse (IEEE S&P 2019), sections IV to VI.
Needs    labels of the reference, for the training; the reconstruction needs none. Suspects are not needed; with
         `look_at = suspects` only the classes under which they were found are looked at, and none has to be an outlier.
Finds    a backdoor that always works. One whose success is below the threshold of the search has no small trigger that
         passes it: on 8 x 8 digits 140 poisons of 1,400 are found, 28 are not.
Departs  a trigger is reconstructed on images that the model does not take for its class already. The weight of the size
         starts at 1e-3 and not at 0; the success of a mask is measured after an epoch, not along it. Ten epochs of
         training in place of one. Where no class is infected, the model is left alone.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mithridate.core.params import In, OneOf, param
from mithridate.data.examples import Examples
from mithridate.numerics.rng import generator
from mithridate.numerics.triggers import Trigger
from mithridate.unlearning._base import Healed, HealKit
from mithridate.unlearning._frame import Session, begin, finish
from mithridate.unlearning._reverse import Reconstruction, Search, reconstruct, synthetic_suspects
from mithridate.unlearning._training import AbstractTrainingHealer, Course, conclude

__all__ = ["METHOD", "NeuralCleanse", "Reconstruction", "Search", "reconstruct", "synthetic_suspects"]


@dataclass(frozen=True, kw_only=True)
class NeuralCleanse(AbstractTrainingHealer):
    """Reconstruction of triggers, then training against them."""

    look_at: str = param(
        "anomaly", within=OneOf("anomaly", "suspects"), doc="outliers among all classes, or the suspects' classes"
    )
    share: float = param(0.2, within=In(0.0, 1.0, open_lo=True), doc="part of the reference that bears the trigger")
    search_epochs: int = param(80, within=In(1, 100_000), doc="most passes over the images for one class")
    search_samples: int = param(500, within=In(1, 1 << 31), doc="how many images triggers are reconstructed on")

    def heal(self, kit: HealKit, *, seed: int) -> Healed:
        """Reconstruct and train; see `AbstractHealer.heal`.

        Raises:
            Misuse: MTH-0847 if anomalies are looked for among fewer than three classes.
        """
        session = begin(kit, seed=seed, labels=True)
        kit = session.kit
        classes = None if self.look_at == "anomaly" else sorted(set(kit.suspects.labels.tolist()))
        found = reconstruct(
            session.model,
            kit.reference,
            classes=classes,
            search=Search(epochs=self.search_epochs, samples=self.search_samples),
            seed=seed,
            progress=kit.progress,
        )
        infected = found.infected if classes is None else tuple(classes)
        details = {"look_at": self.look_at, "classes": list(infected), "reconstruction": found.to_record()}
        if not infected:
            return _nothing(session, self.label(), details)
        data = _stamped(kit.reference, [found.triggers[k] for k in infected], self.share, seed)
        course = Course(session=session, method=self.label(), seed=seed)
        net = course.train(copy.deepcopy(session.model), data, [self.phase(kit)])
        return conclude(course, net, details=details)


def _nothing(session: Session, method: str, details: Mapping[str, object]) -> Healed:
    session.warn(
        "no class has a trigger that is much smaller than those of the others: the model was left alone. Where the "
        "suspects say which class it is, look_at=suspects takes their word"
    )
    report = {"outcome": "no trigger found", **details}
    return finish(session, session.model, method=method, converged=False, details=report)


def _stamped(data: Examples, triggers: list[Trigger], share: float, seed: int) -> Examples:
    """Stamp a part of the rows, drawn, with the triggers in turn; labels stay."""
    count = max(1, round(share * len(data)))
    rows = torch.randperm(len(data), generator=generator(seed, "unlearning", "stamped"))[:count].sort().values
    for number, trigger in enumerate(triggers):
        part = rows[number :: len(triggers)]
        if len(part):
            data = data.overlay(part, trigger.to(data.device).stamp(data.images.gather(part.to(data.device))))
    return data


METHOD = NeuralCleanse
