"""SCRUB: away from the given network on the suspects, back to it on the reference, in turns.

    L(x, y) = CE(f(x), y) + alpha T^2 KL( f_0(x) || f(x) )
    for some rounds: an epoch of +L ascended on the suspects, an epoch of L descended on the reference; then L alone

Paper    Kurmanji et al., Towards Unbounded Machine Unlearning (NeurIPS 2023), arXiv 2302.09880; the form of Goel et al.
         (TMLR 2024), arXiv 2402.14015, whose code ascends the whole loss.
Needs    labels of the reference.
Departs  the divergence is a mean over examples of sums over classes, the cross-entropy a mean over examples. Rounds are
         counted in epochs and not in steps. The public code keeps the epoch with the best test accuracy; here it is the
         last. Ascent is unbounded: `max_lr` is its step size.
"""

import copy
from dataclasses import dataclass, replace

from mithridate.core.params import In, param
from mithridate.training.plan import Phase
from mithridate.training.step import Step
from mithridate.unlearning._base import Healed, HealKit
from mithridate.unlearning._distillation import Part, Scrubbed
from mithridate.unlearning._frame import begin
from mithridate.unlearning._training import AbstractTrainingHealer, Course, augmentation, conclude, joined


@dataclass(frozen=True, kw_only=True)
class Scrub(AbstractTrainingHealer):
    """Ascent and descent in turns."""

    lr: float = param(0.0025, within=In(0.0, 1e3, open_lo=True), doc="step size of the descent")
    max_lr: float = param(0.0025, within=In(0.0, 1e3, open_lo=True), doc="step size of the ascent")
    rounds: int = param(2, within=In(0, 100_000), doc="epochs of ascent, each followed by one of descent")
    alpha: float = param(0.1, within=In(0.0, 1e6), doc="weight of the divergence")
    temperature: float = param(4.0, within=In(0.0, 1e3, open_lo=True), doc="of the divergence's softmaxes")

    def heal(self, kit: HealKit, *, seed: int) -> Healed:
        """Ascend and descend; see `AbstractHealer.heal`."""
        session = begin(kit, seed=seed, labels=True)
        kit = session.kit
        data = joined(kit.suspects, kit.reference)
        course = Course(session=session, method=self.label(), seed=seed)
        teacher = copy.deepcopy(session.model).requires_grad_(False)
        net = course.train(
            copy.deepcopy(session.model),
            data,
            self._phases(kit, Scrubbed(teacher=teacher, alpha=self.alpha, temperature=self.temperature, sign=1.0)),
        )
        return conclude(course, net)

    def _phases(self, kit: HealKit, loss: Scrubbed) -> list[Phase]:
        first, last = len(kit.suspects), len(kit.suspects) + len(kit.reference)
        rounds = min(self.rounds, self.epochs)
        update = self.update(self.epochs + rounds)
        keep = Step(
            draw=Part(start=first, stop=last, batch=self.batch), views=augmentation(kit), loss=loss, update=update
        )
        away = replace(
            keep,
            draw=Part(start=0, stop=first, batch=self.batch),
            loss=replace(loss, sign=-1.0),
            update=replace(update, lr=self.max_lr),
        )
        turns = [Phase(step=step, epochs=1) for _ in range(rounds) for step in (away, keep)]
        rest = self.epochs - rounds
        return [*turns, *([Phase(step=keep, epochs=rest)] if rest else [])]


METHOD = Scrub
