"""Exact tests and planning: vectors by hand, slow twins by enumeration, scipy as the oracle."""

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mithridate.core.errors import Misuse
from mithridate.ownership import significance as tests
from mithridate.ownership.planning import HitTest, factor
from mithridate.ownership.significance import binomial_tail, binomial_tails, hits_at

TEST = HitTest(topk=1, classes=10, alpha=0.01)


def enumerated(statistic, observed, values, keys) -> Fraction:
    """The share of all outcomes whose statistic is at most the observed one."""
    outcomes = list(itertools.product(values, repeat=keys))
    return Fraction(sum(statistic(outcome) <= observed for outcome in outcomes), len(outcomes))


def test_binomial_by_hand():
    assert binomial_tail(2, keys=2, topk=1, classes=10) == Fraction(1, 100)
    assert binomial_tail(0, keys=7, topk=3, classes=10) == 1
    assert binomial_tail(7, keys=7, topk=3, classes=10) == Fraction(3, 10) ** 7
    assert binomial_tail(1, keys=2, topk=1, classes=2) == Fraction(3, 4)


@pytest.mark.parametrize(
    ("hits", "keys", "topk", "classes", "expected"),
    [
        (4, 10, 1, 10, 0.0128),
        (7, 10, 1, 10, 9.1e-6),
        (10, 10, 1, 10, 1e-10),
        (2, 10, 10, 1000, 4.3e-3),
        (3, 10, 10, 1000, 1.1e-4),
        (5, 10, 10, 1000, 2.4e-8),
        (8, 10, 10, 1000, 4.4e-15),
        (2, 10, 1, 1000, 4.5e-5),
        (10, 20, 1, 10, 7.2e-6),
        (10, 20, 10, 1000, 1.7e-15),
        (8, 10, 1, 10, 3.7e-7),
        (9, 10, 1, 10, 9.1e-9),
    ],
)
def test_binomial_figures_of_the_specification(hits, keys, topk, classes, expected):
    assert float(binomial_tail(hits, keys=keys, topk=topk, classes=classes)) == pytest.approx(expected, rel=0.05)


@given(keys=st.integers(1, 60), data=st.data(), classes=st.integers(2, 1000))
def test_binomial_is_what_scipy_says(keys, data, classes):
    hits, topk = data.draw(st.integers(0, keys)), data.draw(st.integers(1, classes))
    exact = binomial_tail(hits, keys=keys, topk=topk, classes=classes)
    oracle = stats.binom.sf(hits - 1, keys, topk / classes)
    assert float(exact) == pytest.approx(oracle, rel=1e-9, abs=1e-290)


def test_nothing_underflows_at_500_keys():
    for hits in (1, 5, 50, 100):
        exact = binomial_tail(hits, keys=500, topk=10, classes=1000)
        assert tests.log10(exact) == pytest.approx(stats.binom.logsf(hits - 1, 500, 0.01) / math.log(10), abs=1e-6)
    all_hits = binomial_tail(500, keys=500, topk=1, classes=1000)
    assert all_hits == Fraction(1, 1000**500)
    assert tests.log10_text(all_hits) == "-1500.000000"
    assert float(all_hits) == 0.0


@given(keys=st.integers(1, 30), topk=st.integers(1, 4))
def test_more_hits_are_less_likely(keys, topk):
    tails = [binomial_tail(hits, keys=keys, topk=topk, classes=5) for hits in range(keys + 1)]
    assert tails == sorted(tails, reverse=True)
    assert len(set(tails)) == keys + 1


@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=5), data=st.data())
def test_poisson_binomial_by_enumeration(sizes, data):
    hits = data.draw(st.integers(0, len(sizes)))
    labels = list(itertools.product(range(4), repeat=len(sizes)))
    reached = sum(sum(label < size for label, size in zip(row, sizes, strict=True)) >= hits for row in labels)
    assert tests.poisson_binomial_tail(hits, sizes, classes=4) == Fraction(reached, len(labels))


