"""The layers of any network, in the order in which an image passes them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mithridate.core.errors import Misuse
from mithridate.core.seeds import address
from mithridate.data.examples import Examples
from mithridate.evaluation.outcome import logits_of

_FRESH = (
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
)


def call_order(model: nn.Module, data: Examples) -> list[tuple[str, nn.Module]]:
    """Return the modules that have parameters of their own, as an image of the data passes them; each once."""
    names = {module: name for name, module in model.named_modules() if any(True for _ in module.parameters(False))}
    seen: dict[nn.Module, None] = {}

    def note(module: nn.Module, args: Any, out: Any) -> None:
        del args, out
        seen.setdefault(module)

    with hooked(names, note):
        logits_of(model, data, torch.arange(1))
    return [(names[module], module) for module in seen]


def blocks(model: nn.Module, data: Examples) -> list[list[str]]:
    """Return names of parameters by block: a layer with a matrix or kernel, and the norms that follow it."""
    found: list[list[str]] = []
    for name, module in call_order(model, data):
        own = [(f"{name}." if name else "") + key for key, _ in module.named_parameters(recurse=False)]
        begins = any(p.dim() > 1 for p in module.parameters(recurse=False))
        if begins or not found:
            found.append(own)
        else:
            found[-1] += own
    return found


def last_blocks(model: nn.Module, data: Examples, count: int) -> frozenset[str]:
    """Return the names of the parameters of the last blocks.

    Raises:
        Misuse: MTH-0845, there are fewer.
    """
    found = blocks(model, data)
    if count > len(found):
        raise Misuse(
            "MTH-0845",
            f"the model has {len(found)} layers with weights, so the last {count} cannot be trained alone",
            hint="leave `layers` out to train all of them",
        )
    return frozenset(name for block in found[-count:] for name in block)


def tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer once."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def overwrite(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Write the values into the model's tensors of the same names."""
    with torch.no_grad():
        for name, tensor in tensors(model):
            tensor.copy_(values[name])


def norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the layers of batch normalisation that have weights, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and not isinstance(module, nn.modules.instancenorm._InstanceNorm)
        and module.affine
    }


def refresh(model: nn.Module, seed: int, only: frozenset[str] | None = None) -> tuple[str, ...]:
    """Initialise layers anew in place, as torch does by default, and return the parameters that could not be.

    Args:
        model: The network, on any device.
        seed: The values depend on it and the network alone.
        only: Names of parameters; a layer is initialised if one of its own is among them. None for all.
    """
    left: list[str] = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(address(seed, "model"))
        for name, module in model.named_modules():
            own = [(f"{name}." if name else "") + key for key, _ in module.named_parameters(recurse=False)]
            if not own or (only is not None and not only & set(own)):
                continue
            if isinstance(module, _FRESH):
                module.reset_parameters()
            else:
                left += own
    return tuple(left)


@contextmanager
def hooked(modules: Iterable[nn.Module], hook: Callable[[nn.Module, Any, Any], None]) -> Iterator[None]:
    """Call a function after every pass through one of the modules, with its inputs and its output."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def still(model: nn.Module, trained: frozenset[str] | None) -> Iterator[None]:
    """Keep the norms whose parameters are not trained in evaluation mode, whatever is asked of the network."""

    def calm(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        del args
        module.training = False

    kept = [] if trained is None else [norm for name, norm in norms(model).items() if f"{name}.weight" not in trained]
    handles = [norm.register_forward_pre_hook(calm) for norm in kept]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
