"""The grammar of model names, without torch: what `--model` may say, and what each form means.

    resnet18            a built-in architecture       resnet18-w16        the same, 16 channels wide at its first layer
    timm:NAME           a network of timm             torchvision:NAME    a network of torchvision
    hf:ID[@REVISION]    a pre-trained image classifier of the Hugging Face hub, or of a local folder
    package.module:factory, FILE.py:factory            your own code, which is executed

A built-in architecture is a public file of this package that says `METHOD = ...`; `WIDTH = ...` in it is the default
width and makes the `-wN` suffix legal. Underscore and hyphen are interchangeable in built-in names.
"""

import ast
import enum
import functools
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mithridate.core.errors import Misuse
from mithridate.core.registry import closest


class Kind(enum.Enum):
    """Where a model comes from."""

    BUILT_IN = "built-in"
    TIMM = "timm"
    TORCHVISION = "torchvision"
    HF = "hf"
    MODULE = "module"
    FILE = "file"


MAX_WIDTH = 4096
_BRITTLE = ("convnet", "vgg", "mobilenet", "alexnet")
_WIDTH_SUFFIX = re.compile(r"(?P<base>.+)-w(?P<width>[0-9]{1,9})")
_EXAMPLES = {
    Kind.TIMM: "timm:resnet18",
    Kind.TORCHVISION: "torchvision:resnet18",
    Kind.HF: "hf:google/vit-base-patch16-224",
}
_IDENTIFIERS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, kw_only=True)
class ModelName:
    """A parsed name.

    Args:
        kind: Where the model comes from.
        source: The architecture, the hub id, the module, or the path of the file.
        factory: The attribute to call; only for `MODULE` and `FILE`.
        width: Channels of the first layer (hidden units for the mlp); only for built-in names that have one.
        revision: Branch, tag or commit; only for `HF`.
    """

    kind: Kind
    source: str
    factory: str = ""
    width: int | None = None
    revision: str | None = None


@functools.cache
def built_in() -> Mapping[str, int | None]:
    """Return the built-in architectures and their default widths (None: no width to choose), read without importing."""
    found: dict[str, int | None] = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        constants = {
            target.id: statement.value
            for statement in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name)
        }
        if "METHOD" in constants:
            found[path.stem] = ast.literal_eval(constants["WIDTH"]) if "WIDTH" in constants else None
    return MappingProxyType(found)


def parse_name(name: str) -> ModelName:
    """Parse a model name; the form is checked, not whether the thing exists elsewhere.

    Raises:
        Misuse: MTH-0401 when the name has none of the known forms, MTH-0402 for an impossible width.
    """
    prefix, colon, rest = name.partition(":")
    if prefix in ("timm", "torchvision", "hf") and colon:
        return _foreign(Kind(prefix), rest, name)
    source, colon, factory = name.rpartition(":")
    if colon:
        return _factory(source, factory, name)
    return _built_in(name)


def check_name(name: str) -> None:
    """Check all that can be known of a model name before torch is imported.

    Raises:
        Misuse: MTH-0401 or MTH-0402 for a malformed name, MTH-0403 for a missing extra,
            MTH-0404 for a missing file or module.
    """
    parsed = parse_name(name)
    package = {Kind.TIMM: "timm", Kind.TORCHVISION: "torchvision", Kind.HF: "transformers"}.get(parsed.kind)
    if package is not None and importlib.util.find_spec(package) is None:
        raise missing_package(name, package)
    if parsed.kind is Kind.MODULE:
        top = parsed.source.partition(".")[0]
        with importable_from(Path.cwd()):
            if top not in sys.modules and importlib.util.find_spec(top) is None:
                raise missing_module(name, top)
    if parsed.kind is Kind.FILE and not Path(parsed.source).expanduser().is_file():
        raise Misuse(
            "MTH-0404", f"model {name!r}: there is no file {parsed.source!r}", hint="give the path of a Python file"
        )


def missing_package(name: str, package: str) -> Misuse:
    """Return the error that says what to install for the model `name`."""
    command = "torchvision" if package == "torchvision" else "'mithridate[models]'"
    return Misuse("MTH-0403", f"model {name!r} needs {package}, which is not installed", hint=f"pip install {command}")


def missing_module(name: str, module: str) -> Misuse:
    """Return the error for a Python module that the model `name` needs and that cannot be found."""
    hint = "run from the folder that holds it, install it, or write FILE.py:factory"
    return Misuse("MTH-0404", f"model {name!r}: there is no module {module!r}", hint=hint)


@contextmanager
def importable_from(folder: Path) -> Iterator[None]:
    """Let imports find modules in `folder` first, as `python FILE.py` does."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def is_brittle(name: str) -> bool:
    """Tell whether the victim recipe of Witches' Brew divides the learning rate by ten for this architecture.

    These are ConvNet, VGG, MobileNet and AlexNet, by name (Geiping et al., ICLR 2021, reference code).
    """
    parsed = parse_name(name)
    architecture = (parsed.factory or parsed.source).lower()
    return any(word in architecture for word in _BRITTLE)


def suggest(name: str, allowed: Iterable[str]) -> str:
    """Return a hint with the closest allowed name, or with all of them, or the first twelve."""
    names = list(allowed)
    match = closest(name, names)
    if match is not None:
        return f"did you mean {match!r}?"
    return "one of " + ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")


def _foreign(kind: Kind, rest: str, name: str) -> ModelName:
    source, at, revision = rest.partition("@") if kind is Kind.HF else (rest, "", "")
    if not source or any(character.isspace() for character in rest) or (at and not revision):
        raise Misuse("MTH-0401", f"model {name!r} names nothing after {kind.value!r}", hint=f"like {_EXAMPLES[kind]}")
    return ModelName(kind=kind, source=source, revision=revision or None)


def _factory(source: str, factory: str, name: str) -> ModelName:
    if not factory.isidentifier():
        raise Misuse(
            "MTH-0401",
            f"model {name!r}: {factory!r} is not the name of a function",
            hint="write FILE.py:factory or package.module:factory",
        )
    if source.endswith(".py"):
        return ModelName(kind=Kind.FILE, source=source, factory=factory)
    if _IDENTIFIERS.fullmatch(source):
        return ModelName(kind=Kind.MODULE, source=source, factory=factory)
    raise Misuse(
        "MTH-0401",
        f"model {name!r}: {source!r} is neither a Python file nor a module",
        hint="the forms are timm:NAME, torchvision:NAME, hf:ID, package.module:factory and FILE.py:factory",
    )


def _built_in(name: str) -> ModelName:
    widths = built_in()
    match = _WIDTH_SUFFIX.fullmatch(name)
    base = (match["base"] if match else name).replace("-", "_")
    if base not in widths:
        hint = (
            "write FILE.py:factory, with the function that builds the net"
            if name.endswith(".py")
            else suggest(base, widths)
        )
        raise Misuse("MTH-0401", f"there is no built-in model {name!r}", hint=hint)
    default = widths[base]
    if match is None:
        return ModelName(kind=Kind.BUILT_IN, source=base, width=default)
    if default is None:
        raise Misuse("MTH-0402", f"model {name!r}: {base} has one width only", hint=f"write {base!r}")
    width = int(match["width"])
    if not 1 <= width <= MAX_WIDTH:
        raise Misuse(
            "MTH-0402", f"model {name!r}: width must be in [1, {MAX_WIDTH}], got {width}", hint=f"like {base}-w16"
        )
    return ModelName(kind=Kind.BUILT_IN, source=base, width=width)
