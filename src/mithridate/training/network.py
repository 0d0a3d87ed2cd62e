"""The network of a run: how it begins, its precision, and a read-only look at it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from mithridate.core.errors import Misuse
from mithridate.core.seeds import address
from mithridate.data.examples import Examples
from mithridate.models._base import AbstractNet, mode
from mithridate.models.facts import has_dropout
from mithridate.models.spec import Classifier
from mithridate.training._base import Forward, Rng
from mithridate.training.plan import Plan

Precision = Literal["fp32", "bf16"]


def begin_network(plan: Plan, seed: int) -> nn.Module:
    """Return the plan's network before training: fresh, or pretrained with a fresh head if only that is trained."""
    net: nn.Module = plan.model.build(seed).to(plan.device)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # missing in the stub
    if plan.pretrained is not None:
        _load(net, plan.pretrained, keep=_head(net) if plan.head_only else None)
    if plan.head_only:
        head = _head(net)
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name.startswith(head))
    return net.train(not plan.head_only)


def _load(net: nn.Module, weights: Mapping[str, Tensor], *, keep: str | None) -> None:
    """Overwrite every tensor of the network except those whose name begins with `keep`."""
    fresh = {name: tuple(value.shape) for name, value in net.state_dict().items() if not _begins(name, keep)}
    given = {name: tuple(value.shape) for name, value in weights.items() if not _begins(name, keep)}
    for name in (*fresh, *given):
        if fresh.get(name) != given.get(name):
            found, expected = given.get(name, "no such tensor"), fresh.get(name, "no such tensor")
            raise Misuse(
                "MTH-0506",
                f"pretrained weights do not fit: {name} is {found} in the file and {expected} in the model",
                hint="use weights of the same architecture and width",
            )
    net.load_state_dict({name: weights[name] for name in given}, strict=False)


def _begins(name: str, prefix: str | None) -> bool:
    return prefix is not None and name.startswith(prefix)


def _head(net: nn.Module) -> str:
    """Return the prefix of the last linear layer's parameters."""
    linear = [name for name, layer in net.named_modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise Misuse("MTH-0507", f"{type(net).__name__} has no linear layer, so there is no head to train alone")
    return f"{linear[-1]}."


def may_draw(net: nn.Module) -> bool:
    """Return whether the network may draw random numbers in training mode: the built-in ones do not."""
    built_in = isinstance(net, Classifier) and isinstance(net.net, AbstractNet)
    return has_dropout(net) or not built_in


def lent_generator(rng: Rng | None, step: int) -> AbstractContextManager[None]:
    """Layers can draw from torch's global generator only: lend them an addressed one for the step."""
    return nullcontext() if rng is None else _global_seed(address(rng.seed, step))


@contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def fill_colour(net: nn.Module, data: Examples) -> Float[Tensor, " c"]:
    """Return the colour that the network's normalisation maps to zero, or black if it has none."""
    if isinstance(net, Classifier):
        return net.normalise.mean.detach().flatten()
    return torch.zeros(data.images.shape[0], device=data.labels.device)


def autocasting(precision: Precision, device: torch.device) -> Callable[[Forward], Forward]:
    """Return a decorator that runs a forward pass in the given precision."""

    def wrap(forward: Forward) -> Forward:
        def cast(x: Tensor) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16):
                return forward(x)

        return cast

    return wrap if precision == "bf16" else lambda forward: forward


def read_only(net: nn.Module, precision: Precision) -> Forward:
    """Return the network as a function of images alone: evaluation mode, constant parameters, float32 logits."""

    def probe(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        constant = {name: p.detach() for name, p in net.named_parameters()}
        forward = autocasting(precision, x.device)(lambda images: functional_call(net, constant, (images,)))
        with mode(net, training=False):
            return forward(x.contiguous(memory_format=torch.channels_last)).float()

    return probe
