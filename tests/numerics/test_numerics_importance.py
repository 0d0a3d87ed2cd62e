"""Importances against the loop over samples, hand-computed vectors, and what must leave them as they are."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from mithridate.core.errors import Misuse
from mithridate.numerics import _sample_rules
from mithridate.numerics.importance import (
    Accumulator,
    _backward,
    _Hooked,
    _looped,
    _mapped,
    _recording,
    _spread,
    importance,
    losses,
    trainable,
)
from mithridate.numerics.rng import generator

KINDS = ("ssd", "lf", "xlf")


class Mixed(nn.Module):
    """Every kind of layer with a rule, and everything that must not go by one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, stride=2, groups=2, dilation=2, bias=False)
        self.group_norm = nn.GroupNorm(2, 8)
        self.around = nn.Conv2d(8, 12, 3, padding="same", padding_mode="circular")
        self.layer_norm = nn.LayerNorm(12)
        self.tokens = nn.Linear(12, 7)
        self.point = nn.Conv2d(7, 7, 1)
        self.flat_norm = nn.BatchNorm1d(7)
        self.own = nn.Parameter(torch.zeros(7))
        self.twice = nn.Linear(7, 7)
        self.tied = nn.Linear(7, 7, bias=False)
        self.tied.weight = self.twice.weight
        self.frozen = nn.Linear(7, 7)
        self.frozen.requires_grad_(False)
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(7, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x)).relu_()
        x = self.around(self.group_norm(self.grouped(x))).relu()
        x = self.tokens(self.layer_norm(x.flatten(2).transpose(1, 2))).relu().mean(1)
        x = self.flat_norm(self.point(x[:, :, None, None])[:, :, 0, 0]) + self.own
        return self.head(self.frozen(self.tied(self.twice(self.twice(x)))))


@pytest.fixture(scope="module")
def mixed():
    gen = generator(0, "mixed")
    net = Mixed().double()
    with torch.no_grad():
        for value in (*net.parameters(), net.norm.running_mean, net.flat_norm.running_mean):
            value.copy_(torch.randn(value.shape, generator=gen, dtype=value.dtype) * 0.4)
    return net.train()


@pytest.fixture(scope="module")
def samples():
    gen = generator(0, "samples")
    return torch.rand(13, 2, 9, 9, generator=gen, dtype=torch.float64), torch.randint(5, (13,), generator=gen)


def looped(net, x, y, kind):
    """One backward pass a sample."""
    net = copy.deepcopy(net).eval()
    total = {name: torch.zeros_like(p) for name, p in net.named_parameters() if p.requires_grad}
    for row in range(len(x)):
        net.zero_grad()
        losses(net(x[row : row + 1]), kind, y[row : row + 1]).sum().backward()
        for name, p in net.named_parameters():
            if p.grad is not None:
                total[name] += (p.grad.square() if kind == "ssd" else p.grad.abs()) / len(x)
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_equals_a_backward_pass_a_sample(mixed, samples, kind):
    x, y = samples
    got, want = importance(mixed, [(x, y)], kind), looped(mixed, x, y, kind)
    assert got.keys() == want.keys()
    assert "tied.weight" not in got
    assert not any(name.startswith("frozen") for name in got)
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-9, atol=1e-12, msg=name)
    assert not got["unused.weight"].any()


def test_layers_with_rules_go_by_them_and_no_others(mixed, samples):
    mean = Accumulator(mixed, "xlf")
    with mean:
        mean.add(*samples)
    ruled = {name for one in mean._plan.hooked for name in one.names.values()}
    assert {"first.weight", "norm.bias", "grouped.weight", "around.bias", "tokens.weight", "head.bias"} <= ruled
    assert set(mean._plan.rest) == {"own", "twice.weight", "twice.bias", "unused.weight", "unused.bias"}
    assert mean._plan.mapped


