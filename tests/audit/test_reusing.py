"""A new audit that takes over the results of a finished one: the same numbers, and refusals."""

import json
import shutil
from pathlib import Path

import pytest

from mithridate.audit.config import AuditConfig
from mithridate.audit.run import run_audit
from mithridate.core.errors import BadArtefact, Misuse
from mithridate.core.ledger import Ledger

BREW = {"name": "witches-brew", "options": {"restarts": 1, "steps": 4, "step_unit": "epsilon"}}
NOISE = {"name": "friendly-noise", "options": {"components": "random"}}
SMALL = {
    "data": {"source": "digits"},
    "recipe_options": {"epochs": 2},
    "scenarios": {"count": 2},
    "attacks": [BREW],
    "jobs": 1,
    "alignment": False,
}


def config(**changes: object) -> AuditConfig:
    return AuditConfig.model_validate({**SMALL, **changes})


def records(folder: Path) -> dict:
    return Ledger(folder / "ledger.jsonl").records()


def plain(record: dict) -> dict:
    """Return a record without its times."""
    return {
        key: plain(value) if isinstance(value, dict) else value for key, value in record.items() if "seconds" not in key
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit") / "run"
    run_audit(config(), folder)
    return folder


def test_a_defense_is_added_at_its_own_cost_and_with_the_numbers_of_a_run_of_its_own(
    finished: Path, tmp_path: Path
) -> None:
    wanted = config(defenses=[NOISE])
    document = run_audit(wanted, tmp_path / "more", reused=finished).document
    run_audit(wanted, tmp_path / "whole")
    ours, whole = records(tmp_path / "more"), records(tmp_path / "whole")
    assert {name: plain(record) for name, record in ours.items()} == {
        name: plain(record) for name, record in whole.items()
    }
    assert {name: ours[name] for name in records(finished)} == records(finished)  # copied, with their times
    estimated = json.loads((tmp_path / "more" / "estimate.json").read_text())
    assert sum(estimated["jobs"].values()) == len(ours) - len(records(finished))  # what is left to do
    said = dict(document["setting"])["taken over"]
    assert said.startswith(f"{len(records(finished))} results of a finished run")


def test_what_depends_on_a_change_is_run_again(finished: Path, tmp_path: Path) -> None:
    """Other options of the attack leave surrogate, clean and noise victims; another number of targets no clean ones."""
    stronger = {**BREW, "options": {**BREW["options"], "steps": 5}}
    run_audit(config(attacks=[stronger], victims=2), tmp_path / "stronger", reused=finished)
    old, new = records(finished), records(tmp_path / "stronger")
    kept = {name for name in old if new[name] == old[name]}
    assert kept == {name for name in old if "witches-brew" not in name}
    run_audit(config(scenarios={"count": 1}), tmp_path / "fewer", reused=finished)
    fewer = records(tmp_path / "fewer")
    assert fewer["victim/witches-brew/none/0/0"] == old["victim/witches-brew/none/0/0"]
    assert len(fewer["victim/none/none/0"]["targets"]) == 1


def test_the_same_command_goes_on(finished: Path, tmp_path: Path) -> None:
    """A second run takes nothing over, runs nothing, and still says what was taken over."""
    wanted = config(defenses=[NOISE])
    first = run_audit(wanted, tmp_path / "run", reused=finished).document
    ledger = (tmp_path / "run" / "ledger.jsonl").read_bytes()
    again = run_audit(wanted, tmp_path / "run", reused=finished).document
    assert (tmp_path / "run" / "ledger.jsonl").read_bytes() == ledger
    assert again["setting"] == first["setting"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "seed"),
        ({"budget": 0.02}, "budget"),
        ({"epsilon": "8/255"}, "epsilon"),
        ({"recipe_options": {"epochs": 3}}, "recipe_options"),
        ({"scenarios": {"count": 2, "threat": "third-party"}}, "scenarios"),
        ({"alignment": True}, "alignment"),
    ],
)
def test_a_run_of_something_else_is_refused_by_name(finished: Path, tmp_path: Path, change: dict, words: str) -> None:
    with pytest.raises(Misuse, match=f"the other run has {words}") as error:
        run_audit(config(**change), tmp_path / "run", reused=finished)
    assert error.value.code == "MTH-0722"


def test_an_unfinished_run_is_refused(finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")
    (copy / "manifest.json").unlink()
    for folder in (copy, tmp_path / "nowhere"):
        with pytest.raises(Misuse, match="no finished audit") as error:
            run_audit(config(defenses=[NOISE]), tmp_path / "run", reused=folder)
        assert error.value.code == "MTH-0722"
        assert not (tmp_path / "run").exists()


def test_a_run_of_other_versions_is_refused(finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["versions"]["torch"] = "1.0"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Misuse, match=r"torch 1\.0 \(now "):
        run_audit(config(defenses=[NOISE]), tmp_path / "run", reused=copy)


@pytest.mark.parametrize("name", ["ledger.jsonl", "config.yaml", "cells/surrogate-0.safetensors", "a pack of another"])
def test_a_changed_file_is_refused(finished: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")
    if name == "a pack of another":
        shutil.rmtree(copy / "packs" / "noise" / "0")
        shutil.copytree(copy / "packs" / "noise" / "1", copy / "packs" / "noise" / "0")
    elif name.startswith("cells"):
        (copy / name).unlink()
    else:
        (copy / name).write_bytes((copy / name).read_bytes() + b"\n")
    with pytest.raises(BadArtefact) as error:
        run_audit(config(defenses=[NOISE]), tmp_path / "run", reused=copy)
    assert error.value.code == "MTH-0723"
