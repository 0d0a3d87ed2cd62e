"""Attacks from kit to pack: bounds, records, refusals, continuation after a kill, and the control."""

import dataclasses

import pytest
import torch
from torch import nn

from mithridate.attacks._base import AttackKit
from mithridate.attacks.noise import Noise
from mithridate.attacks.witches_brew import WitchesBrew
from mithridate.core.codes import CODES
from mithridate.core.errors import Misuse
from mithridate.core.params import Checked
from mithridate.core.registry import Registry
from mithridate.data.scenarios import Scenario, scenarios
from mithridate.data.sources import load
from mithridate.models.spec import ModelSpec
from mithridate.numerics.shelf import FileShelf, Shelf
from mithridate.numerics.warp import Shift

QUICK = {"restarts": 2, "steps": 6, "score_draws": 2}


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def scenario(digits):
    return scenarios("random", digits, budget=0.01, epsilon=0.25, count=1, seed=0)[0]


@pytest.fixture(scope="module")
def make_net(digits):
    def make(seed, name="mlp"):
        spec = ModelSpec(name=name, num_classes=10, channels=1, size=8, mean=digits.mean, std=digits.std)
        return spec.build(seed)

    return make


@pytest.fixture
def kit(digits, make_net):
    return AttackKit(data=digits, surrogates=(make_net(0),), augment=Shift(max_px=1.0))


class KilledError(Exception):
    pass


@dataclasses.dataclass
class Memory:
    """A shelf that raises after some bundles, as a kill would."""

    kept: dict | None = None
    left: int = 1000

    def load(self):
        return self.kept

    def keep(self, bundle):
        self.kept = {name: tensor.clone() for name, tensor in bundle.items()}
        self.left -= 1
        if self.left == 0:
            raise KilledError


def test_the_registry_knows_both():
    registry = Registry("mithridate.attacks", "attack")
    assert registry.names() == ("badnets", "blended", "noise", "witches-brew")
    assert registry.load("witches-brew") is WitchesBrew
    assert "2009.02276" in registry.describe("witches-brew").source
    assert registry.load("noise") is Noise


@pytest.mark.parametrize("attack", [WitchesBrew(**QUICK), Noise()], ids=lambda a: type(a).__name__)
def test_a_pack_keeps_the_threat_model(attack, kit, scenario, digits):
    pack = attack.craft(kit, scenario, seed=3)
    assert tuple(pack.ids.tolist()) == scenario.poison_ids
    assert torch.equal(pack.labels, digits.train.labels[pack.ids])
    change = pack.images.int() - digits.train.images.gather(pack.ids).int()
    assert change.abs().max() == int(255 * 0.25)
    again = attack.craft(kit, scenario, seed=3)
    assert torch.equal(pack.images, again.images)
    assert not torch.equal(pack.images, attack.craft(kit, scenario, seed=4).images)


def test_the_record(kit, scenario):
    attack = WitchesBrew(**QUICK)
    pack = attack.craft(kit, scenario, seed=3)
    assert pack.manifest["attack"] == "witches-brew"
    assert dict(pack.manifest["config"]) == dataclasses.asdict(attack)
    record = pack.manifest["record"]
    assert record["matching_loss"] == min(record["restart_losses"]) == record["restart_losses"][record["best_restart"]]
    assert len(record["trace"]) == attack.steps
    assert record["form"] == ["reverse-over-forward"]
    assert record["augmented"]
    assert all(0 < value < 2 for value in (*record["trace"], *record["restart_losses"]))


def test_noise_is_the_full_epsilon_in_every_pixel_with_room(kit, scenario, digits):
    pack = Noise().craft(kit, scenario, seed=3)
    base = digits.train.images.gather(pack.ids).int()
    change = pack.images.int() - base
    up, down = (255 - base).clamp_max(63), base.clamp_max(63)
    assert ((change == up) | (change == -down)).all()
    middle = (base >= 63) & (base <= 192)
    assert set(change[middle].tolist()) == {-63, 63}
    assert abs((change[middle] > 0).float().mean() - 0.5) < 0.15


def test_surrogates_are_left_alone(kit, scenario):
    net = kit.surrogates[0].train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    WitchesBrew(**QUICK).craft(kit, scenario, seed=0)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("given, wanted", [(0, 1), (1, 2), (2, 1)])
def test_a_wrong_number_of_surrogates_is_refused(given, wanted, kit, scenario, make_net):
    kit = dataclasses.replace(kit, surrogates=tuple(make_net(k) for k in range(given)))
    with pytest.raises(Misuse, match=f"num_surrogates={wanted} was given {given}"):
        WitchesBrew(num_surrogates=wanted, **QUICK).craft(kit, scenario, seed=0)


