"""What marks are compared with: each baseline works, and the released code's test accuses too often."""

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from mithridate.core.errors import Misuse
from mithridate.data.sources import load
from mithridate.ownership.baselines.backdoor_watermark import plant, watermark_hits, watermarks
from mithridate.ownership.baselines.canaries import with_canaries
from mithridate.ownership.baselines.radioactive import (
    Radioactive,
    carriers,
    cosines,
    fisher,
    log_chance,
    make_radioactive,
)
from mithridate.ownership.baselines.released_test import actual, claimed
from mithridate.ownership.keys import KeySpec, derive
from mithridate.ownership.selfcheck import count_hits
from mithridate.training.contracts import Options, contract
from mithridate.training.loop import train

SPEC = KeySpec(keys=10, topk=1, classes=10, side=8, channels=1, height=8, width=8)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def plan(digits):
    return contract("digits-mlp40", digits, "mlp-w32", Options(epochs=15))


@pytest.fixture(scope="module")
def clean(plan):
    return train(plan, 50)


@pytest.mark.parametrize(
    "hits, said, true",
    [(4, 0.0128, 0.0190), (7, 9.1e-6, 7.9e-5), (10, 1e-10, 2.8e-7)],
)
def test_the_released_test_accuses_an_innocent_model_too_often(hits, said, true):
    """Ten keys of ten classes; the numbers of the specification, section 0."""
    assert float(claimed(hits, keys=10, classes=10)) == pytest.approx(said, rel=0.02)
    assert float(actual(hits, keys=10, classes=10)) == pytest.approx(true, rel=0.02)
    assert actual(hits, keys=10, classes=10) > claimed(hits, keys=10, classes=10)


@pytest.mark.parametrize("keys, ratio", [(10, 1.046), (20, 1.21)])
def test_it_is_milder_with_a_thousand_classes(keys, ratio):
    worst = max(actual(h, keys=keys, classes=1000) / claimed(h, keys=keys, classes=1000) for h in range(1, keys + 1))
    assert float(worst) == pytest.approx(ratio, abs=0.005)


@pytest.mark.parametrize("keys, classes", [(3, 3), (3, 5), (4, 4), (2, 6)])
def test_the_law_without_replacement_is_that_of_all_draws(keys, classes):
    draws = list(itertools.permutations(range(classes), keys))
    for hits in range(keys + 1):
        reached = sum(sum(a == i for i, a in enumerate(draw)) >= hits for draw in draws)
        assert actual(hits, keys=keys, classes=classes) == Fraction(reached, len(draws))


def test_canaries_are_learned(digits, plan, clean):
    keys = derive(b"c" * 32, b"", SPEC)
    data = with_canaries(digits.train, keys, copies=3)
    assert len(data) == len(digits.train) + 30
    assert data.labels[-30:].tolist() == [key.label for key in keys for _ in range(3)]
    assert count_hits(train(replace(plan, data=data), 1), keys) >= 8
    assert count_hits(clean, keys) <= 4


def test_backdoor_watermarks_are_learned(digits, plan, clean):
    labels = [key.label for key in derive(b"w" * 32, b"", replace(SPEC, keys=4))]
    marks = watermarks(labels, digits.train.images.shape, ratio=0.4)
    data = plant(digits.train, marks, budget=0.02)
    assert int((data.labels != digits.train.labels).sum()) == 4 * int(0.02 * len(digits.train))
    assert watermark_hits(train(replace(plan, data=data), 1), digits.test, marks) >= 3
    assert watermark_hits(clean, digits.test, marks) <= 2


def test_radioactive_data_show_in_the_weights(digits, plan, clean):
    secret = carriers(10, 32, seed=9)
    config = Radioactive(budget=len(digits.train), epsilon=0.2, steps=30, step=0.03)
    data = make_radioactive(digits.train, clean, secret, config)
    change = (
        data.images.gather(torch.arange(len(data))).int() - digits.train.images.gather(torch.arange(len(data))).int()
    )
    assert 0 < int(change.abs().max()) <= 51
    found = {}
    for name, examples in (("guilty", data), ("innocent", digits.train)):
        seen = cosines(train(replace(plan, data=examples), 2), clean, digits.test, secret)
        found[name] = fisher(torch.tensor([log_chance(float(c), 32) for c in seen]))
    assert found["guilty"] < math.log(1e-3)
    assert found["innocent"] > math.log(1e-2)


def test_chances_of_directions_agree_with_the_beta_law_and_never_underflow():
    special, stats = pytest.importorskip("scipy.special"), pytest.importorskip("scipy.stats")
    for features, cosine in itertools.product((3, 32, 512), (-0.4, 0.0, 0.1, 0.6)):
        upper = 0.5 * special.betainc((features - 1) / 2, 0.5, 1 - cosine**2)
        want = upper if cosine >= 0 else 1 - upper
        assert math.exp(log_chance(cosine, features)) == pytest.approx(want, rel=1e-4, abs=1e-300)
    assert -math.inf < log_chance(0.999, 512) < -1500
    logs = np.log([0.2, 0.01, 0.7])
    want = stats.combine_pvalues(np.exp(logs), method="fisher").pvalue
    assert math.exp(fisher(torch.tensor(logs))) == pytest.approx(want, rel=1e-6)


def test_what_does_not_fit_is_refused(digits):
    with pytest.raises(Misuse, match="MTH-1031"):
        with_canaries(digits.train, derive(b"c" * 32, b"", replace(SPEC, height=9)))
    with pytest.raises(Misuse, match="MTH-1030"):
        plant(digits.train, watermarks([1, 2], digits.train.images.shape), budget=0.9)
    with pytest.raises(Misuse, match="MTH-1045"):
        actual(3, keys=4, classes=3)
