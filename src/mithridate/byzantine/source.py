"""What a node trains with: the model as one vector, and gradients from the stages of the training step.

    sent     worker j   [ m_j | buffers ]     m <- mu m + (1 - mu) clip(g), momentum at the worker
    model    server     [ parameters | buffers ]

Papers   worker momentum: El-Mhamdi, Guerraoui, Rouault (ICLR 2021), arXiv 2003.00010.
Departs  momentum is dampened by 1 - mu, so that the step size keeps its meaning for every mu. The running statistics of
         BatchNorm, about which the papers say nothing, travel behind the gradient and are combined by the
         coordinate-wise median whatever the rule is (by the mean in the baselines): a majority of honest workers keeps
         them between honest values. A step draws the batch that belongs to its number, so a node that jumps ahead or
         comes back draws what it would have drawn.

Shapes   d parameters, b buffer entries, s = d + b; n examples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy.typing import NDArray
from torch import Tensor, nn

from mithridate.byzantine.cluster import ClusterConfig
from mithridate.core.seeds import address
from mithridate.data.examples import Examples
from mithridate.data.sources import DataSet
from mithridate.evaluation.outcome import logits_of
from mithridate.models.spec import ModelSpec
from mithridate.numerics.flat import FlatModule
from mithridate.numerics.rng import generator
from mithridate.numerics.warp import Shift
from mithridate.training._base import Batch, Clock, Rng, to_unit
from mithridate.training.gradient import Gradient
from mithridate.training.network import begin_network, fill_colour, lent_generator, may_draw
from mithridate.training.plan import Phase, Plan
from mithridate.training.rows import RowClipping, WorkerMomentum
from mithridate.training.step import Step
from mithridate.training.update import SGD, Milestones
from mithridate.training.view import Warp

Vector = NDArray[np.float32]
"""What travels: parameters or gradient, then buffers."""


def shard(data: Examples, *, part: int, parts: int, split: str, seed: int) -> Examples:
    """Return the examples of one worker.

    Args:
        data: The training set.
        part: Which worker, from 0.
        parts: How many workers.
        split: `iid` deals at random; `by-label` deals the set sorted by label, so that a worker has few classes.
        seed: The run's seed.
    """
    order = torch.randperm(len(data), generator=generator(seed, "split"))
    if split == "by-label":
        order = order[torch.argsort(data.labels[order].cpu(), stable=True)]
    return data.select(torch.tensor_split(order, parts)[part])


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Correct answers on the test set."""

    correct: int
    tested: int

    @property
    def rate(self) -> float:
        """The share of correct answers."""
        return self.correct / self.tested


