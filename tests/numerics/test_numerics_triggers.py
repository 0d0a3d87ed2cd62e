"""Triggers as maps of images: identities, exactness, gradients, files, refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mithridate.core.errors import BadArtefact, Misuse
from mithridate.numerics.rng import generator
from mithridate.numerics.triggers import CORNERS, Trigger, blend, from_png, noise_pattern, patch

SHAPE = (3, 8, 6)


def images(count=5, shape=SHAPE, seed=0):
    return torch.randint(256, (count, *shape), generator=generator(seed, "images"), dtype=torch.uint8)


def pattern(shape=SHAPE, seed=0):
    return noise_pattern(shape, generator(seed, "pattern"))


@pytest.mark.parametrize("corner", CORNERS)
def test_a_patch_replaces_its_corner_and_nothing_else(corner):
    x = images()
    stamped = patch(SHAPE, size=2, corner=corner).stamp(x)
    rows = slice(-2, None) if "bottom" in corner else slice(0, 2)
    columns = slice(-2, None) if "right" in corner else slice(0, 2)
    assert (stamped[:, :, rows, columns] == 255).all()
    changed = torch.zeros(SHAPE[1:], dtype=torch.bool)
    changed[rows, columns] = True
    assert torch.equal(stamped[:, :, ~changed], x[:, :, ~changed])


def test_a_patch_stamped_twice_is_a_patch_stamped_once():
    trigger = patch(SHAPE, size=3, value=0.2, checkered=True)
    once = trigger.stamp(images())
    assert torch.equal(trigger.stamp(once), once)
    assert set(once[:, :, -3:, -3:].flatten().tolist()) == {51, 204}


def test_black_is_a_colour_and_not_transparent():
    assert (patch(SHAPE, size=2, value=0.0).stamp(images() | 1)[:, :, -2:, -2:] == 0).all()


def test_a_blend_of_nothing_is_the_identity_and_a_whole_one_the_pattern():
    x, p = images(), pattern()
    assert torch.equal(blend(p, ratio=0.0).stamp(x), x)
    assert torch.equal(blend(p, ratio=1.0).stamp(x), (255 * p).round().to(torch.uint8).expand_as(x))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), ratio=st.floats(0, 1, width=32))
def test_8_bit_images_are_those_of_exact_fractions(seed, ratio):
    """The slow twin: rational arithmetic on every pixel."""
    from fractions import Fraction

    x, p = images(1, (1, 2, 3), seed), pattern((1, 2, 3), seed)
    trigger = blend(p, ratio=ratio)
    m = Fraction(float(trigger.mask[0, 0, 0]))
    for before, added, after in zip(x.flatten(), p.flatten(), trigger.stamp(x).flatten(), strict=True):
        exact = (1 - m) * int(before) + m * Fraction(float(added)) * 255
        assert abs(int(after) - exact) <= Fraction(1, 2) + Fraction(1, 10**9)


def test_floating_images_agree_with_8_bit_ones_and_pass_gradients():
    x, p = images().float() / 255, pattern()
    trigger = blend(p, ratio=0.2)
    assert (trigger.stamp_unit(x) - trigger.stamp(images()).float() / 255).abs().max() <= 0.5 / 255 + 1e-6
    mask, colours = torch.full((1, 8, 6), 0.4, requires_grad=True), p.clone().requires_grad_()
    x.requires_grad_()
    Trigger(mask, colours).stamp_unit(x).sum().backward()
    assert torch.allclose(x.grad, torch.full_like(x, 0.6))
    assert torch.allclose(colours.grad, torch.full_like(p, 0.4 * len(x)))
    assert torch.allclose(mask.grad, (p - x.detach()).sum((0, 1))[None], atol=1e-4)


def test_what_has_no_images_stays_empty_and_many_are_stamped_in_parts():
    trigger = patch((1, 4, 4), size=1)
    assert trigger.stamp(torch.zeros(0, 1, 4, 4, dtype=torch.uint8)).shape == (0, 1, 4, 4)
    assert (trigger.stamp(torch.zeros(5000, 1, 4, 4, dtype=torch.uint8)).sum((1, 2, 3)) == 255).all()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 6)])
def test_a_png_image_with_opacity_keeps_patches_and_blends(shape, tmp_path):
    for trigger in (patch(shape, size=2, checkered=True), blend(pattern(shape), ratio=0.2)):
        trigger.save(tmp_path / "trigger.png")
        assert from_png(tmp_path / "trigger.png", shape) == trigger


def test_a_small_png_is_a_patch_and_a_ratio_thins_it(tmp_path):
    Image.fromarray(np.full((2, 2, 3), 255, dtype=np.uint8)).save(tmp_path / "patch.png")
    assert from_png(tmp_path / "patch.png", SHAPE) == patch(SHAPE, size=2)
    assert from_png(tmp_path / "patch.png", (1, 8, 6), corner="top-left") == patch((1, 8, 6), size=2, corner="top-left")
    thin = from_png(tmp_path / "patch.png", SHAPE, ratio=0.5)
    assert thin.mask.unique().tolist() == [0.0, 0.5]
    assert from_png(tmp_path / "patch.png", SHAPE).name == "patch"


def test_arrays_come_back_exactly_and_damage_is_named():
    trigger = Trigger(torch.rand(3, 8, 6, generator=generator(0, "m")), pattern(), "mine")
    assert Trigger.of_arrays(trigger.arrays(), "mine", where="here") == trigger
    with pytest.raises(BadArtefact, match="MTH-0332"):
        Trigger.of_arrays({"mask": trigger.arrays()["mask"]}, "mine", where="here")
    with pytest.raises(BadArtefact, match="MTH-0332"):
        Trigger.of_arrays({**trigger.arrays(), "mask": np.full((3, 8, 6), 2, dtype=np.float32)}, "x", where="here")
    with pytest.raises(Misuse, match="MTH-0333"):
        trigger.png()


def test_what_cannot_be_a_trigger_is_refused(tmp_path):
    with pytest.raises(Misuse, match=r"MTH-0330.*from 0.0 to 255.0"):
        Trigger(torch.zeros(1, 2, 2), torch.tensor([[[0.0, 255.0], [0.0, 0.0]]]))
    with pytest.raises(Misuse, match="MTH-0330"):
        Trigger(torch.zeros(2, 2, 2), torch.zeros(3, 2, 2))
    with pytest.raises(Misuse, match="MTH-0330"):
        Trigger(torch.full((1, 2, 2), torch.nan), torch.zeros(3, 2, 2))
    for size, corner in ((0, "top-left"), (9, "top-left"), (2, "middle")):
        with pytest.raises(Misuse, match="MTH-0334"):
            patch(SHAPE, size=size, corner=corner)
    with pytest.raises(Misuse, match=r"MTH-0331.*6 x 8.*5 x 4"):
        patch(SHAPE, size=2).stamp(images(shape=(3, 4, 5)))
    (tmp_path / "no.png").write_bytes(b"no image")
    with pytest.raises(BadArtefact, match="MTH-0201"):
        from_png(tmp_path / "no.png", SHAPE)


def test_sixteen_bit_and_partly_transparent_images_are_read(tmp_path):
    Image.fromarray(np.array([[0, 65535], [65535, 0]], dtype=np.uint16)).save(tmp_path / "deep.png")
    deep = from_png(tmp_path / "deep.png", (1, 2, 2))
    assert deep.pattern.tolist() == [[[0.0, 1.0], [1.0, 0.0]]] and (deep.mask == 1).all()
    clear = np.array([[[255, 0, 0, 0], [255, 0, 0, 255]]], dtype=np.uint8)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    red = from_png(tmp_path / "clear.png", (3, 1, 2))
    assert red.mask.tolist() == [[[0.0, 1.0]]] and red.pattern[:, 0, 1].tolist() == [1.0, 0.0, 0.0]
    assert from_png(tmp_path / "clear.png", (1, 1, 2)).pattern[0, 0, 1].item() == pytest.approx(76 / 255)