@given(sizes=st.lists(st.integers(0, 20), min_size=1, max_size=12), data=st.data())
def test_poisson_binomial_is_symmetric_and_below_the_binomial_of_the_largest(sizes, data):
    hits = data.draw(st.integers(0, len(sizes)))
    p = tests.poisson_binomial_tail(hits, sizes, classes=20)
    assert p == tests.poisson_binomial_tail(hits, sizes[::-1], classes=20)
    if max(sizes):
        assert p <= binomial_tail(hits, keys=len(sizes), topk=max(sizes), classes=20)
        assert tests.poisson_binomial_tail(hits, [3] * len(sizes), classes=20) == binomial_tail(
            hits, keys=len(sizes), topk=3, classes=20
        )


def least_tail(ranks, k_max, classes):
    hits = [sum(rank <= k for rank in ranks) for k in range(1, k_max + 1)]
    return min(binomial_tail(h, keys=len(ranks), topk=k, classes=classes) for k, h in enumerate(hits, start=1))


@pytest.mark.parametrize(("keys", "k_max", "classes"), [(1, 1, 3), (2, 3, 5), (3, 3, 6), (4, 2, 4), (3, 5, 5)])
def test_min_over_k_by_enumeration(keys, k_max, classes):
    every = list(itertools.product(range(1, classes + 1), repeat=keys))
    found = {ranks: least_tail(ranks, k_max, classes) for ranks in every}
    for ranks in every[:: max(1, len(every) // 20)]:
        expected = Fraction(sum(value <= found[ranks] for value in found.values()), len(every))
        cut = [rank if rank <= k_max else None for rank in ranks]
        assert tests.min_over_k(cut, k_max, classes=classes) == expected
        assert tests.min_over_k(ranks, k_max, classes=classes) == expected
        assert expected >= found[ranks]


@given(ranks=st.lists(st.none() | st.integers(1, 100), min_size=1, max_size=12), k_max=st.integers(1, 10))
@settings(max_examples=40)
def test_min_over_k_lies_between_the_least_and_bonferroni(ranks, k_max):
    p = tests.min_over_k(ranks, k_max, classes=100)
    least = least_tail([rank or 1000 for rank in ranks], k_max, 100)
    assert least <= p <= min(1, k_max * least)


@pytest.mark.parametrize(("keys", "classes"), [(1, 4), (2, 5), (3, 4), (4, 3)])
def test_rank_sums_by_enumeration(keys, classes):
    def log_sum(ranks):
        return sum(math.floor(64 * math.log2(rank) + 1e-9) for rank in ranks)

    values = range(1, classes + 1)
    for ranks in itertools.product(values, repeat=keys):
        assert tests.rank_sum(ranks, classes=classes) == enumerated(sum, sum(ranks), values, keys)
        assert tests.log_rank_sum(ranks, classes=classes) == enumerated(log_sum, log_sum(ranks), values, keys)


def test_rank_sums_by_hand():
    assert tests.rank_sum([1, 1], classes=10) == tests.log_rank_sum([1, 1], classes=10) == Fraction(1, 100)
    assert tests.rank_sum([10, 10], classes=10) == tests.log_rank_sum([10, 10], classes=10) == 1
    assert tests.rank_sum([1, 2], classes=10) == Fraction(3, 100)
    # Fisher's combination of r / C is valid and conservative: 0.056 where the exact value is 0.01.
    assert stats.combine_pvalues([0.1, 0.1]).pvalue == pytest.approx(0.056, abs=5e-4)


def test_rank_sum_of_twenty_keys_is_near_normal():
    mean, spread = 20 * 1001 / 2, math.sqrt(20 * (1000**2 - 1) / 12)
    ranks = [400] * 20
    assert float(tests.rank_sum(ranks, classes=1000)) == pytest.approx(
        stats.norm.cdf((8000.5 - mean) / spread), abs=2e-3
    )


def test_label_randomisation_is_exact():
    """Over all labels, P(p <= a) <= a; a statistic without ties is uniform on the multiples of 1 / (draws + 1)."""
    weights = np.array([1.0, 3.0, 9.0, 27.0])

    def statistic(labels):
        return float(weights @ np.asarray(labels))

    every = list(itertools.product(range(3), repeat=4))
    found = [tests.label_randomisation(statistic, y, classes=3, draws=19, seed=i) for i, y in enumerate(every * 4)]
    for level in (Fraction(1, 20), Fraction(1, 10), Fraction(1, 2)):
        share = sum(p <= level for p in found) / len(found)
        assert share == pytest.approx(float(level), abs=4 * math.sqrt(float(level) / len(found)))


def test_label_randomisation_agrees_with_the_binomial_for_hits():
    answers = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    labels = [0, 1, 2, 3, 0, 0, 0, 0, 0, 0]

    def hits(guess):
        return float(sum(a == b for a, b in zip(answers, guess, strict=True)))

    p = tests.label_randomisation(hits, labels, classes=10, draws=500, seed=3)
    assert float(p) == pytest.approx(0.0128, abs=0.02)
    assert p == tests.label_randomisation(hits, labels, classes=10, draws=500, seed=3)
    assert tests.label_randomisation(lambda guess: 0.0, labels, classes=10, draws=5, seed=0) == 1


def test_e_values_by_hand():
    hit_first = tests.e_value([True] * 3 + [False] * 7, chance=Fraction(1, 100))
    assert float(hit_first.final) == pytest.approx(1047.7, abs=0.05)
    assert hit_first.peak == 125_000
    assert hit_first.p_value == Fraction(1, 125_000)
    miss_first = tests.e_value([False] * 7 + [True] * 3, chance=Fraction(1, 100))
    assert miss_first.final == hit_first.final == miss_first.peak
    assert tests.e_value([], chance=Fraction(1, 10)).p_value == 1


@given(chance=st.integers(1, 49), bet=st.integers(50, 99), keys=st.integers(1, 6))
def test_a_bet_is_fair(chance, bet, keys):
    p0, q = Fraction(chance, 100), Fraction(bet, 100)
    mean = sum(
        tests.e_value(row, chance=p0, bet=q).final * math.prod(p0 if hit else 1 - p0 for hit in row)
        for row in itertools.product([True, False], repeat=keys)
    )
    assert mean == 1


def test_ville_holds_at_any_time_of_stopping():
    p0 = Fraction(1, 10)
    rows = list(itertools.product([True, False], repeat=8))
    for level in (Fraction(1, 5), Fraction(1, 20)):
        reached = sum(
            math.prod(p0 if hit else 1 - p0 for hit in row)
            for row in rows
            if tests.e_value(row, chance=p0).p_value <= level
        )
        assert 0 < reached <= level


def test_the_mean_of_e_values_is_one():
    assert tests.mean_e([Fraction(4), Fraction(0)]) == 2


@given(p_values=st.lists(st.fractions(0, 1, max_denominator=1000), min_size=1, max_size=5))
@settings(max_examples=40)
def test_holm_is_the_closed_test_of_bonferroni(p_values):
    """The largest Bonferroni p-value of all subsets that hold a hypothesis, by enumeration."""
    places = range(len(p_values))
    for place, found in enumerate(tests.holm(p_values)):
        subsets = (
            s for size in range(1, len(p_values) + 1) for s in itertools.combinations(places, size) if place in s
        )
        assert found == max(min(1, len(s) * min(p_values[i] for i in s)) for s in subsets)
    assert all(h <= b for h, b in zip(tests.holm(p_values), tests.bonferroni(p_values), strict=True))


def test_holm_by_hand():
    assert tests.holm([Fraction(3, 100), Fraction(1, 100), Fraction(2, 100)]) == (
        Fraction(4, 100),
        Fraction(3, 100),
        Fraction(4, 100),
    )


def test_logarithms():
    assert tests.log10_text(Fraction(1)) == "0.000000"
    assert tests.log10_text(Fraction(1, 1000)) == "-3.000000"
    assert tests.log10_text(Fraction(999_999_999_999, 10**12)) == "0.000000"
    assert tests.log10(Fraction(1, 10**900)) == -900


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: binomial_tail(11, keys=10, topk=1, classes=10),
        lambda: binomial_tail(-1, keys=10, topk=1, classes=10),
        lambda: binomial_tail(1, keys=10, topk=0, classes=10),
        lambda: tests.binomial_upper(1, 2, Fraction(3, 2)),
        lambda: tests.poisson_binomial_tail(1, [11], classes=10),
        lambda: tests.min_over_k([0], 3, classes=10),
        lambda: tests.rank_sum([11], classes=10),
        lambda: tests.log_rank_sum([0], classes=10),
        lambda: tests.label_randomisation(lambda y: 0.0, [1], classes=3, draws=0, seed=0),
        lambda: tests.label_randomisation(lambda y: math.nan, [1], classes=3, draws=2, seed=0),
        lambda: tests.e_value([True], chance=Fraction(1, 2)),
        lambda: tests.mean_e([]),
        lambda: tests.log10(Fraction(0)),
        lambda: factor(0),
        lambda: TEST.power(0, 0.5),
        lambda: TEST.power(10, 1.5),
        lambda: HitTest(topk=1, classes=10, alpha="x"),
        lambda: HitTest(topk=11, classes=10, alpha=0.01),
        lambda: HitTest(topk=1, classes=10, alpha=0.01, run=0),
    ],
)
def test_numbers_that_cannot_be(attempt):
    with pytest.raises(Misuse) as error:
        attempt()
    assert error.value.code == "MTH-1010"


