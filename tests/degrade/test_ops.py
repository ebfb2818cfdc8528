"""The operations of a degradation, against plain NumPy or SciPy."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from tadsr_jax import images
from tadsr_jax.degrade import kernels, ops

pytestmark = pytest.mark.quick


def _picture(height=40, width=33, seed=0):
    rng = np.random.default_rng(seed)
    smooth = scipy.ndimage.gaussian_filter(rng.random((height, width, 3)), (2, 2, 0))
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return smooth.astype(np.float32)


@pytest.mark.parametrize("size", [1, 3, 11, 13, 15, 17, 19, 21, 41])
def test_filter2d_is_a_cross_correlation_with_mirrored_edges_at_every_size(size):
    kernel = np.random.default_rng(size).random((size, size)).astype(np.float32)
    kernel /= kernel.sum()
    x = _picture()
    want = np.stack([scipy.ndimage.correlate(x[..., c].astype(float), kernel, mode="mirror") for c in range(3)], -1)
    np.testing.assert_allclose(ops.filter2d(x, kernel), want, atol=3e-6)


def test_zeros_around_a_kernel_change_nothing():
    kernel = kernels.gaussian_kernel("aniso", 7, 2.0, 0.7, 0.4)
    np.testing.assert_array_equal(
        ops.filter2d(_picture(), kernels.pad_kernel(kernel, 21)), ops.filter2d(_picture(), kernel)
    )


def test_noise_of_strength_zero_leaves_the_picture():
    x = _picture()
    levels, vals = ops.poisson_rate(x, gray=False)
    np.testing.assert_array_equal(ops.gaussian_noise(x, 0, np.ones_like(x)), x)
    np.testing.assert_array_equal(ops.poisson_noise(x, 0, np.ones_like(x), levels, vals), x)


def test_one_plane_of_grey_noise_reaches_all_channels():
    noisy = ops.gaussian_noise(np.zeros((2, 2, 3), np.float32), 51, np.float32([[[1], [0]], [[-1], [2]]]))
    np.testing.assert_allclose(noisy[..., 0], [[0.2, 0], [-0.2, 0.4]], atol=1e-6)
    np.testing.assert_array_equal(noisy[..., 0], noisy[..., 2])


@pytest.mark.parametrize("distinct, vals", [(1, 1), (2, 2), (3, 4), (16, 16), (17, 32), (256, 256)])
def test_photon_levels_are_the_next_power_of_two_of_the_distinct_grey_levels(distinct, vals):
    x = (np.arange(3 * 256) % distinct).reshape(16, 16, 3).astype(np.float32) / 255
    assert ops.poisson_rate(x, gray=False)[1] == vals


@pytest.mark.parametrize("vals", [1, 4, 64, 256])
def test_poisson_samples_follow_the_poisson_law(vals):
    rng = np.random.default_rng(vals)
    for level in (0, 3, 128, 255):
        counts = ops.sample_poisson(np.full(100_000, level, np.uint8), vals, rng)
        law = scipy.stats.poisson(level / 255 * vals)
        values = np.arange(law.ppf(1e-4), law.ppf(1 - 1e-4) + 1)
        expected = 100_000 * law.pmf(values)
        seen = np.array([(counts == value).sum() for value in values])
        keep = expected > 20
        chi2 = ((seen - expected)[keep] ** 2 / expected[keep]).sum()
        assert chi2 < scipy.stats.chi2.ppf(1 - 1e-6, max(1, keep.sum())), (vals, level)
        assert abs(seen.sum() - expected.sum()) < 100


def test_the_jpeg_simulation_of_a_flat_picture_only_rounds_its_mean():
    flat = np.full((16, 16, 3), 0.5, np.float32)
    # A constant block of level v has the one coefficient 8 (v - 128); the table's first entry is 16 at quality 50.
    got = ops.simulated_jpeg(flat, 50)
    level = 128 + 16 * np.rint(8 * (127.5 - 128) / 16) / 8
    np.testing.assert_allclose(got, level / 255, atol=1e-6)


def test_the_jpeg_simulation_of_a_grey_picture_is_as_strong_as_an_encoder():
    x = _picture(48, 64)[..., :1].repeat(3, -1)  # without colour, which the simulation enlarges more coarsely
    for quality in (30, 60, 90):
        errors = [np.mean((jpeg(x, quality) - x) ** 2) for jpeg in (ops.real_jpeg, ops.simulated_jpeg)]
        assert 0.8 < errors[0] / errors[1] < 1.25


@pytest.mark.parametrize("quality", [99.99, 100])
def test_the_highest_qualities_are_finite_and_nearly_lossless(quality):
    x = images.matlab_bicubic(_picture(), 2).clip(0, 1)[:31, :45]
    got = ops.simulated_jpeg(x, quality)
    assert got.shape == x.shape and np.isfinite(got).all() and np.abs(got - x).mean() < 0.02


def test_real_jpeg_keeps_the_order_of_channels():
    red = np.zeros((16, 16, 3), np.float32)
    red[..., 0] = 1
    np.testing.assert_allclose(ops.real_jpeg(red, 95), red, atol=0.02)


def test_sharpening_leaves_flat_pictures_and_steepens_edges():
    flat = np.full((60, 60, 3), 0.4, np.float32)
    np.testing.assert_allclose(ops.usm_sharp(flat), flat, atol=1e-6)
    edge = np.repeat(np.where(np.arange(60) < 30, 0.3, 0.7)[None, :, None], 60, 0).repeat(3, -1).astype(np.float32)
    sharp = ops.usm_sharp(edge)
    assert sharp[30, 29, 0] < 0.3 - 0.05 and sharp[30, 30, 0] > 0.7 + 0.05


def test_quantised_values_are_levels():
    x = ops.quantize(np.float32([[[-0.2, 0.5001, 1.3]]]))
    np.testing.assert_allclose(x * 255, [[[0, 128, 255]]], atol=1e-4)
