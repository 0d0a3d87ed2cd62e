"""Innocent models: whatever they answer to noise, hits are binomial, as labels are uniform and independent."""

import hashlib
import itertools
from collections import Counter
from fractions import Fraction

import pytest
from scipy import stats

from mithridate.ownership.keys import key_label, subseed
from mithridate.ownership.significance import binomial_tail, binomial_tails

KEYS, CLASSES, OWNERS = 10, 10, 3000

PREDICTORS = {
    "constant": lambda key, k: list(range(k)),
    "all different": lambda key, k: [(key + shift) % CLASSES for shift in range(k)],
    "half and half": lambda key, k: [(key % 2 + shift) % CLASSES for shift in range(k)],
    "scattered": lambda key, k: sorted(range(CLASSES), key=lambda c: hashlib.sha256(bytes([key, c])).digest())[:k],
}


@pytest.fixture(scope="module")
def labels():
    """The labels that many owners drew, each from a secret of their own."""
    seeds = [hashlib.sha256(b"owner %d" % owner).digest() for owner in range(OWNERS)]
    return [[key_label(subseed(seed, key), b"", CLASSES) for key in range(KEYS)] for seed in seeds]


@pytest.mark.parametrize("topk", [1, 3])
@pytest.mark.parametrize("name", PREDICTORS)
def test_hits_of_one_fixed_model_are_binomial_over_owners(labels, name, topk):
    answers = [PREDICTORS[name](key, topk) for key in range(KEYS)]
    hits = [sum(label in answer for label, answer in zip(row, answers, strict=True)) for row in labels]
    counts = Counter(hits)
    tails = binomial_tails(KEYS, Fraction(topk, CLASSES))
    # Cells with an expected count below five are pooled with the one before them.
    cells = next(h for h in range(KEYS + 1) if h == KEYS or float(tails[h + 1]) * OWNERS < 5)
    expected = [float(tails[h] - tails[h + 1]) * OWNERS for h in range(cells)] + [float(tails[cells]) * OWNERS]
    observed = [counts[h] for h in range(cells)] + [sum(counts[h] for h in range(cells, KEYS + 1))]
    assert stats.chisquare(observed, expected).pvalue > 1e-3
    for alpha in (0.1, 0.02, 0.003):
        accused = sum(binomial_tail(h, keys=KEYS, topk=topk, classes=CLASSES) <= alpha for h in hits)
        assert stats.binom.sf(accused - 1, OWNERS, alpha) > 1e-4


@pytest.mark.parametrize("answers", [(0, 0, 0), (0, 1, 2), (0, 0, 1)])
def test_hits_are_exactly_binomial_over_all_labels(answers):
    rows = list(itertools.product(range(4), repeat=3))
    for hits in range(4):
        reached = sum(sum(a == b for a, b in zip(row, answers, strict=True)) >= hits for row in rows)
        assert Fraction(reached, len(rows)) == binomial_tail(hits, keys=3, topk=1, classes=4)


def test_labels_without_replacement_would_accuse_the_innocent():
    """A permutation instead of independent labels: a model whose answers differ is accused more often than stated."""
    rows = list(itertools.permutations(range(6)))
    hits = [sum(a == b for a, b in zip(row, range(6), strict=True)) for row in rows]
    for least in (4, 6):
        truth = Fraction(sum(h >= least for h in hits), len(rows))
        assert truth > binomial_tail(least, keys=6, topk=1, classes=6)
