"""The three forms of the mixed product agree with a whole-batch double backward, and with finite differences."""

import pytest
import torch
from small_nets import (
    NETS,
    WITHOUT_REVERSE_OVER_FORWARD,
    batch,
    built,
    obvious_gradient,
    obvious_product,
    some_direction,
)
from torch import nn
from torch.nn.functional import cross_entropy

from mithridate.core.errors import Misuse
from mithridate.numerics.directional import FORMS, choose_form, loss_gradient, mixed_product, prepare

SUPPORTED = [
    (name, form)
    for name in NETS
    for form in FORMS
    if form != "reverse-over-forward" or name not in WITHOUT_REVERSE_OVER_FORWARD
]


def summed(y):
    return lambda z: cross_entropy(z, y, reduction="sum")


def close(got, want, relative):
    assert (got - want).norm() <= relative * want.norm()


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "as-is"])
@pytest.mark.parametrize("name, form", SUPPORTED)
def test_every_form_equals_double_backward(name, form, fold):
    net, (x, y) = built(name), batch()
    v = some_direction(net)
    network = prepare(net, x, fold=fold)
    for weight in (0.0, 0.7):
        got = mixed_product(network, x, y, network.push(v), form=form, loss_weight=weight)
        close(got, obvious_product(net, x, y, v, loss_weight=weight), 1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_the_product_is_the_slope_of_the_input_gradient_along_v(form):
    """Central difference in theta of grad_x l, in a smooth network."""
    net, (x, y) = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 9), nn.Tanh(), nn.Linear(9, 4))), batch(3)
    v = some_direction(net)

    def input_gradient(s):
        moved = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 9), nn.Tanh(), nn.Linear(9, 4)))
        start = nn.utils.parameters_to_vector(net.parameters())
        nn.utils.vector_to_parameters(start + s * v, moved.parameters())
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(cross_entropy(moved(leaf), y, reduction="sum"), leaf)[0]

    h = 1e-5
    network = prepare(net, x)
    got = mixed_product(network, x, y, network.push(v), form=form)
    close(got, (input_gradient(h) - input_gradient(-h)) / (2 * h), 1e-7)


@pytest.mark.parametrize("name, form", SUPPORTED)
def test_a_single_image(name, form):
    net, (x, y) = built(name), batch(1)
    v = some_direction(net)
    network = prepare(net, x)
    close(mixed_product(network, x, y, network.push(v), form=form), obvious_product(net, x, y, v), 1e-6)


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "as-is"])
@pytest.mark.parametrize("name", NETS)
def test_gradient_in_the_original_parameters(name, fold):
    net, (x, y) = built(name), batch()
    network = prepare(net, x, fold=fold)
    value, live = loss_gradient(network, x, summed(y))
    close(network.pull(live), obvious_gradient(net, x, y), 1e-10)
    torch.testing.assert_close(value, cross_entropy(net(x), y, reduction="sum").detach())


@pytest.mark.parametrize("name", NETS)
def test_pull_is_the_adjoint_of_push(name):
    net, (x, y) = built(name), batch()
    network = prepare(net, x)
    v = some_direction(net, seed=3)
    _, gradient = loss_gradient(network, x, summed(y))
    pushed = network.push(v)
    torch.testing.assert_close(network.pull(gradient) @ v, sum((gradient[n] * pushed[n]).sum() for n in pushed))


@pytest.mark.parametrize("name", ["conv-norm", "residual"])
def test_frozen_parameters_take_no_part(name):
    """A trained head on a frozen trunk: the product along v equals the full one along v padded with zeros."""
    net, (x, y) = built(name), batch()
    *trunk, weight, bias = list(net.parameters())
    for p in trunk:
        p.requires_grad_(False)
    network = prepare(net, x)
    assert network.sizes == (weight.numel(), bias.numel())
    v = some_direction(net)
    count = sum(network.sizes)
    padded = torch.cat([torch.zeros(len(v) - count, dtype=v.dtype), v[-count:]])
    for p in trunk:
        p.requires_grad_(True)
    want = obvious_product(net, x, y, padded)
    for form in FORMS:
        close(mixed_product(network, x, y, network.push(v[-count:]), form=form), want, 1e-6)
    _, live = loss_gradient(network, x, summed(y))
    close(network.pull(live), obvious_gradient(net, x, y)[-count:], 1e-10)


