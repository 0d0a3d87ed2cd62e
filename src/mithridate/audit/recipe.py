"""How a model was trained, as the description beside its weights records it, and the plan that would do it again."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mithridate.audit.assembly import defended, defense
from mithridate.audit.config import AuditConfig, Defense, RecipeOptions, split_method
from mithridate.audit.names import check_recipe
from mithridate.audit.opening import Opened
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.core.seeds import address
from mithridate.training.contracts import Options, contract
from mithridate.training.plan import Plan
from mithridate.unlearning._base import AbstractHealer
from mithridate.unlearning._ptn import AbstractImportanceHealer


class Recipe(BaseModel):
    """A victim contract with what a user overrode, and the defense under which it ran."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    options: RecipeOptions = RecipeOptions()
    precision: Literal["fp32", "bf16"] = "fp32"
    defense: Defense | None = None
    seed: int = Field(default=0, ge=0, lt=1 << 63)


def recorded(config: AuditConfig) -> dict[str, Any]:
    """Return how a configuration trains, as plain JSON for a model's description."""
    chosen = next((method for method in config.defenses if method.name != "none"), None)
    return Recipe(
        name=config.recipe, options=config.recipe_options, precision=config.precision, defense=chosen, seed=config.seed
    ).model_dump(mode="json")


def recipe_of(record: Mapping[str, Any], text: str | None = None) -> Recipe | None:
    """Return the recipe that the user names, or else the one that is recorded; None if there is neither.

    Args:
        record: The `recipe` of a model's description.
        text: `NAME`, or `NAME:option=value,...`.

    Raises:
        Misuse: MTH-0101 for an unknown name, MTH-0125 for options that are none.
        BadArtefact: MTH-0883, the record is damaged.
    """
    if text is None:
        try:
            found = Recipe.model_validate(record) if record else None
        except ValidationError as error:
            raise BadArtefact(
                "MTH-0883", f"the recipe in model.json is none: {_first(error)}", hint="name it: --recipe NAME"
            ) from error
        if found is not None:
            check_recipe(found.name)
        return found
    try:
        method = split_method(text)
    except ValueError as error:
        raise Misuse("MTH-0125", f"--recipe: {error}") from error
    check_recipe(method["name"])
    try:
        return Recipe.model_validate(method)
    except ValidationError as error:
        fields = ", ".join(RecipeOptions.model_fields)
        raise Misuse("MTH-0125", f"--recipe {text}: {_first(error)}; options are {fields}") from error


def training_plan(opened: Opened, healer: AbstractHealer, text: str | None, *, device: str) -> Plan | None:
    """Return the plan with which a model was trained, on the data with the poison; None if it is not known.

    What only dampens weights gets none, so that a recipe that cannot be followed here stands in nobody's way.

    Args:
        opened: The model and its data.
        healer: What is to heal.
        text: The recipe that the user names.
        device: Where to train.

    Raises:
        Misuse: As `recipe_of`, or the contract does not fit.
    """
    recipe = recipe_of(opened.about.recipe, text)
    if recipe is None or isinstance(healer, AbstractImportanceHealer):
        return None
    options = Options(**recipe.options.model_dump(), precision=recipe.precision, device=device)
    plan = contract(recipe.name, opened.data, opened.about.spec.name, options)
    plan = replace(plan, model=opened.about.spec, data=opened.train.to(device))
    built = None if recipe.defense is None else defense(recipe.defense)
    return defended(built, plan, seed=address(address(recipe.seed, "victim"), "defense"))


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    return f"{'.'.join(map(str, found['loc']))}: {found['msg']}"[:200]