def test_hits_needed_is_the_least_that_is_enough():
    test = HitTest(topk=1, classes=10, alpha=0.001)
    assert test.hits_needed(10) == 6  # the first verification halves the level: P(>= 5) is 0.0016, P(>= 6) 1.5e-4
    assert test.hits_needed(2) is None
    assert replace(test, grindable=True).hits_needed(10) is None
    assert replace(test, classes=1000, grindable=True).hits_needed(20) == 10
    assert replace(test, run=5).hits_needed(10) == 7


@pytest.mark.parametrize(("keys", "rate"), [(10, 0.8), (20, 0.3), (40, 0.25)])
def test_power_is_the_chance_to_reach_the_hits_needed(keys, rate):
    expected = stats.binom.sf(TEST.hits_needed(keys) - 1, keys, rate)
    assert TEST.power(keys, rate) == pytest.approx(expected, rel=1e-9)


def test_power_of_a_chance_hit_rate_is_the_level_at_most():
    for keys in range(1, 40):
        assert HitTest(topk=1, classes=10, alpha=0.05).power(keys, 0.1) <= 0.05 / 2


def test_keys_needed_is_the_least_number_with_that_power():
    test = HitTest(topk=1, classes=10, alpha=0.001)
    found = test.keys_needed(0.6)
    assert test.power(found, 0.6) >= 0.9
    assert all(test.power(keys, 0.6) < 0.9 for keys in range(1, found))


