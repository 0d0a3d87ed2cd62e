"""The configuration of an audit: one strict, typed YAML file; flags override scalars. No torch here.

Values left out are filled from the data set (`defaults`), so that a resolved configuration is complete and runs again
to the same bytes. The controls (no attack, noise of the same size, no defense) are in every grid whatever was asked.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from mithridate.audit.defaults import completed
from mithridate.audit.names import (
    ATTACK_CONTROLS,
    ATTACKS,
    DEFENSE_CONTROLS,
    DEFENSES,
    DRAWN,
    TRIGGER,
    check_recipe,
    check_scenarios,
    names_one,
    plants_trigger,
    scenario_count,
    scenario_source,
)
from mithridate.core.boundary import read_yaml
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.core.methods import check_method, with_preset
from mithridate.core.problems import Source, as_misuse, read_source
from mithridate.core.registry import Registry
from mithridate.core.units import Pixels, format_epsilon, parse_epsilon, parse_rate
from mithridate.core.verdicts import Gate
from mithridate.data.names import check_source
from mithridate.models.names import check_name


def _checked(check: Callable[[str], None]) -> AfterValidator:
    def keep(name: str) -> str:
        check(name)
        return name

    return AfterValidator(keep)


def _epsilon(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"must be a number in (0, 1] or a fraction such as 16/255, got {value!r}")
    if isinstance(value, str) and "e" in value.lower():
        # Through a float: as an exact fraction, 1e999999999 would take minutes to write out.
        with suppress(ValueError):
            value = float(value)
    return format_epsilon(parse_epsilon(value))


def _budget(value: Any) -> Any:
    """Texts such as `1%` become numbers; numbers are checked after the type is."""
    return parse_rate(value, "budget") if isinstance(value, str) else value


def _gate(value: str | None) -> str | None:
    if value is not None:
        Gate.parse(value)
    return value


def _jobs(value: Any) -> int | str:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 256):
        return value  # type: ignore[no-any-return]
    raise ValueError(f"must be 'auto' or a whole number in [1, 256], got {value!r}")


def _scalar(text: str) -> JsonValue:
    try:
        value: JsonValue = read_yaml(text)
    except BadArtefact:
        return text
    return value if isinstance(value, str | int | float | bool | None) else text


def split_method(value: Any) -> Any:
    """`NAME` and `NAME:option=value,option=value` are short for a name with options.

    Raises:
        ValueError: A text of another form.
    """
    if not isinstance(value, str):
        return value
    name, colon, rest = value.partition(":")
    options: dict[str, JsonValue] = {}
    for item in rest.split(",") if colon else ():
        key, equals, text = item.partition("=")
        if not (key.strip() and equals):
            raise ValueError(f"{value!r} is not NAME or NAME:option=value,option=value")
        options[key.strip()] = _scalar(text.strip())
    return {"name": name, "options": options}


class _Section(BaseModel):
    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        validate_default=False,
        use_attribute_docstrings=True,
    )


class DataSection(_Section):
    """Which images the victims train on."""

    source: Annotated[str, _checked(check_source)] = "digits"
    """digits, mnist, fashion-mnist, cifar10, a folder, a parquet or npz file, or hf:owner/name@revision"""
    per_class: int | None = Field(default=None, ge=1)
    """keep only the first so many training images of each class"""
    size: int | None = Field(default=None, ge=8, le=224)
    """resize square images of a folder or hub data set to this side, in pixels"""
    store: Literal["resident", "mapped"] = "resident"
    """resident holds all pixels in memory; mapped decodes images from a file of the cache; never changes a number"""


class RecipeOptions(_Section):
    """Scalars of the victim contract that may be overridden; the report then says so."""

    epochs: int | None = Field(default=None, ge=1, le=100_000)
    """passes over the training set"""
    batch: int | None = Field(default=None, ge=1, le=1 << 20)
    """images per step"""
    lr: float | None = Field(default=None, gt=0, le=1000)
    """base (or peak) step size"""
    augment: bool | None = None
    """false trains without shifts and flips; true adds one-pixel shifts to the digits-* contracts"""
    pretrained: str | None = None
    """safetensors file of weights to begin from; transfer contracts need it"""


class ScenarioSection(_Section):
    """What the attacker wants, how often, and whose images may be poisoned."""

    source: Annotated[str, AfterValidator(scenario_source), _checked(check_scenarios)] = "random"
    """random, or a published list: witches-brew-10, toxic-c10-scratch, ...; LIST:KEY takes one of its scenarios;
    trigger (the default for attacks that plant one), where scenario k wants class k, and trigger:CLASS is one"""
    count: int | None = Field(default=8, ge=1, le=100_000)
    """number of targets; null takes all of a published list; 1 where the source is a single scenario, or trigger"""
    threat: Literal["single-class", "third-party", "self-betrayal", "other-classes", "random-subset"] = "single-class"
    """class of the poisons: the wanted one, a third one, the target's own, any but the wanted one (the default for
    trigger), or any"""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or not isinstance(value.get("source"), str):
            return value
        source = scenario_source(value["source"])
        if source.partition(":")[0] == TRIGGER:
            return {"count": 1, "threat": "other-classes", **value}
        return {"count": 1, **value} if names_one(source) else value

    @model_validator(mode="after")
    def _count_fits(self) -> "ScenarioSection":
        if names_one(self.source):
            if self.count not in (None, 1):
                raise Misuse(
                    "MTH-0308",
                    f"source {self.source!r} is one scenario, and count is {self.count}",
                    hint="set count (--targets) to 1 or leave it out; for several targets name a whole list",
                )
        elif self.source in DRAWN:
            if self.count is None:
                raise ValueError(f"count must be a number for source {self.source!r}; null takes all of a list")
        elif self.count is not None and self.count > (most := scenario_count(self.source)):
            raise Misuse(
                "MTH-0308",
                f"source {self.source!r} has {most} scenarios, and count is {self.count}",
                hint="lower count (--targets), or take the source 'random'",
            )
        return self

    @property
    def num_targets(self) -> int:
        """Number of scenarios, counted in the list where `count` is null."""
        if names_one(self.source):
            return 1
        return scenario_count(self.source) if self.count is None else self.count


class SurrogateSection(_Section):
    """The clean networks that the attacker trains for crafting; by default the victim's model and recipe."""

    models: Annotated[tuple[Annotated[str, _checked(check_name)], ...], Field(strict=False)] = ()
    """one name for each member of the ensemble; empty means the victim's model, as often as the attack asks"""
    recipe: Annotated[str, _checked(check_recipe)] | None = None
    """victim contract for the surrogates; by default the victim's"""
    recipe_options: RecipeOptions = RecipeOptions()
    """overrides for the surrogates' contract; only with a recipe of their own"""


