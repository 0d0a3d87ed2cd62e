"""Friendly Noise: the generator's arithmetic, its laws, and the plans that it makes."""

import dataclasses
import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mithridate.audit.config import AuditConfig
from mithridate.core.errors import Misuse
from mithridate.core.units import Pixels
from mithridate.data.examples import Examples
from mithridate.data.sources import load as load_data
from mithridate.data.stores import ResidentStore
from mithridate.defenses._base import Diagnostics
from mithridate.defenses.friendly_noise import (
    METHOD,
    FriendlyNoise,
    FriendlyView,
    RandomNoise,
    dequantise,
    generate,
    quantise,
)
from mithridate.models.spec import ModelSpec
from mithridate.numerics.warp import Shift
from mithridate.training._base import Clock, Context, Forward, Rng
from mithridate.training.checkpoint import load, save
from mithridate.training.draw import Shuffle
from mithridate.training.loop import begin, steps, train
from mithridate.training.network import read_only
from mithridate.training.plan import Phase, Plan
from mithridate.training.run import Run
from mithridate.training.step import Step
from mithridate.training.update import SGD
from mithridate.training.view import Warp

CPU = torch.device("cpu")
CLASSES = 4


def examples(n: int = 24, *, channels: int = 3, size: int = 8, seed: int = 0) -> Examples:
    gen = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, channels, size, size), generator=gen, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (n,), generator=gen)
    return Examples("random", ResidentStore(pixels), labels, tuple("abcd"))


def spec_of(data: Examples, name: str) -> ModelSpec:
    channels, size, _ = data.images.shape
    return ModelSpec(
        name=name, num_classes=CLASSES, channels=channels, size=size, mean=(0.5,) * channels, std=(0.25,) * channels
    )


def context_of(data: Examples, probe: Forward, seed: int = 0) -> Context:
    fill = torch.zeros(data.images.shape[0])
    return Context(data, probe, fill, Rng(seed, CPU), Clock(0, 0.0))


def constant(x: Tensor) -> Tensor:
    """A network whose logits ignore the image, connected to it so that it has a gradient: zero."""
    return torch.zeros(len(x), CLASSES) + 0 * x.flatten(1).sum(1, keepdim=True)


def net_of(data: Examples, name: str = "resnet18-w4", seed: int = 0) -> nn.Module:
    return spec_of(data, name).build(seed)


def noise_of(config: FriendlyNoise, data: Examples, probe: Forward, seed: int = 0) -> Tensor:
    state = generate(config, context_of(data, probe, seed))
    return dequantise(state["noise"], config.zeta).view(-1, *data.images.shape)


def plan_of(data: Examples, model: str = "resnet18-w4", *, epochs: int = 3, warp: bool = True) -> Plan:
    views = (Warp(law=Shift(max_px=1.0)),) if warp else ()
    step = Step(draw=Shuffle(batch=16), views=views, update=SGD(lr=0.02))
    return Plan(data=data, model=spec_of(data, model), phases=(Phase(step=step, epochs=epochs),))


def weights_of(model: nn.Module) -> list[Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def trained(plan: Plan, seed: int = 0) -> list[Tensor]:
    return weights_of(train(plan, seed))


# ---------------------------------------------------------------------------------------------- the generator


def test_one_step_on_a_constant_network_is_the_nesterov_factor() -> None:
    """lr 100, lambda 1, batch 128, d = 3072: a factor of 1 + 1.9 * 100 * 2 / (128 * 3072) = 1.0009664 (spec a.9)."""
    data = examples(6, size=32)
    config = FriendlyNoise(steps=1, penalty_weight=1.0, zeta=Pixels(0.9), start=Pixels(0.8))
    first = noise_in_float(replace(config, steps=0), data)
    after = noise_in_float(config, data)
    factor = 1 + 1.9 * 100 * 2 / (128 * 3072)
    assert factor == pytest.approx(1.0009664, abs=1e-7)
    torch.testing.assert_close(after, first * factor, rtol=2e-7, atol=0)
    twice = noise_in_float(replace(config, steps=2), data)
    rate = 100 * 2 / (128 * 3072)  # v1 = -r e0; e1 = e0 - 1.9 v1; v2 = .9 v1 - r e1; e2 = e1 - (-r e1 + .9 v2)
    by_hand = factor + (rate * factor + 0.9 * (0.9 * rate + rate * factor))
    torch.testing.assert_close(twice, first * by_hand, rtol=5e-7, atol=0)


def noise_in_float(config: FriendlyNoise, data: Examples, probe: Forward = constant) -> Tensor:
    """The noise before it is stored in 8 bits."""
    from mithridate.defenses import friendly_noise as module

    context = context_of(data, probe)
    parts = []
    for start, initial in module._initial(config, context):
        x = data.images.gather(torch.arange(start, start + len(initial))).float() / 255
        with torch.no_grad():
            clean = probe(x)
        parts.append(module._optimise(config, probe, x, clean, initial))
    return torch.cat(parts)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (16, 3), (28, 1)])
