"""Intervals and exact tests: published vectors, SciPy as oracle, laws of clustering, and coverage by simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mithridate.core.errors import Misuse
from mithridate.core.intervals import (
    clustered,
    difference,
    fisher_greater,
    paired_greater,
    repeated,
    stratified_greater,
    wilson,
    wilson_bounds,
)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (45, 100, 0.356, 0.548),
        (0, 100, 0, 0.037),
        (9, 10, 0.596, 0.982),
        (73, 80, 0.830, 0.957),
        (3, 100, 0.010, 0.085),
    ],
)
def test_wilson_vectors(successes, trials, low, high):
    rate = wilson(successes, trials)
    assert rate.point == successes / trials
    assert (round(rate.low, 3), round(rate.high, 3)) == (low, high)


counts = st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.floats(0.5, 0.999))
def test_wilson_agrees_with_scipy(count, confidence):
    successes, trials = count
    rate = wilson(successes, trials, confidence)
    oracle = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert (rate.low, rate.high) == pytest.approx((oracle.low, oracle.high), abs=1e-9)
    assert 0 <= rate.low <= rate.point <= rate.high <= 1


@given(counts)
def test_wilson_mirrors(count):
    successes, trials = count
    rate, mirror = wilson(successes, trials), wilson(trials - successes, trials)
    assert (1 - rate.high, 1 - rate.low) == pytest.approx((mirror.low, mirror.high), abs=1e-12)


clusters = st.lists(
    st.integers(1, 12).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=1, max_size=30
)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=60))
def test_one_trial_in_each_cluster_is_wilson(outcomes):
    found, plain = clustered(outcomes, [1] * len(outcomes)), wilson(sum(outcomes), len(outcomes))
    assert (found.low, found.high, found.effective) == pytest.approx((plain.low, plain.high, plain.trials), abs=1e-12)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=40), st.integers(1, 20))
def test_clusters_that_agree_count_once(outcomes, size):
    found = clustered([size * hit for hit in outcomes], [size] * len(outcomes))
    plain = wilson(sum(outcomes), len(outcomes))
    assert found.trials == size * len(outcomes)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=1e-9)


@given(clusters)
def test_clusters_never_tighten_the_interval(pairs):
    successes, trials = zip(*pairs, strict=True)
    found, plain = clustered(successes, trials), wilson(sum(successes), sum(trials))
    assert found.low <= plain.low + 1e-12
    assert found.high >= plain.high - 1e-12
    assert 0 <= found.low <= found.point <= found.high <= 1
    assert 0 < found.effective <= found.trials + 1e-9


@given(clusters)
def test_clusters_mirror_and_have_no_order(pairs):
    successes, trials = zip(*pairs, strict=True)
    found = clustered(successes, trials)
    mirror = clustered([n - k for k, n in pairs], trials)
    shuffled = clustered(successes[::-1], trials[::-1])
    assert (1 - found.high, 1 - found.low) == pytest.approx((mirror.low, mirror.high), abs=1e-9)
    assert (found.low, found.high) == pytest.approx((shuffled.low, shuffled.high), abs=1e-12)


@given(clusters)
def test_no_bound_is_tighter_than_that_of_unanimous_clusters(pairs):
    successes, trials = zip(*pairs, strict=True)
    found, unanimous = clustered(successes, trials), wilson(0, len(pairs))
    assert found.high >= unanimous.high - 1e-12
    assert found.low <= 1 - unanimous.high + 1e-12


def test_one_success_does_not_make_a_rate_look_smaller():
    none = clustered([0] * 10, [8] * 10)
    one = clustered([1] + [0] * 9, [8] * 10)
    assert one.high >= none.high


def test_clusters_without_trials_do_not_count():
    assert clustered([1, 0, 2], [2, 0, 2]) == clustered([1, 2], [2, 2])


def coverage(rng, *, clusters, size, rate, likeness, runs):
    """Return how often the clustered and the plain interval hold the true rate; the false-alarm rate is below 1e-6."""
    if likeness:
        a, b = rate * (1 - likeness) / likeness, (1 - rate) * (1 - likeness) / likeness
        rates = rng.beta(a, b, (runs, clusters))
    else:
        rates = np.full((runs, clusters), rate)
    successes = rng.binomial(size, rates)
    trials = [size] * clusters
    ours = [clustered(row.tolist(), trials) for row in successes]
    plain = [wilson(int(row.sum()), clusters * size) for row in successes]
    return tuple(sum(r.low <= rate <= r.high for r in found) / runs for found in (ours, plain))


@pytest.mark.parametrize("likeness", [0.0, 0.2, 0.6, 0.95])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_coverage_of_clustered_trials(rate, likeness):
    runs = 600
    # The seed belongs to the test, not to a run.
    rng = np.random.default_rng([int(100 * rate), int(100 * likeness)])
    ours, plain = coverage(rng, clusters=20, size=8, rate=rate, likeness=likeness, runs=runs)
    slack = 5 * math.sqrt(0.95 * 0.05 / runs)
    assert ours >= 0.95 - slack
    if likeness >= 0.6:
        assert plain < 0.8, "a naive interval must fail here, or the simulation shows nothing"


def test_one_run_of_repeated_trials_is_wilson():
    assert repeated([351], 360) == wilson(351, 360)


def test_runs_that_agree_add_nothing():
    one, nine = repeated([351], 360), repeated([351] * 9, 360)
    assert (nine.low, nine.high) == pytest.approx((one.low, one.high))
    assert nine.successes == 9 * 351


@given(st.lists(st.integers(0, 100), min_size=2, max_size=12))
def test_runs_that_differ_widen_the_interval(successes):
    found = repeated(successes, 100)
    low, high = wilson_bounds(found.point, 100)
    assert found.low <= low + 1e-12
    assert found.high >= high - 1e-12


def test_newcombe_difference():
    # Newcombe (1998), table II, contrast (a): 56/70 - 48/80, method 10.
    found = difference(wilson(56, 70), wilson(48, 80))
    assert (found.point, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


@given(counts, counts)
def test_difference_is_antisymmetric(first, second):
    there, back = difference(wilson(*first), wilson(*second)), difference(wilson(*second), wilson(*first))
    assert (there.point, there.low, there.high) == pytest.approx((-back.point, -back.high, -back.low), abs=1e-12)


@given(counts, counts)
def test_fisher_agrees_with_scipy(first, second):
    (k1, n1), (k2, n2) = first, second
    oracle = stats.fisher_exact([[k1, n1 - k1], [k2, n2 - k2]], alternative="greater").pvalue
    assert fisher_greater(k1, n1, k2, n2) == pytest.approx(oracle, rel=1e-7, abs=1e-300)


def test_fisher_by_hand():
    # Four of four against none of four: one arrangement of 70.
    assert fisher_greater(4, 4, 0, 4) == pytest.approx(1 / 70)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=40))
def test_paired_agrees_with_scipy(pairs):
    wins, losses = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    oracle = stats.binomtest(wins, wins + losses, alternative="greater").pvalue if wins + losses else 1.0
    assert paired_greater(pairs) == pytest.approx(oracle, rel=1e-9)


def test_paired_by_hand():
    assert paired_greater([(1, 0)] * 5) == 1 / 32
    assert paired_greater([(1, 1), (0, 0)]) == 1
    assert paired_greater([(0, 1)] * 3) == 1


small = st.integers(1, 6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(small, small)
def test_one_stratum_is_fisher(first, second):
    assert stratified_greater([(*first, *second)]) == pytest.approx(fisher_greater(*first, *second), rel=1e-12)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=30))
def test_strata_of_one_trial_are_mcnemar(pairs):
    assert stratified_greater([(a, 1, b, 1) for a, b in pairs]) == pytest.approx(paired_greater(pairs), rel=1e-12)


@given(st.lists(st.tuples(small, small), min_size=1, max_size=3))
def test_strata_agree_with_every_arrangement(tables):
    strata = [(*first, *second) for first, second in tables]
    each = [[(k, stats.hypergeom(n1 + n2, k1 + k2, n1).pmf(k)) for k in range(n1 + 1)] for k1, n1, k2, n2 in strata]
    observed = sum(k1 for k1, *_ in strata)
    oracle = sum(
        math.prod(p for _, p in draw) for draw in itertools.product(*each) if sum(k for k, _ in draw) >= observed
    )
    assert stratified_greater(strata) == pytest.approx(oracle, rel=1e-6)


def test_strata_by_hand():
    # Two of two against none of two is one arrangement of six; three such strata, one of 216.
    assert stratified_greater([(2, 2, 0, 2)] * 3 + [(0, 2, 0, 2)] * 7) == 1 / 216
    assert stratified_greater([(1, 2, 0, 2), (2, 2, 0, 2)]) == pytest.approx(1 / 12)
    assert stratified_greater([]) == 1


@pytest.mark.parametrize(
    "bad",
    [
        lambda: stratified_greater([(1, 1, 0, 0)]),
        lambda: wilson(3, 2),
        lambda: wilson(-1, 2),
        lambda: wilson(0, 0),
        lambda: clustered([], []),
    ],
)
def test_impossible_counts_are_refused(bad):
    with pytest.raises(Misuse) as caught:
        bad()
    assert caught.value.code == "MTH-0731"


def test_lengths_and_confidence_are_checked():
    with pytest.raises(Misuse, match="2 clusters have successes, 1 have trials"):
        clustered([1, 1], [1])
    with pytest.raises(Misuse, match=r"got 1\.5") as caught:
        wilson(1, 2, 1.5)
    assert caught.value.code == "MTH-0732"
