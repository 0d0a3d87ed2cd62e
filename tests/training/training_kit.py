"""What the tests of the training room share: small data, small plans, and stages that only tests need."""

import hashlib
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from mithridate.aggregation._base import AbstractGramCombiner, AbstractNormCombiner, AbstractRowCombiner
from mithridate.data.examples import Examples
from mithridate.data.stores import ResidentStore
from mithridate.models.spec import ModelSpec
from mithridate.numerics.geometry import Geometry
from mithridate.numerics.row_view import RowView
from mithridate.training._base import AbstractRowMap, AbstractView, AbstractWeigh
from mithridate.training.draw import Shuffle
from mithridate.training.loop import train
from mithridate.training.plan import Phase, Plan
from mithridate.training.step import Step


def toy(n: int = 70, *, channels: int = 3, size: int = 8, classes: int = 4, seed: int = 0) -> Examples:
    """Random images whose label is the brightest quarter of the image: learnable, and nothing to do with digits."""
    gen = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 100, (n, channels, size, size), generator=gen, dtype=torch.uint8)
    labels = torch.randint(0, classes, (n,), generator=gen)
    stripe = max(1, size // classes)
    for row, label in enumerate(labels.tolist()):
        pixels[row, :, label * stripe : (label + 1) * stripe] += 120
    return Examples("toy", ResidentStore(pixels), labels, tuple(f"class {k}" for k in range(classes)))


def spec(data: Examples, name: str) -> ModelSpec:
    channels, size, _ = data.images.shape
    return ModelSpec(
        name=name,
        num_classes=len(data.classes),
        channels=channels,
        size=size,
        mean=(0.3, 0.4, 0.5)[:channels],
        std=(0.2, 0.25, 0.3)[:channels],
    )


def plan_of(data: Examples, model: str, *, epochs: int = 2, batch: int = 16, **stages: object) -> Plan:
    step = Step(draw=Shuffle(batch=batch), **stages)  # type: ignore[arg-type]
    return Plan(data=data, model=spec(data, model), phases=(Phase(step=step, epochs=epochs),))


def digest(model: nn.Module) -> str:
    """A hash of every parameter and buffer."""
    total = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def trained(plan: Plan, seed: int = 0) -> str:
    return digest(train(plan, seed))


def accuracy(model: nn.Module, data: Examples) -> float:
    with torch.no_grad():
        logits = model(data.images.gather(torch.arange(len(data))).float() / 255)
    return float((logits.argmax(1) == data.labels).float().mean())


@dataclass(frozen=True, kw_only=True)
class Tap(AbstractView):
    """Changes nothing; writes down which rows came by and with which generator."""

    name: ClassVar[str] = "tap"
    rows: list[list[int]] = field(default_factory=list, compare=False, repr=False)
    seeds: list[int] = field(default_factory=list, compare=False, repr=False)

    def view(self, x: Tensor, index: Tensor, state: object, gen: torch.Generator) -> tuple[Tensor, object]:
        self.rows.append(index.tolist())
        self.seeds.append(gen.initial_seed())
        return x, state


class Stopped(BaseException):
    """Stands for a kill: nothing in the library may catch it."""


@dataclass(frozen=True, kw_only=True)
class Bomb(AbstractView):
    """Goes off after so many views, in the middle of a step."""

    name: ClassVar[str] = "bomb"
    left: list[int] = field(default_factory=lambda: [-1], compare=False, repr=False)

    def view(self, x: Tensor, index: Tensor, state: object, gen: torch.Generator) -> tuple[Tensor, object]:
        if self.left[0] == 0:
            raise Stopped
        self.left[0] -= 1
        return x, state


@dataclass(frozen=True, kw_only=True)
class Jitter(AbstractView):
    """Noise that remembers the noise of the step before."""

    name: ClassVar[str] = "jitter"

    def init(self, context: object) -> object:
        return {"last": torch.zeros(1), "count": 0}

    def view(self, x: Tensor, index: Tensor, state: dict[str, object], gen: torch.Generator) -> tuple[Tensor, object]:
        noise = 0.1 * torch.randn(1, generator=gen) + 0.5 * state["last"]
        return x + noise, {"last": noise, "count": state["count"] + 1}


@dataclass(frozen=True, kw_only=True)
class Hardest(AbstractWeigh):
    """Weights in proportion to a running mean of the batch loss; they sum to one and are not equal."""

    def init(self, context: object) -> object:
        return [torch.zeros(()), "mean"]

    def weigh(self, losses: Tensor, batch: object, weights: Tensor, state: list[object]) -> tuple[Tensor, object]:
        mean = 0.9 * state[0] + 0.1 * losses.mean()
        raw = weights * (losses + mean)
        return raw / raw.sum(), [mean, "mean"]


@dataclass(frozen=True, kw_only=True)
class Same(AbstractRowMap):
    """The identity, which forces the rows to exist."""

    name: ClassVar[str] = "same"

    def map_rows(self, rows: Tensor, state: object, gen: torch.Generator) -> tuple[Tensor, object]:
        return rows, state


@dataclass(frozen=True, kw_only=True)
class WorkerMomentum(AbstractRowMap):
    """Every row is a running mean of its worker's rows, plus a little noise."""

    name: ClassVar[str] = "momentum"

    def map_rows(self, rows: Tensor, state: object, gen: torch.Generator) -> tuple[Tensor, object]:
        noisy = rows + 1e-3 * torch.randn(rows.shape, generator=gen)
        state = noisy if state is None else 0.5 * state + 0.5 * noisy
        return state, state


@dataclass(frozen=True, kw_only=True)
class PlainNorms(AbstractNormCombiner):
    """Asks for norms and ignores them."""

    def weights(self, norms: Tensor, prior: Tensor, state: object) -> tuple[Tensor, object]:
        assert norms.shape == prior.shape
        return prior, state


@dataclass(frozen=True, kw_only=True)
class PlainGram(AbstractGramCombiner):
    """Asks for the Gram matrix, ignores it, and counts the steps."""

    f: int = 0

    def init(self) -> object:
        return {"steps": torch.zeros((), dtype=torch.int64)}

    def weights(self, points: Geometry, state: dict[str, Tensor]) -> tuple[Tensor, object]:
        return torch.full((points.m,), 1 / points.m, dtype=torch.float64), {"steps": state["steps"] + 1}


@dataclass(frozen=True, kw_only=True)
class PlainRows(AbstractRowCombiner):
    """Asks for the rows and averages them."""

    f: int = 0

    def combine(self, rows: RowView, alive: Tensor, gen: torch.Generator, state: object) -> tuple[Tensor, object]:
        assert bool(alive.all())
        return rows.block(0, rows.d).mean(0), state
