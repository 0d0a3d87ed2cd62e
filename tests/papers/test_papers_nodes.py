"""Papers on clusters of nodes: verdicts that follow the figures, and tiny grids that run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mithridate.byzantine.messages import Frame
from mithridate.core.verdicts import Status
from mithridate.papers import guanyu
from mithridate.papers._grid import run_grid
from mithridate.papers._nodes import Part, above, at_most, whole
from mithridate.papers._run import PAPERS
from mithridate.papers._stats import Mean
from mithridate.report.schema import validate


def paper(name: str) -> Any:
    return PAPERS.load(name)()


def test_parts_are_judged_by_their_intervals() -> None:
    assert [at_most(Mean(0.02, low, high), 0.03) for low, high in ((0.0, 0.03), (0.01, 0.04), (0.04, 0.05))] == [
        Status.PASS,
        Status.INCONCLUSIVE,
        Status.FAIL,
    ]
    assert [above(Mean(0.0, low, high), 0.0) for low, high in ((0.1, 0.2), (-0.1, 0.2), (-0.1, 0.0))] == [
        Status.PASS,
        Status.INCONCLUSIVE,
        Status.FAIL,
    ]
    parts = [Part("", status) for status in (Status.PASS, Status.INCONCLUSIVE, Status.FAIL)]
    assert [whole(parts[:k]) for k in (1, 2, 3)] == [Status.PASS, Status.INCONCLUSIVE, Status.FAIL]


# GuanYu


def guanyu_records(*, replicated: float = 0.97, averaged: float = 0.1, ratio: float = 0.6, trusted: float = 0.975):
    records: dict[str, dict[str, Any]] = {}
    for job in paper("guanyu").jobs("smoke"):
        arm, _, _, number = job.name.split("/")
        known = {"clean": 0.985, "mean": averaged, "byzsgd": replicated, "guanyu": 0.97}
        records[job.name] = {
            "worst": known.get(arm, trusted) + 0.002 * int(number),
            "gathers": [] if arm.startswith(("clean", "trusted")) else [ratio, ratio + 0.001 * int(number), 0.9],
            "seconds": 1.0,
        }
    return records


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({}, Status.PASS),
        ({"replicated": 0.9}, Status.FAIL),
        ({"ratio": 1.2}, Status.FAIL),
        ({"averaged": 0.98}, Status.INCONCLUSIVE),
        ({"trusted": 0.8, "replicated": 0.8}, Status.INCONCLUSIVE),
    ],
)
def test_guanyu_holds_if_servers_contract_and_keep_accuracy_where_averaging_breaks(given: Any, status: Status) -> None:
    found = paper("guanyu").results("smoke", guanyu_records(**given))
    assert found.status is status
    assert (status is Status.PASS) is (not found.reasons)
    assert [len(table["rows"]) for table in found.tables] == [9, 4]


def test_gathers_compare_the_gap_before_with_that_of_the_next_models() -> None:
    gathers = guanyu.Gathers(honest=2)

    def say(kind: str, number: int, sender: int, *values: float) -> None:
        gathers.note(Frame(kind, number, 0, sender, np.array(values, np.float32)))

    say("model", 0, 0, 0.0, 0.0)
    say("gather", 0, 0, 0.0, 1.0)
    say("gather", 0, 1, 4.0, 0.0)
    say("model", 1, 1, 1.0, 3.0)
    say("model", 0, 1, 0.0, 0.0)
    assert gathers.ratios == []
    say("model", 1, 0, 2.0, 5.0)
    assert gathers.ratios == [0.5]


# running


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    size = replace(guanyu._SIZES["smoke"], model="mlp-w8", liars=1, steps=6, seeds=2, periods=(2,))
    monkeypatch.setitem(guanyu._SIZES, "smoke", size)
    monkeypatch.setattr("mithridate.papers._grid.processes", lambda device: 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["guanyu"])
def test_a_tiny_grid_runs_and_reports(name: str, small: None, tmp_path: Path) -> None:
    def run(folder: str) -> dict[str, Any]:
        return run_grid(
            paper(name), scale="smoke", folder=tmp_path / folder, seed=0, device="cpu", progress=None, command=""
        )

    document = run("a")
    report = validate(document)
    assert report.tables and report.paper is not None and report.paper.measured
    if name == "guanyu":
        assert run("b")["tables"] == document["tables"], "simulated runs repeat bit for bit"