class Deciding(nn.Module):
    """Code that depends on data: neither hooks on linear layers that it bypasses, nor vmap, can follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = [functional.linear(row, self.layer.weight * (2 if float(row.detach().sum()) > 2 else 1)) for row in x]
        return torch.stack(rows)


def test_what_no_rule_follows_is_looped():
    gen = generator(1, "deciding")
    net, x = Deciding().double(), torch.rand(6, 4, generator=gen, dtype=torch.float64)
    y = torch.zeros(6, dtype=torch.int64)
    got, want = importance(net, [(x, y)], "ssd"), looped(net, x, y, "ssd")
    torch.testing.assert_close(got["layer.weight"], want["layer.weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_neither_batches_nor_order_matter(mixed, samples, kind):
    x, y = samples
    order = torch.randperm(len(x), generator=generator(2, "order"))
    whole = importance(mixed, [(x, y)], kind)
    parts = importance(mixed, [(x[p], y[p]) for p in order.split(4)], kind)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-9, atol=1e-12)


def test_a_mean_without_a_part_follows_from_both_means(mixed, samples):
    x, y = samples
    whole, part, rest = (importance(mixed, [(x[s], y[s])], "xlf") for s in (slice(13), slice(4), slice(4, 13)))
    for name, value in rest.items():
        torch.testing.assert_close((13 * whole[name] - 4 * part[name]) / 9, value, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", ["lf", "xlf"])
def test_labels_and_the_order_of_logits_do_not_matter_without_a_loss(mixed, samples, kind):
    x, y = samples
    turned = copy.deepcopy(mixed)
    order = torch.tensor([3, 1, 4, 0, 2])
    with torch.no_grad():
        turned.head.weight.copy_(mixed.head.weight[order])
        turned.head.bias.copy_(mixed.head.bias[order])
    plain, other = importance(mixed, [(x, None)], kind), importance(turned, [(x, y)], kind)
    torch.testing.assert_close(other["first.weight"], plain["first.weight"])
    torch.testing.assert_close(other["head.weight"], plain["head.weight"][order])


def test_labels_matter_to_the_loss(mixed, samples):
    x, y = samples
    first, second = importance(mixed, [(x, y)], "ssd"), importance(mixed, [(x, (y + 1) % 5)], "ssd")
    assert not torch.allclose(first["first.weight"], second["first.weight"])
    with pytest.raises(Misuse, match="no labels"):
        importance(mixed, [(x, None)], "ssd")


def linear(weight, bias=None):
    weight = torch.tensor(weight, dtype=torch.float64)
    net = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None).double()
    with torch.no_grad():
        net.weight.copy_(weight)
        if bias is not None:
            net.bias.fill_(bias)
    return net


def test_hand_vector_of_the_norm():
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    net = linear([[1.0, 0.0], [0.0, 1.0]])
    root = 1 / math.sqrt(5)
    xlf, lf = importance(net, [(x, None)], "xlf")["weight"], importance(net, [(x, None)], "lf")["weight"]
    torch.testing.assert_close(xlf, torch.tensor([[root, 2 * root], [2 * root, 4 * root]], dtype=torch.float64))
    torch.testing.assert_close(lf, torch.tensor([[2.0, 4.0], [4.0, 8.0]], dtype=torch.float64))


def test_gradients_of_a_batch_cancel_and_those_of_samples_do_not():
    net = linear([[1.0, 0.0]], bias=0.0)
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    each = importance(net, [(x, None)], "xlf")
    batch = importance(net, [(x, None)], "xlf", per_sample=False)
    assert each["bias"].tolist() == [1.0] and batch["bias"].tolist() == [0.0]
    assert each["weight"].tolist() == [[1.0, 0.0]] and batch["weight"].tolist() == [[1.0, 0.0]]


def test_batches_of_one_are_samples(mixed, samples):
    x, y = samples
    each = importance(mixed, [(x, y)], "ssd")
    ones = importance(mixed, [(x[i : i + 1], y[i : i + 1]) for i in range(len(x))], "ssd", per_sample=False)
    for name, value in each.items():
        torch.testing.assert_close(ones[name], value, rtol=1e-9, atol=1e-12)


def test_zero_logits_have_no_gradient():
    net = linear([[0.0, 0.0], [0.0, 0.0]])
    found = importance(net, [(torch.ones(3, 2, dtype=torch.float64), None)], "xlf")
    assert found["weight"].tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_the_model_is_left_as_it_was(mixed, samples):
    before = {name: value.clone() for name, value in mixed.state_dict().items()}
    mixed.norm.eval()
    importance(mixed, [samples], "ssd")
    assert mixed.training and not mixed.norm.training
    mixed.norm.train()
    assert all(torch.equal(before[name], value) for name, value in mixed.state_dict().items())
    assert all(p.grad is None for p in mixed.parameters())
    assert not any(m._forward_hooks for m in mixed.modules())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_measured_in_single(samples, dtype):
    x, y = samples[0][:, 0, 0], samples[1]
    net = nn.Sequential(nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 5)).to(dtype)
    found = importance(net, [(x, y)], "ssd")
    want = importance(copy.deepcopy(net).float(), [(x, y)], "ssd")
    for name, value in found.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, want[name])
    assert net[0].weight.dtype == dtype


def test_what_is_not_finite_is_named(samples):
    net = nn.Sequential(nn.Linear(9, 6), nn.Linear(6, 5)).double()
    with torch.no_grad():
        net[1].weight[0, 0] = math.nan
    with pytest.raises(Misuse, match=r"0\.weight") as caught:
        importance(net, [(samples[0][:, 0, 0], None)], "xlf")
    assert caught.value.code == "MTH-0826"


def test_no_samples():
    with pytest.raises(Misuse) as caught:
        importance(linear([[1.0]]), [], "xlf")
    assert caught.value.code == "MTH-0830"


def test_samples_that_meet_are_refused():
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 3)).double()
    x = torch.rand(8, 4, generator=generator(3), dtype=torch.float64)
    with pytest.raises(Misuse) as caught:
        importance(net, [(x, None)], "lf")
    assert caught.value.code == "MTH-0831"
    assert importance(net, [(x, None)], "lf", per_sample=False)["0.weight"].any()


class Cancelling(nn.Module):
    """Biases before a norm and keys of an attention, whose gradients are zero but for rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, 8, 3, stride=3)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.GroupNorm(8, 8, affine=False)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(self.conv(self.patches(x))).relu().flatten(2).transpose(1, 2)
        weights = (self.query(tokens) @ self.key(tokens).transpose(1, 2)).softmax(-1)
        return self.head((weights @ self.value(tokens)).mean(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_that_are_all_rounding_do_not_cost_a_layer_its_rule(samples, kind, dtype):
    x, y = samples[0].to(dtype), samples[1]
    net = Cancelling().to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator(4, "cancelling"), dtype=torch.float64) * 0.3)
    mean = Accumulator(net, kind)
    with mean:
        mean.add(x, y)
    assert mean._plan.rest == ()
    got, want = mean.result(), looped(net, x, y, kind)
    for name in ("conv.weight", "key.weight", "query.bias", "head.weight"):
        scale = float(want[name].max())
        torch.testing.assert_close(got[name], want[name], rtol=1e-3, atol=1e-4 * scale, msg=name)
    assert float(got["key.bias"].max()) < 1e-5 * float(got["key.weight"].max())


