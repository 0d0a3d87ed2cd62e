"""Reconstruction of triggers: the outlier rule by hand, a planted trigger found, promises."""

import pytest
import torch
from peers_kit import toy
from torch import nn

from mithridate.core.errors import Misuse
from mithridate.unlearning._reverse import anomalies, infected_classes
from mithridate.unlearning.neural_cleanse import Search, reconstruct, synthetic_suspects


class Backdoored(nn.Module):
    """The brightest stripe wins, unless the last pixel is white: then class 2."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stripes = x.mean((1, 3)).unflatten(1, (4, 2)).mean(2)
        door = torch.nn.functional.one_hot(torch.tensor(2), 4) * 8 * x[:, 0, -1, -1, None].pow(3)
        return self.scale * (stripes + door)


def test_the_index_is_the_distance_from_the_median_in_robust_deviations():
    sizes = {0: 10.0, 1: 12.0, 2: 11.0, 3: 2.0, 4: 30.0}
    index = anomalies(sizes)  # median 11, deviations 1 1 0 9 19, their median 1
    assert index == pytest.approx({0: 1 / 1.4826, 1: 1 / 1.4826, 2: 0.0, 3: 9 / 1.4826, 4: 19 / 1.4826})
    assert infected_classes(sizes, index) == (3,)  # 4 lies further away, on the large side
    assert anomalies({0: 1.0, 1: 1.0, 2: 1.0}) == {0: 0.0, 1: 0.0, 2: 0.0}
    assert infected_classes({0: 5.0, 1: 5.0, 2: 1.0}, anomalies({0: 5.0, 1: 5.0, 2: 1.0})) == (2,)


def test_a_planted_trigger_is_found_where_it_is():
    net, data = Backdoored(), toy(64)
    found = reconstruct(net, data, search=Search(epochs=60, cost=0.01))
    assert min(found.sizes, key=found.sizes.get) == 2
    assert found.success[2] >= 0.98
    mask = found.triggers[2].mask[0]
    assert mask.argmax() == 63
    assert float((mask * found.triggers[2].pattern[0])[-1, -1]) > 0.4
    assert net.scale.grad is None
    assert net.scale.requires_grad


def test_equal_seeds_give_equal_triggers_and_classes_do_not_depend_on_each_other():
    net, data = Backdoored(), toy(40)
    search = Search(epochs=3)
    first, second = reconstruct(net, data, search=search, seed=4), reconstruct(net, data, search=search, seed=4)
    assert first.triggers == second.triggers
    alone = reconstruct(net, data, classes=[1], search=search, seed=4)
    assert alone.triggers[1] == first.triggers[1]
    assert alone.anomaly == {}
    assert alone.infected == ()
    assert reconstruct(net, data, classes=[1], search=search, seed=5).triggers[1] != first.triggers[1]


def test_two_classes_have_no_outlier_and_unknown_ones_are_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(Misuse) as caught:
        reconstruct(net, toy(8))
    assert caught.value.code == "MTH-0847"
    with pytest.raises(Misuse) as caught:
        reconstruct(net, toy(8), classes=[2])
    assert caught.value.code == "MTH-0828"


def test_synthetic_suspects_are_images_of_others_with_the_trigger():
    data = toy(40)
    trigger = reconstruct(Backdoored(), data, classes=[2], search=Search(epochs=1)).triggers[2]
    made = synthetic_suspects(data, trigger, 2, count=9)
    assert len(made) == 9
    assert made.labels.tolist() == [2] * 9
    rows = (data.labels != 2).nonzero().flatten()
    every = synthetic_suspects(data, trigger, 2)
    assert torch.equal(every.images.gather(torch.arange(len(every))), trigger.stamp(data.images.gather(rows)))
