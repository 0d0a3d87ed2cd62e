"""Counts and predicates of a model, against hooks, hand sums and derivatives."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp

from mithridate.models.facts import couples_examples, has_dropout, num_parameters, wrong_reverse_over_forward
from mithridate.models.flops import forward_flops
from mithridate.models.names import built_in
from mithridate.models.spec import ModelSpec

# torch imports a scripted table of derivatives at the first use of forward mode
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

NORMED = ("convnet3", "mobilenet_v2", "resnet18", "resnet9", "resnet9_celu", "vgg11")
"""Built-in networks with batch normalisation."""


def spec(name, size=32):
    return ModelSpec(name=name, num_classes=10, channels=3, size=size, mean=(0.5,) * 3, std=(0.2,) * 3)


def obvious_flops(model, size):
    """Two operations for each multiply-add of every convolution and linear layer, by hooks."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += 2 * output.numel() * module.in_channels // module.groups * module.kernel_size[0] ** 2
        elif isinstance(module, nn.Linear):
            total += 2 * output.numel() * module.in_features

    for module in model.modules():
        module.register_forward_hook(count)
    model.eval()(torch.zeros(1, 3, size, size))
    return total


@pytest.mark.parametrize("size", [8, 32])
@pytest.mark.parametrize("name", sorted(built_in()))
def test_flops_are_those_of_the_layers(name, size):
    assert forward_flops(spec(name, size)) == obvious_flops(spec(name, size).build(0), size) > 0


def test_flops_of_the_published_networks():
    stem, first = 3 * 64 * 9 * 1024, 4 * 64 * 64 * 9 * 1024
    later = 3 * (first // 4 * 3 + first // 8 + 64 * 128 * 256)  # every later stage: three convolutions, one half, a 1x1
    assert forward_flops(spec("resnet18")) == 2 * (stem + first + later + 5120)
    assert forward_flops(spec("resnet18")) / 2e9 == pytest.approx(0.557, rel=0.005)
    assert forward_flops(spec("resnet18", 224)) / 2e9 == pytest.approx(1.814, rel=0.002)
    assert forward_flops(spec("vgg11")) / 2e9 == pytest.approx(0.153, rel=0.005)
    assert forward_flops(spec("mobilenet_v2")) / 2e9 == pytest.approx(0.094, rel=0.04)


def test_counting_leaves_the_model_as_it_was():
    model = spec("resnet9-w4").build(0)
    model.net.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    forward_flops(spec("resnet9-w4"), model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_parameters_are_counted_once_and_only_if_trained():
    layer = nn.Linear(3, 2)
    assert num_parameters(nn.Sequential(layer, nn.ReLU(), layer)) == 8
    layer.bias.requires_grad_(False)
    assert num_parameters(layer) == 6


@pytest.mark.parametrize("name", sorted(built_in()))
def test_coupling_is_what_a_batch_shows(name):
    for training in (True, False):
        model = spec(f"{name}-w4" if built_in()[name] else name, 8).build(0).train(training)
        x = torch.rand(4, 3, 8, 8)
        alone = model(x[:3])
        moved = not torch.allclose(alone, model(x)[:3], atol=1e-5)
        assert couples_examples(model) == moved
        assert moved == (training and name in NORMED)


def test_batch_statistics_couple_in_evaluation_mode_too():
    assert couples_examples(nn.BatchNorm2d(3, track_running_stats=False).eval())
    assert not couples_examples(nn.BatchNorm2d(3).eval())
    assert not couples_examples(nn.Sequential(nn.InstanceNorm2d(3), nn.GroupNorm(1, 3), nn.LayerNorm(3)))


def test_dropout_is_found():
    class DropPath(nn.Module):
        pass

    assert not any(has_dropout(spec(name, 8).build(0)) for name in built_in())
    for layer in (nn.Dropout(0.1), nn.Dropout2d(), nn.MultiheadAttention(4, 2, dropout=0.1), DropPath()):
        assert has_dropout(nn.Sequential(nn.Linear(4, 4), layer))
    for layer in (nn.Dropout(0.0), nn.MultiheadAttention(4, 2), nn.LSTM(2, 2)):
        assert not has_dropout(nn.Sequential(layer))


@pytest.mark.parametrize(
    "layer",
    [
        nn.LayerNorm([4, 6, 6]),
        nn.InstanceNorm2d(4),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True).eval(),
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, track_running_stats=False).eval(),
        nn.BatchNorm2d(4).eval(),
        nn.GroupNorm(2, 4),
        nn.RMSNorm([4, 6, 6]),
        nn.GELU(),
    ],
    ids=repr,
)
def test_layers_that_spoil_reverse_over_forward_are_named(layer):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), layer).double()
    gen = torch.Generator().manual_seed(0)
    params = {key: torch.randn(p.shape, generator=gen, dtype=torch.float64) for key, p in net.named_parameters()}
    direction = {key: torch.randn(p.shape, generator=gen, dtype=torch.float64) for key, p in net.named_parameters()}
    # copies, for batch statistics are written back; without them a layer stays without
    buffers = {key: value.clone() for key, value in net.named_buffers()}
    x = torch.rand(2, 3, 8, 8, generator=gen, dtype=torch.float64)

    def loss(theta, images):
        return functional_call(net, (theta, {k: v.clone() for k, v in buffers.items()}), (images,)).pow(3).sum()

    step = 1e-6
    ends = [grad(loss, 1)({k: params[k] + s * direction[k] for k in params}, x) for s in (step, -step)]
    truth = (ends[0] - ends[1]) / (2 * step)
    forward_over_reverse = jvp(lambda theta: grad(loss, 1)(theta, x), (params,), (direction,))[1]
    reverse_over_forward = grad(lambda images: jvp(lambda theta: loss(theta, images), (params,), (direction,))[1])(x)

    def off(value):
        return ((value - truth).norm() / truth.norm()).item()

    assert off(forward_over_reverse) < 1e-6
    assert (off(reverse_over_forward) > 1e-6) <= bool(wrong_reverse_over_forward(net)), "a wrong form that is not named"
    if isinstance(layer, (nn.GroupNorm, nn.RMSNorm, nn.GELU)):
        assert not wrong_reverse_over_forward(net)


def test_built_in_networks_may_use_every_form():
    assert not any(wrong_reverse_over_forward(spec(name, 8).build(0).eval()) for name in built_in())