class Learner:
    """A model behind one vector, a shard, and the training step on them. Final.

    Attributes:
        size: Entries of a vector: parameters, then buffers.
        parameters: How many of them are parameters.
    """

    def __init__(
        self, cluster: ClusterConfig, data: DataSet, own: Examples | None, *, node: int, labels: Tensor | None = None
    ) -> None:
        channels, side, _ = data.train.images.shape
        spec = ModelSpec(
            name=cluster.model,
            num_classes=len(data.train.classes),
            channels=channels,
            size=side,
            mean=data.mean,
            std=data.std,
        )
        examples = data.train if own is None else own
        self._data = examples if labels is None else replace(examples, labels=labels)
        self._test = data.test
        self._training = cluster.training
        step = Step(update=_update(cluster))
        plan = Plan(data=self._data, model=spec, phases=(Phase(step=step, epochs=1),))
        self._net = FlatModule(begin_network(plan, address(cluster.seed, "init")))
        self._rng = Rng(address(cluster.seed, "node", node), torch.device("cpu"))
        self._gradient = Gradient(step, self._net, lambda forward: forward)
        self._views = _views(cluster, side)
        self._fill = fill_colour(self._net.module, self._data)
        self._update = step.update
        self._states = {"weigh": None}
        self._buffers = tuple(_running(self._net.module))
        self._order: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.int64))
        self._draws = may_draw(self._net.module)
        self.parameters = len(self._net.values)
        self.size = self.parameters + sum(buffer.numel() for buffer in self._buffers)
        self.momentum: Float32[Tensor, "1 d"] | None = None

    def vector(self) -> Vector:
        """Return a copy of the model."""
        return self._joined(self._net.values)

    def load(self, vector: Vector) -> None:
        """Overwrite the model."""
        with torch.no_grad():
            self._net.values.copy_(torch.tensor(vector[: self.parameters]))
            self._load_buffers(torch.tensor(vector[self.parameters :]))

    def gradient(self, step: int) -> tuple[Vector, float]:
        """Return what an honest worker sends for this step, and its loss; the momentum moves on.

        The model's buffers are left as the forward pass made them; they are the tail of what is returned.
        """
        index = self._batch(step)
        x = to_unit(self._data.images.gather(index))
        for view in self._views:
            x, _ = view.view(x, index, self._fill, self._rng.child(f"view/{view.name}")(step))
        columns = {name: column[index] for name, column in self._data.columns.items()}
        batch = Batch(index, x.contiguous(memory_format=torch.channels_last), self._data.labels[index], columns)
        weights = torch.full((len(index),), 1 / len(index))
        self._net.module.train()
        with lent_generator(self._rng.child("dropout") if self._draws else None, step):
            vector, loss = self._gradient(batch, weights, self._states, self._rng.child("combine"), step)
        row, gen = vector[None], torch.Generator()
        if self._training.clip is not None:
            row, _ = RowClipping(bound=self._training.clip).map_rows(row, None, gen)
        if self._training.momentum:
            beta = self._training.momentum
            row, self.momentum = WorkerMomentum(beta=beta, dampening=beta).map_rows(row, self.momentum, gen)
        return self._joined(row[0]), float(loss)

    def apply(self, combined: Vector, step: int) -> None:
        """Move the model along what the rule returned for this step, and take its buffers over."""
        with torch.no_grad():
            flat = self._net.values
            state = self._update.init_update(flat)
            self._update.update(flat, torch.tensor(combined[: self.parameters]), state, Clock(step, float(step)))
            self._load_buffers(torch.tensor(combined[self.parameters :]))

    def accuracy(self) -> Accuracy:
        """Return how the present model does on the test set."""
        predicted = logits_of(self._net.module, self._test).argmax(1)
        return Accuracy(correct=int((predicted == self._test.labels).sum()), tested=len(self._test))

    def _joined(self, head: Tensor) -> Vector:
        tail = [buffer.flatten() for buffer in self._buffers]
        joined: Vector = torch.cat([head, *tail]).detach().numpy()
        return joined

    def _load_buffers(self, tail: Tensor) -> None:
        start = 0
        for buffer in self._buffers:
            stop = start + buffer.numel()
            buffer.copy_(tail[start:stop].view_as(buffer))
            start = stop

    def _batch(self, step: int) -> Int64[Tensor, " b"]:
        """Return the step's slice of its epoch's permutation."""
        count = len(self._data)
        size = min(self._training.batch, count)
        epoch, place = divmod(step, -(-count // size))
        if self._order[0] != epoch:
            self._order = (epoch, torch.randperm(count, generator=self._rng.child("draw")(epoch)))
        return self._order[1][place * size : (place + 1) * size]


def _update(cluster: ClusterConfig) -> SGD:
    """The step where the model is: no momentum, since workers have it; the schedule counts steps, not epochs."""
    steps = cluster.training.steps
    schedule = Milestones(at=(max(1, steps // 2), max(2, 3 * steps // 4)), drop=0.5)
    return SGD(
        lr=cluster.training.lr,
        momentum=0.0,
        nesterov=False,
        weight_decay=cluster.training.weight_decay,
        schedule=schedule,
    )


def _views(cluster: ClusterConfig, side: int) -> tuple[Warp, ...]:
    if not cluster.training.augment:
        return ()
    return (Warp(law=Shift(law="integer", max_px=min(4, max(1, side // 8)), flip=True, fill="black")),)


def _running(net: nn.Module) -> list[Tensor]:
    """Return the running statistics of the network: buffers that training changes."""
    found = []
    for layer in net.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats:
            assert layer.running_mean is not None and layer.running_var is not None
            found += [layer.running_mean, layer.running_var]
    return found


def stacked(vectors: Sequence[Vector]) -> Float32[Tensor, "n s"]:
    """Return vectors as rows; one copy."""
    return torch.from_numpy(np.stack(vectors))


def combined(vectors: Sequence[Vector], combine: Callable[[Tensor], Tensor]) -> Vector:
    """Return the rows combined as a vector that travels."""
    result: Vector = combine(stacked(vectors)).detach().numpy()
    return result