class Method(_Section):
    """An attack or a defense by name, with options of its own."""

    name: str
    """see `mithridate list`"""
    options: dict[str, JsonValue] = {}
    """fields of the method, which keep the paper's value if left out; `preset` takes those of a published setting"""


def _known(registry: Registry, controls: tuple[str, ...]) -> AfterValidator:
    def check(method: Method) -> Method:
        check_method(registry, method.name, controls)
        return method.model_copy(update={"options": with_preset(registry, method.name, method.options)})

    return AfterValidator(check)


Attack = Annotated[Method, BeforeValidator(split_method), _known(ATTACKS, ATTACK_CONTROLS)]
Defense = Annotated[Method, BeforeValidator(split_method), _known(DEFENSES, DEFENSE_CONTROLS)]


def _grid(methods: tuple[Method, ...], controls: tuple[str, ...], kind: str) -> tuple[Method, ...]:
    names = [method.name for method in methods]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{kind} {twice!r} is listed twice; list each once")
    for method in methods:
        if method.name == "none" and method.options:
            raise ValueError(f"the control 'none' has no options, got {', '.join(map(repr, method.options))}")
    given = {method.name: method for method in methods}
    first = tuple(given.get(name, Method(name=name)) for name in controls)
    return (*first, *(method for method in methods if method.name not in controls))


def _attacks(methods: tuple[Method, ...]) -> tuple[Method, ...]:
    return _grid(methods, ATTACK_CONTROLS, "attack")


def _defenses(methods: tuple[Method, ...]) -> tuple[Method, ...]:
    return _grid(methods, DEFENSE_CONTROLS, "defense")


