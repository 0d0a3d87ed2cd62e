"""The attack really works on digits and its controls do not; augmentation that the brewer ignores breaks it.

Operating point: 6 % of the set, epsilon 0.5, 2 restarts of 100 steps, tau = 0.4 epsilon. It was measured beforehand
with another implementation (success .75-.85, and .81 against .06 under augmentation); the bounds leave room for the
spread over targets. Everything goes through the library: one audit of twenty targets serves most tests.
"""

from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from mithridate.audit.assembly import job_key, pack_path
from mithridate.audit.config import AuditConfig
from mithridate.audit.run import Finished, run_audit, run_crafting
from mithridate.audit.single import run_training
from mithridate.core.ledger import Ledger
from mithridate.data.packs import PoisonPack
from mithridate.data.scenarios import Scenario
from mithridate.evaluation.alignment import alignment, alignment_probe
from mithridate.models.weights import load_weights
from mithridate.papers.witches_brew import DIGITS_OPTIONS

pytestmark = pytest.mark.slow

TARGETS = 20


def config(count: int, *, brew: dict[str, Any] | None = None, **changes: Any) -> AuditConfig:
    options = {**DIGITS_OPTIONS, **(brew or {})}
    return AuditConfig.model_validate(
        {
            "data": {"source": "digits"},
            "scenarios": {"count": count},
            "attacks": [{"name": "witches-brew", "options": options}],
            "alignment": False,
            **changes,
        }
    )


def hits(finished: Finished, attack: str, first: int) -> int:
    """Successes on the first so many scenarios, which are the same however many there are."""
    names = {scenario.name for scenario in finished.assembly.scenarios[:first]}
    return sum(
        row["successes"] for row in finished.document["targets"] if row["attack"] == attack and row["scenario"] in names
    )


def pack(finished: Finished, attack: str, scenario: Scenario) -> Path:
    return pack_path(finished.folder, attack, scenario)


@pytest.fixture(scope="module")
def brewed(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Twenty targets; neither victims nor poisons are augmented."""
    return run_audit(config(TARGETS, alignment=True), tmp_path_factory.mktemp("brewed") / "run")


def test_witches_brew_hits_half_of_twenty_targets_and_its_controls_hit_none(brewed: Finished) -> None:
    found = {cell["attack"]: cell for cell in brewed.document["cells"]}
    brew, noise, clean = found["witches-brew"], found["noise"], found["none"]
    assert brew["trials"] == TARGETS
    assert brew["attack_success_rate"] >= 0.5
    assert hits(brewed, "witches-brew", 8) >= 4
    assert noise["attack_success_rate"] <= 0.05
    assert hits(brewed, "noise", 8) == 0
    assert clean["attack_success_rate"] <= 0.05
    assert clean["clean_accuracy"] - brew["clean_accuracy"] <= 0.015


def test_the_matching_loss_becomes_small(brewed: Finished) -> None:
    found = [entry["matching_loss"] for entry in brewed.document["crafting"] if entry["attack"] == "witches-brew"]
    assert len(found) == TARGETS
    assert fmean(found) < 0.1


def test_brewed_poisons_are_aligned_with_the_target_and_noise_is_not(brewed: Finished) -> None:
    """The exported pixels have the cosine that the record claims, at the surrogate that they were brewed with."""
    data, surrogate = brewed.assembly.data, brewed.assembly.surrogates[0].model.build(0).eval()
    load_weights(surrogate, brewed.folder / "cells" / "surrogate-0.safetensors")
    for scenario in brewed.assembly.scenarios:
        packs = [PoisonPack.load(pack(brewed, attack, scenario)) for attack in ("witches-brew", "noise")]
        brew, control = (
            alignment(surrogate, alignment_probe(each.apply(data.train), data.test, scenario)) for each in packs
        )
        assert brew == pytest.approx(1 - packs[0].manifest["record"]["matching_loss"], abs=1e-4)
        assert brew > control + 0.2


def test_brewed_poisons_stay_aligned_along_the_training_of_the_victims(brewed: Finished) -> None:
    """For at least 80 % of the targets the mean over the epochs is above that of noise (specification 7.5)."""
    records = Ledger(brewed.folder / "ledger.jsonl").records()
    above = 0
    for scenario in brewed.assembly.scenarios:
        key = job_key(scenario)
        brew, noise = (
            fmean(records[f"victim/{attack}/none/{key}/0"]["alignment"][scenario.name])
            for attack in ("witches-brew", "noise")
        )
        above += brew > noise
    assert above >= 0.8 * TARGETS


def test_a_victim_that_augments_is_hard_to_hit_with_poisons_that_were_brewed_without(
    brewed: Finished, tmp_path: Path
) -> None:
    """Packs of clean surrogates without augmentation, given to victims that shift their images."""
    augmented = 0
    for number, scenario in enumerate(brewed.assembly.scenarios[:8]):
        victim = config(1, recipe_options={"augment": True}, seed=number)
        document = run_training(victim, tmp_path / str(number), pack=pack(brewed, "witches-brew", scenario))
        assert document["targets"] == 1
        augmented += document["targets_hit"]
    assert hits(brewed, "witches-brew", 8) - augmented >= 0.4 * 8


def test_poisons_brewed_without_the_victims_augmentation_lose_their_effect(brewed: Finished, tmp_path: Path) -> None:
    """As before, but the attacker's surrogates train with the augmentation that the brewing leaves out."""
    augmented = {"augment": True}
    unaware = run_audit(config(12, brew={"augment": False}, recipe_options=augmented), tmp_path / "unaware")
    assert hits(brewed, "witches-brew", 12) - hits(unaware, "witches-brew", 12) >= 0.4 * 12
    run_crafting(config(12, recipe_options=augmented), tmp_path / "aware")
    with_it, without = (losses(tmp_path / name) for name in ("aware", "unaware"))
    assert with_it > without + 0.05  # one change has to serve every shift


def losses(folder: Path) -> float:
    """Return the mean matching loss of the brews of a run."""
    records = Ledger(folder / "ledger.jsonl").records().items()
    return fmean(record["record"]["matching_loss"] for name, record in records if name.startswith("craft/witches"))
