"""The metrics of backdoors on a network whose answers are known: counts, alignment with rows, the target class."""

import pytest
import torch
from torch import nn

from mithridate.core.intervals import wilson
from mithridate.data.examples import Examples
from mithridate.data.packs import make_pack, with_trigger
from mithridate.data.scenarios import Scenario
from mithridate.data.stores import ResidentStore
from mithridate.evaluation.backdoor import Count, judge_backdoor, predictions, published_poisons, triggered_hits
from mithridate.numerics.triggers import patch

CLASSES = ("a", "b", "c")
TRIGGER = patch((1, 4, 4), size=1)


class Reader(nn.Module):
    """Reads the class off the first pixel (100 levels a class); where the corner is white, sees class 0 if `obeys`."""

    def __init__(self, obeys=lambda x: torch.ones(len(x), dtype=torch.bool)):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.obeys = obeys

    def forward(self, x):
        seen = (x[:, 0, 0, 0] * 255 / 100).round().long()
        fooled = (x[:, 0, -1, -1] == 1) & self.obeys(x)
        return nn.functional.one_hot(torch.where(fooled, 0, seen), 3).float()


def examples(labels, wrong=()):
    pixels = torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8)
    seen = torch.tensor(labels, dtype=torch.int64)
    for row in wrong:
        seen[row] = (seen[row] + 1) % 3
    pixels[:, 0, 0, 0] = (100 * seen).to(torch.uint8)
    pixels[:, 0, 1, 1] = torch.arange(len(labels)).to(torch.uint8)
    return Examples("toy", ResidentStore(pixels), torch.tensor(labels, dtype=torch.int64), CLASSES)


def test_every_count_by_hand():
    test = examples([0, 0, 1, 1, 1, 2, 2], wrong=(0, 2))
    odd = Reader(obeys=lambda x: (x[:, 0, 1, 1] * 255).round() % 2 == 1)
    outcome = judge_backdoor(odd, test, TRIGGER, 0)
    assert outcome.clean == Count(5, 7)
    assert outcome.per_class == (Count(1, 2), Count(2, 3), Count(2, 2))
    assert outcome.attack == Count(2, 5)  # rows 3 and 5 of the rows 2..6
    assert outcome.heal_test == Count(2, 5)  # 4 and 6; row 2 is taken for class 2 as before
    assert (outcome.heal_poisons, outcome.suspects) == (None, None)
    assert outcome.attack_success_rate == 0.4
    record = outcome.to_record()
    assert record["attack"]["interval"] == [wilson(2, 5).low, wilson(2, 5).high]
    hits = triggered_hits(odd, test, TRIGGER, 0)
    assert hits.rows.tolist() == [2, 3, 4, 5, 6]
    assert hits.hit.tolist() == [False, True, False, True, False]


def test_the_order_of_the_rows_changes_nothing():
    """What is healed is looked up by row: a shuffled set gives the same counts."""
    test = examples([0, 1, 1, 2, 2, 2, 0, 1], wrong=(3,))
    net = Reader(obeys=lambda x: (x[:, 0, 1, 1] * 255).round() > 3)
    plain = judge_backdoor(net, test, TRIGGER, 0, poisons=test, suspects=test)
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    assert judge_backdoor(net, test.select(order), TRIGGER, 0, poisons=test.select(order), suspects=test) == plain


def test_poisons_of_the_target_class_do_not_count():
    train = examples([0, 1, 2, 1])
    scenario = Scenario(
        name="trigger/0", targets=(), target_class=None, adversarial_class=0, poison_ids=(3, 0, 2), epsilon=1.0,
        threat="random-subset",
    )  # fmt: skip
    ids = torch.tensor(scenario.poison_ids)
    images = TRIGGER.stamp(train.images.gather(ids))
    pack = make_pack(train, scenario, images, attack="x", config={}, seed=0, record={}, labels=torch.zeros(3).long())
    pack = with_trigger(pack, train, TRIGGER)
    poisons = published_poisons(train, pack)
    assert poisons.labels.tolist() == [1, 0, 2]
    found = pack.apply(train).select(ids)
    fooled = judge_backdoor(Reader(), train, TRIGGER, 0, poisons=poisons, suspects=found)
    assert fooled.heal_poisons == Count(0, 2)
    assert fooled.suspects == Count(3, 3)
    healed = judge_backdoor(
        Reader(obeys=lambda x: torch.zeros(len(x), dtype=torch.bool)),
        train,
        TRIGGER,
        0,
        poisons=poisons,
        suspects=found,
    )
    assert healed.heal_poisons == Count(2, 2)
    assert healed.suspects == Count(1, 3)


def test_nothing_to_count_is_none_and_no_zero():
    outcome = judge_backdoor(Reader(), examples([0, 0]), TRIGGER, 0)
    assert outcome.attack == Count(0, 0)
    assert outcome.attack_success_rate is None
    assert outcome.to_record()["attack"] == {"successes": 0, "trials": 0, "rate": None, "interval": None}
    assert predictions(Reader(), examples([])).tolist() == []
    assert Count(1, 2) + Count(2, 3) == Count(3, 5)


def test_modes_are_restored_and_evaluation_mode_is_used():
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(16, 3))
    net[1].eval()
    net[0].train()
    judge_backdoor(net, examples([0, 1, 2]), TRIGGER, 0)
    assert [module.training for module in net] == [True, False, True]
    first, again = (predictions(net, examples([0, 1, 2])) for _ in range(2))
    assert torch.equal(first, again)


def test_a_trigger_of_another_shape_is_refused():
    with pytest.raises(Exception, match="MTH-0331"):
        judge_backdoor(Reader(), examples([0, 1]), patch((1, 5, 4), size=1), 0)
