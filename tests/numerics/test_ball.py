"""The ball: both bounds at once, and exactly so after export to 8 bits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mithridate.core.errors import Misuse
from mithridate.numerics.ball import LinfBall, project, quantise
from mithridate.numerics.rng import generator


def noise(seed, scale=1.0):
    return scale * torch.randn(4, 3, 5, 5, generator=generator(seed, "delta"))


def base_images(seed):
    return torch.randint(0, 256, (4, 3, 5, 5), generator=generator(seed, "base"), dtype=torch.uint8)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), radius=st.floats(0, 1), scale=st.sampled_from([0.01, 0.3, 10.0]))
def test_projection_keeps_both_bounds_and_is_idempotent(seed, radius, scale):
    base = base_images(seed).float() / 255
    delta = project(noise(seed, scale), base, radius)
    assert delta.abs().max() <= radius + 1e-7
    assert (base + delta).min() >= -1e-7
    assert (base + delta).max() <= 1 + 1e-7
    assert torch.equal(project(delta, base, radius), delta)


def test_the_box_comes_first_then_the_pixel_range():
    base = torch.tensor([0.9, 0.5, 0.05]).reshape(1, 3, 1, 1)
    delta = torch.tensor([0.5, -0.3, -0.3]).reshape(1, 3, 1, 1)
    want = torch.tensor([0.1, -0.2, -0.05]).reshape(1, 3, 1, 1)
    torch.testing.assert_close(project(delta, base, 0.2), want)


def test_a_point_inside_is_left_alone():
    base = torch.full((1, 1, 2, 2), 0.5)
    delta = torch.tensor([[[[0.1, -0.1], [0.0, 0.05]]]])
    assert torch.equal(project(delta, base, 0.2), delta)


@pytest.mark.parametrize("k", [0, 1, 8, 16, 127, 255])
def test_export_never_leaves_the_ball(k):
    """For every pixel value and both signs: |k' - k| <= levels, and the bound is reached where there is room."""
    base = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    for sign in (-1, 1):
        for radius in (k / 255, float(torch.tensor(k / 255, dtype=torch.float32))):
            delta = torch.full((1, 1, 16, 16), sign * radius)
            change = quantise(base, delta, radius).int() - base.int()
            room = torch.where(torch.tensor(sign > 0), 255 - base.int(), base.int())
            assert torch.equal(change, sign * room.clamp_max(k))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), radius=st.floats(0, 1))
def test_export_is_the_nearest_allowed_level(seed, radius):
    """Oracle: the integers between ceil(255 (x - eps)) and floor(255 (x + eps)) of the specification."""
    base, delta = base_images(seed), noise(seed, 0.2)
    got = quantise(base, delta, radius)
    for v, d, out in zip(base.flatten().tolist(), delta.flatten().tolist(), got.flatten().tolist(), strict=True):
        low, high = max(0, math.ceil(v - 255 * radius - 1e-6)), min(255, math.floor(v + 255 * radius + 1e-6))
        assert low <= out <= high
        assert abs(out - min(max(v + 255 * d, low), high)) <= 0.5 + 1e-4


def test_levels():
    assert [LinfBall(k / 255).levels for k in range(256)] == list(range(256))
    assert LinfBall(0.5).levels == 127


@pytest.mark.parametrize("radius", [-0.1, 8.0, math.nan])
def test_a_radius_in_the_wrong_unit_is_refused(radius):
    with pytest.raises(Misuse, match="MTH-0103"):
        LinfBall(radius)