class AuditConfig(_Section):
    """Everything that determines an audit."""

    data: DataSection = DataSection()
    """the data set"""
    model: Annotated[str, _checked(check_name)]
    """built-in name (resnet18-w16), timm:NAME, torchvision:NAME, hf:ID, package.module:factory or FILE.py:factory"""
    recipe: Annotated[str, _checked(check_recipe)]
    """victim contract: how victims are trained"""
    recipe_options: RecipeOptions = RecipeOptions()
    """overrides of the contract's scalars"""
    scenarios: ScenarioSection = ScenarioSection()
    """targets and threat model"""
    budget: Annotated[float, BeforeValidator(_budget), AfterValidator(lambda value: parse_rate(value, "budget"))]
    """share of the training set that the attacker may change, in (0, 1]: 0.01, or 1%"""
    epsilon: Annotated[str, BeforeValidator(_epsilon)]
    """largest change of a pixel, in [0, 1] units: 16/255 or 0.0627"""
    attacks: Annotated[tuple[Attack, ...], Field(strict=False), AfterValidator(_attacks)] = Field(
        ("witches-brew",), validate_default=True
    )
    """attacks to try; the controls none and noise are always added"""
    defenses: Annotated[tuple[Defense, ...], Field(strict=False), AfterValidator(_defenses)] = Field(
        (), validate_default=True
    )
    """defenses to try; none is always added"""
    controls: Literal["every-defense", "undefended"] = "every-defense"
    """whether victims poisoned with plain noise train under every defense, or without a defense only"""
    victims: int = Field(default=1, ge=1, le=1000)
    """victims per cell, each from a fresh initialisation and order"""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    """the one seed of the run"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 uses autocast inside the networks; losses, gradients and statistics stay fp32"""
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d{1,3})?|mps)$")] = "cpu"
    """where networks run: cpu, cuda, cuda:N or mps"""
    gate: Annotated[str | None, AfterValidator(_gate)] = None
    """fail unless this holds for the interval's bound, for example asr<0.1"""
    alignment: bool = True
    """record how well poison gradients point at the attacker's while victims train"""
    jobs: Annotated[int | str, BeforeValidator(_jobs)] = "auto"
    """victims trained at once; never changes a number"""
    surrogate: SurrogateSection = SurrogateSection()
    """the attacker's networks"""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return completed(value)

    @model_validator(mode="after")
    def _one_kind(self) -> "AuditConfig":
        """Attacks that plant triggers and attacks on targets succeed in different ways and are audited apart."""
        wrong = [
            method.name
            for method in self.attacks
            if method.name not in ATTACK_CONTROLS and plants_trigger(method.name) != self.triggered
        ]
        if wrong:
            what = "plants a trigger" if plants_trigger(wrong[0]) else "is aimed at targets"
            raise Misuse(
                "MTH-0335",
                f"{wrong[0]} {what}, and scenarios.source is {self.scenarios.source!r}",
                hint=f"leave out scenarios.source (--scenarios) and audit {wrong[0]} by itself",
            )
        return self

    @property
    def triggered(self) -> bool:
        """Whether the audit is of attacks that plant a trigger."""
        return self.scenarios.source.partition(":")[0] == TRIGGER

    @property
    def epsilon_px(self) -> Pixels:
        """Epsilon as a number in [0, 1] units."""
        return parse_epsilon(self.epsilon)

    @property
    def num_cells(self) -> int:
        """Number of (scenario, attack, defense) combinations that are run."""
        untried = len(self.defenses) - 1 if self.controls == "undefended" else 0  # defenses against plain noise
        return self.scenarios.num_targets * (len(self.attacks) * len(self.defenses) - untried)


@dataclass(frozen=True, kw_only=True)
class Override:
    """A value from the command line.

    Args:
        option: The flag as typed, for messages.
        path: Where it belongs in the configuration.
        value: Plain JSON.
    """

    option: str
    path: tuple[str, ...]
    value: JsonValue


def load_config(path: Path) -> AuditConfig:
    """Read, check and complete a configuration file.

    Raises:
        Misuse: MTH-0120 for a missing file, MTH-0121 with every problem and its line.
        BadArtefact: The file is not the YAML that is read here.
    """
    return resolve(path)


def resolve(
    path: Path | None = None, overrides: Sequence[Override] = (), *, base: AuditConfig | None = None
) -> AuditConfig:
    """Merge a configuration file (or `base`, or nothing) with the command line; the command line wins.

    Raises:
        Misuse: MTH-0120 for a missing file, MTH-0121 with every problem and its line or flag.
        BadArtefact: The file is not the YAML that is read here.
    """
    source = (
        read_source(
            path, advice="`mithridate init` writes an annotated audit.yaml; `mithridate audit --demo` needs none"
        )
        if path is not None
        else Source(name="", values={} if base is None else _dump(base))
    )
    values = source.values
    flags = {override.path: override.option for override in overrides}
    for override in overrides:
        values = _overlay(values, override.path, override.value)
    try:
        return AuditConfig.model_validate(values)
    except ValidationError as error:
        raise as_misuse(error, AuditConfig, source, flags) from None


def _overlay(values: Mapping[str, Any], path: tuple[str, ...], value: JsonValue) -> dict[str, Any]:
    head, *rest = path
    if not rest:
        return {**values, head: value}
    inner = values.get(head, {})
    # A section that is no mapping is left as it is: validation names it.
    return {**values, head: _overlay(inner, tuple(rest), value) if isinstance(inner, Mapping) else inner}


def _dump(config: AuditConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")


def demo() -> AuditConfig:
    """Return the configuration of `mithridate audit --demo`: offline, small, with an attack that works."""
    return AuditConfig.model_validate(
        {
            "data": {"source": "digits"},
            "scenarios": {"count": 8},
            "attacks": [{"name": "witches-brew", "options": {"restarts": 2, "steps": 100}}],
            "defenses": [{"name": "friendly-noise", "options": {"zeta": 0.5, "mu": 0.5, "start": 0.25}}],
        }
    )


class _Dumper(yaml.SafeDumper):
    """Writes what `read_yaml` reads: YAML 1.2, where 1e5 is a number, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if not text.isprintable() else "'" if _like_a_number(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _like_a_number(text: str) -> bool:
    for kind in (float, lambda digits: int(digits, 0)):
        with suppress(ValueError):
            kind(text)
            return True
    return False


_Dumper.add_representer(str, _text_node)


def to_yaml(config: AuditConfig, *, bound: bool = False) -> str:
    """Return the resolved configuration as YAML: every field, or those that a run's folder is bound to."""
    values = _dump(config)
    if bound:  # `jobs` and `data.store` never change a number, so a run goes on with others
        values |= {"jobs": "auto", "data": config.data.model_dump(mode="json", exclude={"store"})}
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the configuration file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **AuditConfig.model_json_schema()}
