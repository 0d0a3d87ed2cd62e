"""Bad teacher: the suspects learn from a network that knows nothing, everything else from the given one.

    min over theta of  mean KL( teacher(x) || f(x) ),   teacher = fresh network on suspects, theta_0 on the reference

Paper    Chundawat et al., Can Bad Teaching Induce Forgetting? (AAAI 2023), arXiv 2205.08096; as a peer under partial
         discovery in Goel et al. (TMLR 2024), arXiv 2402.14015.
Needs    no labels.
Departs  the divergence is a sum over classes: the public code takes PyTorch's default mean, which divides it by the
         number of classes too and makes the step as much smaller. It keeps the epoch with the best test accuracy; here
         it is the last. Suspects and reference are drawn together, in proportion.
"""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from mithridate.core.params import In, param
from mithridate.core.seeds import address
from mithridate.unlearning._base import Healed, HealKit
from mithridate.unlearning._distillation import FORGET, TwoTeachers
from mithridate.unlearning._frame import Session, begin
from mithridate.unlearning._layers import refresh
from mithridate.unlearning._training import AbstractTrainingHealer, Course, conclude, joined


@dataclass(frozen=True, kw_only=True)
class BadTeacher(AbstractTrainingHealer):
    """Distillation from two teachers."""

    temperature: float = param(1.0, within=In(0.0, 1e3, open_lo=True), doc="of both softmaxes")

    def heal(self, kit: HealKit, *, seed: int) -> Healed:
        """Distil; see `AbstractHealer.heal`."""
        session = begin(kit, seed=seed)
        kit = session.kit
        count = len(kit.suspects)
        forget = torch.arange(count + len(kit.reference)) < count
        data = joined(kit.suspects, kit.reference, **{FORGET: forget})
        good = copy.deepcopy(session.model).requires_grad_(False)
        loss = TwoTeachers(good=good, bad=_ignorant(session, seed), temperature=self.temperature)
        course = Course(session=session, method=self.label(), seed=seed)
        net = course.train(copy.deepcopy(session.model), data, [self.phase(kit, loss)])
        return conclude(course, net)


def _ignorant(session: Session, seed: int) -> nn.Module:
    net = copy.deepcopy(session.model).requires_grad_(False)
    left = refresh(net, address(seed, "unlearning", "ignorant"))
    if left:
        session.warn(
            f"the ignorant teacher keeps {', '.join(left[:3])} of the model: no law of initialisation is known"
        )
    return net.eval()


METHOD = BadTeacher
