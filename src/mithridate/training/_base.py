"""The seven stages of a training step, as abstract frozen dataclasses, and what they are given.

    draw -> view -> loss -> weigh -> rows -> combine -> update

State goes in and comes out of every stage; randomness comes from `Rng`, which is a seed with an address and not a
stream, so that a stage never changes another's draws. `init` is called when the phase that holds the stage begins and
may look at the network through the read-only probe; the state of a stage that the next phase keeps unchanged survives.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from mithridate.aggregation._base import State
from mithridate.core.seeds import address
from mithridate.data.examples import Examples
from mithridate.numerics.rng import generator

Forward = Callable[[Tensor], Tensor]
"""Images in [0, 1], shape (b, c, h, w), to logits, shape (b, k), for some fixed parameters."""


@dataclass(frozen=True)
class Rng:
    """Randomness by address: calling it with a path returns a fresh generator for that path."""

    seed: int
    device: torch.device

    def __call__(self, *path: str | int) -> torch.Generator:
        return generator(self.seed, *path, device=self.device)

    def child(self, name: str) -> "Rng":
        """Return the randomness of a named consumer."""
        return Rng(address(self.seed, name), self.device)


@dataclass(frozen=True)
class Clock:
    """Where a run is: `step` counts all updates so far, `epoch` is the same in passes over the data (a fraction)."""

    step: int
    epoch: float


@dataclass(frozen=True)
class Context:
    """What a stage may look at when its phase begins.

    Attributes:
        data: The training set.
        probe: The present network in evaluation mode, float32; images in [0, 1] to logits. Gradients flow to the
            images and never to the parameters.
        fill: The colour that the network's normalisation maps to zero, shape (c,).
        rng: The stage's randomness.
        clock: Where the run is.
    """

    data: Examples
    probe: Forward
    fill: Float[Tensor, " c"]
    rng: Rng
    clock: Clock


@dataclass(frozen=True)
class Batch:
    """What the loss sees: rows `index` of the training set as the model sees them, and their other columns."""

    index: Int64[Tensor, " b"]
    x: Float[Tensor, "b c h w"]
    labels: Int64[Tensor, " b"]
    columns: Mapping[str, Tensor]


class AbstractStage(ABC):  # noqa: B024 - the kinds of stage below have the abstract methods
    """A stage holds configuration only; its state is a value in the loop."""

    def init(self, context: Context) -> State:
        """Return the stage's state at the beginning of its phase."""
        del context
        return None


class AbstractDraw(AbstractStage):
    """(state, rng) -> which examples, and the weight of each in the mean gradient."""

    @abstractmethod
    def steps_per_epoch(self, num_examples: int) -> int:
        """Return how many steps make one pass over the data."""

    @abstractmethod
    def smallest_batch(self, num_examples: int) -> int:
        """Return how many examples the smallest batch of a pass has."""

    @abstractmethod
    def draw(self, state: State, rng: Rng) -> tuple[Int64[Tensor, " b"], Float[Tensor, " b"], State]:
        """Return row ids, weights that sum to one, and the next state."""


class AbstractView(AbstractStage):
    """(x, state, rng) -> what the model sees of the images. `name` is the address of its randomness."""

    name: ClassVar[str]

    @abstractmethod
    def view(
        self, x: Float[Tensor, "b c h w"], index: Int64[Tensor, " b"], state: State, gen: torch.Generator
    ) -> tuple[Float[Tensor, "b c h w"], State]:
        """Return the images as the model sees them, and the next state.

        Args:
            x: Images in [0, 1]; a view may return values outside, and may return its argument.
            index: Their rows in the training set.
            state: The view's state.
            gen: The view's generator for this step.
        """


class AbstractLoss(AbstractStage):
    """(forward, batch) -> one loss per example. `separable` says whether example i's loss depends on x_i alone."""

    separable: ClassVar[bool] = True

    @abstractmethod
    def losses(self, forward: Forward, batch: Batch) -> Float[Tensor, " b"]:
        """Return the losses, differentiable in the parameters behind `forward` and in `batch.x`."""


class AbstractWeigh(AbstractStage):
    """(losses, batch, weights, state) -> weights: fixed before the rows, so that both gradient paths use them."""

    @abstractmethod
    def weigh(
        self, losses: Float[Tensor, " b"], batch: Batch, weights: Float[Tensor, " b"], state: State
    ) -> tuple[Float[Tensor, " b"], State]:
        """Return the weight of each example in the step's gradient, and the next state."""


class AbstractRowMap(AbstractStage):
    """(rows, state, rng) -> rows: clipping, worker momentum, recorders.

    `of_workers` says whether the map needs the same rows in every step, as a memory of each worker does.
    """

    name: ClassVar[str]
    of_workers: ClassVar[bool] = False

    @abstractmethod
    def map_rows(
        self, rows: Float[Tensor, "n d"], state: State, gen: torch.Generator
    ) -> tuple[Float[Tensor, "n d"], State]:
        """Return the rows that the combiner gets, and the next state."""


class AbstractUpdate(ABC):
    """(parameters, vector, state) -> parameters, state."""

    @abstractmethod
    def init_update(self, flat: Float[Tensor, " d"]) -> State:
        """Return the optimiser's state before the first step."""

    @abstractmethod
    def update(self, flat: Float[Tensor, " d"], vector: Float[Tensor, " d"], state: State, clock: Clock) -> State:
        """Overwrite `flat` in place (the loop owns it) and return the next state, whose tensors may be reused."""


def to_unit(images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return pixels in [0, 1]."""
    return images.to(torch.float32).div_(255)
