"""Papers on unlearning and on ownership: verdicts that follow the figures, and tiny runs from end to end."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mithridate.core.verdicts import Status
from mithridate.ownership.marking import Marking
from mithridate.papers import data_taggants, potion
from mithridate.papers._grid import run_grid
from mithridate.papers._run import PAPERS
from mithridate.report.schema import validate
from mithridate.training.contracts import Options


def paper(name: str) -> Any:
    return PAPERS.load(name)()


def count(successes: int, trials: int) -> dict[str, Any]:
    return {"successes": successes, "trials": trials, "rate": successes / trials}


def outcome(*, clean: int, attack: int, healed: int) -> dict[str, Any]:
    return {"clean": count(clean, 1000), "attack": count(attack, 900), "heal_test": count(healed, 900)}


def potion_records(**healed: int) -> dict[str, dict[str, Any]]:
    """Four networks with a working trigger; `healed` says how many of 900 images each method heals."""
    own = potion._SETTINGS["smoke"]
    records: dict[str, dict[str, Any]] = {}
    for number in range(own.seeds):
        records[f"train/{number}"] = {"outcome": outcome(clean=980, attack=850, healed=40)}
        for method in own.methods:
            share = healed.get(method.replace("-", "_"), 500) + number
            clean = 930 if method.startswith("ssd") else 970
            record = {"outcome": outcome(clean=clean, attack=900 - share, healed=share), "converged": True}
            records |= {f"{method}/{found}/{number}": record for found in own.found}
    return records


@pytest.mark.parametrize(
    ("healed", "status"),
    [
        ({"xlf": 850}, Status.PASS),
        ({"xlf": 300}, Status.FAIL),
        ({"xlf": 850, "retrain": 880}, Status.FAIL),
    ],
)
def test_potion_holds_if_it_heals_more_than_dampening_and_retraining(healed: dict[str, int], status: Status) -> None:
    found = paper("potion").results("smoke", potion_records(**healed))
    assert found.status is status
    assert len(found.tables[0]["rows"]) == 4 * 5


def test_potion_is_undecided_where_the_trigger_never_worked() -> None:
    records = potion_records(xlf=850)
    for number in range(4):
        records[f"train/{number}"]["outcome"] = outcome(clean=980, attack=20, healed=870)
    assert paper("potion").results("smoke", records).status is Status.INCONCLUSIVE


def taggant_records(guilty: int, innocent: int, *, cost: int = 0) -> dict[str, dict[str, Any]]:
    own = data_taggants._SETTINGS["smoke"]
    records: dict[str, dict[str, Any]] = {}
    for number in range(len(own.variants)):
        records[f"innocent/{number}"] = {"hits": innocent, "correct": 950, "tested": 1000}
        for name in map(data_taggants._slug, own.marks):
            records[f"guilty/{name}/{number}"] = {"hits": guilty, "correct": 950 - cost, "tested": 1000}
            records[f"mark/{name}"] = {
                "images": 140,
                "share": 0.1,
                "psnr": 15.0,
                "largest": 0.3,
                "cosine": 0.8,
                "clean_cosine": 0.1,
            }
            records[f"filter/{name}"] = {
                "marked": 140,
                "images": 1400,
                "found": dict.fromkeys(data_taggants.FILTERS, 14),
                "suspected": 3,
                "suspected_marked": 0,
            }
    return records


@pytest.mark.parametrize(
    ("guilty", "innocent", "cost", "status"),
    [
        (8, 1, 0, Status.PASS),
        (4, 1, 0, Status.FAIL),  # 4 of 10 has p = 0.013, and Holm asks for less
        (8, 6, 0, Status.FAIL),
        (8, 1, 40, Status.FAIL),
    ],
)
def test_data_taggants_hold_if_all_guilty_and_no_innocent_models_are_shown(
    guilty: int, innocent: int, cost: int, status: Status
) -> None:
    found = paper("data-taggants").results("smoke", taggant_records(guilty, innocent, cost=cost))
    assert found.status is status
    assert any("467/1250000000" in row for row in found.tables[0]["rows"]) == (guilty == 8)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    own = potion._SETTINGS["smoke"]
    tiny = replace(own, options=Options(epochs=2), found=(1, 28), methods=("xlf", "retrain"), seeds=2)
    monkeypatch.setitem(potion._SETTINGS, "smoke", tiny)
    user = replace(data_taggants._MLP, options=Options(epochs=2))
    marks = {"tiny": Marking(budget=2, epsilon=0.3, steps=4, views=1)}
    setting = replace(data_taggants._SETTINGS["smoke"], own=user, keys=2, marks=marks, variants=(user,))
    monkeypatch.setitem(data_taggants._SETTINGS, "smoke", setting)
    monkeypatch.setattr("mithridate.papers._grid.processes", lambda device: 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["potion", "data-taggants"])
def test_a_tiny_grid_runs_and_is_not_run_twice(name: str, small: None, tmp_path: Path) -> None:
    def run() -> dict[str, Any]:
        return run_grid(paper(name), scale="smoke", folder=tmp_path, seed=0, device="cpu", progress=None, command="")

    document = run()
    assert validate(document).tables
    before = (tmp_path / "ledger.jsonl").read_bytes()
    assert run()["tables"] == document["tables"]
    assert (tmp_path / "ledger.jsonl").read_bytes() == before
