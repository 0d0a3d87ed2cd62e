"""The verbs that drive an engine: what they ask of it, what they print, the exit code. The engine is held still."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_documents import a_document

from mithridate.audit.config import AuditConfig, demo, load_config
from mithridate.cli.audit import run_name
from mithridate.data.packs import Check


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Hold the engines still and keep what they were asked."""
    import mithridate.audit.estimate
    import mithridate.audit.run
    import mithridate.audit.single
    import mithridate.papers._run

    asked: dict[str, Any] = {"verdict": ("pass", 0)}

    def run_audit(config: AuditConfig, folder: Path, **rest: Any) -> SimpleNamespace:
        asked.update(config=config, folder=folder, **rest)
        return SimpleNamespace(document=a_document(*asked["verdict"]), folder=folder)

    def reproduce(name: str, *, folder: Path, **rest: Any) -> Mapping[str, Any]:
        asked.update(name=name, folder=folder, **rest)
        return a_document(*asked["verdict"])

    def run_crafting(config: AuditConfig, folder: Path, **rest: Any) -> list[Path]:
        asked.update(config=config, folder=folder, **rest)
        return [folder / "packs" / "witches-brew" / "0"]

    def run_training(config: AuditConfig, folder: Path, **rest: Any) -> Mapping[str, Any]:
        asked.update(config=config, folder=folder, **rest)
        return {"weights": str(folder / "model.safetensors"), "clean_accuracy": 0.9}

    def check(config: AuditConfig, folder: Path) -> SimpleNamespace:
        asked.update(config=config, folder=folder)
        return SimpleNamespace(to_record=lambda: {"cells": 48, "minutes": 0.7, "jobs": {"craft": 8}})

    monkeypatch.setattr(mithridate.audit.run, "run_audit", run_audit)
    monkeypatch.setattr(mithridate.audit.run, "run_crafting", run_crafting)
    monkeypatch.setattr(mithridate.audit.single, "run_training", run_training)
    monkeypatch.setattr(mithridate.audit.estimate, "check", check)
    monkeypatch.setattr(mithridate.papers._run, "reproduce", reproduce)
    return asked


@pytest.mark.parametrize("verdict", [("pass", 0), ("fail", 1), ("inconclusive", 3)])
def test_an_audit_ends_with_the_exit_code_of_its_verdict(
    run: Any, asked: dict[str, Any], verdict: tuple[str, int]
) -> None:
    asked["verdict"] = verdict
    outcome = run("audit", "--demo")
    assert outcome.code == verdict[1]
    assert "6 of 8 targets fell" in outcome.out.splitlines()[0]
    assert re.search(r"witches-brew +none", outcome.out)
    assert str(asked["folder"] / "report.html") in outcome.out
    assert asked["config"] == demo()


def test_json_is_one_document_and_nothing_else(run: Any, asked: dict[str, Any]) -> None:
    outcome = run("audit", "--demo", "--json")
    assert outcome.document == a_document("pass", 0)
    assert outcome.out.startswith("{")


