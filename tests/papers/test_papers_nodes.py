"""Papers on clusters of nodes: verdicts that follow the figures, and tiny grids that run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mithridate.byzantine.messages import Frame
from mithridate.core.verdicts import Status
from mithridate.papers import _agreement, collaborative_learning, garfield, guanyu
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


# collaborative learning


def jungle_records(*, factor: float = 0.6, drift: float = 0.2, attacked: float = 0.85, clean: float = 0.93):
    records: dict[str, dict[str, Any]] = {}
    for job in paper("collaborative-learning").jobs("smoke"):
        kind, *rest = job.name.split("/")
        wobble = 0.001 * int(rest[-1])
        if kind == "vectors":
            records[job.name] = {"factor": factor + wobble, "drift": drift, "seconds": 1.0}
            continue
        arm, _, attack, _ = rest
        usual = {"local": 0.3, "mean": 0.95 if attack == "none" else 0.1}
        value = usual.get(arm, clean if attack == "none" else attacked)
        records[job.name] = {"accuracy": value + wobble, "seconds": 1.0}
    return records


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({}, Status.PASS),
        ({"factor": 1.1}, Status.FAIL),
        ({"factor": 0.85}, Status.FAIL),  # contracts, but the bound of mda at n = 7, f = 1 is 0.8
        ({"drift": 9.0}, Status.FAIL),
        ({"attacked": 0.2}, Status.FAIL),  # worse than learning alone
        ({"clean": 0.5}, Status.FAIL),
    ],
)
def test_collaborative_learning_holds_within_its_bounds_and_above_its_baselines(given: Any, status: Status) -> None:
    found = paper("collaborative-learning").results("smoke", jungle_records(**given))
    assert found.status is status
    assert (status is Status.PASS) is (not found.reasons)
    assert [len(table["rows"]) for table in found.tables] == [12, 5, 5]


def test_factor_and_drift_of_an_agreement_by_hand() -> None:
    rounds = [{0: [0.0], 1: [4.0], 2: [2.0]}, {0: [1.0], 1: [3.0], 2: [2.0]}, {0: [2.0], 1: [3.5], 2: [2.0]}]
    history = [{node: np.array(value, np.float32) for node, value in said.items()} for said in rounds]
    assert _agreement.judged(history) == {"factor": 0.75, "drift": 0.125}


# Garfield


def garfield_records(*, crash: float = 0.975, robust: float = 0.94, attacked: float = 0.94, **change: float):
    records: dict[str, dict[str, Any]] = {}
    added = {"communication": 0.02, "aggregation": 0.001, "msmw": 0.03, "vanilla": 0.1} | change
    for job in paper("garfield").jobs("smoke"):
        kind, bar, *rest = job.name.split("/")
        wobble = 0.0005 * int(rest[-1])
        weak = bar in ("vanilla", "crash-tolerant")
        if kind == "accuracy":
            value = (crash if bar == "crash-tolerant" else 0.975 if weak else robust) + wobble
            if rest[0] != "none":
                value = (added["vanilla"] if weak else attacked) + wobble
            records[job.name] = {"worst": value, "seconds": 1.0}
        else:
            more = {"communication": 0.0, "aggregation": 0.0} if weak else added
            records[job.name] = {
                "gradient": 0.005,
                "communication": 0.01 + more["communication"] + (added["msmw"] if bar == "msmw" else 0.0) + wobble,
                "aggregation": 0.0001 + more["aggregation"],
                "bytes": 1e6,
                "seconds": 1.0,
            }
    return records


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({}, Status.PASS),
        ({"crash": 0.9}, Status.FAIL),
        ({"robust": 0.98}, Status.FAIL),
        ({"aggregation": 0.2}, Status.FAIL),
        ({"msmw": -0.01}, Status.FAIL),
        ({"attacked": 0.5}, Status.FAIL),
        ({"vanilla": 0.975}, Status.INCONCLUSIVE),
    ],
)
def test_garfield_holds_if_each_sentence_of_its_abstract_does(given: Any, status: Status) -> None:
    found = paper("garfield").results("smoke", garfield_records(**given))
    assert found.status is status
    assert (status is Status.PASS) is (not found.reasons)
    assert [len(table["rows"]) for table in found.tables] == [5, 5]


def test_timed_runs_wait_for_everything_else_and_for_each_other() -> None:
    jobs = paper("garfield").jobs("smoke")
    timed = [job for job in jobs if job.name.startswith("speed/")]
    assert set(timed[0].needs) == {job.name for job in jobs} - {job.name for job in timed}
    assert [job.needs for job in timed[1:]] == [(job.name,) for job in timed[:-1]]


# running


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    size = replace(guanyu._SIZES["smoke"], model="mlp-w8", liars=1, steps=6, seeds=2, periods=(2,))
    monkeypatch.setitem(guanyu._SIZES, "smoke", size)
    jungle = replace(
        collaborative_learning._SIZES["smoke"],
        model="mlp-w8",
        trials={"mda": ((7, 1),), "icwtm": ((5, 1),)},
        vectors=2,
        steps=2,
        seeds=2,
        splits=("by-label",),
    )
    monkeypatch.setitem(collaborative_learning._SIZES, "smoke", jungle)
    timed = replace(garfield._SIZES["smoke"], model="mlp-w8", workers=7, steps=2, seeds=2, timed=3, repeats=1)
    monkeypatch.setitem(garfield._SIZES, "smoke", timed)
    monkeypatch.setattr("mithridate.papers._grid.processes", lambda device: 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["guanyu", "collaborative-learning", "garfield"])
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
