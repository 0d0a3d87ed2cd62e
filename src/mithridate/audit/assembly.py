"""Everything that an audit's configuration stands for, in memory: data, plan, scenarios, attacks, defenses, jobs.

Every job is addressed by a name, and its randomness by that name, so that jobs may run in any order, on any number of
processes and over any number of restarts, and give the same numbers.

    surrogate/K                              a clean model that the attacker trains
    craft/ATTACK/SCENARIO                    a poison pack
    victim/none/DEFENSE/SEED                 a clean victim, judged on the targets of all scenarios
    victim/ATTACK/DEFENSE/SCENARIO/SEED      a poisoned victim
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mithridate.aggregation._base import State
from mithridate.attacks._base import AbstractAttack
from mithridate.audit.config import AuditConfig, Method, RecipeOptions
from mithridate.audit.machine import check_device
from mithridate.audit.names import ATTACKS, DEFENSES
from mithridate.core.errors import Misuse
from mithridate.core.methods import instantiate
from mithridate.core.pool import Job, Tell, silent
from mithridate.data.scenarios import Scenario, scenarios
from mithridate.data.sources import DataSet, load
from mithridate.defenses._base import AbstractDefense, Diagnostics
from mithridate.training.contracts import Options, contract
from mithridate.training.plan import Plan

MIN_CLEAN_VICTIMS = 3
"""Clean victims are shared by all scenarios, so more than one costs little and shows their spread."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Assembly:
    """A resolved audit.

    Attributes:
        config: What the user asked for, completed.
        folder: The run folder.
        data: Training and test split.
        plan: The victim's recipe on clean data.
        surrogates: The recipe of each clean model that the attacker trains.
        scenarios: The targets with their poison ids, in order.
        attacks: By label, without `none`.
        defenses: By label; None stands for no defense.
    """

    config: AuditConfig
    folder: Path
    data: DataSet
    plan: Plan
    surrogates: tuple[Plan, ...]
    scenarios: tuple[Scenario, ...]
    attacks: Mapping[str, AbstractAttack]
    defenses: Mapping[str, AbstractDefense | None]

    @property
    def num_clean_victims(self) -> int:
        """Clean victims per defense."""
        return max(MIN_CLEAN_VICTIMS, self.config.victims)

    def scenario(self, key: str) -> Scenario:
        """Return the scenario of a job name."""
        return next(scenario for scenario in self.scenarios if job_key(scenario) == key)

    def jobs(self) -> list[Job]:
        """Return every job, those that others wait for first.

        Clean victims are judged under the triggers of all attacks, which are in their packs.
        """
        planted = tuple(job.name for job in self.crafting_jobs() if job.name.startswith("craft/"))
        clean = [
            Job(f"victim/none/{defense}/{number}", planted if self.config.triggered else ())
            for defense in self.defenses
            for number in range(self.num_clean_victims)
        ]
        poisoned = [
            Job(f"victim/{label}/{defense}/{job_key(scenario)}/{number}", (f"craft/{label}/{job_key(scenario)}",))
            for scenario in self.scenarios
            for label in self.attacks
            for defense in self._defenses_against(label)
            for number in range(self.config.victims)
        ]
        return [*self.crafting_jobs(), *clean, *poisoned]

    def crafting_jobs(self) -> list[Job]:
        """Return the jobs that end in poison packs: surrogates and craftings."""
        surrogates = [f"surrogate/{number}" for number in range(len(self.surrogates))]
        crafts = [
            Job(f"craft/{label}/{job_key(scenario)}", tuple(surrogates[: attack.surrogates_needed]))
            for scenario in self.scenarios
            for label, attack in self.attacks.items()
        ]
        return [*map(Job, surrogates), *crafts]

    def _defenses_against(self, attack: str) -> tuple[str, ...]:
        """Return the defenses that are tried against an attack; noise is a control of the attack first of all."""
        if attack == "noise" and self.config.controls == "undefended":
            return ("none",)
        return tuple(self.defenses)


def assemble(config: AuditConfig, folder: Path) -> Assembly:
    """Load the data and build every part. Raises `Misuse` for whatever does not fit together."""
    check_device(config.device)
    data = load(config.data.source, per_class=config.data.per_class, size=config.data.size, store=config.data.store)
    attacks = {method.name: attack(method) for method in config.attacks if method.name != "none"}
    return Assembly(
        config=config,
        folder=folder,
        data=data,
        plan=contract(config.recipe, data, config.model, _options(config, config.recipe_options)),
        surrogates=_surrogates(config, data, max((a.surrogates_needed for a in attacks.values()), default=0)),
        scenarios=tuple(
            scenarios(
                config.scenarios.source,
                data,
                budget=config.budget,
                epsilon=config.epsilon_px,
                count=config.scenarios.count,
                seed=config.seed,
                threat=config.scenarios.threat,
            )
        ),
        attacks=attacks,
        defenses={method.name: defense(method) for method in config.defenses},
    )


def _options(config: AuditConfig, overrides: RecipeOptions) -> Options:
    return Options(**overrides.model_dump(), precision=config.precision, device=config.device)


def _surrogates(config: AuditConfig, data: DataSet, needed: int) -> tuple[Plan, ...]:
    """Return the attacker's recipes: the victim's, unless the configuration names models or a contract."""
    chosen = config.surrogate
    models = chosen.models or (config.model,) * needed
    if len(models) < needed:
        raise Misuse(
            "MTH-0721",
            f"the attacks need {needed} surrogates, and surrogate.models names {len(models)}: {', '.join(models)}",
            hint="name as many models as num_surrogates, or none",
        )
    recipe = chosen.recipe or config.recipe
    overrides = chosen.recipe_options if chosen.recipe else config.recipe_options
    return tuple(contract(recipe, data, model, _options(config, overrides)) for model in models[:needed])


def attack(method: Method) -> AbstractAttack:
    """Return the configured attack."""
    built: AbstractAttack = instantiate(ATTACKS.load(method.name), method.name, method.options)
    return built


def defense(method: Method) -> AbstractDefense | None:
    """Return the configured defense, None for `none`."""
    if method.name == "none":
        return None
    built: AbstractDefense = instantiate(DEFENSES.load(method.name), method.name, method.options)
    return built


def job_key(scenario: Scenario) -> str:
    """Return the scenario's part of a job name: what follows the last slash of its name."""
    return scenario.name.rsplit("/", 1)[-1]


def pack_path(folder: Path, label: str, scenario: Scenario) -> Path:
    """Return where the pack of an attack for a scenario lies in a run folder."""
    return folder / "packs" / label / job_key(scenario)


def defended(chosen: AbstractDefense | None, plan: Plan, *, seed: int, tell: Tell = silent) -> Plan:
    """Return the plan under a defense."""
    return replace(plan) if chosen is None else chosen.defend(plan, seed=seed, tell=tell)


def diagnosed(chosen: AbstractDefense | None, states: Mapping[str, State]) -> dict[str, Any]:
    """Return what a defense says of a finished run under `diagnostics`; nothing at all if it says nothing."""
    found = Diagnostics() if chosen is None else chosen.diagnostics(states)
    return {} if found == Diagnostics() else {"diagnostics": found.to_record()}
