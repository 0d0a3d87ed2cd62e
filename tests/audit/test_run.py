"""Whole audits on digits, small enough to repeat: resuming, killing, determinism, refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mithridate.audit.assembly import MIN_CLEAN_VICTIMS
from mithridate.audit.config import AuditConfig
from mithridate.audit.run import run_audit, run_crafting
from mithridate.audit.single import run_training
from mithridate.core.errors import Misuse, WorkError
from mithridate.core.ledger import Ledger
from mithridate.data.packs import PoisonPack, verify_pack
from mithridate.data.sources import load
from mithridate.report.schema import validate
from mithridate.training.contracts import Options, contract
from mithridate.training.loop import train

SMALL = {
    "data": {"source": "digits"},
    "recipe_options": {"epochs": 3},
    "scenarios": {"count": 2},
    "attacks": [{"name": "witches-brew", "options": {"restarts": 1, "steps": 6, "step_unit": "epsilon"}}],
    "jobs": 1,
}


def config(**changes: object) -> AuditConfig:
    return AuditConfig.model_validate({**SMALL, **changes})


def numbers(folder: Path) -> dict:
    """Return the ledger without times: what must not depend on how it came about."""

    def strip(value):
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if "seconds" not in key}
        return [strip(item) for item in value] if isinstance(value, list) else value

    return strip(Ledger(folder / "ledger.jsonl").records())


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit") / "run"
    run_audit(config(), folder, command="mithridate audit")
    return folder


def test_the_report_document_is_valid_and_complete(reference: Path) -> None:
    document = json.loads((reference / "report.json").read_text())
    validate(document)
    assert [(c["attack"], c["defense"], c["trials"]) for c in document["cells"]] == [
        ("none", "none", 6),
        ("noise", "none", 2),
        ("witches-brew", "none", 2),
    ]
    assert len(document["targets"]) == 6
    assert document["pictures"] and document["target_pictures"] and document["alignment"]
    assert document["timing"]["estimate_seconds"] > 0
    assert (reference / "report.html").stat().st_size < 1_000_000
    assert document["verdict"]["status"] == "inconclusive"


def test_running_again_repeats_no_job_and_changes_no_number(reference: Path) -> None:
    before = (reference / "ledger.jsonl").read_bytes()
    run_audit(config(), reference)
    assert (reference / "ledger.jsonl").read_bytes() == before


def test_two_processes_give_the_same_numbers_as_one(reference: Path, tmp_path: Path) -> None:
    run_audit(config(jobs=2), tmp_path / "run")
    assert numbers(tmp_path / "run") == numbers(reference)


def test_a_defense_beside_it_changes_no_undefended_number(reference: Path, tmp_path: Path) -> None:
    noise = {"name": "friendly-noise", "options": {"components": "random"}}
    run_audit(config(defenses=[noise]), tmp_path / "run")
    found = numbers(tmp_path / "run")
    assert {name: found[name] for name in numbers(reference)} == numbers(reference)
    assert any("/friendly-noise/" in name for name in found)


def test_a_defense_tells_of_its_work_and_its_figures_are_reported(tmp_path: Path) -> None:
    """Over two processes, as an audit runs by default: progress in the events, figures in ledger and report."""
    noise = {"name": "friendly-noise", "options": {"begin_epoch": 1, "steps": 2}}
    finished = run_audit(config(attacks=[], defenses=[noise], jobs=2), tmp_path / "run")
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    told = {event["job"] for event in events if event["event"] == "progress"}
    victims = {name for name in numbers(tmp_path / "run") if "/friendly-noise/" in name}
    assert victims and told == victims
    by = {(cell["attack"], cell["defense"]): cell for cell in finished.document["cells"]}
    for attack, count in (("none", MIN_CLEAN_VICTIMS), ("noise", 2)):
        figures = {figure["name"]: figure for figure in by[attack, "friendly-noise"]["diagnostics"]}
        assert set(figures) >= {"share_at_bound", "agreement"}
        assert {figure["victims"] for figure in figures.values()} == {count}
        assert by[attack, "none"]["diagnostics"] == []
    assert "share at bound" in (tmp_path / "run" / "report.html").read_text()
    alone = run_training(config(defenses=[noise]), tmp_path / "alone")
    assert set(alone["diagnostics"]["figures"]) == set(figures)


def test_poisons_of_no_size_leave_victims_bit_equal_to_clean_ones(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_crafting(config(attacks=[], epsilon=1 / 510), folder)
    pack = PoisonPack.load(folder / "packs" / "noise" / "0")
    plan = contract("digits-mlp40", load("digits"), "mlp", Options(epochs=2))
    clean, poisoned = train(plan, 5).state_dict(), train(plan.poisoned(pack), 5).state_dict()
    assert all(torch.equal(value, poisoned[name]) for name, value in clean.items())
    other = train(plan, 6).state_dict()
    assert any(not torch.equal(value, other[name]) for name, value in clean.items())


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_ledger(reference: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    script = (
        "import json, sys; from pathlib import Path; from mithridate.audit.config import AuditConfig;"
        "from mithridate.audit.run import run_audit;"
        "run_audit(AuditConfig.model_validate(json.loads(sys.argv[1])), Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", script, json.dumps({**SMALL, "jobs": 2}), str(folder)]
    kills, seen = 0, 0
    for _ in range(25):
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        while process.poll() is None and len(Ledger(folder / "ledger.jsonl").records()) < seen + 2:
            time.sleep(0.005)
        if process.poll() is not None:
            assert process.returncode == 0
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        now = len(Ledger(folder / "ledger.jsonl").records())
        assert now > seen, "the ledger lost a record"
        kills, seen = kills + 1, now
    assert kills >= 3
    assert numbers(folder) == numbers(reference)
    assert not list((folder / "packs").rglob(".*")), "a half-written pack was left"


@pytest.mark.parametrize("work", [run_audit, run_crafting, run_training])
def test_a_device_that_is_not_here_is_named_with_what_is(work, tmp_path: Path) -> None:
    with pytest.raises(Misuse, match=r"MTH-0562.*'cuda:31' is not on this machine; torch finds cpu"):
        work(config(device="cuda:31"), tmp_path)


def test_a_folder_belongs_to_one_configuration(reference: Path) -> None:
    with pytest.raises(Misuse, match=r"another configuration.*seed"):
        run_audit(config(seed=1), reference)


def test_two_processes_do_not_work_on_one_folder(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.jsonl").open(), pytest.raises((Misuse, WorkError), match=str(os.getpid())):
        run_audit(config(), tmp_path)


def test_an_unfinished_pack_from_a_crash_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    packs = run_crafting(config(), folder)
    lines = (folder / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "ledger.jsonl").write_bytes(b"".join(lines[:-1]))
    assert run_crafting(config(), folder) == packs
    assert all(check.passed for pack in packs for check in verify_pack(pack, load("digits")))


def test_crafted_packs_verify_and_training_on_one_reports_its_target(tmp_path: Path) -> None:
    pack = run_crafting(config(), tmp_path / "craft")[0]
    document = run_training(config(), tmp_path / "train", pack=pack)
    assert document["targets"] == 1
    assert document["clean_accuracy"] > 0.8
    again = run_training(config(), tmp_path / "train", pack=pack)
    assert again["clean_accuracy"] == document["clean_accuracy"]


def test_a_diverged_network_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="diverged in epoch 1") as caught:
        run_audit(config(recipe_options={"epochs": 3, "lr": 900.0}), tmp_path)
    assert "recipe_options.lr" in caught.value.hint
