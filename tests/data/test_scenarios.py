"""Scenarios: the laws of the draws, and what is refused."""

import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mithridate.core.codes import CODES
from mithridate.core.errors import Misuse
from mithridate.core.units import Pixels
from mithridate.data.examples import Examples
from mithridate.data.scenarios import (
    THREATS,
    Scenario,
    check_scenario,
    poison_count,
    scenario_sources,
    scenarios,
)
from mithridate.data.sources import DataSet
from mithridate.data.stores import ResidentStore

EPSILON = Pixels(16 / 255)


def split(name: str, labels: torch.Tensor, num_classes: int) -> Examples:
    pixels = torch.arange(len(labels) * 4).remainder(251).to(torch.uint8).view(-1, 1, 2, 2)
    return Examples(name, ResidentStore(pixels), labels, tuple(f"class {label}" for label in range(num_classes)))


def small(train: int = 200, test: int = 60, num_classes: int = 5) -> DataSet:
    return DataSet(
        "small",
        split("small train", torch.arange(train) % num_classes, num_classes),
        split("small test", torch.arange(test) % num_classes, num_classes),
        (0.5,),
        (0.2,),
    )


def draw(source="random", data=None, *, budget=0.05, count=4, seed=7, threat="single-class"):
    data = small() if data is None else data
    return scenarios(source, data, budget=budget, epsilon=EPSILON, count=count, seed=seed, threat=threat)


def refused(code: str, *words: str):
    """Expect a Misuse of this code whose message names these words."""
    assert code in CODES
    return pytest.raises(Misuse, match=rf"\[{code}\]" + "".join(rf"(?=.*{word})" for word in words))


@given(st.integers(1, 10**6), st.integers(1, 10**4))
def test_poison_count_is_the_ceiling_in_decimals(rows, basis_points):
    exact = Fraction(basis_points, 10**4) * rows
    assert poison_count(basis_points / 10**4, rows) == math.ceil(exact)


@pytest.mark.parametrize("budget, rows, poisons", [(0.06, 1437, 87), (0.07, 100, 7), (0.01, 50_000, 500), (1.0, 9, 9)])
def test_poison_count_vectors(budget, rows, poisons):
    assert poison_count(budget, rows) == poisons


@pytest.mark.parametrize("threat", THREATS)
def test_random_scenarios_fit_the_data_and_the_threat_model(threat):
    data = small()
    for scenario in draw(data=data, count=25, threat=threat):
        check_scenario(scenario, data)
        assert scenario.poison_ids_from == "drawn"
        assert (scenario.threat, scenario.epsilon, len(scenario.poison_ids)) == (threat, EPSILON, 10)
        classes = {int(data.train.labels[row]) for row in scenario.poison_ids}
        target, adversarial = scenario.target_class, scenario.adversarial_class
        if threat == "single-class":
            assert classes == {adversarial}
        elif threat == "self-betrayal":
            assert classes == {target}
        elif threat == "third-party":
            assert len(classes) == 1 and not classes & {target, adversarial}
        else:
            assert len(classes) > 1


def test_random_targets_are_distinct_until_the_test_split_is_used_up():
    found = draw(count=60)
    assert sorted(row for scenario in found for row in scenario.targets) == list(range(60))
    assert [scenario.name for scenario in found] == [f"random/{index}" for index in range(60)]


def test_fewer_scenarios_are_the_first_of_more():
    assert draw(count=3) == draw(count=12)[:3]
    assert draw("random:5", count=None) == draw("random:5", count=8) == draw(count=12)[5:6]


def test_the_poisons_of_a_smaller_budget_are_among_those_of_a_larger():
    for less, more in zip(draw(budget=0.02), draw(budget=0.1), strict=True):
        assert less.poison_ids == more.poison_ids[: len(less.poison_ids)]
        assert less.targets == more.targets


def test_draws_depend_on_the_seed_and_on_nothing_else():
    first = draw(count=10)
    torch.rand(5)
    assert draw(count=10) == first
    other = draw(count=10, seed=8)
    assert all(a.poison_ids != b.poison_ids for a, b in zip(first, other, strict=True))
    assert [a.targets for a in first] != [b.targets for b in other]


def test_targets_and_adversarial_classes_are_uniform():
    found = [scenario for seed in range(200) for scenario in draw(count=3, seed=seed)]
    targets = Counter(scenario.targets[0] for scenario in found)
    wanted = Counter((scenario.adversarial_class - scenario.target_class) % 5 for scenario in found)
    # 600 draws: 10 of each of 60 rows (deviation 3.1), 150 of each of 4 other classes (deviation 10.6).
    assert len(targets) == 60 and max(targets.values()) < 10 + 5 * 3.1
    assert set(wanted) == {1, 2, 3, 4} and all(abs(times - 150) < 4 * 10.6 for times in wanted.values())


