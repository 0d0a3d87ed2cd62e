"""The victim contracts, number by number, and what may be overridden."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import training_kit as kit
from safetensors.torch import save_file

from mithridate.core.errors import Misuse
from mithridate.data.sources import DataSet
from mithridate.training.contracts import Options, augmentation, contract, model_spec, thirds
from mithridate.training.contracts_index import CONTRACT_NAMES
from mithridate.training.loop import begin, train
from mithridate.training.plan import Plan
from mithridate.training.update import Milestones


def data_set(size: int = 32, channels: int = 3, n: int = 40) -> DataSet:
    train_set, test_set = (kit.toy(n, channels=channels, size=size, seed=seed) for seed in (0, 1))
    spec = kit.spec(train_set, "mlp")
    return DataSet(name="toy", train=train_set, test=test_set, mean=spec.mean, std=spec.std)


def first(plan: Plan):
    return plan.phases[0].step


def test_thirds_are_float_floor_divisions() -> None:
    """Measured in the reference code: 40, 80 and 250 epochs (specification 1.5 and a.3)."""
    assert thirds(40) == (14, 24, 35)
    assert thirds(80) == (29, 49, 70)
    assert thirds(250) == (93, 156, 218)


def test_the_index_and_the_recipes_name_the_same_contracts() -> None:
    for name in CONTRACT_NAMES:
        if name != "bench-transfer40":
            assert contract(name, data_set(), "mlp").epochs > 0


# name, model, epochs, batch, lr, nesterov, decay, milestones, law, shift, fill
TABLE = [
    ("paper-wb40", "resnet18-w4", 40, 128, 0.1, True, 5e-4, (14, 24, 35), "bilinear", 4.0, "mean"),
    ("paper-wb40", "convnet64-w4", 40, 128, 0.01, True, 5e-4, (14, 24, 35), "bilinear", 4.0, "mean"),
    ("paper-wb40", "vgg11-w4", 40, 128, 0.01, True, 5e-4, (14, 24, 35), "bilinear", 4.0, "mean"),
    ("bench-scratch200", "resnet18-w4", 200, 128, 0.1, False, 2e-4, (100, 150), "integer", 4, "black"),
    ("fast-light", "resnet18-w4", 20, 64, 0.1, True, 5e-4, (7, 12, 17), "integer", 1, "black"),
    ("fast-light", "mlp", 20, 64, 0.1, True, 5e-4, (7, 12, 17), "integer", 1, "black"),
    ("fast-triangle", "resnet18-w4", 12, 128, 0.2, True, 5e-4, None, "integer", 4, "black"),
    ("fast-triangle", "convnet64-w4", 12, 128, 0.02, True, 5e-4, None, "integer", 4, "black"),
    ("digits-mlp40", "mlp", 40, 64, 0.1, True, 5e-4, (14, 24, 35), None, None, None),
    ("digits-cnn30", "convnet3", 30, 64, 0.05, False, 5e-4, None, None, None, None),
    ("potion-cifar", "resnet9-celu-w4", 41, 512, 0.025, False, 5e-4, None, "integer", 4, "black"),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]} {row[1]}")
def test_contracts_by_number(row: tuple[object, ...]) -> None:
    name, model, epochs, batch, lr, nesterov, decay, milestones, law, shift, fill = row
    plan = contract(str(name), data_set(), str(model))
    update = first(plan).update
    assert (plan.epochs, first(plan).draw.batch, first(plan).draw.drop_last) == (epochs, batch, False)
    assert (update.lr, update.momentum, update.nesterov, update.weight_decay) == (lr, 0.9, nesterov, decay)
    if milestones is not None:
        assert update.schedule == Milestones(at=milestones, drop=0.1)
    found = augmentation(plan)
    if law is None:
        assert found is None
    else:
        assert found is not None
        assert (found.law, found.max_px, found.fill, found.flip) == (law, shift, fill, True)


def test_the_step_size_of_potion_rises_for_a_hundredth_and_ends_at_a_fifth() -> None:
    schedule = first(contract("potion-cifar", data_set(), "mlp")).update.schedule
    assert schedule.factor(0.0) == 0.0
    assert schedule.factor(0.205) == pytest.approx(0.5)
    assert schedule.factor(0.41) == pytest.approx(1.0)
    assert schedule.factor(41.0) == pytest.approx(0.2, abs=0.002)
    linear = first(contract("digits-cnn30", data_set(), "mlp")).update.schedule
    assert [linear.factor(epoch) for epoch in (0.0, 15.0, 30.0)] == [1.0, 0.5, 0.0]


@pytest.mark.parametrize(("size", "shift"), [(8, 1.0), (28, 2.0), (32, 4.0), (64, 8.0)])
def test_the_shift_follows_the_size(size: int, shift: float) -> None:
    law = augmentation(contract("paper-wb40", data_set(size, n=8), "mlp"))
    assert law is not None and law.max_px == shift


def test_milestones_follow_the_epochs() -> None:
    assert first(contract("paper-wb40", data_set(), "mlp", Options(epochs=80))).update.schedule.at == (29, 49, 70)
    assert first(contract("bench-scratch200", data_set(), "mlp", Options(epochs=20))).update.schedule.at == (10, 15)


def test_options_override_scalars_only() -> None:
    plan = contract(
        "paper-wb40", data_set(), "mlp", Options(epochs=3, batch=17, lr=0.5, augment=False, precision="bf16")
    )
    step = first(plan)
    assert (plan.epochs, step.draw.batch, step.update.lr, step.views, plan.precision) == (3, 17, 0.5, (), "bf16")
    assert augmentation(plan) is None
    assert step.update.weight_decay == 5e-4
    assert first(contract("paper-wb40", data_set(), "convnet64-w4", Options(lr=0.5))).update.lr == 0.5


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"batch": 0}, {"lr": 0.0}, {"precision": "fp8"}])
def test_options_outside_their_range(bad: dict[str, object]) -> None:
    with pytest.raises(Misuse, match=f"MTH-0110.*{next(iter(bad))}"):
        Options(**bad)  # type: ignore[arg-type]


def test_an_unknown_contract_gets_the_closest_name() -> None:
    with pytest.raises(Misuse, match="paper-wb40"):
        contract("paper-wb4", data_set(), "mlp")


def test_the_specification_of_a_model_follows_the_data() -> None:
    spec = model_spec(data_set(28, 1, 8), "lenet")
    assert (spec.num_classes, spec.channels, spec.size) == (4, 1, 28)


@pytest.mark.parametrize(
    ("size", "classes", "std"), [(32, 10, (0.2023, 0.1994, 0.2010)), (64, 200, (0.2302, 0.2265, 0.2262))]
)
def test_the_benchmark_normalises_by_constants_of_its_own(size: int, classes: int, std: tuple[float, ...]) -> None:
    data = data_set(size, n=8)
    named = tuple(map(str, range(classes)))
    data = replace(data, train=replace(data.train, classes=named), test=replace(data.test, classes=named))
    assert contract("bench-scratch200", data, "mlp").model.std == std
    assert contract("paper-wb40", data, "mlp").model.std == data.std


def test_the_benchmark_s_contract_on_other_data_takes_their_own_statistics() -> None:
    data = data_set()  # four classes: not the benchmark's
    assert contract("bench-scratch200", data, "mlp").model.std == data.std


def test_a_short_contract_learns() -> None:
    data = data_set(size=16, n=192)
    model = train(contract("fast-triangle", data, "resnet18-w4", Options(epochs=8, batch=32, augment=False)), 0)
    assert kit.accuracy(model, data.train) > 0.9
    assert kit.accuracy(model, data.test) > 0.6


# Transfer: a fresh head on a frozen network.


def weights_file(path: Path, data: DataSet, model: str = "resnet18-w4") -> Path:
    """A network whose batch statistics are not those of initialisation."""
    net = train(contract("paper-wb40", data, model, Options(epochs=1, batch=16)), 5)
    save_file({name: value.clone().contiguous() for name, value in net.state_dict().items()}, path)
    return path


def test_transfer_needs_weights() -> None:
    with pytest.raises(Misuse, match=r"MTH-0508.*bench-transfer40.*recipe_options\.pretrained"):
        contract("bench-transfer40", data_set(), "resnet18-w4")


def test_transfer_trains_the_head_and_nothing_else(tmp_path: Path) -> None:
    data = data_set(16)
    options = Options(pretrained=str(weights_file(tmp_path / "w.safetensors", data)), epochs=2, batch=16)
    plan = contract("bench-transfer40", data, "resnet18-w4", options)
    assert plan.head_only and plan.pretrained is not None
    update = first(plan).update
    assert (update.lr, update.nesterov, update.weight_decay, update.schedule.at) == (0.01, False, 2e-4, (1,))
    run = begin(plan, 0)
    assert len(run.net.values) == sum(p.numel() for p in run.net.module.net.head.parameters())
    start = {name: value.clone() for name, value in run.net.module.state_dict().items()}
    end = train(plan, 0).state_dict()
    for name, value in end.items():
        if name.startswith("net.head."):
            assert not torch.equal(value, start[name]), name
            assert not torch.equal(start[name], plan.pretrained[name]), "the head is initialised afresh"
        else:
            assert torch.equal(value, plan.pretrained[name]), name


def test_other_contracts_train_everything_from_the_weights(tmp_path: Path) -> None:
    data = data_set(16)
    options = Options(pretrained=str(weights_file(tmp_path / "w.safetensors", data)), epochs=1, batch=16)
    plan = contract("paper-wb40", data, "resnet18-w4", options)
    assert not plan.head_only and plan.pretrained is not None
    start = begin(plan, 0).net.module.state_dict()
    for name, value in plan.pretrained.items():
        assert torch.equal(start[name], value), name
    end = train(plan, 0).state_dict()
    assert not torch.equal(end["net.stem.conv.weight"], plan.pretrained["net.stem.conv.weight"])
    assert not torch.equal(end["net.stem.norm.running_mean"], plan.pretrained["net.stem.norm.running_mean"])


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    data = data_set(16)
    path = weights_file(tmp_path / "w.safetensors", data)
    with pytest.raises(
        Misuse, match=r"MTH-0506.*net.stem.conv.weight is \(4, 3, 3, 3\) in the file and \(5, 3, 3, 3\)"
    ):
        begin(contract("paper-wb40", data, "resnet18-w5", Options(pretrained=str(path))), 0)
    with pytest.raises(Misuse, match=r"MTH-0506.*net.hidden.weight is no such tensor in the file and \(128, 768\)"):
        begin(contract("paper-wb40", data, "mlp", Options(pretrained=str(path))), 0)
    part = contract("paper-wb40", data, "resnet18-w4", Options(pretrained=str(path)))
    assert part.pretrained is not None
    del part.pretrained["net.head.bias"]  # type: ignore[attr-defined]
    with pytest.raises(Misuse, match=r"MTH-0506.*net.head.bias is no such tensor in the file"):
        begin(part, 0)
    begin(replace(part, head_only=True), 0)


def test_a_network_without_a_linear_layer_has_no_head(tmp_path: Path) -> None:
    path = tmp_path / "conv.py"
    path.write_text(
        "from torch import nn\n"
        "def make(num_classes, channels, size):\n"
        "    return nn.Sequential(nn.Conv2d(channels, num_classes, size), nn.Flatten())\n"
    )
    plan = replace(kit.plan_of(kit.toy(20), f"{path}:make"), head_only=True)
    with pytest.raises(Misuse, match=r"MTH-0507.*no linear layer"):
        begin(plan, 0)


def test_a_view_cannot_begin_before_the_beginning() -> None:
    with pytest.raises(Misuse, match=r"MTH-0505.*got -1"):
        kit.plan_of(kit.toy(20), "mlp").with_view(kit.Jitter(), begin=-1)
