"""The names that a configuration may use, checked without importing torch.

Attacks and defenses derive from the module files of their rooms, scenario lists from the files that ship with the
package, victim contracts from their index. A name that is none of them is answered with the closest one.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from mithridate.core.errors import Misuse
from mithridate.core.registry import Registry, closest, unknown_name
from mithridate.training.contracts_index import CONTRACT_NAMES

T = TypeVar("T")

ATTACKS = Registry("mithridate.attacks", "attack", "mithridate.attacks")
DEFENSES = Registry("mithridate.defenses", "defense", "mithridate.defenses")

ATTACK_CONTROLS = ("none", "noise")
DEFENSE_CONTROLS = ("none",)

SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "digits": "1,797 grey 8x8 images of scikit-learn, embedded: works offline",
        "mnist": "70,000 grey 28x28 digits, from $MITHRIDATE_DATA or the hub",
        "fashion-mnist": "70,000 grey 28x28 articles of clothing, from $MITHRIDATE_DATA or the hub",
        "cifar10": "60,000 colour 32x32 photographs, from $MITHRIDATE_DATA or the hub",
    }
)


def scenario_lists() -> tuple[str, ...]:
    """Return the names of the scenario lists that ship with the package."""
    folder = files("mithridate").joinpath("data", "scenario_lists")
    return tuple(sorted(item.name.removesuffix(".json") for item in folder.iterdir() if item.name.endswith(".json")))


@cache
def scenario_list(name: str) -> Mapping[str, object]:
    """Return a shipped scenario list as plain JSON."""
    text = files("mithridate").joinpath("data", "scenario_lists", f"{name}.json").read_text(encoding="utf-8")
    document: dict[str, object] = json.loads(text)
    return MappingProxyType(document)


def scenario_count(name: str) -> int:
    """Return the number of scenarios in a shipped list."""
    setups = scenario_list(name)["setups"]
    return len(setups) if isinstance(setups, list) else 0


def check_source(source: str) -> None:
    """Check the name of a data set: a known name, a folder, a parquet or npz file, or `hf:owner/name[@revision]`.

    Raises:
        Misuse: MTH-0101 for a name that is none of these, MTH-0122 for a missing folder or a malformed hub id.
    """
    if source in SOURCES:
        return
    if source.startswith("hf:"):
        owner, slash, name = source.removeprefix("hf:").partition("@")[0].partition("/")
        if owner and slash and name and "/" not in name:
            return
        hint = "write hf:owner/name or hf:owner/name@commit"
        raise Misuse("MTH-0122", f"data set {source!r} is no hub id", hint=hint)
    path = Path(source).expanduser()
    if path.is_dir() or (path.suffix in (".parquet", ".npz") and path.is_file()):
        return
    if "/" in source or source.startswith(("~", ".")) or path.suffix in (".parquet", ".npz"):
        raise Misuse("MTH-0122", f"data set {source!r}: there is no such folder or file", hint="give one that exists")
    near = closest(source, SOURCES)
    rest = "or a folder, a parquet or npz file, or hf:owner/name"
    raise Misuse(
        "MTH-0101",
        f"unknown data set {source!r}; there are: {', '.join(SOURCES)}, {rest}",
        hint=f"did you mean {near!r}?" if near else "",
    )


def check_recipe(name: str) -> None:
    """Check the name of a victim contract.

    Raises:
        Misuse: MTH-0101 for an unknown name.
    """
    if name not in CONTRACT_NAMES:
        raise unknown_name("recipe", name, CONTRACT_NAMES)


def check_scenarios(source: str) -> None:
    """Check a scenario source: `random`, a shipped list, or `LIST:KEY`.

    Raises:
        Misuse: MTH-0101 for an unknown list or key.
    """
    name, colon, key = source.partition(":")
    if source == "random":
        return
    if name not in scenario_lists():
        raise unknown_name("scenario list", name, ("random", *scenario_lists()))
    setups = scenario_list(name)["setups"]
    keys = tuple(str(setup[0]) for setup in setups) if isinstance(setups, list) else ()
    if colon and key not in keys:
        raise unknown_name(f"scenario of {name}", key, keys)


def check_method(registry: Registry, name: str, controls: tuple[str, ...] = ()) -> None:
    """Check the name of an attack or a defense; controls that have no module are legal too.

    Raises:
        Misuse: MTH-0101 for an unknown name.
    """
    allowed = {*controls, *registry.names()}
    if name not in allowed:
        raise unknown_name(registry.kind, name, allowed)


def instantiate(method: Callable[..., T], name: str, options: Mapping[str, object]) -> T:
    """Build a method from the options of a configuration.

    Args:
        method: A frozen dataclass; lists become tuples.
        name: What the user called it, for messages.
        options: Field values by name.

    Raises:
        Misuse: MTH-0123 for an option that the method does not have; MTH-0110 for a value out of its range.
    """
    known = tuple(field.name for field in fields(method) if field.init) if is_dataclass(method) else ()
    for option in options:
        if option not in known:
            match = closest(option, known)
            hint = f"did you mean {match!r}?" if match else f"options: {', '.join(known) or 'none'}"
            raise Misuse("MTH-0123", f"{name} has no option {option!r}", hint=hint)
    return method(**{key: tuple(value) if isinstance(value, list) else value for key, value in options.items()})