def test_a_rule_that_is_wrong_at_one_place_of_a_kernel_is_not_believed(monkeypatch):
    gen = generator(5, "corner")
    net = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.Flatten(), nn.Linear(64 * 16, 4)).double()
    x = torch.rand(4, 64, 4, 4, generator=gen, dtype=torch.float64)
    right = _sample_rules._RULES[nn.Conv2d]

    def wrong(layer, a, delta, squared, into):
        right(layer, a, delta, squared, into)
        into["weight"][:, :, 2, 2] *= 1.5

    monkeypatch.setitem(_sample_rules._RULES, nn.Conv2d, wrong)
    got = importance(net, [(x, None)], "xlf")["0.weight"]
    torch.testing.assert_close(got, looped(net, x, torch.zeros(4, dtype=torch.int64), "xlf")["0.weight"])


@settings(max_examples=40, deadline=None)
@given(
    outputs=st.integers(1, 300), inputs=st.integers(1, 64), height=st.sampled_from([1, 3, 5]), width=st.integers(1, 5)
)
def test_what_is_compared_lies_at_every_place_of_a_kernel(outputs, inputs, height, width):
    shape = (outputs, inputs, height, width)
    seen = _spread(torch.arange(math.prod(shape)).view(shape)).unique()
    assert len(seen) >= min(math.prod(shape), 4096)
    assert len((seen % (height * width)).unique()) == height * width


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_for_one_sample_the_squared_norm_is_the_norm_times_twice_its_value(seed):
    gen = generator(seed, "norms")
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=gen, dtype=torch.float64))
    x = torch.randn(1, 6, generator=gen, dtype=torch.float64)
    plain, squared = (importance(net, [(x, None)], kind) for kind in ("xlf", "lf"))
    for name, value in plain.items():
        torch.testing.assert_close(squared[name], 2 * net(x).detach().norm() * value, rtol=1e-9, atol=1e-12)


def test_a_network_that_is_frozen_as_a_whole_is_refused():
    net = linear([[1.0, 2.0]]).requires_grad_(False)
    with pytest.raises(Misuse, match="Linear is frozen") as caught:
        importance(net, [(torch.ones(1, 2, dtype=torch.float64), None)], "xlf")
    assert caught.value.code == "MTH-0832"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_leaves_the_device_of_the_model(mixed, samples, kind):
    """Tensors of the device `meta` can be computed with, but neither copied elsewhere nor read."""
    x, y = (part.to("meta") for part in samples)
    mean = Accumulator(mixed, kind)
    with mean:
        mean.add(*samples)
        plan = mean._plan
        net = copy.deepcopy(mixed).to("meta")
        layers = dict(zip(mixed.modules(), net.modules(), strict=True))
        hooked = tuple(_Hooked(layer=layers[one.layer], rule=one.rule, names=one.names) for one in plan.hooked)
        into = {name: torch.zeros_like(p) for name, p in trainable(net).items()}
        with _recording(hooked, into, squared=kind == "ssd"):
            _backward(net, kind, x, y, layers[plan.first])
        _looped(net, kind, x, y, plan.rest, into)
        _mapped(net, kind, x, y, plan.rest, into)
    assert {value.device.type for value in into.values()} == {"meta"}
