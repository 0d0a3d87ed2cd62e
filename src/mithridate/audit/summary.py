"""From a finished ledger to the report document."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from mithridate.audit.assembly import Assembly, job_key, pack_path
from mithridate.audit.config import AuditConfig
from mithridate.audit.names import ATTACK_CONTROLS, DRAWN
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
        "tables": [_by_class(assembly, grid)] if config.triggered else [],
        "targets": []
        if config.triggered
        else [row for tally in grid.values() for row in _target_rows(assembly, tally, records)],
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
    attacks = ", ".join(f"{method.name} {_options(method.options)}".strip() for method in config.attacks)
    defenses = ", ".join(f"{method.name} {_options(method.options)}".strip() for method in config.defenses)
    return [
        ["data", f"{assembly.data.name}, {len(train)} training and {len(assembly.data.test)} test images"],
        ["data fingerprint", assembly.data.fingerprint[:16]],
        ["model", config.model],
        ["recipe", f"{config.recipe}: {CONTRACTS[config.recipe][0]}"],
        ["recipe changes", _changes(config)],
        ["precision", config.precision],
        ["targets", _aims(assembly)],
        ["budget", f"{count} images: {_percent(config.budget)} of the set, {_classes_poisoned(assembly)}"],
        ["epsilon", f"{config.epsilon} in every pixel, measured on exported 8-bit images"],
        ["attacks", attacks],
        ["defenses", defenses],
        ["victims", f"{config.victims} a target; {assembly.num_clean_victims} clean victims judged on every target"],
        ["surrogates", ", ".join(plan.model.name for plan in assembly.surrogates) or "none"],
        ["seed", config.seed],
    ]


def _aims(assembly: Assembly) -> str:
    """Say what the attacker wants, and how often."""
    config, number = assembly.config, len(assembly.scenarios)
    if not config.triggered:
        source, threat = config.scenarios.source, config.scenarios.threat
        return f"{number} from {source}, threat model {threat}{rows_from(source, assembly.scenarios[0])}"
    classes = ", ".join(repr(assembly.data.test.classes[one.adversarial_class]) for one in assembly.scenarios)
    return (
        f"every test image of another class that carries the trigger, to be seen as {classes}; poisons from "
        f"{config.scenarios.threat}"
    )


def rows_from(source: str, scenario: Scenario) -> str:
    """Say of a scenario of a list whether its poisons are the published rows; nothing of those of other sources."""
    if source.partition(":")[0] in DRAWN:
        return ""
    if scenario.poison_ids_from == "published":
        return ", poisons in the rows that its publication names or draws from the key"
    return ", poisons in rows drawn by this run's seed: the published ones need the whole data set and its budget"


def _classes_poisoned(assembly: Assembly) -> str:
    """Say which share of which classes the poisons of the first scenario are."""
    train, scenario = assembly.data.train, assembly.scenarios[0]
    labels = train.labels[torch.tensor(scenario.poison_ids, device=train.labels.device)]
    found = sorted(set(labels.tolist()))
    if len(found) > 1:
        return f"from {len(found)} classes"
    share = len(labels) / len(train.rows_of_class(int(found[0])))
    return f"{_percent(share)} of the poisoned class"


def _by_class(assembly: Assembly, grid: Mapping[tuple[str, str], Tally]) -> Document:
    """Return how many triggered test images of each class were taken for the wanted one, over scenarios and victims."""
    shown = {cell: tally for cell, tally in grid.items() if cell[0] not in ATTACK_CONTROLS}
    labels = assembly.data.test.labels.tolist()
    rows: list[list[Any]] = []
    for label, name in enumerate(assembly.data.test.classes):
        row: list[Any] = [name]
        for (attack, _), tally in shown.items():
            hits = [hit for one in assembly.scenarios for hit in _hits_of_class(tally, attack, one, (labels, label))]
            row.append(f"{sum(hits)} of {len(hits)}" if hits else "target")
        rows.append(row)
    return {
        "title": "Test images with the trigger that were taken for the wanted class, by what they are",
        "columns": ["class", *(f"{attack}, {defense}" for attack, defense in shown)],
        "rows": rows,
        "note": "Images of the wanted class itself do not count.",
    }


def _hits_of_class(tally: Tally, attack: str, scenario: Scenario, wanted: tuple[list[int], int]) -> list[int]:
    """Return the hits of all victims on the images of one class; hits lie in the order of the rows that count."""
    counted = [label for label in wanted[0] if label != scenario.adversarial_class]
    return [
        hit
        for place, label in enumerate(counted)
        if label == wanted[1]
        for hit in tally.hits[f"{attack} {scenario.name}", place]
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
                "target_class": classes[scenario.targeted_class()],
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
    packs = [(scenario, PoisonPack.load(pack_path(assembly.folder, str(attack), scenario))) for scenario in chosen]
    return {
        "pictures": [picture for scenario, pack in packs for picture in _poison_pictures(assembly, scenario, pack)],
        "target_pictures": [_target_picture(assembly, scenario, pack) for scenario, pack in packs],
    }


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


def _target_picture(assembly: Assembly, scenario: Scenario, pack: PoisonPack) -> Document:
    """Return the picture of a target, or of the first test image that counts, with the trigger."""
    test = assembly.data.test
    row = torch.tensor(scenario.targets[:1], dtype=torch.int64, device=test.labels.device)
    if scenario.triggered:
        row = (test.labels != scenario.adversarial_class).nonzero()[:1, 0]
    image = test.images.gather(row)
    return target_picture(
        _pixels(image if pack.trigger is None else pack.trigger.stamp(image)),
        scenario=scenario.name,
        actual=test.classes[int(test.labels[row])],
        wanted=test.classes[scenario.adversarial_class],
    )


def _pixels(images: torch.Tensor) -> np.ndarray:
    return images[0].cpu().numpy()