def test_flags_reach_the_configuration(run: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("seed: 4\nbudget: 0.5\nvictims: 2\n", encoding="utf-8")
    words = "audit a.yaml --data fashion-mnist --per-class 9 --store mapped --model resnet18-w16"
    words += " --recipe fast-triangle --precision bf16 --device cuda:1"
    words += " --scenarios random --targets 3 --budget 0.25 --epsilon 8/255 --attack noise"
    words += " --attack witches-brew:steps=7 --defense friendly-noise --victims 5 --gate asr<0.1 --no-alignment"
    words += " --jobs 2 --out here"
    assert run(*words.split()).code == 0
    config = asked["config"]
    assert asked["folder"] == Path("here")
    assert (config.seed, config.budget, config.victims) == (4, 0.25, 5)
    assert (config.data.source, config.data.per_class, config.data.store) == ("fashion-mnist", 9, "mapped")
    assert (config.model, config.recipe, config.precision, config.device) == (
        *("resnet18-w16", "fast-triangle", "bf16", "cuda:1"),
    )
    assert (config.scenarios.count, config.epsilon, config.gate) == (3, "8/255", "asr<0.1")
    assert (config.alignment, config.jobs) == (False, 2)
    assert [method.name for method in config.attacks] == ["none", "noise", "witches-brew"]
    assert config.attacks[2].options == {"steps": 7}
    assert [method.name for method in config.defenses] == ["none", "friendly-noise"]


def test_the_default_folder_belongs_to_one_configuration(run: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    run("audit", "--demo")
    first = asked["folder"]
    run("audit", "--demo", "--jobs", "2")
    assert asked["folder"] == first, "the number of jobs changes no number, so it is the same run"
    run("audit", "--demo", "--store", "mapped")
    assert asked["folder"] == first, "neither does where the images are kept"
    run("audit", "--demo", "--seed", "1")
    assert asked["folder"] != first
    assert first.parent == Path("mithridate-runs")
    assert first.name.startswith("demo-")
    assert first.is_dir()


@pytest.mark.parametrize("source", ["../../etc", "/", "hf:a/b@c", "a b\n[x]"])
def test_a_run_name_is_a_plain_file_name(source: str) -> None:
    config = demo().model_copy(update={"data": demo().data.model_copy(update={"source": source}), "model": "timm:a/b"})
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*-[0-9a-f]{8}", run_name(config, ""))


def test_a_resolved_configuration_runs_again(run: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    from mithridate.audit.config import to_yaml

    run("audit", "--demo", "--seed", "3")
    config = asked["config"]
    (tmp_path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    run("audit", "config.yaml")
    assert asked["config"] == config == load_config(tmp_path / "config.yaml")


@pytest.mark.parametrize("words", [("audit", "--demo", "--dry-run"), ("check", "--demo")])
def test_a_dry_run_prints_the_cost_and_writes_nothing(
    run: Any, asked: dict[str, Any], tmp_path: Path, words: tuple[str, ...]
) -> None:
    outcome = run(*words)
    assert outcome.code == 0
    assert re.search(r"cells +48", outcome.out)
    assert "craft 8" in outcome.out
    document = run(*words, "--json").document
    assert document["estimate"]["minutes"] == 0.7
    assert document["config"]["data"]["source"] == "digits"
    assert not list(tmp_path.iterdir())


def test_demo_and_a_file_exclude_each_other(run: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a.yaml").touch()
    outcome = run("audit", "a.yaml", "--demo")
    assert (outcome.code, "MTH-0125" in outcome.err) == (2, True)


@pytest.mark.parametrize("verb", ["audit", "craft", "train"])
def test_output_that_cannot_be_written_fails_before_the_work(
    run: Any, asked: dict[str, Any], tmp_path: Path, verb: str
) -> None:
    (tmp_path / "file").touch()
    outcome = run(verb, "--out", "file/run")
    assert outcome.code == 4
    assert "error[MTH-0004]" in outcome.err
    assert "'file/run'" in outcome.err
    assert "config" not in asked


def test_craft_names_its_packs_and_the_next_step(run: Any, asked: dict[str, Any]) -> None:
    outcome = run("craft", "--attack", "witches-brew", "--targets", "1", "--out", "packs")
    assert outcome.code == 0
    assert "mithridate verify packs/packs/witches-brew/0 --data digits" in outcome.out
    assert [method.name for method in asked["config"].attacks] == ["none", "noise", "witches-brew"]
    assert run("craft", "--json").document["packs"]


def test_train_passes_the_pack_and_the_defense_on(run: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "manifest.json").touch()
    outcome = run("train", "--pack", "pack", "--defense", "friendly-noise", "--json")
    assert (outcome.code, outcome.document["clean_accuracy"]) == (0, 0.9)
    assert asked["pack"] == Path("pack")
    assert [method.name for method in asked["config"].defenses] == ["none", "friendly-noise"]


def test_reproduce_checks_names_and_passes_the_scale_on(run: Any, asked: dict[str, Any]) -> None:
    assert run("reproduce", "witches-brew", "--scale", "cpu", "--seed", "3").code == 0
    assert (asked["name"], asked["scale"], asked["seed"]) == ("witches-brew", "cpu", 3)
    assert "did you mean 'witches-brew'?" in run("reproduce", "witches-brow").err
    assert "did you mean 'smoke'?" in run("reproduce", "witches-brew", "--scale", "smok").err


@pytest.mark.parametrize(
    ("passed", "code", "words"),
    [
        ((True, True, None), 0, "verified: 2 claims hold, 0 are false, 1 were not checked"),
        ((True, False, None), 1, "NOT verified: 1 claims hold, 1 are false, 1 were not checked"),
    ],
)
def test_verify_ends_with_what_the_checks_say(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, passed: tuple[bool | None, ...], code: int, words: str
) -> None:
    import mithridate.data.packs

    names = ("files", "[red]epsilon[/red]", "base images")
    checks = [Check(name=name, passed=ok, detail="0\x1b[31m") for name, ok in zip(names, passed, strict=True)]
    monkeypatch.setattr(mithridate.data.packs, "verify_pack", lambda path, data: checks)
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "manifest.json").touch()
    outcome = run("verify", "pack")
    assert outcome.code == code
    assert words in outcome.out
    assert "[red]epsilon[/red]" in outcome.out
    assert "\x1b" not in outcome.out
    document = run("verify", "pack", "--json").document
    assert document["verified"] is (code == 0)
    assert [check["passed"] for check in document["checks"]] == list(passed)


def test_verify_wants_the_data_that_its_flags_describe(run: Any, tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "manifest.json").touch()
    assert "MTH-0125" in run("verify", "pack", "--per-class", "3").err
    assert "did you mean 'digits'?" in run("verify", "pack", "--data", "digit").err


@pytest.mark.parametrize("verb", [["verify"], ["train", "--pack"]])
def test_what_is_no_pack_is_refused(run: Any, asked: dict[str, Any], tmp_path: Path, verb: list[str]) -> None:
    (tmp_path / "file").touch()
    for path, words in (("none", "there is nothing"), ("file", "no folder"), (".", "no manifest.json")):
        outcome = run(*verb, path)
        assert (outcome.code, "MTH-0127" in outcome.err, words in outcome.err) == (2, True, True)
    assert "config" not in asked
