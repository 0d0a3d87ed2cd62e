"""Distances between gradients: bounds, scale invariance, hand values, and twins written out tensor by tensor."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import batch, built, obvious_gradient

from mithridate.numerics.directional import prepare
from mithridate.numerics.matching import (
    CRITERIA,
    OBJECTIVES,
    Matcher,
    criterion_loss,
    gradient_cosine,
    matching_loss,
    mean_gradient,
)
from mithridate.numerics.rng import generator

SIZES = (6, 3, 8, 4, 2, 7, 5, 3)
COSINES = [name for name in OBJECTIVES if name == "similarity" or name.startswith("top")]


def gradient(seed):
    return torch.randn(sum(SIZES), generator=generator(seed, "gradient"), dtype=torch.float64)


def matcher(objective, t, **options):
    return Matcher(objective=objective, target=t, sizes=SIZES, **options)


def obvious(objective, t, g):
    ts, gs = t.split(SIZES), g.split(SIZES)
    norm_t = math.sqrt(sum(float(a.square().sum()) for a in ts))
    inner = [float((a * b).sum()) for a, b in zip(ts, gs, strict=True)]
    lengths = [(float(a.norm()), float(b.norm())) for a, b in zip(ts, gs, strict=True)]

    def cosine(chosen):
        left = math.sqrt(sum(lengths[i][0] ** 2 for i in chosen))
        right = math.sqrt(sum(lengths[i][1] ** 2 for i in chosen))
        return sum(inner[i] for i in chosen) / (left * right)

    everything = range(len(SIZES))
    by_weight = sorted(everything, key=lambda i: -lengths[i][0])
    table = {
        "similarity": 1 - cosine(everything),
        "similarity-narrow": 1 - cosine(everything) + 0.5 * (lengths[-1][1] ** 2 + lengths[-2][1] ** 2) / norm_t,
        **{f"top{k}-similarity": 1 - cosine(by_weight[:k]) for k in (5, 10, 20)},
        "scalar-product": -sum(inner) / norm_t,
        "cosine1": -sum(i / (a * b) for i, (a, b) in zip(inner, lengths, strict=True)) / norm_t,
        "se": 0.5 * float((t - g).square().sum()) / norm_t,
        "mse": sum(float((a - b).square().mean()) for a, b in zip(ts, gs, strict=True)) / norm_t,
    }
    return table[objective]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_equals_its_twin(objective):
    t, g = gradient(0), gradient(1)
    assert float(matcher(objective, t)(g)) == pytest.approx(obvious(objective, t, g), rel=1e-12)
    regularised = matcher(objective, t, norm_weight=0.3)(g)
    assert float(regularised) == pytest.approx(obvious(objective, t, g) + 0.3 * float(g.norm()), rel=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_direction_is_the_slope(objective):
    """Central differences along a random direction."""
    t, g, d = gradient(0), gradient(1), gradient(2)
    value, v = matching_loss((matcher(objective, t),), g)
    h = 1e-6
    slope = (matcher(objective, t)(g + h * d) - matcher(objective, t)(g - h * d)) / (2 * h)
    assert float(v @ d) == pytest.approx(float(slope), rel=1e-6)
    assert float(value) == pytest.approx(obvious(objective, t, g), rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), a=st.floats(1e-3, 1e3), b=st.floats(1e-3, 1e3), name=st.sampled_from(COSINES))
def test_cosines_are_bounded_and_blind_to_scale(seed, a, b, name):
    t, g = gradient(seed), gradient(seed + 1)
    value, v = matching_loss((matcher(name, t),), g)
    assert 0 <= float(value) <= 2
    assert float(matcher(name, a * t)(b * g)) == pytest.approx(float(value), abs=1e-12)
    assert abs(float(v @ g)) < 1e-12


@pytest.mark.parametrize("name", COSINES)
def test_equal_and_opposite_gradients(name):
    t = gradient(0)
    assert float(matcher(name, t)(3 * t)) == pytest.approx(0, abs=1e-12)
    assert float(matcher(name, t)(-2 * t)) == pytest.approx(2, abs=1e-12)


def test_the_direction_of_the_cosine_in_closed_form():
    """v = -(t_hat - c g_hat) / |g|, as derived for the two-pass form."""
    t, g = gradient(0), gradient(1)
    t_hat, g_hat = t / t.norm(), g / g.norm()
    _, v = matching_loss((matcher("similarity", t),), g)
    torch.testing.assert_close(v, -(t_hat - (t_hat @ g_hat) * g_hat) / g.norm())


def test_several_targets_are_averaged():
    g, targets = gradient(9), [gradient(k) for k in range(3)]
    value, v = matching_loss(tuple(matcher("similarity", t) for t in targets), g)
    single = [matching_loss((matcher("similarity", t),), g) for t in targets]
    torch.testing.assert_close(value, torch.stack([s[0] for s in single]).mean())
    torch.testing.assert_close(v, torch.stack([s[1] for s in single]).mean(0))


def test_criteria_by_hand():
    z = torch.tensor([[2.0, 0.0, 1.0], [0.0, 5.0, 0.0]], dtype=torch.float64)
    adversarial, true = torch.tensor([2, 1]), torch.tensor([0, 0])
    losses = {name: float(criterion_loss(name, adversarial=adversarial, true=true)(z)) for name in CRITERIA}
    first, second = math.log(math.e**2 + 1 + math.e), math.log(math.e**5 + 2)
    assert losses["cross-entropy"] == pytest.approx((first - 1 + second - 5) / 2)
    assert losses["cw"] == pytest.approx(((2 - 1) + (0 - 5)) / 2)
    assert losses["untargeted"] == pytest.approx(-(first - 2 + second - 0) / 2)


def test_the_margin_has_a_floor():
    z = torch.tensor([[0.0, 500.0]])
    loss = criterion_loss("cw", adversarial=torch.tensor([1]), true=torch.tensor([0]))
    assert float(loss(z)) == -100


@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
def test_the_mean_gradient_does_not_depend_on_the_chunk(chunk):
    net, (x, y) = built("residual"), batch(7)
    got = mean_gradient(prepare(net, x), x, y, chunk=chunk)
    torch.testing.assert_close(got, obvious_gradient(net, x, y) / 7)


def test_alignment():
    net, ours, theirs = built("conv-norm"), batch(6), batch(2, seed=5)
    a, b = obvious_gradient(net, *ours), obvious_gradient(net, *theirs)
    want = float(a @ b / (a.norm() * b.norm()))
    net.train()
    assert gradient_cosine(net, ours, theirs, chunk=4) == pytest.approx(want, rel=1e-9)
    assert gradient_cosine(net, ours, ours) == pytest.approx(1)
    assert net.training
