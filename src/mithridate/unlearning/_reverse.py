"""Reconstruction of triggers: for a class, the smallest map that sends images of all others there.

    min over m, p of  CE(f((1 - m) x + m p), t) + c |m|_1,     m = (1 + tanh u) / 2,  p = (1 + tanh v) / 2

c follows the success: twice as large after some epochs above the threshold, smaller by 2^1.5 after as many below it.
The mask that is kept is the smallest that was above the threshold at the end of an epoch.

Shapes   b images of c channels, h rows, w columns.
"""

import copy
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mithridate.core.errors import Misuse
from mithridate.core.params import Checked, In, param
from mithridate.core.pool import Tell, silent
from mithridate.core.seeds import address
from mithridate.data.examples import Examples
from mithridate.numerics.rng import generator
from mithridate.numerics.triggers import Trigger, stamp
from mithridate.training._base import to_unit
from mithridate.unlearning._frame import check_finite, check_fit, predictions

ANOMALY = 2.0
"""The index above which a class is called infected, if its mask is smaller than the median."""
_MAD = 1.4826
_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class Search(Checked):
    """How a trigger is searched for."""

    epochs: int = param(80, within=In(1, 100_000), doc="most passes over the images for one class")
    samples: int = param(500, within=In(1, 1 << 31), doc="how many images are used, drawn once")
    batch: int = param(64, within=In(1, 1 << 20), doc="images per step")
    lr: float = param(0.1, within=In(0.0, 1e3, open_lo=True), doc="step size of Adam")
    cost: float = param(1e-3, within=In(0.0, 1e6, open_lo=True), doc="first weight of the size of the mask")
    threshold: float = param(0.98, within=In(0.0, 1.0), doc="share of images that a trigger must move")
    patience: int = param(5, within=In(1, 10_000), doc="epochs after which the weight changes")
    stop: int = param(25, within=In(1, 100_000), doc="epochs without a smaller mask after which the search ends")


@dataclass(frozen=True, kw_only=True, eq=False)
class Reconstruction:
    """What was found, by class.

    Args:
        triggers: The smallest trigger that was found for each class.
        sizes: The sum of its mask, in pixels.
        success: Share of the images of other classes that it moved there.
        anomaly: How far the size lies from the median, in robust deviations; empty for fewer than three classes.
        infected: Classes whose index is above 2 and whose mask is below the median, the clearest first.
    """

    triggers: Mapping[int, Trigger]
    sizes: Mapping[int, float]
    success: Mapping[int, float]
    anomaly: Mapping[int, float]
    infected: tuple[int, ...]

    def to_record(self) -> dict[str, object]:
        """Return sizes, success and indices as plain JSON; an index that is infinite is null."""
        finite = {k: v if v < float("inf") else None for k, v in self.anomaly.items()}
        parts = {"sizes": self.sizes, "success": self.success, "anomaly": finite}
        return {
            "infected": list(self.infected),
            **{name: {str(k): v for k, v in d.items()} for name, d in parts.items()},
        }


def reconstruct(
    model: nn.Module,
    data: Examples,
    *,
    classes: Sequence[int] | None = None,
    search: Search | None = None,
    seed: int = 0,
    progress: Tell = silent,
) -> Reconstruction:
    """Reconstruct a trigger for each class, and say which of them is suspiciously small (Neural Cleanse).

    Args:
        model: Images in [0, 1] to logits; it is not changed.
        data: Images of all classes, clean or nearly; labels are not looked at.
        classes: For which classes; None for all of them.
        search: How.
        seed: The draw of images, their order and the first masks derive from it.
        progress: Told `what` and the share that is `done`.

    Raises:
        Misuse: MTH-0847 if all classes are asked for and there are fewer than three; MTH-0827 if model and images do
            not fit; MTH-0828 for a class that the model does not know.
    """
    search = Search() if search is None else search
    check_finite(model)
    num_classes = check_fit(model, data)
    wanted = tuple(range(num_classes)) if classes is None else tuple(dict.fromkeys(classes))
    for label in wanted:
        if not 0 <= label < num_classes:
            raise Misuse("MTH-0828", f"there is no class {label}: the model knows {num_classes}, numbered from 0")
    if classes is None and num_classes < 3:
        raise Misuse(
            "MTH-0847",
            f"{num_classes} classes have no median to be far from; three are needed",
            hint="reconstruct(..., classes=[k]) finds the trigger of one class",
        )
    net = copy.deepcopy(model).eval().requires_grad_(False)
    device = next(net.parameters()).device
    order = torch.randperm(len(data), generator=generator(seed, "reconstruct", "images"))[: search.samples]
    some = data.select(order)
    x = to_unit(some.images.gather(torch.arange(len(some), device=some.device)).to(device))
    found = predictions(net, some)
    triggers, sizes, success = {}, {}, {}
    for number, label in enumerate(wanted):
        others = x[found != label]
        triggers[label], success[label] = _smallest(net, others if len(others) else x, label, search, seed)
        sizes[label] = float(triggers[label].mask.double().sum())
        progress({"what": "reconstruction of triggers", "done": (number + 1) / len(wanted)})
    anomaly = anomalies(sizes) if len(sizes) >= 3 else {}
    infected = infected_classes(sizes, anomaly)
    return Reconstruction(triggers=triggers, sizes=sizes, success=success, anomaly=anomaly, infected=infected)


