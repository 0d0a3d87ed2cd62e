"""Every built-in network: its shapes, sizes, seeds, initial law and derivatives."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.functional import cross_entropy

from mithridate.core.errors import Misuse
from mithridate.models.facts import num_parameters
from mithridate.models.names import built_in
from mithridate.models.spec import Classifier, ModelSpec, Normalise

NETS = sorted(built_in())
WITH_WIDTH = [name for name in NETS if built_in()[name] is not None]

# torch imports a scripted table of derivatives at the first use of forward mode
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def spec(name, *, size=8, channels=3, classes=10):
    return ModelSpec(
        name=name, num_classes=classes, channels=channels, size=size, mean=(0.4,) * channels, std=(0.25,) * channels
    )


def narrow(name):
    return f"{name}-w4" if name in WITH_WIDTH else name


def test_the_list_of_networks_is_the_promised_one():
    assert NETS == [
        "convnet3",
        "convnet64",
        "lenet",
        "mlp",
        "mobilenet_v2",
        "resnet18",
        "resnet9",
        "resnet9_celu",
        "vgg11",
    ]
    assert set(NETS) - set(WITH_WIDTH) == {"lenet"}


@pytest.mark.parametrize("size", [8, 28, 32, 64])
@pytest.mark.parametrize("name", NETS)
def test_logits_and_features_have_their_shapes(name, size):
    for channels, width in ((3, name), (1, narrow(name))):
        model = spec(width, size=size, channels=channels, classes=7).build(0)
        x = torch.rand(2, channels, size, size)
        model.eval()
        logits, features = model(x), model.features(x)
        assert logits.shape == (2, 7)
        assert features.shape == (2, model.net.head.in_features)
        assert torch.equal(model.net.head(features), logits)
        assert logits.std() > 0, "the images reach the logits"


@pytest.mark.parametrize("name", NETS)
def test_no_size_collapses(name):
    for size in [*range(8, 41), 48, 96, 97, 128]:
        assert spec(narrow(name), size=size).build(0).eval()(torch.rand(1, 3, size, size)).shape == (1, 10)


def test_at_224_pixels_resnet18_is_the_one_of_the_paper():
    model = spec("resnet18", size=224, classes=1000).build(0).eval()
    assert num_parameters(model) == 11_689_512
    with torch.no_grad():
        assert model(torch.rand(1, 3, 224, 224)).shape == (1, 1000)
        assert model.net.blocks(model.net.stem(torch.rand(1, 3, 224, 224))).shape == (1, 512, 7, 7)


@pytest.mark.parametrize(
    ("name", "size", "published"),
    [
        ("resnet18", 32, 11_173_962),
        ("resnet9", 32, 6_573_120),
        ("resnet9-celu", 32, 2_276_224),
        ("vgg11", 32, 9_231_114),
        ("mobilenet_v2", 32, 2_296_922),
        ("convnet64", 32, (3 + 64 * 2 + 128 * 2 + 128 * 4 + 256 * 4) * 9 * 64 + 64 * 13 + 36 * 64 * 10 + 10),
    ],
)
def test_parameter_counts(name, size, published):
    assert num_parameters(spec(name, size=size).build(0)) == published


def test_lenet_at_28_pixels_has_the_layers_of_the_paper():
    assert [tuple(p.shape) for p in spec("lenet", size=28, channels=1).build(0).parameters() if p.dim() > 1] == [
        (6, 1, 5, 5),
        (16, 6, 5, 5),
        (120, 400),
        (84, 120),
        (10, 84),
    ]


def test_mlp_on_digits_is_64_128_10_with_he_initialisation():
    model = spec("mlp", size=8, channels=1).build(0)
    shapes = [tuple(p.shape) for p in model.parameters()]
    assert shapes == [(128, 64), (128,), (10, 128), (10,)]
    wide = spec("mlp-w4000", size=8, channels=1).build(0).net
    assert wide.hidden.weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.02)
    assert wide.head.weight.std().item() == pytest.approx(math.sqrt(2 / 4000), rel=0.02)
    assert wide.hidden.bias.abs().sum() == 0 and wide.head.bias.abs().sum() == 0


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_convolutions_are_drawn_kaiming_fan_out(name):
    for conv in spec(name).build(3).modules():
        if isinstance(conv, nn.Conv2d) and conv.weight.numel() > 10_000:
            fan_out = conv.out_channels * conv.kernel_size[0] ** 2 // (1 if conv.groups == 1 else conv.groups)
            if conv.groups == 1:
                assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)


@pytest.mark.parametrize("name", WITH_WIDTH)
def test_width_scales_every_layer(name):
    default = built_in()[name]
    assert default is not None
    full, same, half = (spec(n).build(0) for n in (name, f"{name}-w{default}", f"{name}-w{default // 2}"))
    assert all(torch.equal(a, b) for a, b in zip(full.parameters(), same.parameters(), strict=True))
    assert half.net.head.in_features * 2 == full.net.head.in_features
    for a, b in zip(full.parameters(), half.parameters(), strict=True):
        assert a.shape[0] in (2 * b.shape[0], 10), "each output halves, apart from the ten classes"


@pytest.mark.parametrize("name", NETS)
def test_weights_are_a_function_of_the_seed_alone(name):
    a = spec(narrow(name)).build(1).state_dict()
    torch.rand(17)
    state = torch.random.get_rng_state()
    b = spec(narrow(name)).build(1).state_dict()
    assert torch.equal(state, torch.random.get_rng_state()), "the global generator was used"
    c = spec(narrow(name)).build(2).state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)


def test_models_are_built_on_the_cpu_in_training_mode():
    with torch.device("meta"):
        model = spec("resnet9-w4").build(0)
    assert model.training
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}


def test_normalisation_is_the_first_layer():
    model = spec("mlp").build(0)
    x = torch.rand(5, 3, 8, 8)
    assert torch.equal(model(x), model.net((x - 0.4) / 0.25))
    grey = Normalise((0.1, 0.2, 0.3), (1.0, 2.0, 4.0))(torch.full((1, 3, 2, 2), 0.5))
    torch.testing.assert_close(grey[0, :, 0, 0], torch.tensor([0.4, 0.15, 0.05]))


def _in_double(name, size):
    """An evaluation-mode model in double precision whose statistics and scales are not the trivial ones."""
    model = spec(narrow(name), size=size).build(0).double().eval()
    gen = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                    tensor.copy_(torch.rand(tensor.shape, generator=gen, dtype=torch.float64) + 0.5)
    x = torch.rand(3, 3, size, size, generator=gen, dtype=torch.float64)
    y = torch.tensor([1, 0, 7])
    direction = {
        key: torch.randn(value.shape, generator=gen, dtype=torch.float64) for key, value in model.named_parameters()
    }
    return model, x, y, direction


@pytest.mark.parametrize("size", [8, 28])
@pytest.mark.parametrize("name", NETS)
def test_the_three_mixed_derivatives_agree(name, size):
    model, x, y, direction = _in_double(name, size)
    params = {key: value.detach() for key, value in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(theta, images):
        return cross_entropy(functional_call(model, (theta, buffers), (images,)), y, reduction="sum")

    forward_over_reverse = jvp(lambda theta: grad(loss, argnums=1)(theta, x), (params,), (direction,))[1]
    reverse_over_forward = grad(lambda images: jvp(lambda theta: loss(theta, images), (params,), (direction,))[1])(x)
    leaves, pixels = {key: value.clone().requires_grad_() for key, value in params.items()}, x.clone().requires_grad_()
    rows = torch.autograd.grad(loss(leaves, pixels), list(leaves.values()), create_graph=True)
    product = sum((row * direction[key]).sum() for key, row in zip(leaves, rows, strict=True))
    (double_backward,) = torch.autograd.grad(product, pixels)
    assert double_backward.norm() > 0
    torch.testing.assert_close(forward_over_reverse, double_backward, rtol=1e-9, atol=1e-12 * double_backward.norm())
    torch.testing.assert_close(reverse_over_forward, double_backward, rtol=1e-9, atol=1e-12 * double_backward.norm())


@pytest.mark.parametrize("name", NETS)
def test_gradients_of_single_examples_vectorise(name):
    model, x, y, _ = _in_double(name, 8)
    params = {key: value.detach() for key, value in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(theta, image, label):
        return cross_entropy(functional_call(model, (theta, buffers), (image[None],)), label[None])

    rows = vmap(grad(loss), in_dims=(None, 0, 0))(params, x, y)
    for i in range(len(x)):
        model.zero_grad()
        cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        for key, value in model.named_parameters():
            torch.testing.assert_close(rows[key][i], value.grad)


@pytest.mark.parametrize("name", NETS)
def test_no_layer_writes_into_its_input(name):
    model = spec(narrow(name)).build(0)
    x = torch.rand(4, 3, 8, 8)
    before = x.clone()
    seen = []
    for module in model.modules():
        module.register_forward_hook(lambda _, inputs, __: seen.append((inputs[0], inputs[0]._version)))
    model(x)
    assert torch.equal(x, before) and len(seen) > 2
    assert all(tensor._version == version == 0 for tensor, version in seen)


@pytest.mark.parametrize("name", NETS)
def test_training_reduces_the_loss(name):
    model = spec(narrow(name), classes=2).build(0)
    gen = torch.Generator().manual_seed(0)
    x, y = torch.rand(32, 3, 8, 8, generator=gen), torch.arange(32) % 2
    x[y == 1, :, :4] += 0.5
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for _ in range(60):
        loss = cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_copy_of_a_model_shares_nothing():
    model = spec("mlp-w4").build(0)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.net.head.weight.add_(1)
    assert not torch.equal(model.net.head.weight, twin.net.head.weight)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_classes": 1}, "num_classes must be in"),
        ({"size": 7}, "size must be in"),
        ({"channels": 0, "mean": (), "std": ()}, "channels must be in"),
        ({"mean": (0.5,)}, "3 channels need as many"),
        ({"std": (0.2, 0.0, 0.2)}, "deviations positive"),
        ({"mean": (0.2, float("nan"), 0.2)}, "means must be finite"),
    ],
)
def test_impossible_specifications_are_refused(change, says):
    good = {"name": "mlp", "num_classes": 10, "channels": 3, "size": 8, "mean": (0.5,) * 3, "std": (0.2,) * 3}
    ModelSpec(**good)
    with pytest.raises(Misuse, match=says) as caught:
        ModelSpec(**(good | change))
    assert caught.value.code == "MTH-0405"


def test_features_of_a_foreign_network_are_refused():
    model = Classifier(Normalise((0.5,), (0.5,)), nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    with pytest.raises(Misuse, match="Sequential does not say"):
        model.features(torch.rand(1, 1, 8, 8))