def test_a_norm_of_which_only_the_scale_is_trained():
    net, (x, y) = built("conv-norm"), batch()
    for name, p in net.named_parameters():
        p.requires_grad_(name == "1.weight")
    network = prepare(net, x)
    assert list(network.theta) == ["1.weight"]
    _, live = loss_gradient(network, x, summed(y))
    for p in net.parameters():
        p.requires_grad_(True)
    start = net[0].weight.numel() + net[0].bias.numel()
    close(network.pull(live), obvious_gradient(net, x, y)[start : start + 6], 1e-10)


def test_a_wholly_frozen_network_is_matched_in_all_parameters():
    net, (x, _) = built("mlp").requires_grad_(False), batch()
    assert sum(prepare(net, x).sizes) == sum(p.numel() for p in net.parameters())


def test_the_given_network_is_left_alone():
    net, (x, y) = built("residual").train(), batch()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    network = prepare(net, x)
    mixed_product(network, x, y, network.push(some_direction(net)), form="forward-over-reverse")
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_train_mode_of_the_given_network_does_not_matter():
    net, (x, y) = built("residual"), batch()
    v = some_direction(net)
    products = []
    for training in (False, True):
        network = prepare(net.train(training), x)
        products.append(mixed_product(network, x, y, network.push(v), form="reverse-over-forward"))
    assert torch.equal(*products)


class _NoForwardMode(torch.autograd.Function):
    """Squares, with a backward and a double backward but no forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class _WrongForwardMode(_NoForwardMode):
    """Squares, with a forward-mode rule that forgets the factor two."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_forward(x)
        return _NoForwardMode.forward(ctx, x)

    @staticmethod
    def jvp(ctx, tangent):
        (x,) = ctx.saved_tensors
        return x * tangent


class _Squares(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function.apply(x)


@pytest.mark.parametrize("function", [_NoForwardMode, _WrongForwardMode])
def test_networks_without_usable_forward_mode_fall_back_to_double_backward(function):
    net = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 8), _Squares(function), nn.Linear(8, 4)))
    x, y = batch()
    network = prepare(net, x)
    assert choose_form(network, x, wanted="auto") == "double-backward"
    assert choose_form(network, x, wanted="measure") == "double-backward"
    with pytest.raises(Misuse, match="double-backward"):
        choose_form(network, x, wanted="reverse-over-forward")
    v = some_direction(net)
    close(mixed_product(network, x, y, network.push(v), form="double-backward"), obvious_product(net, x, y, v), 1e-9)


@pytest.mark.parametrize("name", NETS)
def test_the_choice(name):
    x, _ = batch(dtype=torch.float32)
    network = prepare(built(name, dtype=torch.float32), x)
    supported = [form for net, form in SUPPORTED if net == name]
    assert choose_form(network, x, wanted="auto") == supported[0]
    assert choose_form(network, x, wanted="measure") in supported
    for form in supported:
        assert choose_form(network, x, wanted=form) == form


@pytest.mark.parametrize("form", FORMS)
def test_low_precision_keeps_the_signs(form):
    """bf16 has eight bits: most signs survive, and all sums stay in fp32."""
    net, (x, y) = built("residual", dtype=torch.float32), batch(32, dtype=torch.float32)
    network = prepare(net, x, precision="bf16")
    v = some_direction(net)
    got = mixed_product(network, x, y, network.push(v), form=form)
    want = obvious_product(net, x, y, v)
    assert got.dtype == torch.float32
    assert (got.sign() == want.sign()).float().mean() > 0.9
    assert not torch.equal(got, want)
    _, live = loss_gradient(network, x, summed(y))
    assert network.pull(live).dtype == torch.float32
    close(network.pull(live), obvious_gradient(net, x, y), 0.05)
