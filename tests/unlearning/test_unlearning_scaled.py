"""The scaled check of poison unlearning: what Potion claims, on digits, over four seeds.

Asserted are means over seeds. Not asserted, because it does not hold here: that XLF is better than SSD when all of the
poison is known, or with gradients of batches of 512.
"""

from statistics import fmean

import pytest
from healing_kit import TARGET, Poisoned, plan_of, poisoned

from mithridate.evaluation.backdoor import judge_backdoor
from mithridate.training.loop import train
from mithridate.unlearning._base import Guard, HealKit
from mithridate.unlearning.heal import named_healer

SEEDS = range(4)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ill() -> list[Poisoned]:
    return [poisoned(seed) for seed in SEEDS]


def judged(one, model):
    found = judge_backdoor(model, one.test, one.trigger, TARGET)
    return found.heal_test.rate, found.attack_success_rate, found.clean_accuracy


def healed(one, rows, method, *, guard=None):
    """Heal rate, attack success rate, and change of clean accuracy."""
    kit = HealKit(model=one.model, suspects=one.train.select(rows), reference=one.rest(rows), guard=guard)
    result = named_healer(method).heal(kit, seed=0)
    heal, attack, clean = judged(one, result.model)
    return heal, attack, clean - judged(one, one.model)[2]


@pytest.fixture(scope="module")
def table(ill):
    cells = [("xlf", 3), ("xlf", 14), ("ssd", 3), ("ssd-fixed", 14)]
    return {
        cell: [fmean(column) for column in zip(*(healed(one, one.rows(cell[1]), cell[0]) for one in ill), strict=True)]
        for cell in cells
    }


def test_the_poison_works(ill):
    attacks, clean = zip(*(judged(one, one.model)[1:] for one in ill), strict=True)
    assert fmean(attacks) > 0.9
    assert min(clean) > 0.95


@pytest.mark.parametrize(("known", "left"), [(3, 0.7), (14, 0.5)])
def test_retraining_without_what_was_found_learns_the_trigger_again(ill, known, left):
    """With half of the poison gone the specification found 0.7 and more; here it was 0.57 to 0.78 in six trainings."""
    one = ill[0]
    model = train(plan_of(one.rest(one.rows(known))), 10)
    assert judged(one, model)[1] > left


def test_potion_heals_from_few_samples(table):
    assert table["xlf", 3][0] >= 0.55
    assert table["xlf", 14][0] >= 0.7


def test_potion_keeps_accuracy(table):
    assert abs(table["xlf", 3][2]) <= 0.02
    assert abs(table["xlf", 14][2]) <= 0.02


def test_potion_heals_more_than_ssd_from_three_samples(table):
    assert table["xlf", 3][0] - table["ssd", 3][0] >= 0.15


def test_fixed_thresholds_cost_accuracy(table):
    assert table["ssd-fixed", 14][2] <= -0.02


def test_without_a_true_sample_a_guard_keeps_the_harm_small(ill):
    changes = [healed(one, one.clean_rows(10, target=True), "xlf", guard=Guard())[2] for one in ill]
    assert abs(fmean(changes)) <= 0.03