def test_a_scenario_comes_back_from_json():
    for scenario in draw(count=3, threat="third-party"):
        assert Scenario.from_json(scenario.to_json()) == scenario


@pytest.mark.parametrize(
    "change",
    [
        {"targets": "3"},
        {"targets": [True]},
        {"poison_ids": [1.5]},
        {"epsilon": "16/255"},
        {"epsilon": 10**400},
        {"epsilon": float("nan")},
        {"name": None},
        {"threat": 3},
        {"poison_ids_from": "guessed"},
        {"target_class": None},
        {"more": 1},
    ],
)
def test_a_scenario_of_wrong_types_is_refused(change):
    with refused("MTH-0309"):
        Scenario.from_json(draw(count=1)[0].to_json() | change)


def test_a_scenario_with_a_missing_field_is_refused():
    plain = draw(count=1)[0].to_json()
    del plain["targets"]
    with refused("MTH-0309", "targets"):
        Scenario.from_json(plain)
    with refused("MTH-0309"):
        Scenario.from_json(["a list"])


@pytest.mark.parametrize("budget", [0.0, -0.1, 1.5, float("nan"), float("inf"), 2.0])
def test_budgets_outside_the_unit_interval_are_refused(budget):
    with pytest.raises(Misuse, match="budget"):
        draw(budget=budget)


def test_a_class_smaller_than_the_budget_is_refused_with_numbers():
    with refused("MTH-0302", "60 of 200", "only 40", "0.2 fits") as caught:
        draw(budget=0.3)
    assert "random-subset" in str(caught.value)
    assert len(draw(budget=0.2)[0].poison_ids) == 40  # what the message says fits, fits
    assert len(draw(budget=1.0, threat="random-subset")[0].poison_ids) == 200


def test_an_empty_class_is_refused():
    labels = torch.zeros(50, dtype=torch.int64)
    data = DataSet("one-sided", split("a", labels, 2), split("b", labels, 2), (0.5,), (0.2,))
    with refused("MTH-0302", "only 0"):
        draw(data=data, count=1)


def test_numbers_of_scenarios_out_of_range_are_refused():
    for count in (0, -1, 61, None):
        with refused("MTH-0308"):
            draw(count=count)


def test_unknown_names_are_refused_with_the_closest():
    with refused("MTH-0306", "witches-brew-10"):
        draw("witches-brew")
    with refused("MTH-0306", r"\[0, 59\]"):
        draw("random:60", count=None)
    with refused("MTH-0306"):
        draw("random:first", count=None)
    with refused("MTH-0310", "third-party"):
        draw(threat="third-parti")


def test_threat_models_that_need_more_classes_say_so():
    with refused("MTH-0310", "third class"):
        draw(data=small(num_classes=2), threat="third-party")
    with refused("MTH-0310", "needs two"):
        draw(data=small(num_classes=1))


def test_every_shipped_list_refuses_a_data_set_it_does_not_fit():
    for source in scenario_sources()[2:]:
        with refused("MTH-0307", "small", "classes"):
            draw(source)


SCENARIO = Scenario(
    name="mine", targets=(1,), target_class=1, adversarial_class=2, poison_ids=(2, 7, 12), epsilon=EPSILON
)


@pytest.mark.parametrize(
    "code, change",
    [
        ("MTH-0303", {"adversarial_class": 1}),
        ("MTH-0304", {"poison_ids": (2, 7, 2)}),
        ("MTH-0304", {"targets": (1, 1)}),
        ("MTH-0305", {"poison_ids": (2, -7)}),
        ("MTH-0305", {"targets": (-1,)}),
        ("MTH-0309", {"targets": ()}),
        ("MTH-0309", {"epsilon": Pixels(1.5)}),
        ("MTH-0309", {"epsilon": Pixels(float("nan"))}),
        ("MTH-0310", {"threat": "clean-label"}),
    ],
)
def test_a_scenario_that_contradicts_itself_is_refused(code, change):
    with refused(code):
        replace(SCENARIO, **change)


@pytest.mark.parametrize(
    "code, change",
    [
        ("MTH-0303", {"targets": (2,)}),
        ("MTH-0305", {"targets": (60,)}),
        ("MTH-0305", {"poison_ids": (2, 200)}),
        ("MTH-0305", {"poison_ids": (2, 1 << 80)}),
        ("MTH-0305", {"adversarial_class": 5}),
        ("MTH-0309", {"targets": (0,)}),
        ("MTH-0309", {"poison_ids": (2, 3)}),
        ("MTH-0309", {"threat": "third-party"}),
    ],
)
def test_a_scenario_that_contradicts_the_data_is_refused(code, change):
    check_scenario(SCENARIO, small())
    with refused(code):
        check_scenario(replace(SCENARIO, **change), small())
