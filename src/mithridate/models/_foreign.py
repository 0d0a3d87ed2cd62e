"""The edge to code that is not ours: it may raise and return anything, and the user hears one clear sentence."""

import inspect
import operator
import traceback
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType, TracebackType

import torch
from torch import Tensor, nn

from mithridate.core.errors import Misuse, MithridateError
from mithridate.models._base import mode
from mithridate.models.names import suggest

_returned: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a network must fit."""

    num_classes: int
    channels: int
    size: int


class ForeignCode:
    """A `with` block around foreign code: what it raises becomes a Misuse that names kind, message, file and line.

    Args:
        name: The model name, as the user wrote it.
        doing: What the code was asked to do.
    """

    def __init__(self, name: str, doing: str) -> None:
        self.name = name
        self.doing = doing

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Translate an exception; interrupts and our own errors pass."""
        if not isinstance(error, Exception) or isinstance(error, MithridateError):
            return
        said = " ".join(str(error).split())[:300] or "no message"
        frames = traceback.extract_tb(trace)
        where = f" at {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
        raise Misuse(
            "MTH-0407",
            f"model {self.name!r}: {self.doing} raised {type(error).__name__}: {said}{where}",
            hint="the error is in the code that the name points to, or in what it was asked for",
        ) from error


def attribute(name: str, module: ModuleType, factory: str) -> Callable[..., object]:
    """Return the callable `factory` of a module.

    Raises:
        Misuse: MTH-0406 when it is not there, with the closest match, or not callable.
    """
    with ForeignCode(name, f"looking up {factory}"):
        try:
            found: object = operator.attrgetter(factory)(module)
        except AttributeError as error:
            names = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
            hint = suggest(factory, names) if names else "it defines no function at all"
            raise Misuse("MTH-0406", f"model {name!r}: there is no {factory!r} in it", hint=hint) from error
    if not callable(found):
        raise Misuse(
            "MTH-0406",
            f"model {name!r}: {factory!r} is a {type(found).__name__}, not a function that builds a network",
            hint="def make(num_classes, channels, size): return the network",
        )
    return found


def call_factory(name: str, factory: Callable[..., object], shape: Shape) -> nn.Module:
    """Call a factory with those of the offered arguments that it takes.

    Raises:
        Misuse: MTH-0407 when it raises, MTH-0408 when it wants other arguments or does not return a new network.
    """
    arguments = _arguments(name, factory, shape)
    with ForeignCode(name, "the factory"):
        net = factory(**arguments)
    if not isinstance(net, nn.Module):
        raise Misuse(
            "MTH-0408",
            f"model {name!r}: the factory returned {_describe(net)}, not a torch.nn.Module",
            hint="return the network itself, untrained or trained, on the CPU",
        )
    if net in _returned:
        raise Misuse(
            "MTH-0408",
            f"model {name!r}: the factory returned the same {type(net).__name__} as before",
            hint="build the network inside the factory; victims that share weights are not independent",
        )
    _returned.add(net)
    return net


def _arguments(name: str, factory: Callable[..., object], shape: Shape) -> dict[str, int]:
    offered: dict[str, int] = asdict(shape)
    wanted = ", ".join(offered)
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (ValueError, TypeError):  # callables written in C may have no signature
        return {}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        taken = offered
    else:
        named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        taken = {key: value for key, value in offered.items() if key in named}
    for p in parameters:
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in taken:
            raise Misuse(
                "MTH-0408",
                f"model {name!r}: the factory needs an argument {p.name!r}; it is offered {wanted} by name",
                hint=f"give {p.name!r} a default",
            )
    return taken


def check_net(name: str, net: nn.Module, shape: Shape) -> None:
    """Send two black images through a network, in evaluation and in training mode; its buffers stay as they were.

    Raises:
        Misuse: MTH-0407 when it raises, MTH-0409 when it does not return one logit for each class.
    """
    images = torch.zeros(2, shape.channels, shape.size, shape.size)
    net.to("cpu")
    for training in (False, True):
        doing = f"a forward pass on images {list(images.shape)} in {'training' if training else 'evaluation'} mode"
        with ForeignCode(name, doing), mode(net, training=training), torch.no_grad():
            before = [(buffer, buffer.clone()) for buffer in net.buffers()] if training else []
            logits: object = net(images)
            for buffer, value in before:
                buffer.copy_(value)
        if not isinstance(logits, Tensor) or logits.shape != (2, shape.num_classes):
            raise Misuse(
                "MTH-0409",
                f"model {name!r}: {doing} returned {_describe(logits)}, expected a tensor [2, {shape.num_classes}]",
                hint=f"the network must end in {shape.num_classes} logits for each image",
            )


def _describe(value: object) -> str:
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
