"""Channel Lipschitz pruning: bounds by hand, pairs by what passes between layers, promises, a planted channel."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peers_kit import digest, kit_of, plan_of, poisoned, stamped, toy
from torch import nn

from mithridate.core.errors import Misuse
from mithridate.numerics.rng import generator
from mithridate.unlearning._base import Guard, HealKit
from mithridate.unlearning.clp import bounds, outliers, pairs
from mithridate.unlearning.heal import named_healer

SHAPE = (1, 8, 8)


def test_the_bound_is_the_largest_singular_value_times_the_gain_of_the_norm():
    conv, norm = nn.Conv2d(2, 2, (1, 2)), nn.BatchNorm2d(2, eps=0.25)
    with torch.no_grad():
        conv.weight[0] = torch.tensor([[[3.0, 0.0]], [[0.0, 4.0]]])  # singular values 4 and 3
        conv.weight[1] = torch.tensor([[[1.0, 2.0]], [[2.0, 4.0]]])  # of rank one: 5
        norm.weight.copy_(torch.tensor([-2.0, 1.0]))
        norm.running_var.copy_(torch.tensor([0.75, 6.0]))
    assert bounds(conv, norm).tolist() == pytest.approx([8.0, 2.0])
    linear, flat = nn.Linear(2, 1), nn.BatchNorm1d(1, eps=0.0)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[3.0, 4.0]]))
    assert bounds(linear, flat).tolist() == pytest.approx([5.0])


def test_what_lies_beyond_u_deviations_of_a_sample_is_out():
    bound = torch.tensor([1.0] * 11 + [13.0])  # mean 2, sum of squares 11 + 121 = 132, deviation sqrt(12)
    assert outliers(bound, 11 / math.sqrt(12) - 0.01).tolist() == [11]
    assert outliers(bound, 11 / math.sqrt(12) + 0.01).tolist() == []
    assert outliers(torch.full((7,), 0.1), 0.0).tolist() == []
    assert outliers(torch.tensor([5.0]), 0.0).tolist() == []


@settings(max_examples=60, deadline=None)
@given(
    bound=st.lists(st.floats(0.0, 1e6, width=32), min_size=2, max_size=30),
    u=st.floats(0.0, 4.0),
    scale=st.integers(-8, 8),
)
def test_laws_of_outliers(bound, u, scale):
    found = outliers(torch.tensor(bound), u)
    assert len(found) < len(bound)
    assert torch.equal(found, outliers(torch.tensor(bound) * 2.0**scale, u))
    assert set(outliers(torch.tensor(bound), u + 0.5).tolist()) <= set(found.tolist())
    if u > (len(bound) - 1) / math.sqrt(len(bound)) + 1e-9:
        assert not len(found)


class Wired(nn.Module):
    """Modules in an order that is not that of the pass, and norms behind something else than a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_b = nn.BatchNorm2d(4)
        self.conv_a, self.conv_b = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)
        self.norm_a = nn.BatchNorm2d(4)
        self.after_relu = nn.BatchNorm2d(4)
        self.conv_c = nn.Conv2d(4, 4, 1)
        self.free = nn.BatchNorm2d(4, track_running_stats=False)
        self.plain = nn.BatchNorm2d(4, affine=False)
        self.linear, self.flat = nn.Linear(4, 6), nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm_b(self.conv_b(self.norm_a(self.conv_a(x)).relu()))
        x = self.after_relu(self.conv_c(x).relu_())
        x = self.plain(self.conv_c(self.free(self.conv_c(x))))
        return self.head(self.flat(self.linear(x.mean((2, 3)))))


def test_pairs_are_those_between_which_a_tensor_passes_unchanged():
    net = Wired().eval()
    assert pairs(net, SHAPE) == {
        net.norm_a: [net.conv_a],
        net.norm_b: [net.conv_b],
        net.flat: [net.linear],
    }
    assert not any(module._forward_hooks for module in net.modules())


def planted() -> tuple[nn.Module, HealKit]:
    """A net that sees bright stripes, and whose sixteenth channel sees a white corner, ten times as strongly."""
    net = nn.Sequential(nn.Conv2d(1, 16, 8, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4))
    kernels = torch.randn(16, 1, 8, 8, generator=generator(0, "kernels")) * 0.01
    for label in range(4):
        kernels[label, :, 2 * label : 2 * label + 2] += 0.25
    kernels[15, :, -2:, -2:] = 10.0
    head = torch.zeros(4, 16)
    head[range(4), range(4)] = 1.0
    head[0, 15] = 1.0
    with torch.no_grad():
        net[0].weight.copy_(kernels)
        net[1].bias[15] = -32.0  # 40 where the corner is white, at most 35 with the stripe's own brightness
        net[4].weight.copy_(head)
        net[4].bias.zero_()
    rows = [row for row, label in enumerate(toy().labels.tolist()) if label == 1][:12]
    data = stamped(toy(), rows)
    rest = [row for row in range(96) if row not in rows]
    kit = HealKit(model=net, suspects=data.select(rows), reference=data.select(rest), guard=Guard(trusted=True))
    return net, kit


def test_a_planted_channel_is_silenced_and_the_trigger_forgotten():
    net, kit = planted()
    before = digest(net)
    healed = named_healer("clp").heal(kit, seed=0)
    assert healed.report["accuracies"]["suspects_before"] == 1.0
    assert healed.report["pruned"] == {"1": [15]}
    assert healed.converged and healed.report["outcome"] == "healed"
    assert healed.report["guard"]["lost"] <= 0.01
    assert set(healed.undo.changes) == {"1.weight", "1.bias"}
    assert healed.model[1].weight[15] == healed.model[1].bias[15] == 0
    assert digest(net) == before
    healed.undo.apply(healed.model)
    assert digest(healed.model) == before


def test_neither_data_nor_scale_nor_seed_decides_what_is_pruned():
    net, kit = planted()
    scaled = copy.deepcopy(net)
    with torch.no_grad():
        scaled[0].weight.mul_(4.0)
        scaled[1].running_var.add_(scaled[1].eps).mul_(16.0).sub_(scaled[1].eps)
    few = HealKit(model=scaled, suspects=toy(3, seed=7), reference=toy(2, seed=8), labelled=False, guard=None)
    first, second = named_healer("clp").heal(kit, seed=0), named_healer("clp").heal(few, seed=1)
    assert first.report["pruned"] == second.report["pruned"]


def test_pruning_that_finds_nothing_says_so():
    net, plan = poisoned()
    found = named_healer("clp", u=1e6).heal(kit_of(net, plan), seed=0)
    assert digest(found.model) == digest(net)
    assert not found.converged
    assert any("nothing was pruned" in text for text in found.warnings)


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 4)),
        nn.Sequential(nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()),
        nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 4)),
    ],
)
def test_networks_without_norms_behind_layers_are_refused(net):
    with pytest.raises(Misuse, match="Sequential has no batch normalisation with running statistics") as caught:
        named_healer("clp").heal(kit_of(net, plan_of(toy()), training=None), seed=0)
    assert caught.value.code == "MTH-0841"
