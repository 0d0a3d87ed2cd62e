"""Counting and verdicts on records made by hand."""

import pytest

from mithridate.audit.tally import STRATIFIED, cells, comparisons, tallies, traces
from mithridate.audit.verdict import verdict
from mithridate.core.intervals import fisher_greater, wilson


def victim(scenario: str, hit: bool, *, correct: int = 95, alignment: tuple[float, ...] = ()) -> dict:
    target = {
        "scenario": scenario,
        "target": 1,
        "predicted": 0,
        "hit": hit,
        "adversarial_probability": 0.9 if hit else 0.1,
    }
    return {
        "targets": [target],
        "correct": correct,
        "tested": 100,
        "seconds": 1.0,
        "alignment": {scenario: list(alignment)} if alignment else {},
    }


def records(attacked: int, noised: int, defended: int = 0, n: int = 10) -> dict:
    found = {"surrogate/0": {"seconds": 1.0}}
    for k in range(n):
        found[f"victim/witches-brew/none/s{k}/0"] = victim(f"s{k}", k < attacked, alignment=(0.1, 0.2))
        found[f"victim/noise/none/s{k}/0"] = victim(f"s{k}", k < noised)
        found[f"victim/witches-brew/friendly-noise/s{k}/0"] = victim(f"s{k}", k < defended, correct=93)
    clean = [victim(f"s{k}", False)["targets"][0] for k in range(n)]
    for defense in ("none", "friendly-noise"):
        for number in range(2):
            record = victim("s0", False, correct=96 if defense == "none" else 92)
            found[f"victim/none/{defense}/{number}"] = {**record, "targets": clean}
    return found


ATTACKS, DEFENSES = ["none", "noise", "witches-brew"], ["none", "friendly-noise"]


def judged(gate: str | None = None, **counts: int) -> dict:
    grid = tallies(records(**counts), ATTACKS, DEFENSES)
    return verdict(grid, comparisons(grid), gate, "1 % of x")


def test_cells_count_targets_victims_and_trials() -> None:
    by = {(c["attack"], c["defense"]): c for c in cells(tallies(records(7, 0, 1), ATTACKS, DEFENSES), "list")}
    brew = by["witches-brew", "none"]
    assert (brew["trials"], brew["successes"], brew["attack_success_rate"]) == (10, 7, 0.7)
    expected = wilson(7, 10)
    assert brew["interval"] == [expected.low, expected.high]
    assert brew["interval_method"] == "wilson"
    clean = by["none", "none"]
    assert (clean["trials"], clean["targets"], clean["victims"], clean["interval_method"]) == (20, 10, 2, "clustered")
    assert clean["clean_accuracy"] == pytest.approx(0.96)
    assert ("noise", "friendly-noise") not in by


def test_diagnostics_are_averaged_over_the_victims_that_have_them_and_warnings_listed_once() -> None:
    found = records(7, 0, 1, n=3)
    for k, (figures, warnings) in enumerate([({"a": 1.0, "b": 5.0}, ["odd"]), ({"a": 2.0}, ["odd", "small"])]):
        name = f"victim/witches-brew/friendly-noise/s{k}/0"
        found[name] = {**found[name], "diagnostics": {"figures": figures, "warnings": warnings}}
    by = {(c["attack"], c["defense"]): c for c in cells(tallies(found, ATTACKS, DEFENSES), "list")}
    defended = by["witches-brew", "friendly-noise"]
    assert defended["diagnostics"] == [
        {"name": "a", "mean": 1.5, "low": 1.0, "high": 2.0, "victims": 2},
        {"name": "b", "mean": 5.0, "low": 5.0, "high": 5.0, "victims": 1},
    ]
    assert defended["warnings"] == ["odd", "small"]
    assert (by["none", "none"]["diagnostics"], by["none", "none"]["warnings"]) == ([], [])


def test_two_clean_victims_of_one_target_are_not_two_targets() -> None:
    by = {(c["attack"], c["defense"]): c for c in cells(tallies(records(7, 0), ATTACKS, DEFENSES), "list")}
    assert by["none", "none"]["interval"][1] >= wilson(0, 10).high - 1e-12