def anomalies(sizes: Mapping[int, float]) -> dict[int, float]:
    """Return |size - median| / (1.4826 MAD) for each class; 0 / 0 is 0."""
    median = statistics.median(sizes.values())
    spread = _MAD * statistics.median(abs(size - median) for size in sizes.values())
    away = {label: abs(size - median) for label, size in sizes.items()}
    return {k: d / spread if spread else (float("inf") if d else 0.0) for k, d in away.items()}


def infected_classes(sizes: Mapping[int, float], anomaly: Mapping[int, float]) -> tuple[int, ...]:
    """Return the classes that are outliers on the small side, the furthest first."""
    median = statistics.median(sizes.values()) if sizes else 0.0
    out = [label for label, index in anomaly.items() if index > ANOMALY and sizes[label] < median]
    return tuple(sorted(out, key=lambda label: (-anomaly[label], label)))


def synthetic_suspects(
    data: Examples, trigger: Trigger, label: int, *, count: int | None = None, seed: int = 0
) -> Examples:
    """Return images with a trigger under the class it stands for: suspects for a healer, where none were found.

    Args:
        data: Images with their classes; those of the class itself are left out.
        trigger: What to stamp.
        label: The class that the trigger stands for.
        count: How many, drawn; None for all.
        seed: For the draw.
    """
    rows = (data.labels != label).nonzero().flatten().cpu()
    if not len(rows):
        raise Misuse("MTH-0844", f"all {len(data)} images are of class {label}, so the trigger cannot move any there")
    order = torch.randperm(len(rows), generator=generator(seed, "synthetic-suspects"))
    rows = rows[order[:count]].sort().values
    part = data.select(rows)
    ids = torch.arange(len(part))
    pixels = trigger.to(part.device).stamp(part.images.gather(ids.to(part.device)))
    return part.overlay(ids, pixels, torch.full_like(part.labels, label))


def _smallest(
    net: nn.Module, x: Float[Tensor, "b c h w"], label: int, search: Search, seed: int
) -> tuple[Trigger, float]:
    """Search for the smallest trigger of one class; returns it with its success."""
    gen = generator(seed, "reconstruct", "class", label)
    first = torch.rand((1 + x.shape[1], *x.shape[2:]), generator=gen).to(x.device)
    raw = torch.atanh((first - 0.5) * (2 - 1e-5)).requires_grad_()
    optimiser = torch.optim.Adam([raw], lr=search.lr, betas=(0.5, 0.9))
    goal = torch.full((len(x),), label, device=x.device)
    cost, good, bad, idle = search.cost, 0, 0, 0
    best: Tensor | None = None
    best_size, best_hits, hits = float("inf"), 0.0, 0.0
    for epoch in range(search.epochs):
        for part in _parts(len(x), search.batch, address(seed, "reconstruct", "order", label, epoch)):
            planes = _unit(raw)
            logits = net(stamp(x[part.to(x.device)], planes[:1], planes[1:]))
            loss = functional.cross_entropy(logits, goal[: len(part)]) + cost * planes[:1].sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        now = raw.detach().clone()
        hits, size = _success(net, x, now, label), float(_unit(now)[:1].sum())
        idle += 1
        if hits >= search.threshold:
            good, bad = good + 1, 0
            if size < best_size:
                idle = 0 if size < 0.99 * best_size else idle
                best, best_size, best_hits = now, size, hits
        else:
            good, bad = 0, bad + 1
        if best is not None and idle >= search.stop:
            break
        if good >= search.patience:
            cost, good = 2 * cost, 0
        elif bad >= search.patience:
            cost, bad = cost / 2**1.5, 0
    planes = _unit(raw.detach() if best is None else best)
    mask, pattern = planes[:1].cpu(), planes[1:].cpu()
    return Trigger(mask, pattern, f"reconstructed for class {label}"), hits if best is None else best_hits


def _success(net: nn.Module, x: Float[Tensor, "b c h w"], raw: Tensor, label: int) -> float:
    planes = _unit(raw)
    with torch.no_grad():
        parts = [net(stamp(part, planes[:1], planes[1:])).argmax(1) == label for part in torch.split(x, _AT_ONCE)]
    return float(torch.cat(parts).double().mean())


def _unit(raw: Tensor) -> Tensor:
    return (1 + torch.tanh(raw)) / 2


def _parts(count: int, batch: int, seed: int) -> Iterator[Tensor]:
    yield from torch.split(torch.randperm(count, generator=torch.Generator().manual_seed(seed)), batch)