def test_no_number_of_keys_is_enough_for_a_model_that_guesses():
    with pytest.raises(Misuse, match="no number of keys") as error:
        HitTest(topk=1, classes=10, alpha=0.001).keys_needed(0.1)
    assert error.value.code == "MTH-1011"


def test_prospects_grow_with_the_number_of_keys():
    rows = [HitTest(topk=1, classes=10, alpha=0.001).prospect(keys, 0.8) for keys in (1, 10, 20)]
    assert [(row.keys, row.hits_needed) for row in rows] == [(1, None), (10, 6), (20, 8)]
    assert rows[0].power == 0
    assert [row.power for row in rows] == sorted(row.power for row in rows)


def test_runs_spend_no_more_than_the_level_whenever_the_owner_stops():
    assert sum(Fraction(1, factor(run)) for run in range(1, 2000)) < 1
    assert [factor(run) for run in (1, 2, 3)] == [2, 6, 12]
    assert factor(1, grindable=True) == 2 << 64


@given(
    keys=st.integers(0, 30),
    chance=st.fractions(0, 1, max_denominator=50),
    level=st.fractions(0, 1, max_denominator=10**6),
)
def test_the_least_hits_at_a_level_by_looking_at_each(keys, chance, level):
    tails = binomial_tails(keys, chance)
    assert tails == tuple(
        sum((math.comb(keys, j) * chance**j * (1 - chance) ** (keys - j) for j in range(h, keys + 1)), Fraction(0))
        for h in range(keys + 1)
    )
    assert hits_at(keys, chance, level) == next((h for h, tail in enumerate(tails) if tail <= level), None)