def test_comparisons_are_fisher_over_targets_and_exact_within_them() -> None:
    tests = comparisons(tallies(records(7, 1, 0), ATTACKS, DEFENSES))
    noise = next(t for t in tests if "noise of the same size" in t["what"] and t["test"].startswith("Fisher"))
    assert noise["p_value"] == pytest.approx(fisher_greater(7, 10, 1, 10))
    within = next(t for t in tests if "noise of the same size, target by target" in t["what"])
    assert within["test"] == STRATIFIED
    assert within["p_value"] == pytest.approx(0.5**6)  # one victim a target: McNemar's test
    saved = next(t for t in tests if t["what"].startswith("friendly-noise saves") and t["test"].startswith("Fisher"))
    assert saved["p_value"] == pytest.approx(fisher_greater(7, 10, 0, 10))


def test_clean_victims_beyond_those_of_the_attack_do_not_make_the_control_stricter() -> None:
    """Six targets of twenty hit by the one victim of each, and the same six by the first of three clean victims."""
    found = records(6, 0, n=20)
    clean = [victim(f"s{k}", k < 6)["targets"][0] for k in range(20)]
    found["victim/none/none/0"] = {**found["victim/none/none/0"], "targets": clean}
    found["victim/none/none/2"] = found["victim/none/none/1"]
    tests = comparisons(tallies(found, ATTACKS, DEFENSES))
    fair = next(t for t in tests if "than no attack (" in t["what"] and t["test"].startswith("Fisher"))
    assert "6 of 20 against 6 of 20" in fair["what"]
    assert fair["p_value"] == pytest.approx(fisher_greater(6, 20, 6, 20))


def test_traces_average_over_targets() -> None:
    trace = next(t for t in traces(tallies(records(3, 0), ATTACKS, DEFENSES)) if t["attack"] == "witches-brew")
    assert trace["epochs"] == [1, 2]
    assert trace["mean"] == [0.1, 0.2]


def test_an_attack_that_works_passes_without_a_gate_and_says_so_with_numbers() -> None:
    document = judged(attacked=8, noised=0, defended=1)
    assert (document["status"], document["exit_code"]) == ("pass", 0)
    for part in ("8 of 10", "1 of 10", "Witches' Brew", "Friendly Noise", "95 % interval", "4.0 points"):
        assert part in document["sentence"]


@pytest.mark.parametrize(("attacked", "noised"), [(2, 0), (8, 7), (0, 0)])
def test_an_attack_that_does_not_beat_its_controls_is_inconclusive_whatever_the_gate(
    attacked: int, noised: int
) -> None:
    document = judged("asr<0.99", attacked=attacked, noised=noised, defended=0)
    assert (document["status"], document["exit_code"]) == ("inconclusive", 3)
    assert "nothing can be said about defenses" in document["reasons"][0]


def test_several_victims_of_few_targets_are_shown_and_decide_nothing() -> None:
    """Three targets of ten, each hit by both of its victims: within the targets p is 1/216, over targets 0.11."""
    found = records(3, 0)
    for k in range(10):
        for cell in ("witches-brew/none", "noise/none", "witches-brew/friendly-noise"):
            found[f"victim/{cell}/s{k}/1"] = found[f"victim/{cell}/s{k}/0"]
    grid = tallies(found, ATTACKS, DEFENSES)
    tests = comparisons(grid)
    assert min(t["p_value"] for t in tests if t["test"] == STRATIFIED) == pytest.approx(1 / 216)
    assert verdict(grid, tests, None, "1 % of x")["status"] == "inconclusive"


@pytest.mark.parametrize(
    ("gate", "defended", "status"),
    [("asr<0.5", 0, "pass"), ("asr<0.1", 8, "fail"), ("asr<0.1", 0, "inconclusive"), ("clean_accuracy>0.5", 0, "pass")],
)
def test_a_gate_compares_the_bound_of_the_interval(gate: str, defended: int, status: str) -> None:
    document = judged(gate, attacked=9, noised=0, defended=defended)
    assert document["status"] == status
    if status == "inconclusive":
        assert "trials would decide it" in " ".join(document["reasons"])


def test_accuracy_drop_is_measured_against_clean_undefended_victims() -> None:
    assert judged("accuracy_drop<0.5", attacked=9, noised=0)["status"] == "pass"
    assert judged("accuracy_drop<-0.5", attacked=9, noised=0)["status"] == "fail"
