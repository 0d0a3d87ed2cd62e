"""Fine-pruning: silence the channels that sleep on the reference, then fine-tune.

    a_c = mean over images and places of relu(F_c) at the last convolution; lowest first, while accuracy on a part of
    the reference that is kept aside falls by at most tau; then SGD on the rest, the silent channels staying silent

Paper    Liu, Dolan-Gavitt, Garg, Fine-Pruning (RAID 2018), arXiv 1805.12185.
Needs    labels of the reference; a convolution.
Promise  a silent channel is zero for every image, before and after the fine-tuning; at least one channel is left.
Departs  BackdoorBench decides on the test set when to stop, and returns a network that is pruned one channel past the
         limit, since what it keeps is no copy; here a fifth of the reference decides, and what is returned is within
         the limit. F is the output of the norm behind the convolution, where there is one.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from mithridate.core.errors import Misuse
from mithridate.core.params import In, param
from mithridate.data.examples import Examples
from mithridate.evaluation.outcome import logits_of
from mithridate.numerics.rng import generator
from mithridate.unlearning._base import Healed, HealKit
from mithridate.unlearning._frame import accuracy, begin
from mithridate.unlearning._layers import call_order, hooked, overwrite, tensors
from mithridate.unlearning._training import AbstractTrainingHealer, Course, conclude


@dataclass(frozen=True, kw_only=True)
class FinePruning(AbstractTrainingHealer):
    """Pruning of dormant channels, then fine-tuning."""

    tau: float = param(0.04, within=In(0.0, 1.0), doc="most accuracy that pruning may cost, a share")
    aside: float = param(0.2, within=In(0.0, 1.0, open_lo=True, open_hi=True), doc="part of the reference that decides")

    def heal(self, kit: HealKit, *, seed: int) -> Healed:
        """Prune and fine-tune; see `AbstractHealer.heal`.

        Raises:
            Misuse: MTH-0842, the model has no convolution; MTH-0844, one example cannot be divided.
        """
        session = begin(kit, seed=seed, labels=True)
        kit = session.kit
        net = copy.deepcopy(session.model)
        layers = last_convolution(net, kit.reference)
        rest, judges = _divided(kit.reference, self.aside, seed)
        order = mean_activations(net, layers[-1], rest).argsort(stable=True)
        silent = _pruned(net, layers, order, judges, self.tau)
        course = Course(session=session, method=self.label(), seed=seed)
        with muted(layers[-1], silent):
            net = course.train(net, rest, [self.phase(kit)])
        silence(layers, silent)
        if course.within is not None:  # what was kept on the way lacks the hook that mutes
            kept = copy.deepcopy(session.original)
            course.within = _silenced(kept, kit.reference, course.within, silent)
        details = {"pruned": silent.tolist(), "channels": len(order)}
        return conclude(course, net, details=details)


def last_convolution(net: nn.Module, data: Examples) -> list[nn.Module]:
    """Return the last convolution that an image passes, and the norm behind it if there is one.

    Raises:
        Misuse: MTH-0842, there is no convolution.
    """
    order = [module for _, module in call_order(net, data)]
    places = [place for place, module in enumerate(order) if isinstance(module, _ConvNd)]
    if not places:
        raise Misuse(
            "MTH-0842",
            f"{type(net).__name__} has no convolution, and fine-pruning silences channels of the last one",
            hint="choose fine-tune, i-bau or xlf",
        )
    behind = order[places[-1] + 1 : places[-1] + 2]
    return [order[places[-1]], *(module for module in behind if isinstance(module, _BatchNorm))]


def mean_activations(net: nn.Module, layer: nn.Module, data: Examples) -> Float[Tensor, " c"]:
    """Return the mean over images and places of the positive part of a layer's output, for each channel."""
    sums: list[Tensor] = []

    def note(module: nn.Module, args: Any, out: Any) -> None:
        del module, args
        sums.append(out.relu().flatten(2).mean(2).double().sum(0))

    with hooked([layer], note):
        logits_of(net, data)
    return (torch.stack(sums).sum(0) / len(data)).float().cpu()


def silence(layers: list[nn.Module], channels: Tensor) -> None:
    """Set the weights and biases of channels to zero in place, so that the last of the layers gives zeros there."""
    with torch.no_grad():
        for layer in layers:
            for p in layer.parameters(recurse=False):
                p.index_fill_(0, channels.to(p.device), 0.0)


@contextmanager
def muted(layer: nn.Module, channels: Tensor) -> Iterator[None]:
    """Keep channels of a layer's output zero, for gradients too."""

    def mute(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        del module, args
        return out.index_fill(1, channels.to(out.device), 0.0)

    handle = layer.register_forward_hook(mute)
    try:
        yield
    finally:
        handle.remove()


def _divided(data: Examples, aside: float, seed: int) -> tuple[Examples, Examples]:
    if len(data) < 2:
        raise Misuse("MTH-0844", f"{len(data)} example cannot be divided into one part to train on and one to decide")
    order = torch.randperm(len(data), generator=generator(seed, "unlearning", "aside"))
    count = min(max(1, round(aside * len(data))), len(data) - 1)
    return data.select(order[count:].sort().values), data.select(order[:count].sort().values)


def _pruned(net: nn.Module, layers: list[nn.Module], order: Tensor, judges: Examples, tau: float) -> Tensor:
    """Silence as many channels as the judges allow, in place, and return which."""
    before, count = accuracy(net, judges), 0
    while count < len(order) - 1:
        with muted(layers[-1], order[: count + 1]):
            if before - accuracy(net, judges) > tau + 1e-9:
                break
        count += 1
    silence(layers, order[:count])
    return order[:count].sort().values


def _silenced(net: nn.Module, data: Examples, values: dict[str, Tensor], channels: Tensor) -> dict[str, Tensor]:
    overwrite(net, values)
    silence(last_convolution(net, data), channels)
    return dict(tensors(net))


METHOD = FinePruning
