"""Papers with a grid of their own: jobs, resuming, verdicts that follow the figures, and a report that renders."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mithridate.core.errors import Misuse
from mithridate.core.ledger import Ledger
from mithridate.core.verdicts import Status
from mithridate.data.sources import load
from mithridate.papers import multi_bulyan, worker_momentum
from mithridate.papers._base import AbstractGridPaper
from mithridate.papers._grid import run_grid
from mithridate.papers._run import PAPERS
from mithridate.papers._stats import mean_of_runs
from mithridate.papers._workers import Arm, Recipe, run_arm
from mithridate.report.schema import validate
from mithridate.report.text import render_csv, render_junit, render_markdown

GRIDS = [name for name in PAPERS.names() if issubclass(PAPERS.load(name), AbstractGridPaper)]
CASES = [(name, scale) for name in GRIDS for scale in ("smoke", "cpu", "paper")]
TINY = Recipe(model="mlp-w16", workers=11, steps=4, every=2)


def paper(name: str) -> Any:
    return PAPERS.load(name)()


def test_both_papers_are_grids() -> None:
    assert {"worker-momentum", "multi-bulyan"} <= set(GRIDS)


@pytest.mark.parametrize(("name", "scale"), CASES)
def test_every_scale_has_jobs_with_unique_names_a_setting_and_departures(name: str, scale: Any) -> None:
    names = [job.name for job in paper(name).jobs(scale)]
    assert len(names) == len(set(names)) > 10
    assert paper(name).setting(scale)
    assert paper(name).departures(scale)


def test_student_s_interval() -> None:
    """t = 2.776 for 5 runs; mean 0.5, deviation 0.1."""
    values = [0.5 + 0.1 * z for z in (-1.264911, -0.632456, 0.0, 0.632456, 1.264911)]
    found = mean_of_runs(values)
    assert found.point == pytest.approx(0.5)
    assert found.high - found.point == pytest.approx(2.776445 * 0.1 / 5**0.5, rel=1e-4)
    assert mean_of_runs([0.3])[1:] == (-1.0, 1.0)
    assert mean_of_runs([0.0, 1.0], bounds=(0.0, 1.0))[1:] == (0.0, 1.0)


# worker momentum


def momentum_records(best: Mapping[tuple[str, str], float], *, clean: float = 0.97) -> dict[str, dict[str, Any]]:
    """Records of the smoke grid: best accuracy by adversary and place; the ratio halves at the workers."""
    records = {}
    for job in paper("worker-momentum").jobs("smoke"):
        _, _, _, adversary, place, number = job.name.split("/")
        value = clean if adversary == "none" else best[adversary, place]
        sent = 2.0 if place == "worker" else 4.0
        records[job.name] = {
            "best": value + 0.002 * int(number),
            "sampled": [4.0, 4.0],
            "submitted": [sent, None, sent],
            "dim": 100,
            "seconds": 1.0,
        }
    return records


GAINED = {("alie", "update"): 0.94, ("alie", "worker"): 0.96, ("empire", "update"): 0.3, ("empire", "worker"): 0.9}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, Status.PASS),
        ({("empire", "worker"): 0.28}, Status.FAIL),
        ({("alie", "worker"): 0.90}, Status.FAIL),
        ({("empire", "update"): 0.93}, Status.INCONCLUSIVE),
    ],
)
def test_worker_momentum_holds_if_it_is_ahead_where_attacks_hurt_and_nowhere_behind(
    change: dict[tuple[str, str], float], status: Status
) -> None:
    found = paper("worker-momentum").results("smoke", momentum_records({**GAINED, **change}))
    assert found.status is status
    if status is Status.PASS:
        assert "6 of 12" in found.sentence  # three rules and two f under empire
        assert "+60.0" in found.sentence
        assert dict(found.measured)["ratio of submitted rows below that of sampled ones"].startswith("in 12 of 12")


def test_the_tables_of_worker_momentum_have_a_row_for_every_cell() -> None:
    found = paper("worker-momentum").results("smoke", momentum_records(GAINED))
    assert [len(table["rows"]) for table in found.tables] == [12, 12]
    krum = next(row for row in found.tables[1]["rows"] if "krum against alie, f = 5" in row[0])
    assert krum[1:5] == [4.0, 4.0, 4.0, 2.0]
    median = next(row for row in found.tables[1]["rows"] if "median against alie, f = 11" in row[0])
    assert median[5:] == ["0.0%", "0.0%"]  # the threshold is 1 / 14
    trimmed = next(row for row in found.tables[1]["rows"] if "trimmed-mean against alie" in row[0])
    assert trimmed[5:] == ["none known", "none known"]


# Multi-Bulyan


def bulyan_records(*, attacked: float = 0.97, fallen: float = 0.1, steps: int = 30) -> dict[str, dict[str, Any]]:
    records: dict[str, dict[str, Any]] = {}
    for job in paper("multi-bulyan").jobs("smoke"):
        kind, *rest = job.name.split("/")
        wobble = 0.001 * int(rest[-1])
        if kind == "accuracy":
            robust = attacked if rest[0] == "multi-bulyan" else 0.97
            value = fallen if rest[0] == "mean" and rest[1] == "nan" else robust if rest[1] != "none" else 0.975
            records[job.name] = {"final": value + wobble, "best": value, "tested": 360, "seconds": 1.0}
        elif kind == "noise":
            used = dict.fromkeys(multi_bulyan.RULES_OF_THE_TABLE, 0.7 + wobble)
            records[job.name] = {"used": used, "seconds": 1.0}
        else:
            taken = 24 if rest[0] == "mean" else steps
            records[job.name] = {"steps": None if rest[1] == "0.5" else taken, "final": 0.97, "seconds": 1.0}
    return records


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({}, Status.PASS),  # 24 / 30 = 0.8 >= 18 / 25
        ({"attacked": 0.9}, Status.FAIL),
        ({"steps": 60}, Status.FAIL),
        ({"fallen": 0.97}, Status.INCONCLUSIVE),
    ],
)
def test_multi_bulyan_holds_if_it_stands_where_the_mean_falls_and_is_fast(given: Any, status: Status) -> None:
    found = paper("multi-bulyan").results("smoke", bulyan_records(**given))
    assert found.status is status
    assert [len(table["rows"]) for table in found.tables] == [6, 6]
    if status is Status.PASS:
        assert "0.80" in found.sentence
        assert "0.72" in found.sentence


def test_a_step_size_with_which_a_run_never_arrives_does_not_count() -> None:
    records = bulyan_records()
    for name in records:
        if name.startswith("race/multi-bulyan/") and name.endswith("/0"):
            records[name]["steps"] = None
    found = paper("multi-bulyan").results("smoke", records)
    row = next(row for row in found.tables[1]["rows"] if row[0] == "multi-bulyan")
    assert row[3:] == ["not reached", "", ""]
    assert found.status is Status.FAIL


# running


def test_arms_of_equal_number_begin_with_the_same_network_and_draws() -> None:
    """Without hostile workers and with a linear rule, the place of momentum changes nothing but rounding."""
    data = load("digits")
    curves = [
        run_arm(
            data,
            replace(TINY, clip=None),
            Arm(f=0, rule="mean", momentum=place),
            seed=0,
            number=1,
            device="cpu",
            tell=lambda word: None,
        )
        for place in ("update", "worker")
    ]
    assert curves[0]["curve"] == pytest.approx(curves[1]["curve"], abs=0.01)
    assert curves[0]["sampled"] == pytest.approx(curves[1]["sampled"], rel=0.01)
    assert len(curves[0]["sampled"]) == TINY.steps


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    block = worker_momentum.Block(recipe=TINY, fs=(2,), rules=("krum",), seeds=2)
    monkeypatch.setitem(worker_momentum._BLOCKS, "smoke", {"digits": block})
    size = replace(multi_bulyan._SIZES["smoke"], recipe=TINY, f=2, seeds=2, draws=3, race=TINY, racing=2)
    monkeypatch.setitem(multi_bulyan._SIZES, "smoke", size)
    monkeypatch.setattr(multi_bulyan, "RULES_OF_THE_TABLE", ("mean", "krum", "multi-bulyan"))
    monkeypatch.setattr(multi_bulyan, "_RACERS", ("mean", "multi-bulyan"))
    monkeypatch.setattr(multi_bulyan, "_STEPS", (0.1,))
    monkeypatch.setattr("mithridate.papers._grid.processes", lambda device: 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["worker-momentum", "multi-bulyan"])
def test_a_grid_runs_resumes_and_reports(name: str, small: None, tmp_path: Path) -> None:
    def run(seed: int = 0) -> dict[str, Any]:
        return run_grid(paper(name), scale="smoke", folder=tmp_path, seed=seed, device="cpu", progress=None, command="")

    document = run()
    report = validate(document)
    assert report.tables and not report.cells
    assert report.paper is not None and report.paper.measured
    for render in (render_markdown, render_csv, render_junit):
        assert render(document)
    page = (tmp_path / "report.html").read_text()
    assert report.tables[0].title in page
    assert "Attack success and clean accuracy" not in page
    before = Ledger(tmp_path / "ledger.jsonl").records()
    lines = (tmp_path / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "ledger.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][:20])  # killed while it wrote
    again = run()
    after = Ledger(tmp_path / "ledger.jsonl").records()
    for job, record in before.items():
        assert {**record, "seconds": 0} == {**after[job], "seconds": 0}
    assert again["tables"] == document["tables"]
    with pytest.raises(Misuse, match=r"MTH-0720.*seed is 0 there, and 1 is asked for"):
        run(seed=1)