def test_lambda_is_scaled_to_the_image(size: int, channels: int) -> None:
    """With the scaling, small images see the pull of 3072 numbers; without it, one that grows as images shrink."""
    data = examples(4, size=size, channels=channels)
    config = FriendlyNoise(steps=1, penalty_weight=1.0, zeta=Pixels(0.9), start=Pixels(0.8))
    first = noise_in_float(replace(config, steps=0), data)
    scaled = noise_in_float(config, data) / first - 1
    raw = noise_in_float(replace(config, scale_lambda=False), data) / first - 1
    expected = 1.9 * 100 * 2 / 128
    torch.testing.assert_close(scaled, torch.full_like(scaled, expected / 3072), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(raw, torch.full_like(raw, expected / (channels * size**2)), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("penalty", ["mean_sq", "l2", "l1", "linf"])
def test_without_pull_and_force_the_noise_stays(penalty: str) -> None:
    data = examples()
    config = FriendlyNoise(penalty_weight=0.0, penalty=penalty)
    first = noise_in_float(replace(config, steps=0), data)
    assert torch.equal(noise_in_float(config, data), first)
    assert float(first.abs().max()) <= config.start
    assert float(first.abs().mean()) == pytest.approx(config.start / 2, rel=0.05)


def test_every_penalty_follows_its_gradient() -> None:
    """One step on the constant network, against the gradient of each norm by hand."""
    data = examples(3, size=8)
    base = FriendlyNoise(steps=1, penalty_weight=1.0, lr=1e-2, zeta=Pixels(0.9), start=Pixels(0.5))
    first = noise_in_float(replace(base, steps=0), data)
    flat = first.flatten(1)
    largest = flat.abs() == flat.abs().max(1, keepdim=True).values
    gradients = {
        "mean_sq": 2 * flat / 3072,
        "l2": flat / flat.norm(dim=1, keepdim=True),
        "l1": flat.sign(),
        "linf": flat.sign() * largest,
    }
    for penalty, gradient in gradients.items():
        found = noise_in_float(replace(base, penalty=penalty), data).flatten(1) - flat
        torch.testing.assert_close(found, 1.9 * 1e-2 / 128 * gradient, rtol=1e-2, atol=1e-7)


def reference_noise(config: FriendlyNoise, probe: Forward, x: Tensor, first: Tensor) -> Tensor:
    """The authors' loop, as the specification gives it: one optimiser and means over the batch, lr times B / 128."""
    target = functional.log_softmax(probe(x), 1).detach()
    noise = first.clone().requires_grad_()
    optimiser = torch.optim.SGD([noise], lr=config.lr * len(x) / 128, momentum=0.9, nesterov=True)
    for _ in range(config.steps):
        inside = noise.clamp(-config.zeta, config.zeta)
        output = functional.log_softmax(probe((x + inside).clamp(0, 1)), 1)
        if config.divergence == "code":
            divergence = functional.kl_div(output, target, reduction="batchmean", log_target=True)
        else:
            divergence = functional.kl_div(target, output, reduction="batchmean", log_target=True)
        weight = config.penalty_weight * x[0].numel() / 3072
        loss = divergence - weight * inside.square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return noise.detach().clamp(-config.zeta, config.zeta)


@pytest.mark.parametrize("divergence", ["code", "paper"])
def test_the_generator_is_the_published_loop(divergence: str) -> None:
    data = examples(20)
    probe = read_only(net_of(data, "convnet64-w4"), "fp32")
    config = FriendlyNoise(steps=8, divergence=divergence)
    x = data.images.gather(torch.arange(20)).float() / 255
    first = noise_in_float(replace(config, steps=0), data, probe)
    found = noise_in_float(config, data, probe)
    torch.testing.assert_close(found, reference_noise(config, probe, x, first), rtol=1e-4, atol=1e-6)
    assert float((found - first).abs().max()) > 1e-3


def test_the_three_divergences_differ() -> None:
    data = examples(8)
    probe = read_only(net_of(data, "convnet64-w4"), "fp32")
    found = [
        noise_in_float(FriendlyNoise(steps=4, divergence=d, lr=1e4), data, probe) for d in ("code", "paper", "logits")
    ]
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_the_noise_does_not_know_its_batch() -> None:
    """Every cut of the set into batches, also ones that leave a remainder, gives the same noise (spec a.9)."""
    data = examples(70, size=8)
    probe = read_only(net_of(data, "mlp-w16"), "fp32")
    config = FriendlyNoise(steps=5)
    whole = noise_of(replace(config, batch=70), data, probe)
    for batch in (7, 32, 64, 65):
        torch.testing.assert_close(
            noise_of(replace(config, batch=batch), data, probe), whole, rtol=0, atol=1.01 * config.zeta / 127
        )
        other = noise_of(replace(config, batch=batch), data, constant)
        assert torch.equal(other, noise_of(config, data, constant))


def test_the_noise_of_a_row_does_not_know_the_other_rows_of_a_batch_normalised_net() -> None:
    data = examples(40)
    probe = read_only(net_of(data).train(), "fp32")
    whole, half = (noise_of(FriendlyNoise(steps=3, batch=b), data, probe) for b in (40, 20))
    torch.testing.assert_close(whole, half, rtol=0, atol=1.01 * 16 / 255 / 127)


def test_bounds_hold_exactly() -> None:
    data = examples(32)
    for config in (FriendlyNoise(lr=1e5), FriendlyNoise(lr=1e5, zeta=Pixels(0.1)), FriendlyNoise(zeta=Pixels(2 / 255))):
        noise = noise_of(config, data, constant)
        assert float(noise.abs().max()) == pytest.approx(config.zeta, rel=1e-6)
        assert bool((noise.double().abs() <= torch.tensor(config.zeta, dtype=torch.float32).double()).all())


def test_storage_keeps_sign_and_size() -> None:
    zeta = Pixels(16 / 255)
    noise = torch.linspace(-0.08, 0.08, 3 * 8 * 8 * 2).view(2, 3, 8, 8)
    stored = quantise(noise, zeta)
    assert stored.dtype == torch.int8 and int(stored.min()) == -127 and int(stored.max()) == 127
    back = dequantise(stored, zeta)
    assert float((back - noise.clamp(-zeta, zeta)).abs().max()) <= zeta / 254 * (1 + 1e-5)
    assert torch.equal(quantise(back, zeta), stored)


def test_generation_leaves_the_network_as_it_was() -> None:
    data = examples(20)
    net = net_of(data)
    net.train()
    net.net.stem.norm.eval()  # mixed flags are kept too
    next(iter(net.parameters())).requires_grad_(False)
    before = weights_of(net), [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    grads = [p.grad for p in net.parameters()]
    generate(FriendlyNoise(steps=3), context_of(data, read_only(net, "fp32")))
    assert same(before[0], weights_of(net))
    assert before[1:] == ([m.training for m in net.modules()], [p.requires_grad for p in net.parameters()])
    assert [p.grad for p in net.parameters()] == grads == [None] * len(grads)


def test_generation_is_a_function_of_the_seed() -> None:
    data = examples(20)
    probe = read_only(net_of(data), "fp32")
    a, b, c = (noise_of(FriendlyNoise(steps=2), data, probe, seed) for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_the_diagnosis_is_what_the_noise_does() -> None:
    data = examples(40)
    probe = read_only(net_of(data, "convnet64-w4"), "fp32")
    config = FriendlyNoise(lr=1e3, batch=16)
    state = generate(config, context_of(data, probe))
    noise = dequantise(state["noise"], config.zeta).view(-1, 3, 8, 8)
    x = data.images.gather(torch.arange(40)).float() / 255
    clean, noisy = functional.log_softmax(probe(x), 1), functional.log_softmax(probe((x + noise).clamp(0, 1)), 1)
    found = config.diagnostics({"view/friendly-noise": state})
    at_bound = float((noise.abs() >= config.zeta * 0.9999).float().mean())
    assert found.figures == {
        "mean_abs": pytest.approx(float(noise.abs().mean()), rel=1e-5),
        "mean_abs_start": pytest.approx(8 / 255 / 2, rel=0.05),
        "share_at_bound": pytest.approx(at_bound, abs=1e-6),
        "divergence": pytest.approx(float((clean.exp() * (clean - noisy)).sum(1).mean()), abs=1e-6),
        "agreement": pytest.approx(float((clean.argmax(1) == noisy.argmax(1)).float().mean())),
    }
    assert 0.5 < at_bound <= 1
    assert found.warnings == ()
    assert config.diagnostics({"draw": {}}) == Diagnostics()


def test_a_figure_that_is_no_number_becomes_a_warning() -> None:
    found = Diagnostics(figures={"a": 1.0, "b": math.nan, "c": math.inf}, warnings=("odd",))
    assert found.to_record() == {"figures": {"a": 1.0}, "warnings": ["odd", "b is nan", "c is inf"]}


def test_the_generation_tells_how_far_it_is() -> None:
    words: list[dict[str, object]] = []
    data = examples(20)
    plan = FriendlyNoise(begin_epoch=1, steps=1, batch=8).defend(plan_of(data, "mlp-w8"), seed=0, tell=words.append)
    quiet = FriendlyNoise(begin_epoch=1, steps=1, batch=8).defend(plan_of(data, "mlp-w8"), seed=0)
    assert repr(plan.phases) == repr(quiet.phases), "who listens is no part of a checkpoint's identity"
    assert plan.phases == quiet.phases
    assert words == []
    trained(plan)
    assert words == [{"what": "friendly noise", "done": done} for done in (0.0, 0.4, 0.8, 1.0)]


def test_weak_noise_is_warned_about() -> None:
    data = examples(20, size=32)
    state = generate(FriendlyNoise.reference(), context_of(data, constant))
    (warning,) = FriendlyNoise.reference().diagnostics({"view/friendly-noise": state}).warnings
    assert "hardly grew" in warning and "penalty_weight" in warning
    assert generate(FriendlyNoise(lr=1e4), context_of(data, constant))["warning"] == ""


# Specification a.2: mean |eps| * 255 from 4.0 with the KL ignored, T = 20 and 30 (d = 3072, batch 128).
TABLE = [
    (20, 10, 1, 4.01, None),
    (20, 50, 10, 5.41, None),
    (20, 100, 1, 4.24, 0.0),
    (20, 100, 10, 7.13, None),
    (20, 100, 16, 9.34, 0.17),
    (30, 10, 1, 4.02, None),
    (30, 50, 10, 6.67, None),
    (30, 100, 1, 4.45, 0.0),
    (30, 100, 10, 9.84, 0.23),
    (30, 100, 16, 12.1, 0.52),
]


@pytest.mark.parametrize(("steps_", "lr", "weight", "size", "share"), TABLE)
def test_growth_by_the_table_of_the_specification(
    steps_: int, lr: float, weight: float, size: float, share: float | None
) -> None:
    data = examples(8, size=32)
    config = FriendlyNoise(steps=steps_, lr=float(lr), penalty_weight=float(weight))
    state = generate(config, context_of(data, constant))
    assert 255 * state["mean_abs"] == pytest.approx(size, rel=0.012)
    if share is not None:
        assert state["share_at_bound"] == pytest.approx(share, abs=0.02)


@pytest.mark.slow
def test_scaled_check_of_the_specification() -> None:
    """Digits at 16x16, a small batch-normalised net after five epochs, T = 20, lambda not scaled (spec a.8)."""
    digits = load_data("digits").train
    pixels = digits.images.gather(torch.arange(len(digits))).repeat_interleave(2, 2).repeat_interleave(2, 3)
    data = Examples("digits 16", ResidentStore(pixels), digits.labels, digits.classes)
    model = ModelSpec(name="resnet18-w4", num_classes=10, channels=1, size=16, mean=(0.3,), std=(0.35,))
    step = Step(draw=Shuffle(batch=64), update=SGD(lr=0.1))
    net = train(Plan(data=data, model=model, phases=(Phase(step=step, epochs=5),)), 0)
    context = context_of(data.select(torch.arange(128)), read_only(net, "fp32"))

    def state(lr: float, weight: float) -> dict[str, float]:
        return generate(FriendlyNoise(lr=lr, penalty_weight=weight, scale_lambda=False), context)

    strong, weak = state(100.0, 10.0), state(10.0, 1.0)
    assert strong["mean_abs"] >= 0.8 * 16 / 255 and strong["share_at_bound"] > 0.9
    assert strong["agreement"] >= 0.95 and strong["divergence"] < 0.1
    assert 4.0 <= 255 * weak["mean_abs"] <= 5.0 and weak["agreement"] >= 0.99 and weak["warning"]


# ---------------------------------------------------------------------------------------------- the random noise


def drawn(law: str, strength: float = 0.1, n: int = 64, seed: int = 0) -> Tensor:
    x = torch.full((n, 3, 16, 16), 0.5)
    gen = torch.Generator().manual_seed(seed)
    noisy, _ = RandomNoise(law=law, strength=Pixels(strength)).view(x, torch.arange(n), None, gen)
    assert torch.equal(x, torch.full_like(x, 0.5)), "the argument is not written to"
    return noisy - 0.5


def test_bernoulli_noise_has_two_values() -> None:
    noise = drawn("bernoulli")
    values, counts = noise.unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([-0.1, 0.1]), rtol=1e-6, atol=1e-7)
    assert float(counts[0] / counts.sum()) == pytest.approx(0.5, abs=0.01)
    assert float(noise.abs().mean()) == pytest.approx(0.1, rel=1e-6)


def test_gaussian_and_uniform_noise_have_the_stated_size() -> None:
    normal, uniform = drawn("gaussian"), drawn("uniform")
    for noise in (normal, uniform):
        assert abs(float(noise.mean())) < 1e-3
    assert float(normal.std()) == pytest.approx(0.1, rel=0.02)
    assert float(normal.abs().max()) > 0.3
    assert float(uniform.abs().max()) == pytest.approx(0.1, rel=1e-3) and float(uniform.abs().max()) <= 0.1 + 1e-7
    assert float(uniform.std()) == pytest.approx(0.1 / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize("law", ["bernoulli", "gaussian", "uniform"])
def test_random_noise_is_not_clamped_and_pixels_are_independent(law: str) -> None:
    gen = torch.Generator().manual_seed(0)
    noisy, _ = RandomNoise(law=law, strength=Pixels(0.2)).view(torch.ones(16, 1, 8, 8), torch.arange(16), None, gen)
    assert float(noisy.max()) > 1.01
    flat = noisy.flatten(1) - 1
    correlation = torch.corrcoef(flat.T) - torch.eye(64)
    assert float(correlation.abs().mean()) < 0.25  # 1 / sqrt(16) times sqrt(2 / pi) is 0.2


# ---------------------------------------------------------------------------------------------- plan -> plan


@dataclass(frozen=True, kw_only=True)
class Camera(Warp):
    """Takes a picture of what reaches the augmentation, and leaves it alone."""

    taken: list[tuple[Tensor, Tensor]] = dataclasses.field(default_factory=list, compare=False, repr=False)

    def view(self, x: Tensor, index: Tensor, state: object, gen: torch.Generator) -> tuple[Tensor, object]:
        self.taken.append((index.clone(), x.clone()))
        return x, state


def filmed(defense: FriendlyNoise, data: Examples, epochs: int = 3) -> tuple[list[tuple[Tensor, Tensor]], Run]:
    """What the network would see without augmentation, per step, and the run at its end."""
    camera = Camera(law=Shift(max_px=1.0))
    plan = plan_of(data, "mlp-w8", epochs=epochs)
    plan = plan.mapped(lambda step: replace(step, views=(camera,)))
    defended = defense.defend(plan, seed=0)
    run = begin(defended, 4)
    for _event in steps(defended, 4, run):
        pass
    return camera.taken, run


def residual(data: Examples, shot: tuple[Tensor, Tensor]) -> Tensor:
    index, x = shot
    return x - data.images.gather(index).float() / 255


def test_views_come_in_the_order_of_the_paper() -> None:
    data = examples()
    plan = FriendlyNoise(begin_epoch=1).defend(plan_of(data), seed=0)
    names = [[view.name for view in phase.step.views] for phase in plan.phases]
    assert names == [["random-noise", "warp"], ["friendly-noise", "random-noise", "warp"]]
    assert [phase.epochs for phase in plan.phases] == [1, 2]


def test_random_noise_from_the_first_step_and_friendly_noise_from_begin_epoch() -> None:
    """Before `begin_epoch` every pixel moved by exactly +-mu; after it, by the friendly noise of its image as well."""
    data = examples(32)
    mu = 16 / 255
    shots, run = filmed(FriendlyNoise(begin_epoch=1, steps=2), data)
    state = run.states["view/friendly-noise"]
    for shot in shots[:2]:
        torch.testing.assert_close(residual(data, shot).abs(), torch.full((16, 3, 8, 8), mu), rtol=1e-5, atol=1e-6)
    friendly = dequantise(state["noise"], Pixels(16 / 255)).view(-1, 3, 8, 8)
    for index, x in shots[2:]:
        clean = data.images.gather(index).float() / 255
        below = (clean + friendly[index]).clamp(0, 1)
        torch.testing.assert_close((x - below).abs(), torch.full_like(x, mu), rtol=1e-5, atol=1e-6)


def test_friendly_noise_stays_and_random_noise_does_not() -> None:
    data = examples(16)
    by_row = {}
    for components in ("friendly", "random"):
        shots, _ = filmed(FriendlyNoise(components=components, begin_epoch=0, steps=2), data, epochs=2)
        by_row[components] = [residual(data, shot)[shot[0].argsort()] for shot in shots]
    assert torch.equal(*by_row["friendly"])
    assert not torch.equal(*by_row["random"])
    assert float(by_row["friendly"][0].abs().max()) <= 16 / 255 + 1e-6


def test_images_with_friendly_noise_stay_in_the_unit_cube() -> None:
    data = examples(16)
    shots, _ = filmed(FriendlyNoise(components="friendly", begin_epoch=0, lr=1e5, steps=2), data, epochs=1)
    x = shots[0][1]
    assert float(x.min()) == 0.0 and float(x.max()) == 1.0


def test_without_strength_training_is_bit_identical() -> None:
    data = examples(40)
    plan = plan_of(data)
    assert same(trained(FriendlyNoise(components="random", mu=Pixels(0.0)).defend(plan, seed=0)), trained(plan))
    assert not same(trained(FriendlyNoise(components="random").defend(plan, seed=0)), trained(plan))


def test_the_defended_plan_is_reproducible() -> None:
    data = examples(40)
    plan = FriendlyNoise(begin_epoch=1, steps=2).defend(plan_of(data), seed=0)
    first = trained(plan)
    assert same(first, trained(plan))
    assert same(first, trained(FriendlyNoise(begin_epoch=1, steps=2).defend(plan_of(data), seed=9)))
    assert not same(first, trained(plan, seed=1))


@pytest.mark.parametrize("kill", [0, 1, 2, 3])
def test_resume_is_exact_before_and_after_generation(kill: int, tmp_path: Path) -> None:
    """Two phases of two epochs: checkpoints before, right at, and after the generation of the noise."""
    data = examples(40)
    plan = FriendlyNoise(begin_epoch=2, steps=2).defend(plan_of(data, epochs=4), seed=0)
    run = begin(plan, 3)
    for number, _event in enumerate(steps(plan, 3, run)):
        if number == kill:
            break
    save(run, plan, 3, tmp_path / "run")
    again = load(plan, 3, tmp_path / "run")
    assert ("view/friendly-noise" in again.states) == (kill >= 2)
    for _event in steps(plan, 3, again):
        pass
    assert same(weights_of(again.net.module), trained(plan, 3))
    assert FriendlyNoise().diagnostics(again.states).figures


def test_generation_sees_the_network_of_its_epoch() -> None:
    """Two begin epochs give two noises: the generator looked at two networks."""
    data = examples(32)
    found = []
    for epoch in (0, 2):
        _, run = filmed(FriendlyNoise(begin_epoch=epoch, lr=1e4, penalty_weight=1.0, zeta=Pixels(0.5)), data)
        found.append(run.states["view/friendly-noise"]["noise"])
    assert not torch.equal(*found)


def test_begin_epoch_follows_the_plan() -> None:
    data = examples(40)
    plan = plan_of(data, epochs=7)
    assert [phase.epochs for phase in FriendlyNoise().defend(plan, seed=0).phases] == [5, 2]
    weights = spec_of(data, "resnet18-w4").build(0).state_dict()
    assert [p.epochs for p in FriendlyNoise().defend(replace(plan, pretrained=weights), seed=0).phases] == [7]
    with pytest.raises(Misuse, match=r"MTH-0650.*after 5 epochs, and the plan has 5"):
        FriendlyNoise().defend(plan_of(data, epochs=5), seed=0)
    FriendlyNoise(components="random").defend(plan_of(data, epochs=5), seed=0)


@pytest.mark.parametrize(("channels", "size", "model"), [(1, 8, "mlp-w8"), (1, 28, "lenet"), (3, 12, "resnet18-w4")])
def test_every_shape_of_image(channels: int, size: int, model: str) -> None:
    data = examples(16, channels=channels, size=size)
    plan = FriendlyNoise(begin_epoch=1, steps=2).defend(plan_of(data, model, epochs=2), seed=0)
    assert all(bool(value.float().isfinite().all()) for value in trained(plan))


def test_bf16_generation_is_float32_outside_the_network() -> None:
    data = examples(16)
    plan = replace(FriendlyNoise(begin_epoch=0, steps=3).defend(plan_of(data, epochs=1), seed=0), precision="bf16")
    run = begin(plan, 0)
    for _event in steps(plan, 0, run):
        pass
    found = FriendlyNoise().diagnostics(run.states).figures
    assert math.isfinite(found["divergence"]) and found["mean_abs"] > 0


def test_noise_is_added_in_training_only() -> None:
    data = examples(16)
    model = train(FriendlyNoise(begin_epoch=0, steps=1).defend(plan_of(data, epochs=1), seed=0), 0)
    x = torch.rand(4, 3, 8, 8)
    assert torch.equal(model(x), model(x)) and not model.training


# ---------------------------------------------------------------------------------------------- configuration


def test_published_settings() -> None:
    default, paper, code = FriendlyNoise(), FriendlyNoise.paper(), FriendlyNoise.reference()
    as_255 = [[round(255 * value, 9) for value in (c.zeta, c.mu, c.start)] for c in (default, paper, code)]
    assert as_255 == [[16, 16, 8], [16, 16, 8], [16, 8, 8]]
    assert [(c.steps, c.lr, c.penalty_weight) for c in (default, paper, code)] == [
        (20, 100, 10),
        (20, 10, 1),
        (30, 100, 1),
    ]
    assert [(c.penalty, c.divergence) for c in (default, paper, code)] == [
        ("mean_sq", "code"),
        ("l2", "paper"),
        ("mean_sq", "code"),
    ]
    assert (default.begin_epoch, code.begin_epoch) == (None, 0)


@pytest.mark.parametrize("name", ["paper", "reference"])
def test_configurations_name_the_published_settings(name: str) -> None:
    """What a configuration makes of `friendly-noise:preset=NAME`; built without `__init__`, as below."""
    (_, method) = AuditConfig.model_validate({"defenses": [f"friendly-noise:preset={name}"]}).defenses
    built = object.__new__(FriendlyNoise)
    vars(built).update(vars(FriendlyNoise()) | method.options)
    built.__post_init__()
    assert built == getattr(FriendlyNoise, name)() != FriendlyNoise()


def test_pixels_may_be_written_as_fractions() -> None:
    """Configurations hold text; built without `__init__`, whose argument types the test run checks."""

    def from_text(**texts: str) -> FriendlyNoise:
        config = object.__new__(METHOD)
        vars(config).update(vars(METHOD()) | texts)
        config.__post_init__()
        return config

    config = from_text(zeta="8/255", mu="4/255", start="2/255")
    assert (config.zeta, config.mu, config.start) == (8 / 255, 4 / 255, 2 / 255)
    with pytest.raises(Misuse, match="MTH-0103"):
        from_text(zeta="16")


def test_every_constraint_refuses_its_bad_value() -> None:
    checked = [f for f in dataclasses.fields(FriendlyNoise) if f.metadata.get("within") is not None]
    assert len(checked) >= 11
    for field in checked:
        with pytest.raises(Misuse, match=f"FriendlyNoise: {field.name} must be"):
            FriendlyNoise(**{field.name: field.metadata["within"].bad()})


def test_views_have_distinct_addresses() -> None:
    assert len({FriendlyView.name, RandomNoise.name, Warp.name}) == 3
