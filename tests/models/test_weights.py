"""Weights on disk: bit equal after a round trip, and refused by name when they belong elsewhere."""

import pytest
import torch
from torch import nn

from mithridate.core.errors import BadArtefact, Misuse
from mithridate.models.names import built_in
from mithridate.models.spec import ModelSpec
from mithridate.models.weights import load_weights, save_weights


def spec(name, *, classes=10, channels=3, size=8, mean=0.5):
    return ModelSpec(
        name=name,
        num_classes=classes,
        channels=channels,
        size=size,
        mean=(mean,) * channels,
        std=(0.2,) * channels,
    )


@pytest.mark.parametrize("name", sorted(built_in()))
def test_round_trips_are_bit_equal(name, tmp_path):
    width = f"{name}-w4" if built_in()[name] else name
    model = spec(width).build(1).to(memory_format=torch.channels_last)
    model(torch.rand(4, 3, 8, 8))  # running statistics and batch counts move too
    other = spec(width, mean=0.3).build(2)
    save_weights(model, tmp_path / "net.safetensors")
    load_weights(other, tmp_path / "net.safetensors")
    ours, theirs = model.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    for key, value in ours.items():
        assert theirs[key].dtype == value.dtype and torch.equal(theirs[key], value), key
    x = torch.rand(3, 3, 8, 8)
    # the memory format chooses other kernels, and is no part of the weights
    assert torch.equal(model.eval()(x), other.to(memory_format=torch.channels_last).eval()(x))


def test_odd_numbers_survive(tmp_path):
    odd = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-45, 3.4e38])
    model, other = nn.Module(), nn.Module()
    model.register_buffer("odd", odd.clone())
    other.register_buffer("odd", torch.zeros(7))
    save_weights(model, tmp_path / "w")
    load_weights(other, tmp_path / "w")
    assert torch.equal(other.odd.view(torch.int32), odd.view(torch.int32))


def test_tied_weights_are_written_and_stay_tied(tmp_path):
    def tied():
        net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
        net[1].weight = net[0].weight
        return net

    model, other = tied(), tied()
    save_weights(model, tmp_path / "w")
    load_weights(other, tmp_path / "w")
    assert torch.equal(other[1].weight, model[0].weight) and other[0].weight is other[1].weight


@pytest.mark.parametrize(
    ("saved", "loaded", "says"),
    [
        (
            spec("resnet18-w4"),
            spec("resnet18-w8"),
            r"net.stem.conv.weight is float32 \[4, 3, 3, 3\], .* \[8, 3, 3, 3\]",
        ),
        (spec("resnet18-w4"), spec("resnet18-w4", classes=7), r"net.head.weight is float32 \[10, 32\]"),
        (spec("resnet18-w4"), spec("mlp"), "net.hidden.weight is missing"),
        (spec("mlp", channels=1), spec("mlp"), r"normalise.mean is float32 \[1, 1, 1\]"),
        (spec("mlp", size=10), spec("mlp"), r"net.hidden.weight is float32 \[128, 300\], .* \[128, 192\]"),
    ],
)
def test_the_first_tensor_that_differs_is_named(saved, loaded, says, tmp_path):
    save_weights(saved.build(0), tmp_path / "w")
    model = loaded.build(1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(Misuse, match=says) as caught:
        load_weights(model, tmp_path / "w")
    assert caught.value.code == "MTH-0411"
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items()), "the model was touched"


def test_superfluous_tensors_and_other_types_are_named(tmp_path):
    save_weights(nn.Linear(3, 2), tmp_path / "w")
    with pytest.raises(Misuse, match=r"bias is float32 \[2\], the model has no such tensor"):
        load_weights(nn.Linear(3, 2, bias=False), tmp_path / "w")
    with pytest.raises(Misuse, match=r"weight is float32 \[2, 3\], the model has float64 \[2, 3\]"):
        load_weights(nn.Linear(3, 2).double(), tmp_path / "w")


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"\x80\x04" + data, lambda data: b""])
def test_damaged_files_are_refused(damage, tmp_path):
    path = tmp_path / "w"
    save_weights(nn.Linear(3, 2), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadArtefact):
        load_weights(nn.Linear(3, 2), path)


def test_missing_file_and_folder_are_typed_errors(tmp_path):
    from mithridate.core.errors import MithridateError

    with pytest.raises(MithridateError, match="gone"):
        load_weights(nn.Linear(3, 2), tmp_path / "gone")
    with pytest.raises(MithridateError, match="gone"):
        save_weights(nn.Linear(3, 2), tmp_path / "gone" / "w")
