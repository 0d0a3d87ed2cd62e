"""Laws of the augmentation: linear, adjoint, exact for whole offsets, and the published extents."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import affine_grid, grid_sample, pad

from mithridate.core.errors import Misuse
from mithridate.numerics.rng import generator
from mithridate.numerics.warp import Shift, WarpParams, published_shift

FILL = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)


def images(n=5, c=3, h=9, w=7, *, seed=0):
    return torch.rand(n, c, h, w, generator=generator(seed, "images"), dtype=torch.float64)


def offsets(dy, dx, flip):
    return WarpParams(dy=torch.tensor(dy), dx=torch.tensor(dx), flip=torch.tensor(flip))


@pytest.mark.parametrize("law", ["bilinear", "integer"])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_adjoint(law, seed):
    shift = Shift(law=law, max_px=3)
    x, y = images(seed=seed), images(seed=seed + 1)
    params = shift.draw(5, (9, 7), generator(seed, "warp"))
    zero = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close((shift.apply(x, params, zero) * y).sum(), (x * shift.adjoint(y, params)).sum())


def test_adjoint_is_what_autograd_pulls_back():
    shift = Shift(max_px=2.5)
    x, y = images().requires_grad_(), images(seed=1)
    params = shift.draw(5, (9, 7), generator(3, "warp"))
    (pulled,) = torch.autograd.grad((shift.apply(x, params, FILL) * y).sum(), x)
    torch.testing.assert_close(pulled, shift.adjoint(y, params))


def test_no_shift_is_the_identity_bit_for_bit():
    x = images().float()
    params = offsets([0.0] * 5, [0.0] * 5, [False] * 5)
    assert torch.equal(Shift().apply(x, params, FILL.float()), x)


def test_double_flip_is_the_identity_bit_for_bit():
    x = images().float()
    params = offsets([0.0] * 5, [0.0] * 5, [True] * 5)
    once = Shift().apply(x, params, FILL.float())
    assert torch.equal(once, x.flip(-1))
    assert torch.equal(Shift().apply(once, params, FILL.float()), x)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("dy, dx", [(0, 0), (2, -1), (-3, 3), (1, 0)])
def test_whole_offsets_copy_pixels_and_fill(dy, dx, flip):
    """The padded random crop, written out: mirror, pad by 3 with the fill, cut the window."""
    x, fill = images().float(), FILL.float()
    padded = pad(x - fill[:, None, None], (3, 3, 3, 3)) + fill[:, None, None]
    padded[..., 3:-3, 3:-3] = x.flip(-1) if flip else x
    want = padded[:, :, 3 + dy : 3 + dy + 9, 3 + dx : 3 + dx + 7]
    got = Shift().apply(x, offsets([float(dy)] * 5, [float(dx)] * 5, [flip] * 5), fill)
    assert torch.equal(got, want)


def test_bilinear_law_is_the_published_grid_sample():
    """Oracle: affine grid with a shifted, then mirrored, column grid; zeros outside around the mean colour."""
    x = images(n=6, h=8, w=8)
    shift = Shift(max_px=1.0)
    params = shift.draw(6, (8, 8), generator(1, "warp"))
    theta = torch.eye(2, 3, dtype=torch.float64).repeat(6, 1, 1)
    grid = affine_grid(theta, [6, 3, 8, 8], align_corners=True)
    per_px = 2 / (8 - 1)
    grid = grid + torch.stack([params.dx, params.dy], 1).double()[:, None, None, :] * per_px
    grid[..., 0] = torch.where(params.flip[:, None, None], -grid[..., 0], grid[..., 0])
    colour = FILL[:, None, None]
    want = grid_sample(x - colour, grid, mode="bilinear", padding_mode="zeros", align_corners=True) + colour
    torch.testing.assert_close(shift.apply(x, params, FILL), want)


def test_published_extents():
    assert [published_shift(s) for s in (32, 28, 64, 224)] == [4.0, 2.0, 8.0, 28.0]


@pytest.mark.parametrize("law", ["bilinear", "integer"])
def test_the_law_of_the_draw(law):
    shift = Shift(law=law, max_px=2)
    params = shift.draw(4000, (8, 8), generator(0, "draw"))
    for offset in (params.dy, params.dx):
        assert offset.abs().max() <= 2
        assert abs(offset.mean()) < 0.1
        if law == "integer":
            values, counts = offset.unique(return_counts=True)
            assert values.tolist() == [-2, -1, 0, 1, 2]
            assert counts.min() > 700
        else:
            assert abs(offset.var() - 4 / 3) < 0.1
    assert abs(params.flip.float().mean() - 0.5) < 0.05
    assert not Shift(law=law, max_px=2, flip=False).draw(100, (8, 8), generator(0, "draw")).flip.any()
    again = shift.draw(4000, (8, 8), generator(0, "draw"))
    assert torch.equal(params.dy, again.dy)
    assert torch.equal(params.flip, again.flip)


def test_a_chunk_of_the_draw_warps_as_the_whole():
    x, shift = images(), Shift(max_px=2)
    params = shift.draw(5, (9, 7), generator(0, "draw"))
    whole = shift.apply(x, params, FILL)
    parts = torch.cat([shift.apply(x[a:b], params.rows(a, b), FILL) for a, b in ((0, 2), (2, 5))])
    torch.testing.assert_close(whole, parts)


@pytest.mark.parametrize(
    "wrong", [{"law": "cubic"}, {"fill": "white"}, {"max_px": -1}, {"law": "integer", "max_px": 1.5}]
)
def test_bad_values_are_refused_by_name(wrong):
    with pytest.raises(Misuse, match=list(wrong)[-1]):
        Shift(**wrong)


def test_a_shift_beyond_the_image_is_refused():
    with pytest.raises(Misuse, match="8x8"):
        Shift(max_px=9).draw(1, (8, 8), generator(0))
