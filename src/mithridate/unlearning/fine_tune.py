"""Fine-tuning: train on the reference, and hope that what is not rehearsed is forgotten (CF, and CF-k for few layers).

    theta <- SGD on the cross-entropy of the reference, from the given weights; with `layers = k` the last k only

Paper    Goel et al. (2022), arXiv 2201.06640, CF-k; Goel et al. (TMLR 2024), arXiv 2402.14015, as a peer under
         partial discovery; the plain form is the oldest removal of backdoors.
Needs    labels of the reference. If it holds undiscovered poison, fine-tuning rehearses that too.
Departs  the public code keeps the epoch with the best test accuracy; here it is the last. It goes on updating the
         statistics of norms in frozen layers; here frozen layers do not change at all. A layer is one with a matrix or
         kernel, and the norms behind it. The step size falls linearly; augmentation is that of the training.
"""

import copy
from dataclasses import dataclass

from mithridate.core.params import In, param
from mithridate.unlearning._base import Healed, HealKit
from mithridate.unlearning._frame import begin
from mithridate.unlearning._layers import last_blocks
from mithridate.unlearning._training import AbstractTrainingHealer, Course, conclude


@dataclass(frozen=True, kw_only=True)
class FineTune(AbstractTrainingHealer):
    """Fine-tuning of all layers, or of the last few."""

    layers: int | None = param(None, within=In(1, 10_000), doc="how many layers are trained, from the last; none: all")

    def heal(self, kit: HealKit, *, seed: int) -> Healed:
        """Fine-tune; see `AbstractHealer.heal`."""
        session = begin(kit, seed=seed, labels=True)
        kit = session.kit
        only = None if self.layers is None else last_blocks(session.model, kit.reference, self.layers)
        course = Course(session=session, method=self.label(), seed=seed)
        net = course.train(copy.deepcopy(session.model), kit.reference, [self.phase(kit)], only=only)
        return conclude(course, net, details={"layers": self.layers})


METHOD = FineTune
