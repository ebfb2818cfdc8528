import math

import numpy as np
import pytest

from tadsr_jax.evaluate import metrics

pytestmark = pytest.mark.quick

RNG = np.random.default_rng(0)


def picture(height=40, width=48, low=0, high=256):
    return RNG.integers(low, high, (height, width, 3), dtype=np.uint8)


def noisy(image, spread=20):
    noise = RNG.integers(-spread, spread + 1, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


def grey(level, size=16):
    return np.full((size, size, 3), level, np.uint8)


FULL_REFERENCE = [
    *(metrics.psnr_rgb, metrics.psnr_y, metrics.psnr_y_pyiqa, metrics.psnr_y_resshift),
    *(metrics.ssim_rgb, metrics.ssim_y, metrics.ssim_y_pyiqa, metrics.gmsd, metrics.spectrum_error),
]


def test_psnr_of_a_difference_of_one_level():
    assert metrics.psnr_rgb(grey(100), grey(101)) == pytest.approx(20 * math.log10(255))


def test_psnr_on_luma_is_higher_by_the_gain_of_the_studio_range():
    gain = 20 * math.log10(255 / 219)
    assert metrics.psnr_y(grey(100), grey(110)) == pytest.approx(metrics.psnr_rgb(grey(100), grey(110)) + gain)


def test_equal_pictures_have_infinite_psnr_but_80_db_in_pyiqa():
    image = picture()
    assert metrics.psnr_rgb(image, image) == metrics.psnr_y(image, image) == math.inf
    assert metrics.psnr_y_pyiqa(image, image) == pytest.approx(80)


def test_resshift_rounds_luma_first():
    """Levels 100 and 110 have luma 101.88 and 110.47: 102 and 110 after rounding."""
    assert metrics.psnr_y_resshift(grey(100), grey(110)) == pytest.approx(20 * math.log10(255 / 8))


def test_the_border_is_cut_before_everything():
    image, gt = picture(), picture()
    gt[4:-4, 4:-4] = image[4:-4, 4:-4]
    assert metrics.psnr_rgb(image, gt, border=4) == math.inf
    assert metrics.ssim_y(image, gt, border=4) == pytest.approx(1)
    assert metrics.psnr_rgb(image, gt, border=3) < 30


@pytest.mark.parametrize("function", [metrics.ssim_rgb, metrics.ssim_y])
def test_ssim_is_that_of_scikit_image_with_the_gaussian_window(function):
    structural_similarity = pytest.importorskip("skimage.metrics").structural_similarity
    gt = picture()
    image = noisy(gt)
    a, b = image.astype(float), gt.astype(float)
    if function is metrics.ssim_y:
        a, b = (x @ [65.481 / 255, 128.553 / 255, 24.966 / 255] + 16 for x in (a, b))
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "win_size": 11}
    axis = {"channel_axis": -1} if a.ndim == 3 else {}
    want = structural_similarity(a, b, data_range=255, **settings, **axis)
    assert function(image, gt) == pytest.approx(want, abs=1e-8)


def test_pyiqa_counts_inverted_structure_as_none():
    gt = picture()
    assert metrics.ssim_y(255 - gt, gt) < -0.5
    assert 0 <= metrics.ssim_y_pyiqa(255 - gt, gt) < 0.05


def test_gmsd_is_the_deviation_of_the_gradients_similarity():
    gt = picture(13, 10)
    image = noisy(gt)

    def gradient(levels):
        y = np.rint(levels.astype(float) @ [0.299, 0.587, 0.114])
        half = np.array([[y[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(5)] for i in range(6)])
        padded = np.pad(half, 1)
        prewitt = np.array([[1, 0, -1]] * 3) / 3
        patches = [[padded[i : i + 3, j : j + 3] for j in range(5)] for i in range(6)]
        return np.array([[np.hypot((p * prewitt).sum(), (p * prewitt.T).sum()) for p in row] for row in patches])

    a, b = gradient(image), gradient(gt)
    want = np.std((2 * a * b + 170) / (a**2 + b**2 + 170), ddof=1)
    assert metrics.gmsd(image, gt) == pytest.approx(want, rel=1e-9)
    assert metrics.gmsd(gt, gt) == 0


def test_the_spectrum_of_white_noise_is_flat_at_its_variance():
    # Of its own: which numbers a shared generator gives depends on the tests that this worker ran before.
    noise = np.random.default_rng(1).integers(0, 256, (256, 200, 1), dtype=np.uint8)
    image = np.repeat(noise, 3, axis=2)
    rho, power = metrics.radial_spectrum(image)
    variance = (219 / 255) ** 2 * (256**2 - 1) / 12 / 255**2  # of uniform levels, on luma in [0, 1]
    assert len(rho) == 128 and rho[0] == pytest.approx(0.5 / 256) and rho[-1] < 0.5
    np.testing.assert_allclose(power[20:], 10 * np.log10(variance), atol=1.5)  # rings of hundreds of values


def test_a_wave_appears_in_the_ring_of_its_frequency():
    wave = np.rint(127 + 100 * np.cos(2 * np.pi * 24 * np.arange(64) / 64)).astype(np.uint8)
    rho, power = metrics.radial_spectrum(np.broadcast_to(wave[None, :, None], (64, 64, 3)))
    assert rho[np.argmax(power)] == pytest.approx(24.5 / 64)


def test_half_the_contrast_is_six_decibels_of_spectrum_error():
    gt = 2 * picture(low=0, high=128)
    assert metrics.spectrum_error(gt // 2, gt) == pytest.approx(20 * math.log10(2), abs=1e-6)
    assert metrics.spectrum_error(gt, gt) == 0


def test_spectrum_error_sees_fine_detail_alone():
    """A slow wave lies below a quarter of a cycle per pixel; the fastest one above."""
    gt = picture(64, 64, 100, 110)
    x = np.arange(64)
    slow = gt + np.rint(50 + 50 * np.sin(2 * np.pi * x / 32)).astype(np.uint8)[None, :, None]
    fast = gt + (x % 2 * 30).astype(np.uint8)[None, :, None]
    assert metrics.spectrum_error(slow, gt) < 0.5
    assert metrics.spectrum_error(np.roll(fast, 1, 0)[:, ::-1], gt) > metrics.spectrum_error(slow, gt)


@pytest.mark.parametrize("function", FULL_REFERENCE)
def test_pictures_that_cannot_be_compared_are_refused(function):
    with pytest.raises(ValueError, match=r"image is \(16, 16\), but gt is \(20, 20\)"):
        function(grey(0), grey(0, 20))
    with pytest.raises(ValueError, match="metrics take uint8 RGB"):
        function(grey(0) / 255, grey(0))
    with pytest.raises(ValueError, match="metrics take uint8 RGB"):
        function(grey(0)[..., 0], grey(0)[..., 0])


def test_pictures_too_small_for_the_window_or_the_border_are_refused():
    with pytest.raises(ValueError, match="at least 11 pixels a side, got 10x10"):
        metrics.ssim_y(grey(0, 10), grey(0, 10))
    with pytest.raises(ValueError, match="border=8 leaves nothing"):
        metrics.psnr_rgb(grey(0), grey(0), border=8)
