"""Anti-backdoor learning: train anew, isolate what is learned first, and ascend on it at the end.

    some epochs with  sign(L - gamma) L  per example; the lowest losses are isolated; the recipe without them, from the
    network at hand; then a few epochs of gradient ascent on the isolated

Paper    Li et al., Anti-Backdoor Learning (NeurIPS 2021), arXiv 2110.11571: gamma 0.5, one per cent, ascent at 5e-4.
Needs    the plan of the training with its data; no suspects (they are only counted among the isolated) and no labels of
         the reference. The isolation must use early losses: those of a finished network do not tell.
Departs  the sign is taken per example, as in the paper's equation; the public code takes it of a batch's mean. The
         losses that isolate are taken in evaluation mode without augmentation. After the isolation comes the whole
         recipe. The ascent's step is the paper's 5e-4; BackdoorBench's code takes 1e-4.
"""

from dataclasses import dataclass, replace

from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from mithridate.core.errors import Misuse
from mithridate.core.params import In, param
from mithridate.core.seeds import address
from mithridate.data.examples import Examples
from mithridate.evaluation.outcome import logits_of
from mithridate.training._base import AbstractLoss, Batch, Forward
from mithridate.training.draw import Shuffle
from mithridate.training.loop import begin as begin_run
from mithridate.training.plan import Phase
from mithridate.training.step import Step
from mithridate.training.update import SGD
from mithridate.unlearning._base import AbstractHealer, Healed, HealKit
from mithridate.unlearning._frame import begin
from mithridate.unlearning._training import Course, augmentation, conclude
from mithridate.unlearning.retrain import check_same, matched, needed


@dataclass(frozen=True, kw_only=True)
class LocalAscent(AbstractLoss):
    """sign(L - gamma) L: what is learned already is unlearned again, up to gamma."""

    gamma: float

    def losses(self, forward: Forward, batch: Batch) -> Float[Tensor, " b"]:
        """Return the signed losses."""
        found = functional.cross_entropy(forward(batch.x).float(), batch.labels, reduction="none")
        return (found.detach() - self.gamma).sign() * found


@dataclass(frozen=True, kw_only=True)
class Ascent(AbstractLoss):
    """The negated cross-entropy."""

    def losses(self, forward: Forward, batch: Batch) -> Float[Tensor, " b"]:
        """Return the losses."""
        return -functional.cross_entropy(forward(batch.x).float(), batch.labels, reduction="none")


@dataclass(frozen=True, kw_only=True)
class Abl(AbstractHealer):
    """Isolation by early losses, training without, ascent."""

    early: int = param(10, within=In(1, 100_000), doc="epochs before the isolation")
    gamma: float = param(0.5, within=In(0.0, 1e3), doc="loss that an example keeps in those")
    share: float = param(0.01, within=In(0.0, 1.0, open_lo=True, open_hi=True), doc="part that is isolated")
    ascent: int = param(5, within=In(0, 100_000), doc="epochs of ascent on the isolated")
    ascent_lr: float = param(5e-4, within=In(0.0, 1e3, open_lo=True), doc="step size of the ascent")

    def heal(self, kit: HealKit, *, seed: int) -> Healed:
        """Train anew; see `AbstractHealer.heal`.

        Raises:
            Misuse: MTH-0840 without a plan, MTH-0844 if all would be isolated, MTH-0846 if the plan is of another
                network.
        """
        plan = needed(kit, "abl")
        session = begin(kit, seed=seed)
        course = Course(session=session, method=self.label(), seed=seed, keep=False)
        net = begin_run(plan, address(seed, "unlearning", "abl")).net.module
        check_same(kit.model, net)
        first = replace(plan.phases[0].step, loss=LocalAscent(gamma=self.gamma))
        net = course.train(net, plan.data, [Phase(step=first, epochs=self.early)], what="isolation")
        apart = isolate(net, plan.data, self.share)
        rest = sorted(set(range(len(plan.data))) - set(apart.tolist()))
        net = course.train(net, plan.data.select(rest), plan.phases, what="training")
        isolated = plan.data.select(apart)
        if self.ascent:
            update = SGD(lr=self.ascent_lr, nesterov=False)
            draw = Shuffle(batch=min(64, len(isolated)))
            step = Step(draw=draw, views=augmentation(kit), loss=Ascent(), update=update)
            net = course.train(net, isolated, [Phase(step=step, epochs=self.ascent)], what="ascent")
        among = matched(isolated, kit.suspects)
        return conclude(course, net, details={"isolated": len(apart), "suspects_isolated": among})


def isolate(net: nn.Module, data: Examples, share: float) -> Int64[Tensor, " k"]:
    """Return the rows with the lowest losses, at least one, in order.

    Raises:
        Misuse: MTH-0844, no row would be left.
    """
    count = max(1, round(share * len(data)))
    if count >= len(data):
        raise Misuse("MTH-0844", f"{count} of {len(data)} rows would be isolated, so nothing is left to train on")
    logits = logits_of(net, data)
    losses = functional.cross_entropy(logits, data.labels.to(logits.device), reduction="none")
    return losses.argsort(stable=True)[:count].sort().values.cpu()


METHOD = Abl
