"""Three-valued gates: the interval's bound decides, never the point."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mithridate.core.errors import ExitCode, Misuse
from mithridate.core.intervals import Difference, clustered, wilson
from mithridate.core.verdicts import Gate, Status, Verdict


def interval(low: float, high: float) -> Difference:
    return Difference((low + high) / 2, low, high)


@pytest.mark.parametrize(
    ("gate", "low", "high", "status"),
    [
        ("asr<0.1", 0.0, 0.09, "pass"),
        ("asr<0.1", 0.1, 0.5, "fail"),
        ("asr<0.1", 0.05, 0.1, "inconclusive"),
        ("asr<0.1", 0.05, 0.5, "inconclusive"),
        ("asr<=0.1", 0.05, 0.1, "pass"),
        ("asr<=0.1", 0.1, 0.2, "inconclusive"),
        ("asr<=0.1", 0.11, 0.2, "fail"),
        ("clean_accuracy>0.9", 0.91, 1.0, "pass"),
        ("clean_accuracy>0.9", 0.9, 1.0, "inconclusive"),
        ("clean_accuracy>0.9", 0.5, 0.9, "fail"),
        ("clean_accuracy>=0.9", 0.9, 1.0, "pass"),
        ("accuracy_drop<0.02", -0.01, 0.01, "pass"),
        ("accuracy_drop<-0.1", -0.3, -0.2, "pass"),
    ],
)
def test_judging(gate, low, high, status):
    assert Gate.parse(gate).judge(interval(low, high)) is Status(status)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("asr<0.1", Gate("asr", "<", 0.1)),
        (" clean_accuracy >= 93% ", Gate("clean_accuracy", ">=", 0.93)),
        ("accuracy_drop<=2e-2", Gate("accuracy_drop", "<=", 0.02)),
    ],
)
def test_parsing(text, parsed):
    assert Gate.parse(text) == parsed
    assert Gate.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not METRIC"),
        ("asr", "is not METRIC"),
        ("asr=0.1", "is not METRIC"),
        ("asr<0.1<0.2", "is not METRIC"),
        ("ars<0.1", "no metric 'ars'"),
        ("asr<1e", "'1e' is no number"),
        ("asr<10", "must be in [0, 1], got 10"),
        ("asr<-0.1", "must be in [0, 1], got -0.1"),
    ],
)
def test_what_is_no_gate_is_refused(text, words):
    with pytest.raises(Misuse) as caught:
        Gate.parse(text)
    assert caught.value.code == "MTH-0733"
    assert words in caught.value.message


def test_a_misspelt_metric_has_a_closest_match():
    with pytest.raises(Misuse) as caught:
        Gate.parse("clean_acuracy>0.9")
    assert caught.value.hint == "did you mean 'clean_accuracy'?"


counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.sampled_from(["<", "<=", ">", ">="]), st.floats(0, 1))
def test_a_gate_and_its_opposite_never_both_pass_or_both_fail(count, relation, threshold):
    opposite = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}[relation]
    rate = wilson(*count)
    one, other = Gate("asr", relation, threshold).judge(rate), Gate("asr", opposite, threshold).judge(rate)
    flipped = {Status.PASS: Status.FAIL, Status.FAIL: Status.PASS, Status.INCONCLUSIVE: Status.INCONCLUSIVE}
    assert other is flipped[one]


@given(counts, st.floats(0.01, 0.99))
def test_the_trials_that_are_needed_decide_and_half_of_them_do_not(count, threshold):
    gate, rate = Gate("asr", "<", threshold), wilson(*count)
    assume(gate.judge(rate) is Status.INCONCLUSIVE)
    needed = gate.trials_needed(rate)
    assume(needed is not None and needed < 1_000_000)
    assert needed is not None
    assert needed > rate.trials

    def scaled(trials: int) -> Status:
        return gate.judge(wilson(round(rate.point * trials), trials))

    # Rounding to whole successes moves the rate by half a trial.
    assert scaled(4 * needed) is not Status.INCONCLUSIVE or abs(rate.point - threshold) < 2 / needed
    assert scaled(rate.trials) is Status.INCONCLUSIVE


def test_trials_needed_by_hand():
    # None of 10: the upper bound is z^2 / (n + z^2), below .1 from n = 9 z^2 = 34.6 on.
    assert Gate.parse("asr<0.1").trials_needed(wilson(0, 10)) == 35
    # The same in ten clusters of eight: each target is worth one trial.
    assert Gate.parse("asr<0.1").trials_needed(clustered([0] * 10, [8] * 10)) == 8 * 35
    assert Gate.parse("asr<0.5").trials_needed(wilson(5, 10)) is None


@pytest.mark.parametrize(
    ("status", "code"),
    [(Status.PASS, ExitCode.PASS), (Status.FAIL, ExitCode.GATE_FAILED), (Status.INCONCLUSIVE, ExitCode.INCONCLUSIVE)],
)
def test_exit_codes(status, code):
    assert Verdict(status, "A sentence.").exit_code is code


def test_exit_codes_are_the_published_ones():
    assert {code.name: code.value for code in ExitCode} == {
        "PASS": 0,
        "GATE_FAILED": 1,
        "MISUSE": 2,
        "INCONCLUSIVE": 3,
        "INTERNAL": 4,
        "INTERRUPTED": 130,
    }
