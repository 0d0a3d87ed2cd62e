"""What healers that train share: the spine's loop on the network at hand, the guard after every epoch, the verdict.

`_settling` says when such a healer has healed, and what it returns where it has not: an epoch within budget, which is
kept on the way, or what was given.
"""

import math
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from mithridate.core.errors import Misuse
from mithridate.core.params import In, param
from mithridate.core.seeds import address
from mithridate.data.examples import Examples
from mithridate.models.spec import ModelSpec
from mithridate.numerics.flat import FlatModule
from mithridate.training._base import AbstractLoss, AbstractView
from mithridate.training.draw import Shuffle
from mithridate.training.loop import steps
from mithridate.training.loss import CrossEntropy
from mithridate.training.plan import Phase, Plan
from mithridate.training.run import Run
from mithridate.training.step import Step
from mithridate.training.update import SGD, Triangle
from mithridate.training.view import Warp
from mithridate.unlearning._base import AbstractHealer, Healed, HealKit
from mithridate.unlearning._frame import Session
from mithridate.unlearning._layers import overwrite, still, tensors
from mithridate.unlearning._settling import keep, settle, sound


@dataclass(frozen=True, kw_only=True)
class AbstractTrainingHealer(AbstractHealer, ABC):
    """A healer that trains on the reference for some epochs."""

    epochs: int = param(10, within=In(1, 100_000), doc="passes over the data")
    batch: int = param(128, within=In(1, 1 << 20), doc="examples per step")
    lr: float = param(0.01, within=In(0.0, 1e3, open_lo=True), doc="step size at the beginning; it falls linearly to 0")
    momentum: float = param(0.9, within=In(0.0, 1.0, open_hi=True), doc="momentum of SGD")
    weight_decay: float = param(5e-4, within=In(0.0, 10.0), doc="L2 decay of all parameters that are trained")

    def update(self, epochs: int) -> SGD:
        """Return SGD whose step size falls linearly to zero after so many epochs."""
        return SGD(
            lr=self.lr,
            momentum=self.momentum,
            nesterov=False,
            weight_decay=self.weight_decay,
            schedule=Triangle(peak=0.0, end=float(epochs)),
        )

    def phase(self, kit: HealKit, loss: AbstractLoss | None = None) -> Phase:
        """Return the epochs with the training's own augmentation."""
        step = Step(
            draw=Shuffle(batch=self.batch),
            views=augmentation(kit),
            loss=CrossEntropy() if loss is None else loss,
            update=self.update(self.epochs),
        )
        return Phase(step=step, epochs=self.epochs)


@dataclass(kw_only=True, eq=False)
class Course:
    """A training under way, and what it leaves.

    Args:
        session: The healing that it belongs to.
        method: The healer's name.
        seed: The healer's seed.
        keep: Whether a state within budget is kept after every epoch.
        within: The last such state.
        losses: The mean loss of each epoch.
        steps: Updates so far.
    """

    session: Session
    method: str
    seed: int
    keep: bool = True
    within: dict[str, Tensor] | None = None
    losses: list[float] = field(default_factory=list)
    steps: int = 0

    def train(
        self,
        net: nn.Module,
        data: Examples,
        phases: Sequence[Phase],
        *,
        what: str = "training",
        only: frozenset[str] | None = None,
    ) -> nn.Module:
        """Train a network in place and return it in evaluation mode.

        Args:
            net: The network, whose flags of what is trainable may change.
            data: What it is trained on.
            phases: How.
            what: What the progress and the random numbers are called.
            only: Names of the parameters that are trained, the others and their norms' statistics stay; None for all.

        Raises:
            Misuse: MTH-0843, the loss is not finite.
        """
        kit = self.session.kit
        for name, p in net.named_parameters():
            p.requires_grad_(p.is_floating_point() and (only is None or name in only))
        device = next(net.parameters()).device
        plan = Plan(
            data=data.to(device),
            model=_unused_spec(kit, data),
            phases=tuple(_whole_batches(phase, len(data)) for phase in phases),
            precision="fp32" if kit.training is None else kit.training.precision,
            device=str(device),
        )
        run = Run(net=FlatModule(net))
        for phase in plan.phases:
            phase.step.check(net, phase.step.draw.smallest_batch(len(data)))
        with still(net, only):
            self.follow(plan, address(self.seed, "unlearning", self.method, what), run, what=what)
        return net.eval()

    def follow(self, plan: Plan, seed: int, run: Run, *, what: str) -> None:
        """Run a plan to its end, epoch by epoch."""
        for event in steps(plan, seed, run):
            loss = float(event.loss)
            if not math.isfinite(loss):
                raise Misuse(
                    "MTH-0843",
                    f"{self.method}: {what} diverged in epoch {event.epoch}: the mean loss is {loss}",
                    hint="lower lr, or raise the batch",
                )
            self.losses.append(loss)
            self.session.kit.progress({"what": what, "done": event.epoch / plan.epochs, "loss": loss})
            net, watch = run.net.module, self.session.watch
            if self.keep and watch.enabled and what == "training" and watch.allows(net) and sound(net):
                self.within = keep(net)
        self.steps += run.step


def _whole_batches(phase: Phase, count: int) -> Phase:
    """Leave out a last batch of one example, for which batch normalisation may have no statistics."""
    draw = phase.step.draw
    if isinstance(draw, Shuffle) and count > draw.batch and count % draw.batch == 1:
        return replace(phase, step=replace(phase.step, draw=replace(draw, drop_last=True)))
    return phase


def conclude(course: Course, net: nn.Module, *, details: Mapping[str, Any] | None = None) -> Healed:
    """Judge the network that a method made, see `settle`; what is returned shares no memory with it.

    Args:
        course: The training.
        net: The network.
        details: What else belongs in the report.
    """
    made = course.session.fresh()
    overwrite(made, dict(tensors(net)))
    report = {"losses": course.losses, **(details or {})}
    return settle(course.session, made, method=course.method, within=course.within, details=report, steps=course.steps)


def augmentation(kit: HealKit) -> tuple[AbstractView, ...]:
    """Return the shifts and flips of the training, none if it is not known; a defense's views stay out."""
    views = () if kit.training is None else kit.training.phases[-1].step.views
    return tuple(view for view in views if isinstance(view, Warp))


def joined(first: Examples, second: Examples, **columns: Tensor) -> Examples:
    """Return the rows of both, those of the first in front; the pixels of the first are held in memory.

    Args:
        first: The fewer rows.
        second: The more.
        columns: Columns of the whole; those of the two are left out.
    """
    count = len(first)
    base = replace(second, columns={})
    classes = max(first.classes, second.classes, key=len)
    order = torch.cat([torch.zeros(count, dtype=torch.int64), torch.arange(len(second))])
    wide = replace(base.select(order), classes=classes)
    ids = torch.arange(count)
    pixels = first.images.gather(ids.to(first.device)).to(second.device)
    return replace(wide.overlay(ids, pixels, first.labels), columns=columns)


def _unused_spec(kit: HealKit, data: Examples) -> ModelSpec:
    """Return a specification to fill the plan's place for one: the run has its network, and nothing builds another."""
    if kit.training is not None:
        return kit.training.model
    classes = max(2, len(data.classes))
    return ModelSpec(name="mlp", num_classes=classes, channels=1, size=8, mean=(0.0,), std=(1.0,))
