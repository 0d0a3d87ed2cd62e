"""Methods by name with options of their own: the checks of a name, and building one from plain values."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import TypeVar

from mithridate.core.errors import Misuse
from mithridate.core.params import takes_nothing
from mithridate.core.registry import Registry, closest, unknown_name

T = TypeVar("T")

PRESET = "preset"
"""The option that stands for several options of a method at once."""


def check_method(registry: Registry, name: str, controls: tuple[str, ...] = ()) -> None:
    """Check the name of an attack or a defense; controls that have no module are legal too.

    Raises:
        Misuse: MTH-0101 for an unknown name.
    """
    allowed = {*controls, *registry.names()}
    if name not in allowed:
        raise unknown_name(registry.kind, name, allowed)


def with_preset(registry: Registry, name: str, options: Mapping[str, T]) -> dict[str, T]:
    """Return the options of a method with those of the preset that they name, which is a word for its values.

    A method's module has presets if it says `PRESETS = {name: {option: value}}` in literals, so it is not imported.

    Args:
        registry: Where the method is.
        name: The method; controls that have no module have no presets.
        options: What the user gave; besides `preset`, these win over what the preset says.

    Raises:
        Misuse: MTH-0101 for an unknown preset.
    """
    found = registry.constant(name, "PRESETS") if PRESET in options and name in registry.names() else None
    if not isinstance(found, dict):
        return dict(options)  # a method without presets refuses the option as any other that it does not have
    presets = {key: values for key, values in found.items() if isinstance(values, dict)}
    chosen = str(options[PRESET])
    if chosen not in presets:
        raise unknown_name(f"preset of {name}", chosen, presets)
    return {**presets[chosen], **{key: value for key, value in options.items() if key != PRESET}}


def instantiate(method: Callable[..., T], name: str, options: Mapping[str, object]) -> T:
    """Build a method from the options of a configuration.

    Args:
        method: A frozen dataclass; lists become tuples, and the word `none` nothing where that is allowed.
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
    nothing = {field.name for field in fields(method) if takes_nothing(field.type)} if is_dataclass(method) else set()
    plain = {key: None if value == "none" and key in nothing else value for key, value in options.items()}
    return method(**{key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()})