def test_identical_surrogates_brew_as_one_with_the_step_divided(kit, scenario):
    """Step tau / K and the mean of B: K copies at tau equal one at tau / K."""
    one = WitchesBrew(step_size=0.05, **QUICK).craft(kit, scenario, seed=0)
    twice = dataclasses.replace(kit, surrogates=kit.surrogates * 2)
    two = WitchesBrew(num_surrogates=2, step_size=0.1, **QUICK).craft(twice, scenario, seed=0)
    assert torch.equal(one.images, two.images)
    assert two.manifest["record"]["matching_loss"] == pytest.approx(one.manifest["record"]["matching_loss"], abs=1e-5)


def test_a_network_that_returns_nan_is_refused(kit, scenario):
    broken = kit.surrogates[0]
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    with pytest.raises(Misuse, match="MTH-0603"):
        WitchesBrew(**QUICK).craft(kit, scenario, seed=0)


class _Bright(nn.Module):
    """Logits overflow at the poisons only: at images with a bright first pixel."""

    def __init__(self, inner, threshold):
        super().__init__()
        self.inner = inner
        self.threshold = threshold

    def forward(self, x):
        hot = (x.flatten(1).sum(1) > self.threshold).unsqueeze(1)
        return self.inner(x) * torch.where(hot, torch.inf, 1.0)


def test_poisons_without_a_gradient_are_refused(kit, scenario, digits):
    dark = int(digits.test.images.gather(torch.arange(360)).flatten(1).int().sum(1).argmin())
    net = _Bright(kit.surrogates[0], float(digits.test.images.gather(torch.tensor([dark])).float().sum() / 255 + 0.1))
    target = dataclasses.replace(
        scenario,
        targets=(dark,),
        target_class=int(digits.test.labels[dark]),
        adversarial_class=(int(digits.test.labels[dark]) + 1) % 10,
        threat="random-subset",
    )
    with pytest.raises(Misuse, match="MTH-0604"):
        WitchesBrew(augment=False, **QUICK).craft(dataclasses.replace(kit, surrogates=(net,)), target, seed=0)


def test_step_units(kit, scenario, digits):
    def step(**options):
        return WitchesBrew(**options)._step_px(kit, scenario).tolist()

    assert step() == pytest.approx([0.1 * s for s in digits.std])
    assert step(num_surrogates=4) == pytest.approx([0.025 * s for s in digits.std])
    assert step(reference_batch=128) == pytest.approx([0.025 * s for s in digits.std])
    assert step(step_size=0.4, step_unit="epsilon") == pytest.approx([0.1])
    assert step(step_size=0.4, step_unit="pixels") == pytest.approx([0.4])


@pytest.mark.parametrize(
    "mean_std, epsilon, want",
    [
        ((0.2470322, 0.2434851, 0.2615879), 8 / 255, (0.12700, 0.12885, 0.11993)),
        ((0.2470322, 0.2434851, 0.2615879), 16 / 255, (0.25400, 0.25770, 0.23986)),
    ],
)
def test_epsilon_in_the_units_of_the_paper(mean_std, epsilon, want):
    """The ball has one radius in pixels; divided by the channel deviations it is the paper's."""
    assert [epsilon / s for s in mean_std] == pytest.approx(want, abs=5e-6)


