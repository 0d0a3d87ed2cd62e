"""Pixels to data URIs: each shown square is one real pixel, and the difference is what it says."""

import base64
import io
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mithridate.core.errors import Misuse
from mithridate.report.pictures import amplified_difference, png_uri, poison_picture, spread, target_picture
from mithridate.report.schema import PNG_PREFIX


def decode(uri: str) -> np.ndarray:
    assert uri.startswith(PNG_PREFIX)
    with Image.open(io.BytesIO(base64.b64decode(uri[len(PNG_PREFIX) :])), formats=("PNG",)) as image:
        return np.asarray(image)


def random_image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_small_images_are_enlarged_by_repeating_pixels() -> None:
    image = random_image(3, 32, 32)
    shown = decode(png_uri(image))
    assert shown.shape == (128, 128, 3)
    for y in (0, 17, 31):
        for x in (0, 5, 31):
            block = shown[4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
            assert (block == image[:, y, x]).all()


def test_large_images_are_thinned_to_real_pixels() -> None:
    image = random_image(3, 224, 200)
    shown = decode(png_uri(image))
    np.testing.assert_array_equal(shown, image[:, ::2, ::2].transpose(1, 2, 0))


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (1, 1, 1), (3, 1, 500), (3, 129, 129)])
def test_any_size_stays_within_the_display_side(shape: tuple[int, int, int]) -> None:
    shown = decode(png_uri(random_image(*shape)))
    assert max(shown.shape[:2]) <= 128
    assert shown.ndim == (2 if shape[0] == 1 else 3)


def test_layouts_agree() -> None:
    image = random_image(3, 20, 12)
    assert png_uri(image) == png_uri(np.ascontiguousarray(image.transpose(1, 2, 0)), layout="hwc")
    assert png_uri(image[:1]) == png_uri(image[0])


def test_difference_by_hand() -> None:
    clean = np.array([[[100, 100, 100, 100, 0, 255]]], dtype=np.uint8)
    poison = np.array([[[100, 101, 90, 116, 3, 254]]], dtype=np.uint8)
    assert amplified_difference(clean, poison).tolist() == [[[128, 138, 28, 255, 158, 118]]]


def test_difference_is_taken_before_thinning() -> None:
    clean = random_image(3, 256, 256)
    poison = clean.copy()
    poison[:, 1::2, 1::2] ^= 1  # only pixels that thinning drops
    entry = poison_picture(clean, poison, scenario="s", row=1, label="cat")
    assert (decode(str(entry["difference"])) == 128).all()
    assert entry["clean"] == entry["poison"]


def test_entries_match_the_document() -> None:
    image = random_image(3, 8, 8)
    entry = poison_picture(image, image, scenario="s", row=7, label="frog")
    assert {k: entry[k] for k in ("scenario", "id", "label")} == {"scenario": "s", "id": 7, "label": "frog"}
    assert target_picture(image, scenario="s", actual="dog", wanted="frog") == {
        "scenario": "s",
        "target": png_uri(image),
        "class": "dog",
        "wanted": "frog",
    }


@pytest.mark.parametrize("shape", [(4, 8, 8), (8, 8, 3), (3, 0, 8), (1, 3, 8, 8), (7,)])
def test_what_is_no_picture_is_refused_with_its_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(Misuse) as caught:
        png_uri(random_image(*shape))
    assert caught.value.code == "MTH-0804"
    assert str(shape) in caught.value.message


def test_unequal_shapes_are_refused() -> None:
    with pytest.raises(Misuse, match=r"\(3, 8, 8\) and \(3, 8, 9\)"):
        amplified_difference(random_image(3, 8, 8), random_image(3, 8, 9))


@given(st.integers(0, 500), st.integers(1, 40))
def test_spread_is_even_sorted_and_has_both_ends(count: int, limit: int) -> None:
    chosen = spread(count, limit)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, limit)
    assert all(0 <= i < count for i in chosen)
    if count > 1 and limit > 1:
        assert (chosen[0], chosen[-1]) == (0, count - 1)
        gaps = [b - a for a, b in itertools.pairwise(chosen)]
        assert max(gaps) - min(gaps) <= 1


def test_same_pixels_same_text() -> None:
    assert png_uri(random_image(3, 32, 32)) == png_uri(random_image(3, 32, 32))
