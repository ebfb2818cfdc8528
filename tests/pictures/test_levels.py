"""Arithmetic on the samples of a picture."""

import numpy as np
import pytest

from tadsr_jax import pictures
from tadsr_jax.pictures import levels

pytestmark = pytest.mark.quick


def test_16_bits_become_8_by_rounding_to_the_nearest_level():
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(pictures.to_8_bits(deep), np.rint(deep / 257))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_on_white_mixes_in_straight_alpha_and_rounds(dtype):
    most = np.iinfo(dtype).max
    rgba = np.array([[[0, most, 7, most], [0, most, 7, 0], [0, most, 7, 1 + most // 2]]], dtype)
    alpha = (1 + most // 2) / most
    mixed = [np.rint(c * alpha + most * (1 - alpha)) for c in (0, most, 7)]
    np.testing.assert_array_equal(pictures.on_white(rgba), [[[0, most, 7], [most] * 3, mixed]])
    np.testing.assert_array_equal(pictures.on_white(rgba[..., [0, 3]]), [[0, most, mixed[0]]])


def test_bands_do_not_show(monkeypatch):
    deep = np.random.default_rng(0).integers(0, 65536, (50, 3, 4), dtype=np.uint16)
    whole = pictures.on_white(deep), pictures.to_8_bits(deep)
    monkeypatch.setattr(levels, "BAND", 100)
    np.testing.assert_array_equal(pictures.on_white(deep), whole[0])
    np.testing.assert_array_equal(pictures.to_8_bits(deep), whole[1])
    assert levels.bands(deep, 100) == [(start, min(start + 4, 50)) for start in range(0, 50, 4)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_bleed_from_the_nearest_visible_pixel_and_visible_ones_stay(dtype):
    rgb = np.zeros((1, 7, 3), dtype)
    alpha = np.zeros((1, 7), dtype)
    rgb[0, 1], rgb[0, 5] = (10, 20, 30), (40, 50, 60)
    alpha[0, 1], alpha[0, 5] = 1, 255
    out = pictures.bleed(rgb, alpha)
    np.testing.assert_array_equal(out[0, [0, 1, 2]], [[10, 20, 30]] * 3)
    np.testing.assert_array_equal(out[0, [4, 5, 6]], [[40, 50, 60]] * 3)
    assert rgb[0, 0, 0] == 0, "the argument was changed"


def test_bleeding_reaches_every_hidden_pixel_and_takes_nothing_farther_than_needed():
    rng = np.random.default_rng(0)
    alpha = (rng.random((40, 50)) < 0.02).astype(np.uint8) * 255
    grey = rng.integers(0, 65536, (40, 50), dtype=np.uint16)
    out = pictures.bleed(grey, alpha)
    y, x = np.nonzero(alpha)
    distance = np.hypot(*(np.indices(alpha.shape)[:, :, :, None] - np.stack([y, x])[:, None, None]))  # h w visible
    taken = np.where(grey[y, x] == out[..., None], distance, np.inf).min(-1)
    assert (taken <= distance.min(-1) * 1.05 + 1e-9).all()
    np.testing.assert_array_equal(out[alpha > 0], grey[alpha > 0])


@pytest.mark.parametrize("cover", [0, 255])
def test_where_all_or_nothing_is_visible_colours_stay(cover):
    rgb = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(pictures.bleed(rgb, np.full((4, 5), cover, np.uint8)), rgb)
