"""Every paper is runnable at every scale, says how it departs, and its verdict follows its figures."""

import itertools
from typing import Any

import pytest

from mithridate.audit.tally import cells, comparisons, tallies
from mithridate.papers._base import AbstractAuditPaper
from mithridate.papers._run import PAPERS

SCALES = ("smoke", "cpu", "paper")
AUDITS = [name for name in PAPERS.names() if issubclass(PAPERS.load(name), AbstractAuditPaper)]
CASES = [(name, scale) for name in AUDITS for scale in SCALES]


def paper(name: str) -> Any:
    return PAPERS.load(name)()


def test_there_are_papers() -> None:
    assert {"witches-brew", "friendly-noise"} <= set(AUDITS)


@pytest.mark.parametrize(("name", "scale"), CASES)
def test_every_scale_has_a_configuration_and_names_its_departures(name: str, scale: Any) -> None:
    config = paper(name).config(scale)
    assert config.num_cells > 0
    assert paper(name).departures(scale)
    assert config.scenarios.num_targets >= 8


@pytest.mark.parametrize("name", PAPERS.names())
def test_the_module_of_a_paper_is_what_it_says(name: str) -> None:
    assert paper(name).name == name
    assert "arXiv" in paper(name).citation
    assert all(provenance for _, _, provenance in paper(name).published)


def victim(scenario: str, hit: bool, correct: int) -> dict[str, Any]:
    target = {"scenario": scenario, "target": 0, "predicted": 0, "hit": hit, "adversarial_probability": float(hit)}
    return {"targets": [target], "correct": correct, "tested": 1000, "seconds": 1.0}


def document(attacked: int, defended: int, *, accuracy: int = 940, n: int = 20, each: int = 1) -> dict[str, Any]:
    records: dict[str, Any] = {}
    for k, number in itertools.product(range(n), range(each)):
        records[f"victim/witches-brew/none/{k}/{number}"] = victim(f"s/{k}", k < attacked, accuracy)
        records[f"victim/witches-brew/friendly-noise/{k}/{number}"] = victim(f"s/{k}", k < defended, 920)
        records[f"victim/noise/none/{k}/{number}"] = victim(f"s/{k}", False, 940)
    for defense, correct in (("none", 945), ("friendly-noise", 925)):
        clean = victim("s/0", False, correct)
        clean["targets"] = [victim(f"s/{k}", False, 0)["targets"][0] for k in range(n)]
        records |= {f"victim/none/{defense}/{number}": clean for number in range(each)}
    grid = tallies(records, ["none", "noise", "witches-brew"], ["none", "friendly-noise"])
    before = {"status": "pass", "exit_code": 0, "sentence": "", "reasons": [], "gate": None}
    return {"cells": cells(grid, "s"), "comparisons": comparisons(grid), "verdict": before}


@pytest.mark.parametrize(("attacked", "accuracy", "status"), [(15, 940, "pass"), (1, 940, "fail"), (15, 900, "fail")])
def test_witches_brew_holds_if_it_beats_both_controls_and_keeps_accuracy(attacked, accuracy, status) -> None:
    found = paper("witches-brew").verdict(document(attacked, 0, accuracy=accuracy))
    assert (found["status"], found["exit_code"]) == (status, 0 if status == "pass" else 1)
    assert f"{attacked} of 20" in found["sentence"]


@pytest.mark.parametrize("each", [1, 8])
def test_more_victims_do_not_replace_targets(each: int) -> None:
    """Four targets of ten, p = 0.04 over targets, however many victims each has."""
    assert paper("witches-brew").verdict(document(4, 0, n=10, each=each))["status"] == "fail"


@pytest.mark.parametrize(("defended", "status"), [(0, "pass"), (14, "fail")])
def test_friendly_noise_holds_if_success_falls(defended: int, status: str) -> None:
    assert paper("friendly-noise").verdict(document(15, defended))["status"] == status


def test_friendly_noise_is_not_praised_when_the_attack_failed() -> None:
    failed = document(0, 0)
    failed["verdict"]["status"] = "inconclusive"
    assert paper("friendly-noise").verdict(failed)["status"] == "inconclusive"


def test_measured_figures_carry_counts_and_intervals() -> None:
    rows = dict(map(tuple, paper("witches-brew").measured(document(15, 0))))
    assert "15 of 20" in rows["success of Witches' Brew"]
    assert "95 % interval" in rows["success of Witches' Brew"]
