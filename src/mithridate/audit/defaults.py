"""What an audit's configuration is completed with: by data set, and by whether attacks plant a trigger. No torch."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import JsonValue

from mithridate.audit.names import TRIGGER, plants_trigger, published_setting, scenario_source

DEFAULTS: Mapping[str, Mapping[str, JsonValue]] = MappingProxyType(
    {
        "digits": {"model": "mlp", "recipe": "digits-mlp40", "budget": 0.06, "epsilon": 0.5},
        "": {"model": "resnet18", "recipe": "paper-wb40", "budget": 0.01, "epsilon": "16/255"},
    }
)
"""What is used for a data set when the configuration does not say; the empty name stands for all others."""
TRIGGER_DEFAULTS: Mapping[str, Mapping[str, JsonValue]] = MappingProxyType(
    {
        "digits": {"model": "convnet3", "recipe": "digits-cnn30", "budget": 0.02, "epsilon": "255/255"},
        "": {"model": "resnet18", "recipe": "paper-wb40", "budget": 0.01, "epsilon": "255/255"},
    }
)
"""The same where a trigger is planted; a patch changes its pixels by any amount, so epsilon bounds nothing."""


def triggered(values: Mapping[str, Any]) -> bool:
    """Return whether the scenarios of a raw configuration are those of a trigger."""
    section = values.get("scenarios")
    source = section.get("source") if isinstance(section, Mapping) else None
    return isinstance(source, str) and scenario_source(source).partition(":")[0] == TRIGGER


def with_kind(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Complete a raw configuration where attacks or scenarios imply each other: both with a trigger, or neither."""
    section, methods = values.get("scenarios", {}), values.get("attacks")
    if methods is None or "attacks" not in values:
        return {**values, "attacks": ["badnets"]} if triggered(values) else values
    if not isinstance(section, Mapping) or section.get("source") is not None or not isinstance(methods, list | tuple):
        return values
    names = [item.get("name") if isinstance(item, Mapping) else item for item in methods]
    plain = [name.partition(":")[0] for name in names if isinstance(name, str)]
    planted = any(plants_trigger(name) for name in plain)
    return {**values, "scenarios": {**section, "source": TRIGGER}} if planted else values


def completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a raw configuration with the defaults of its data set, kind and scenario list; what is given is kept."""
    values = with_kind(values)
    data = values.get("data")
    source = data.get("source", "digits") if isinstance(data, Mapping) else "digits"
    every = TRIGGER_DEFAULTS if triggered(values) else DEFAULTS
    defaults = every.get(source, every[""]) if isinstance(source, str) else every[""]
    return {**defaults, **_published(values), **values}


def _published(values: Mapping[str, Any]) -> Mapping[str, JsonValue]:
    """Return the budget and epsilon with which the list of a raw configuration was published."""
    data, section = values.get("data"), values.get("scenarios")
    part = isinstance(data, Mapping) and data.get("per_class") is not None
    source = section.get("source") if isinstance(section, Mapping) else None
    return published_setting(scenario_source(source), whole=not part) if isinstance(source, str) else {}