@pytest.mark.parametrize("killed_after", [1, 2, 4])
def test_a_killed_craft_goes_on_and_ends_the_same(kit, scenario, killed_after):
    attack = WitchesBrew(save_every=2, **QUICK)
    want = attack.craft(kit, scenario, seed=1)
    shelf = Memory(left=killed_after)
    kit = dataclasses.replace(kit, shelf=shelf)
    with pytest.raises(KilledError):
        attack.craft(kit, scenario, seed=1)
    left_over = 6 - killed_after
    shelf.left = 1000
    pack = attack.craft(kit, scenario, seed=1)
    assert 1000 - shelf.left == left_over
    assert torch.equal(pack.images, want.images)
    assert pack.manifest["record"]["trace"] == want.manifest["record"]["trace"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_hidden_poisons_stay_nearer_to_their_images_in_features(precision, digits, make_net, scenario):
    """The variant against filters that look at features: the same start, and a heavy weight on their change."""
    net = make_net(0)
    kit = AttackKit(data=digits, surrogates=(net,))  # nothing augmented: the features compared are those penalised
    clean = digits.train.images.gather(torch.tensor(scenario.poison_ids)).float() / 255
    moved = []
    for weight in (0, 100):
        brew = WitchesBrew(restarts=1, steps=40, feature_weight=weight, precision=precision)
        pack = brew.craft(kit, scenario, seed=3)
        with torch.no_grad():
            moved.append(float((net.features(pack.images.float() / 255) - net.features(clean)).square().mean()))
    assert moved[1] < 0.5 * moved[0]


def test_features_of_a_network_that_does_not_declare_them_are_refused(digits, scenario):
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(Misuse, match=r"MTH-0410.*Sequential"):
        WitchesBrew(**QUICK, feature_weight=1.0).craft(AttackKit(data=digits, surrogates=(bare,)), scenario, seed=0)


def test_the_work_of_another_brew_is_not_taken_up(kit, scenario):
    shelf = Memory()
    kit = dataclasses.replace(kit, shelf=shelf)
    attack = WitchesBrew(save_every=2, **QUICK)
    attack.craft(kit, scenario, seed=1)
    pack = attack.craft(kit, scenario, seed=2)
    assert torch.equal(pack.images, attack.craft(dataclasses.replace(kit, shelf=None), scenario, seed=2).images)


def test_a_finished_brew_on_the_shelf_is_only_packed(kit, scenario):
    shelf = Memory()
    kit = dataclasses.replace(kit, shelf=shelf)
    attack = WitchesBrew(save_every=2, **QUICK)
    want = attack.craft(kit, scenario, seed=1)
    shelf.left = 1
    assert torch.equal(attack.craft(kit, scenario, seed=1).images, want.images)


def test_a_file_shelf_keeps_bit_for_bit(tmp_path):
    shelf = FileShelf(tmp_path / "brew.safetensors")
    assert isinstance(shelf, Shelf)
    assert shelf.load() is None
    bundle = {"a": torch.randn(3, 4, dtype=torch.float64), "b": torch.tensor(7), "c": torch.tensor([True, False])}
    shelf.keep(bundle)
    found = shelf.load()
    assert found.keys() == bundle.keys()
    assert all(torch.equal(found[name], bundle[name]) for name in bundle)
    shelf.keep({"a": torch.zeros(1)})
    assert list(shelf.load()) == ["a"]


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty", "text"])
def test_a_damaged_shelf_is_an_empty_shelf(tmp_path, harm):
    path = tmp_path / "brew.safetensors"
    FileShelf(path).keep({"a": torch.arange(50), "b": torch.zeros(3)})
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    harmed = {"truncate": bytes(data[:-7]), "flip": bytes(data), "empty": b"", "text": b"no tensors here"}
    path.write_bytes(harmed[harm])
    assert FileShelf(path).load() is None


def test_progress_tells_shares_of_the_work(kit, scenario):
    told = []
    WitchesBrew(save_every=5, **QUICK).craft(dataclasses.replace(kit, progress=told.append), scenario, seed=0)
    assert [round(line["done"] * 12) for line in told] == [5, 10, 12]
    assert all(0 < line["matching_loss"] < 2 for line in told)


@pytest.mark.parametrize("attack", [WitchesBrew, Noise])
def test_every_option_refuses_a_bad_value_by_name(attack):
    for field in dataclasses.fields(attack):
        if (within := field.metadata.get("within")) is not None:
            with pytest.raises(Misuse, match=field.name):
                Checked.__post_init__(_with(attack(), field.name, within.bad()))


def _with(instance, name, value):
    object.__setattr__(instance, name, value)
    return instance


def test_codes_are_in_the_catalogue():
    assert {"MTH-0601", "MTH-0602", "MTH-0603", "MTH-0604"} <= CODES.keys()


def test_several_targets(kit, scenario, digits):
    same_class = (digits.test.labels == scenario.target_class).nonzero().flatten()[:3].tolist()
    many = dataclasses.replace(scenario, targets=tuple(same_class))
    assert isinstance(many, Scenario)
    mean = WitchesBrew(**QUICK).craft(kit, many, seed=0)
    each = WitchesBrew(per_target=True, **QUICK).craft(kit, many, seed=0)
    assert not torch.equal(mean.images, each.images)
    assert mean.manifest["record"]["matching_loss"] < each.manifest["record"]["matching_loss"]


@pytest.mark.parametrize("name", ["resnet18-w4", "convnet64-w4", "vgg11-w4", "mobilenet_v2", "resnet9-w4", "lenet"])
def test_built_in_networks_use_the_fast_form_and_fold_their_norms(name, kit, scenario, make_net):
    net = make_net(0, name)
    problem = WitchesBrew().problem(dataclasses.replace(kit, surrogates=(net,)), scenario)
    assert problem.surrogates[0].form == "reverse-over-forward"
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert len(problem.surrogates[0].network.folds) == norms
