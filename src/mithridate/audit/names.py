"""The names that a configuration may use, checked without importing torch.

Attacks and defenses derive from the module files of their rooms, scenario lists from the files that ship with the
package, victim contracts from their index. A name that is none of them is answered with the closest one.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from pydantic import JsonValue

from mithridate.core.errors import Misuse
from mithridate.core.registry import Registry, unknown_name
from mithridate.training.contracts_index import CONTRACT_NAMES

ATTACKS = Registry("mithridate.attacks", "attack", "mithridate.attacks")
DEFENSES = Registry("mithridate.defenses", "defense", "mithridate.defenses")

ATTACK_CONTROLS = ("none", "noise")
TRIGGER = "trigger"
"""The scenario source of attacks that plant a trigger; their modules say `SCENARIO = "trigger"`."""
DRAWN = ("random", TRIGGER)
"""Scenario sources that are no lists."""
DEFENSE_CONTROLS = ("none",)


def plants_trigger(attack: str) -> bool:
    """Return whether an attack plants a trigger, by what its module says; an unknown attack does not."""
    return attack in ATTACKS.names() and ATTACKS.constant(attack, "SCENARIO") == TRIGGER


def scenario_lists() -> tuple[str, ...]:
    """Return the names of the scenario lists that ship with the package."""
    folder = files("mithridate").joinpath("data", "scenario_lists")
    return tuple(sorted(item.name.removesuffix(".json") for item in folder.iterdir() if item.name.endswith(".json")))


@cache
def scenario_list(name: str) -> Mapping[str, Any]:
    """Return a shipped scenario list as plain JSON."""
    text = files("mithridate").joinpath("data", "scenario_lists", f"{name}.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return MappingProxyType(document)


def scenario_count(name: str) -> int:
    """Return the number of scenarios in a shipped list."""
    setups = scenario_list(name)["setups"]
    return len(setups) if isinstance(setups, list) else 0


def published_setting(source: str, *, whole: bool) -> dict[str, JsonValue]:
    """Return the epsilon of the list that a scenario source names, and its budget; nothing for other sources.

    Args:
        source: A scenario source as `scenario_source` returns it.
        whole: Whether victims train on the complete data, which is what the published number of poisons is a part of.
    """
    name = source.partition(":")[0]
    if name not in scenario_lists():
        return {}
    plain = scenario_list(name)
    budget: dict[str, JsonValue] = {"budget": plain["poisons"] / plain["train_rows"]} if whole else {}
    return {"epsilon": plain["epsilon"], **budget}


def check_recipe(name: str) -> None:
    """Check the name of a victim contract.

    Raises:
        Misuse: MTH-0101 for an unknown name.
    """
    if name not in CONTRACT_NAMES:
        raise unknown_name("recipe", name, CONTRACT_NAMES)


def names_one(source: str) -> bool:
    """Return whether a scenario source is a single scenario: `LIST:KEY`, `random:NUMBER` or `trigger:CLASS`."""
    return ":" in source


def scenario_source(source: str) -> str:
    """Return a scenario source as it is written here: `LIST/KEY`, the name in reports, is `LIST:KEY`."""
    name, slash, key = source.partition("/")
    return f"{name}:{key}" if slash and name in (*DRAWN, *scenario_lists()) else source


def check_scenarios(source: str) -> None:
    """Check a scenario source: `random`, `trigger`, a shipped list, `LIST:KEY`, `random:NUMBER` or `trigger:CLASS`.

    Raises:
        Misuse: MTH-0101 for an unknown list or key, MTH-0306 for a number that is none.
    """
    name, colon, key = source.partition(":")
    if name in DRAWN:
        if colon and not (key.isascii() and key.isdecimal() and len(key) <= 9):
            raise Misuse(
                "MTH-0306",
                f"a key of {name!r} is a number from 0, got {key!r}",
                hint="random:3 is the fourth of the scenarios that `random` draws, trigger:3 wants class 3",
            )
        return
    if name not in scenario_lists():
        raise unknown_name("scenario list", name, (*DRAWN, *scenario_lists()))
    setups = scenario_list(name)["setups"]
    keys = tuple(str(setup[0]) for setup in setups) if isinstance(setups, list) else ()
    if colon and key not in keys:
        raise unknown_name(f"scenario of {name}", key, keys)
