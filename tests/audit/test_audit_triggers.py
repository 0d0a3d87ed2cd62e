"""Audits of attacks that plant triggers: the configuration, the counting, one whole audit, one training."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mithridate.audit.config import AuditConfig, to_yaml
from mithridate.audit.names import check_scenarios, plants_trigger
from mithridate.audit.run import run_audit, run_crafting
from mithridate.audit.single import run_training
from mithridate.audit.tally import cells, comparisons, packed, tallies, unpacked
from mithridate.audit.verdict import verdict
from mithridate.core.boundary import read_yaml
from mithridate.core.errors import Misuse
from mithridate.core.intervals import repeated, wilson
from mithridate.report.html import render_html
from mithridate.report.schema import validate
from mithridate.report.text import render_markdown

SMALL = {"model": "mlp-w16", "recipe": "digits-mlp40", "recipe_options": {"epochs": 4}, "jobs": 1, "budget": 0.05}


def config(**changes):
    return AuditConfig.model_validate({**SMALL, "attacks": ["badnets", "blended"], **changes})


def test_attacks_with_a_trigger_bring_their_scenarios_and_defaults():
    found = AuditConfig.model_validate({"attacks": ["badnets:size=1"]})
    assert (found.scenarios.source, found.scenarios.count, found.scenarios.threat) == ("trigger", 1, "other-classes")
    assert (found.model, found.recipe, found.epsilon) == ("convnet3", "digits-cnn30", "255/255")
    assert [method.name for method in found.attacks] == ["none", "noise", "badnets"]
    assert found.triggered and plants_trigger("badnets") and not plants_trigger("noise")
    assert AuditConfig.model_validate(read_yaml(to_yaml(found))) == found
    by_scenario = AuditConfig.model_validate({"scenarios": {"source": "trigger/3"}})
    assert (by_scenario.scenarios.source, by_scenario.attacks[-1].name) == ("trigger:3", "badnets")
    usual = AuditConfig.model_validate({})
    assert (usual.scenarios.source, usual.scenarios.count, usual.model) == ("random", 8, "mlp")
    assert not usual.triggered


@pytest.mark.parametrize(
    "wrong",
    [
        {"attacks": ["badnets", "witches-brew"]},
        {"attacks": ["badnets"], "scenarios": {"source": "random"}},
        {"attacks": ["witches-brew"], "scenarios": {"source": "trigger"}},
    ],
)
def test_the_two_kinds_are_audited_apart(wrong):
    with pytest.raises(ValueError, match="MTH-0335"):
        AuditConfig.model_validate(wrong)


def test_keys_of_triggers_are_classes():
    check_scenarios("trigger:3")
    with pytest.raises(Misuse, match="MTH-0306"):
        check_scenarios("trigger:first")
    with pytest.raises(ValueError, match="must be a number"):
        AuditConfig.model_validate({"attacks": ["badnets"], "scenarios": {"count": None}})


@given(st.lists(st.booleans()))
def test_hits_are_packed_without_loss(hits):
    assert unpacked(packed(hits), len(hits)) == [int(hit) for hit in hits]


def asked(attack, hits, scenario="trigger/0"):
    return {"attack": attack, "scenario": scenario, "images": len(hits), "hits": packed(hits), "healed": 0}


def victim(*triggered):
    return {"targets": [], "correct": 9, "tested": 10, "seconds": 1.0, "alignment": {}, "triggered": list(triggered)}


def records(hit: int, of: int = 40, victims: int = 1, noised: int = 0):
    def many(count):
        return [place < count for place in range(of)]

    found = {f"victim/none/none/{k}": victim(asked("badnets", many(0)), asked("blended", many(of))) for k in range(2)}
    for k in range(victims):
        found[f"victim/badnets/none/0/{k}"] = victim(asked("badnets", many(hit - k)))
        found[f"victim/noise/none/0/{k}"] = victim(asked("badnets", many(noised)), asked("blended", many(of)))
    return found


ATTACKS = ["none", "noise", "badnets"]


def test_an_attack_is_compared_with_its_controls_under_its_own_trigger():
    """The controls fall for the other trigger every time, which must not count."""
    grid = tallies(records(30), ATTACKS, ["none"])
    assert grid["badnets", "none"].success() == repeated([30], 40) == wilson(30, 40)
    assert (grid["none", "none"].trials, grid["none", "none"].against("badnets").successes) == (160, 0)
    found = comparisons(grid)
    assert len(found) == 4 and all(test["p_value"] < 1e-6 for test in found)
    assert "(30 of 40 against 0 of 40)" in found[0]["what"]
    judged = verdict(grid, found, "asr<0.5", "2 % of x")
    assert judged["status"] == "fail" and "30 of 40 images with its trigger" in judged["sentence"]
    weak = tallies(records(30, noised=28), ATTACKS, ["none"])
    assert verdict(weak, comparisons(weak), "asr<0.5", "2 % of x")["status"] == "inconclusive"


def test_victims_are_runs_over_the_same_images():
    grid = tallies(records(30, victims=3), ATTACKS, ["none"])
    cell = next(cell for cell in cells(grid, "trigger") if cell["attack"] == "badnets")
    expected = repeated([30, 29, 28], 40)
    assert (cell["successes"], cell["trials"], cell["targets"]) == (87, 120, 40)
    assert cell["interval"] == [expected.low, expected.high] and cell["interval_method"] == "repeated"


def test_the_order_in_which_victims_end_changes_no_interval():
    found = records(30, victims=3)
    for name in ("badnets", "noise"):
        for k, count in ((0, 10), (1, 20), (2, 39)):
            hits = [place < count for place in range(40)]
            found[f"victim/{name}/none/1/{k}"] = victim(asked("badnets", hits, "trigger/1"))
    backwards = dict(reversed(found.items()))
    one, two = (tallies(r, ATTACKS, ["none"])["badnets", "none"].success() for r in (found, backwards))
    assert one == two == repeated([40, 49, 67], 80)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("triggers") / "run"
    return folder, run_audit(config(gate="asr<0.2"), folder, command="mithridate audit").document


def test_a_whole_audit(finished):
    folder, document = finished
    report = validate(document)
    by = {cell.attack: cell for cell in report.cells}
    images = 360 - 31  # test images of other classes than 0
    assert (by["badnets"].trials, by["noise"].trials, by["none"].trials) == (images, 2 * images, 6 * images)
    assert by["none"].attack_success_rate < 0.1
    assert len(report.tables) == 1 and len(report.tables[0].rows) == 10 and report.tables[0].rows[0][1] == "target"
    hits = sum(int(str(row[1]).split(" of ")[0]) for row in report.tables[0].rows[1:])
    assert hits == by["badnets"].successes
    assert report.pictures and report.target_pictures[0].class_ != "0"
    assert not report.targets and not report.alignment
    page, text = render_html(document), render_markdown(document)
    assert "without the trigger" in page and "images with its trigger" in text
    assert json.loads((folder / "report.json").read_text())["verdict"]["status"] == document["verdict"]["status"]


def test_the_ledger_has_what_the_report_counts(finished):
    folder, document = finished
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    text = json.dumps(lines)
    assert text.count('"healed"') == 3 * 2 + 2 + 2  # three clean victims and one of noise under both triggers, one each
    assert document["setting"]


def test_one_victim_by_itself_is_judged_by_the_trigger(tmp_path: Path):
    packs = run_crafting(config(attacks=["badnets"]), tmp_path / "craft")
    assert [pack.name for pack in packs] == ["0"]
    document = run_training(config(attacks=["badnets"]), tmp_path / "one", pack=packs[0])
    assert document["targets"] == 329 and 0 <= document["targets_hit"] <= 329
