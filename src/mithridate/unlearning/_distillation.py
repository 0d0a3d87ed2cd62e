"""Losses against teachers, and a draw from a part of the rows: what distilling healers share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from mithridate.aggregation._base import State
from mithridate.training._base import AbstractDraw, AbstractLoss, Batch, Context, Forward, Rng
from mithridate.unlearning._layers import hooked

FORGET = "forget"
"""The column that says which rows are suspects."""


@dataclass(frozen=True, kw_only=True)
class Part(AbstractDraw):
    """Every row of a range once per epoch, in an order that differs between phases too."""

    start: int
    stop: int
    batch: int

    def init(self, context: Context) -> State:
        """Return the state before the first epoch of a phase."""
        return {"salt": context.clock.step, "epoch": -1, "cursor": self.stop - self.start, "order": None}

    def steps_per_epoch(self, num_examples: int) -> int:
        """Return the number of batches of the range."""
        del num_examples
        return -(-(self.stop - self.start) // self.batch)

    def smallest_batch(self, num_examples: int) -> int:
        """Return the size of the last batch."""
        del num_examples
        return (self.stop - self.start) % self.batch or min(self.batch, self.stop - self.start)

    def draw(self, state: State, rng: Rng) -> tuple[Int64[Tensor, " b"], Float[Tensor, " b"], State]:
        """Return the next slice of the epoch's permutation with equal weights."""
        salt, epoch, cursor, order = state["salt"], state["epoch"], state["cursor"], state["order"]
        count = self.stop - self.start
        if cursor >= count:
            epoch, cursor = epoch + 1, 0
            order = self.start + torch.randperm(count, generator=rng(salt, epoch), device=rng.device)
        index = order[cursor : cursor + self.batch]
        weights = torch.full((len(index),), 1 / len(index), device=rng.device)
        return index, weights, {"salt": salt, "epoch": epoch, "cursor": cursor + self.batch, "order": order}


def divergence(
    teacher: Float[Tensor, "b k"], student: Float[Tensor, "b k"], temperature: float = 1.0
) -> Float[Tensor, " b"]:
    """Return KL(teacher || student) of the softmax at a temperature for each row: a sum over classes, not a mean."""
    logs = functional.log_softmax(student.float() / temperature, 1)
    goal = functional.log_softmax(teacher.float() / temperature, 1)
    return functional.kl_div(logs, goal, reduction="none", log_target=True).sum(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class TwoTeachers(AbstractLoss):
    """Suspects learn from one teacher, all other rows from another."""

    good: nn.Module
    bad: nn.Module
    temperature: float

    def losses(self, forward: Forward, batch: Batch) -> Float[Tensor, " b"]:
        """Return the divergence from each row's teacher."""
        with torch.no_grad():
            forget = batch.columns[FORGET][:, None]
            goal = torch.where(forget, self.bad(batch.x), self.good(batch.x))
        return divergence(goal, forward(batch.x), self.temperature)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scrubbed(AbstractLoss):
    """sign (CE + alpha T^2 KL(teacher || student))."""

    teacher: nn.Module
    alpha: float
    temperature: float
    sign: float

    def losses(self, forward: Forward, batch: Batch) -> Float[Tensor, " b"]:
        """Return the loss of every row."""
        with torch.no_grad():
            goal = self.teacher(batch.x)
        logits = forward(batch.x).float()
        near = self.alpha * self.temperature**2 * divergence(goal, logits, self.temperature)
        return self.sign * (functional.cross_entropy(logits, batch.labels, reduction="none") + near)


def attention(maps: Float[Tensor, "b c h w"], power: float) -> Float[Tensor, "b s"]:
    """Return sum over channels of |F|^p at each place, of length one for each image; all zeros stay zeros."""
    return functional.normalize(maps.float().abs().pow(power).sum(1).flatten(1), dim=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Attentive(AbstractLoss):
    """CE + sum_l beta_l MSE(A_l(student), A_l(teacher))."""

    student: nn.Module
    teacher: nn.Module
    betas: Mapping[str, float]
    power: float

    def losses(self, forward: Forward, batch: Batch) -> Float[Tensor, " b"]:
        """Return the loss of every row; the mean square runs over the places of a map."""
        names = list(self.betas)
        with torch.no_grad():
            _, goals = with_maps(self.teacher, names, self.teacher, batch.x)
        logits, maps = with_maps(self.student, names, forward, batch.x)
        total = functional.cross_entropy(logits.float(), batch.labels, reduction="none")
        for name, beta in self.betas.items():
            gap = attention(maps[name], self.power) - attention(goals[name], self.power)
            total = total + beta * gap.square().mean(1)
        return total


def with_maps(
    model: nn.Module, names: Sequence[str], forward: Forward, x: Float[Tensor, "b c h w"]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the logits, and the outputs of some modules of the model on the way there."""
    modules = {model.get_submodule(name): name for name in names}
    found: dict[str, Tensor] = {}

    def note(module: nn.Module, args: Any, out: Any) -> None:
        del args
        found[modules[module]] = out

    with hooked(modules, note):
        logits = forward(x)
    return logits, found
