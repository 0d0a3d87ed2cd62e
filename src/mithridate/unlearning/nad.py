"""Neural attention distillation: a fine-tuned copy shows the network where to look.

    teacher = fine-tuned copy;   L = CE + sum_l beta_l MSE( A_l(student), A_l(teacher) ),  A = sum_c |F_c|^p

A is scaled to length one for each image, before the difference is taken.

Paper    Li et al., Neural Attention Distillation (ICLR 2021), arXiv 2101.05930: p = 2, beta 500, 1000, 1000 at the ends
         of three groups of blocks.
Needs    labels of the reference, and a training with augmentation: without it the teacher hardly differs.
Departs  the maps are those of the last convolutions (or of the norms behind them) at up to three resolutions, so that
         any network will do. The step size falls linearly. No epoch is chosen by test data.
"""

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mithridate.core.errors import Misuse
from mithridate.core.params import In, param
from mithridate.data.examples import Examples
from mithridate.training._base import to_unit
from mithridate.training.plan import Phase
from mithridate.unlearning._base import Healed, HealKit
from mithridate.unlearning._distillation import Attentive, with_maps
from mithridate.unlearning._frame import begin
from mithridate.unlearning._layers import call_order
from mithridate.unlearning._training import AbstractTrainingHealer, Course, augmentation, conclude

_BETAS = (500.0, 1000.0, 1000.0)


@dataclass(frozen=True, kw_only=True)
class Nad(AbstractTrainingHealer):
    """A teacher by fine-tuning, then distillation of attention."""

    epochs: int = param(20, within=In(1, 100_000), doc="epochs of the student")
    teacher_epochs: int = param(10, within=In(1, 100_000), doc="epochs of the teacher")
    batch: int = param(64, within=In(1, 1 << 20), doc="examples per step")
    lr: float = param(0.01, within=In(0.0, 1e3, open_lo=True), doc="step size at the beginning; it falls linearly to 0")
    weight_decay: float = param(1e-4, within=In(0.0, 10.0), doc="L2 decay")
    beta: float = param(1.0, within=In(0.0, 1e6), doc="factor of the weights 500, 1000, 1000")
    power: float = param(2.0, within=In(0.0, 16.0, open_lo=True), doc="p")

    def heal(self, kit: HealKit, *, seed: int) -> Healed:
        """Train the teacher, then the student; see `AbstractHealer.heal`.

        Raises:
            Misuse: MTH-0842, the model has no maps.
        """
        session = begin(kit, seed=seed, labels=True)
        kit = session.kit
        names = places(session.model, kit.reference)
        if not augmentation(kit):
            session.warn(
                "nad trains without augmentation, as no plan with any was given: its teacher may differ little"
            )
        course = Course(session=session, method=self.label(), seed=seed)
        once = self.phase(kit)
        once = Phase(step=replace(once.step, update=self.update(self.teacher_epochs)), epochs=self.teacher_epochs)
        teacher = course.train(copy.deepcopy(session.model), kit.reference, [once], what="teacher")
        student = copy.deepcopy(session.model)
        betas = {name: self.beta * beta for name, beta in zip(names, _BETAS[-len(names) :], strict=True)}
        loss = Attentive(student=student, teacher=teacher.requires_grad_(False), betas=betas, power=self.power)
        net = course.train(student, kit.reference, [self.phase(kit, loss)])
        return conclude(course, net, details={"maps": list(names)})


def places(model: nn.Module, data: Examples) -> tuple[str, ...]:
    """Return the last layer with weights at each of the three smallest resolutions of maps, in the order of a pass.

    Raises:
        Misuse: MTH-0842, there is none.
    """
    order = [name for name, _ in call_order(model, data)]
    device = next(model.parameters()).device
    x = to_unit(data.select([0]).images.gather(torch.zeros(1, dtype=torch.int64, device=data.device)).to(device))
    _, maps = with_maps(model, order, model, x)
    last = {tuple(maps[name].shape[2:]): name for name in order if _is_map(maps[name])}
    if not last:
        raise Misuse(
            "MTH-0842",
            f"{type(model).__name__} has no maps of places, and nad compares attention over places",
            hint="choose fine-tune, i-bau or xlf",
        )
    chosen = set(sorted(last.values(), key=order.index)[-3:])
    return tuple(name for name in order if name in chosen)


def _is_map(out: object) -> bool:
    return isinstance(out, Tensor) and out.dim() == 4 and out.shape[2] * out.shape[3] > 1


METHOD = Nad
