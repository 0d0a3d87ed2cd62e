"""The job pool: dependencies, errors by name, and what happens when a child dies."""

import os
import signal
import time
from pathlib import Path

import pytest

from mithridate.core.errors import Misuse, WorkError
from mithridate.core.pool import Done, Job, run_jobs


def nothing() -> None:
    """No set-up."""


def chain(count: int) -> list[Job]:
    return [Job("0"), *(Job(str(n), (str(n - 1),)) for n in range(1, count))]


@pytest.mark.parametrize("workers", [1, 3])
def test_every_job_runs_once_and_after_what_it_needs(workers: int) -> None:
    jobs = [*chain(6), Job("free"), Job("both", ("5", "free"))]
    names = [r.name for r in run_jobs(jobs, lambda name, tell: {"n": name}, workers=workers, setup=nothing)]
    assert sorted(names) == sorted(job.name for job in jobs)
    for job in jobs:
        assert all(names.index(need) < names.index(job.name) for need in job.needs)


@pytest.mark.parametrize("workers", [1, 2])
def test_finished_jobs_count_as_met_and_do_not_run(workers: int) -> None:
    jobs = [Job("b", ("a",)), Job("c", ("b",))]
    done = list(run_jobs(jobs, lambda name, tell: {}, workers=workers, setup=nothing, finished=["a"]))
    assert [d.name for d in done] == ["b", "c"]


def test_a_need_that_nothing_produces_is_an_error_not_a_hang() -> None:
    with pytest.raises(Misuse, match="ghost"):
        list(run_jobs([Job("a", ("ghost",)), Job("b")], lambda name, tell: {}, workers=2, setup=nothing))


@pytest.mark.parametrize("workers", [1, 2])
def test_words_of_progress_are_heard_while_the_job_runs(workers: int, tmp_path: Path) -> None:
    """Each job waits until its first word has been heard, so a word that is held back until the end is an error."""
    got: list[object] = []

    def heard(name, word):
        got.append((name, word))
        (tmp_path / name).touch()

    def execute(name, tell):
        tell({"step": 1})
        give_up = time.monotonic() + 20
        while not (tmp_path / name).exists() and time.monotonic() < give_up:
            time.sleep(0.002)
        tell({"step": 2, "in time": (tmp_path / name).exists()})
        return {}

    for done in run_jobs([Job("a"), Job("b")], execute, workers=workers, setup=nothing, heard=heard):
        got.append(done)
    for name in ("a", "b"):
        mine = [r for r in got if r == Done(name, {}) or (isinstance(r, tuple) and r[0] == name)]
        assert mine == [(name, {"step": 1}), (name, {"step": 2, "in time": True}), Done(name, {})]


def test_a_coded_error_crosses_the_process_boundary_whole() -> None:
    def execute(name, tell):
        raise Misuse("MTH-0101", f"no such thing as {name}", hint="try b")

    with pytest.raises(Misuse) as caught:
        list(run_jobs([Job("a"), Job("b")], execute, workers=2, setup=nothing))
    assert (caught.value.code, caught.value.hint) == ("MTH-0101", "try b")


def test_an_unforeseen_error_names_the_job_and_its_cause() -> None:
    def execute(name, tell):
        raise ZeroDivisionError("one by none")

    with pytest.raises(WorkError, match="one by none"):
        list(run_jobs([Job("a"), Job("b")], execute, workers=2, setup=nothing))


def test_a_killed_child_is_reported_with_its_job_and_signal_and_earlier_results_stay() -> None:
    def execute(name, tell):
        if name == "victim":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"name": name}

    got = []
    with pytest.raises(WorkError, match="victim ended by signal 9"):
        got.extend(run_jobs([Job("first"), Job("victim", ("first",))], execute, workers=2, setup=nothing))
    assert got == [Done("first", {"name": "first"})]


def test_set_up_runs_in_every_child_and_children_leave_the_parent_alone() -> None:
    here = {"pid": None}

    def setup():
        here["pid"] = os.getpid()

    pids = {
        r.result["pid"]
        for r in run_jobs([Job(str(n)) for n in range(8)], lambda n, t: {"pid": here["pid"]}, workers=2, setup=setup)
    }
    assert here["pid"] is None
    assert os.getpid() not in pids
    assert 1 <= len(pids) <= 2


def test_large_results_arrive_whole() -> None:
    big = "x" * 3_000_000
    got = list(run_jobs([Job("a"), Job("b")], lambda name, tell: {"text": big}, workers=2, setup=nothing))
    assert [len(r.result["text"]) for r in got] == [3_000_000] * 2
