"""Networks by name: built-in ones, those of timm, torchvision and the Hugging Face hub, and one's own code.

Trust: `package.module:factory` and `FILE.py:factory` execute that code with the rights of the process, as `python
FILE.py` would; name only what you would run. `hf:ID` reads a configuration and safetensors weights and never runs
remote code or opens a pickle. timm and torchvision networks are built with fresh weights; `hf:` ones keep the
published weights under a fresh head, so victims built on them are fine-tuned and not trained from scratch.

A factory is called with those of `num_classes`, `channels` and `size` that it takes, and returns a network that maps
normalised images to logits. It must return a new network every time, and should draw from torch's default generator,
which `ModelSpec.build` seeds around the call.
"""

import hashlib
import importlib
import importlib.util
import sys
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

from torch import nn

from mithridate.models._foreign import ForeignCode, Shape, attribute, call_factory, check_net
from mithridate.models._libraries import from_hub, from_timm, from_torchvision
from mithridate.models.names import Kind, ModelName, importable_from, is_brittle, missing_module, parse_name

__all__ = ["build_net", "is_brittle"]


def build_net(name: str, *, num_classes: int, channels: int, size: int) -> nn.Module:
    """Build the network `name` without its normalisation, drawing from torch's default generator.

    Raises:
        Misuse: MTH-0401 to MTH-0409; see `mithridate explain`.
    """
    parsed = parse_name(name)
    shape = Shape(num_classes=num_classes, channels=channels, size=size)
    match parsed.kind:
        case Kind.BUILT_IN:
            return _built_in(parsed, shape)
        case Kind.TIMM:
            net = from_timm(name, parsed, shape)
        case Kind.TORCHVISION:
            net = from_torchvision(name, parsed, shape)
        case Kind.HF:
            net = from_hub(name, parsed, shape)
        case Kind.MODULE:
            net = _from_module(name, parsed, shape)
        case Kind.FILE:
            net = _from_file(name, parsed, shape)
    check_net(name, net, shape)
    return net


def _built_in(parsed: ModelName, shape: Shape) -> nn.Module:
    method = importlib.import_module(f"mithridate.models.{parsed.source}").METHOD
    width = {} if parsed.width is None else {"width": parsed.width}
    net: nn.Module = method(num_classes=shape.num_classes, channels=shape.channels, size=shape.size, **width)
    return net


def _from_module(name: str, parsed: ModelName, shape: Shape) -> nn.Module:
    with importable_from(Path.cwd()):
        with ForeignCode(name, f"importing {parsed.source}"):
            try:
                module = importlib.import_module(parsed.source)
            except ModuleNotFoundError as error:
                # a module that the user's own module fails to find is the user's error, shown as such
                if error.name is None or not f"{parsed.source}.".startswith(f"{error.name}."):
                    raise
                raise missing_module(name, error.name) from error
        return call_factory(name, attribute(name, module, parsed.factory), shape)


def _from_file(name: str, parsed: ModelName, shape: Shape) -> nn.Module:
    path = Path(parsed.source).expanduser().resolve()
    with importable_from(path.parent):
        module = _execute(name, path)
        return call_factory(name, attribute(name, module, parsed.factory), shape)


def _execute(name: str, path: Path) -> ModuleType:
    """Execute a Python file as a module of its own, once for each content."""
    with ForeignCode(name, f"executing {path.name}"):
        digest = hashlib.sha256(str(path).encode() + b"\0" + path.read_bytes()).hexdigest()[:16]
        # the name is no identifier, so that it can shadow nothing
        module_name = f"{path.stem}-{digest}"
        if module_name in sys.modules:
            return sys.modules[module_name]
        found = importlib.util.spec_from_file_location(module_name, path)
        assert found is not None and found.loader is not None, "the name ends in .py, for which there is a loader"
        module = importlib.util.module_from_spec(found)
        with ExitStack() as undo:
            # dataclasses and pickles of worker processes look their module up while it is being executed
            sys.modules[module_name] = module
            undo.callback(sys.modules.pop, module_name)
            found.loader.exec_module(module)
            undo.pop_all()
        return module
