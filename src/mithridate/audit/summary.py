"""From a finished ledger to the report document."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from mithridate.audit.assembly import Assembly, job_key, pack_path
from mithridate.audit.config import AuditConfig
from mithridate.audit.tally import Records, Tally, cells, comparisons, tallies, traces
from mithridate.audit.verdict import verdict
from mithridate.core.environment import environment
from mithridate.data.packs import PoisonPack
from mithridate.data.scenarios import Scenario
from mithridate.report.pictures import poison_picture, spread, target_picture
from mithridate.report.schema import SCHEMA
from mithridate.training.contracts_index import CONTRACTS

Document = dict[str, Any]
_PICTURED_SCENARIOS = 4
_PICTURED_POISONS = 3


def summarise(assembly: Assembly, records: Records, *, command: str) -> Document:
    """Return the report document of a finished audit."""
    config = assembly.config
    attacks = [method.name for method in config.attacks]
    grid = tallies(records, attacks, [method.name for method in config.defenses])
    tests = comparisons(grid)
    return {
        "schema": SCHEMA,
        "kind": "audit",
        "title": f"Audit of {config.model} on {assembly.data.name}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": verdict(grid, tests, config.gate, f"{_percent(config.budget)} of {assembly.data.name}"),
        "setting": _setting(assembly),
        "cells": cells(grid, config.scenarios.source),
        "comparisons": tests,
        "targets": [row for tally in grid.values() for row in _target_rows(assembly, tally, records)],
        "alignment": traces(grid),
        **_pictures(assembly),
        "crafting": _crafting(records),
        "paper": None,
        "config": config.model_dump(mode="json"),
        "environment": environment(),
        "reproduce": command or "mithridate audit config.yaml",
        "timing": {
            "seconds": round(sum(record["seconds"] for record in records.values()), 3),
            "estimate_seconds": None,
        },
    }


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _setting(assembly: Assembly) -> list[list[Any]]:
    config, train = assembly.config, assembly.data.train
    count = len(set(assembly.scenarios[0].poison_ids))
    poisoned_class = int(train.labels[assembly.scenarios[0].poison_ids[0]])
    of_class = count / len(train.rows_of_class(poisoned_class))
    attacks = ", ".join(f"{method.name} {_options(method.options)}".strip() for method in config.attacks)
    defenses = ", ".join(f"{method.name} {_options(method.options)}".strip() for method in config.defenses)
    return [
        ["data", f"{assembly.data.name}, {len(train)} training and {len(assembly.data.test)} test images"],
        ["data fingerprint", assembly.data.fingerprint[:16]],
        ["model", config.model],
        ["recipe", f"{config.recipe}: {CONTRACTS[config.recipe][0]}"],
        ["recipe changes", _changes(config)],
        ["precision", config.precision],
        [
            "targets",
            f"{len(assembly.scenarios)} from {config.scenarios.source}, threat model {config.scenarios.threat}",
        ],
        ["budget", f"{count} images: {_percent(config.budget)} of the set, {_percent(of_class)} of the poisoned class"],
        ["epsilon", f"{config.epsilon} in every pixel, measured on exported 8-bit images"],
        ["attacks", attacks],
        ["defenses", defenses],
        ["victims", f"{config.victims} a target; {assembly.num_clean_victims} clean victims judged on every target"],
        ["surrogates", ", ".join(plan.model.name for plan in assembly.surrogates) or "none"],
        ["seed", config.seed],
    ]


def _options(options: Mapping[str, Any]) -> str:
    return "(" + ", ".join(f"{key}={value}" for key, value in options.items()) + ")" if options else ""


def _changes(config: AuditConfig) -> str:
    changed = {key: value for key, value in config.recipe_options.model_dump().items() if value is not None}
    return ", ".join(f"{key}={value}" for key, value in changed.items()) or "none"


def _target_rows(assembly: Assembly, tally: Tally, records: Records) -> list[Document]:
    by_name = {scenario.name: scenario for scenario in assembly.scenarios}
    classes = assembly.data.test.classes
    rows = []
    for (scenario_name, target), hits in tally.hits.items():
        scenario = by_name[scenario_name]
        chances = tally.chances[scenario_name, target]
        craft = records.get(f"craft/{tally.attack}/{job_key(scenario)}", {})
        rows.append(
            {
                "scenario": scenario_name,
                "target": target,
                "target_class": classes[scenario.target_class],
                "adversarial_class": classes[scenario.adversarial_class],
                "attack": tally.attack,
                "defense": tally.defense,
                "successes": sum(hits),
                "trials": len(hits),
                "adversarial_probability": sum(chances) / len(chances),
                "matching_loss": craft.get("record", {}).get("matching_loss"),
            }
        )
    return rows


def _crafting(records: Records) -> list[Document]:
    return [
        {
            "scenario": record["scenario"],
            "attack": job.split("/")[1],
            "matching_loss": record["record"].get("matching_loss"),
            "epsilon_measured": record["epsilon_measured"],
            "poisons": record["poisons"],
            "seconds": record["seconds"],
        }
        for job, record in records.items()
        if job.startswith("craft/")
    ]


def _pictures(assembly: Assembly) -> dict[str, list[Document]]:
    """Return pictures of a few poisons of the first real attack, and of the targets that they are for."""
    attack = next((label for label in assembly.attacks if label != "noise"), None)
    chosen = assembly.scenarios[:_PICTURED_SCENARIOS] if attack else ()
    poisons = [
        picture
        for scenario in chosen
        for picture in _poison_pictures(
            assembly, scenario, PoisonPack.load(pack_path(assembly.folder, str(attack), scenario))
        )
    ]
    return {"pictures": poisons, "target_pictures": [_target_picture(assembly, scenario) for scenario in chosen]}


def _poison_pictures(assembly: Assembly, scenario: Scenario, pack: PoisonPack) -> list[Document]:
    train = assembly.data.train
    return [
        poison_picture(
            _pixels(train.images.gather(pack.ids[place : place + 1].to(train.labels.device))),
            _pixels(pack.images[place : place + 1]),
            scenario=scenario.name,
            row=int(pack.ids[place]),
            label=train.classes[int(pack.labels[place])],
        )
        for place in spread(len(pack.ids), _PICTURED_POISONS)
    ]


def _target_picture(assembly: Assembly, scenario: Scenario) -> Document:
    test = assembly.data.test
    row = torch.tensor(scenario.targets[:1], device=test.labels.device)
    return target_picture(
        _pixels(test.images.gather(row)),
        scenario=scenario.name,
        actual=test.classes[scenario.target_class],
        wanted=test.classes[scenario.adversarial_class],
    )


def _pixels(images: torch.Tensor) -> np.ndarray:
    return images[0].cpu().numpy()
