import itertools
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from tadsr_jax.upscale import color

pytestmark = pytest.mark.quick


def picture(height, width, seed=0):
    return np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)


def bands(array, heights):
    return np.split(array, np.cumsum(heights)[:-1])


# --- AdaIN ----------------------------------------------------------------------------------------------------------


def test_moments_are_the_mean_and_the_unbiased_deviation_with_its_epsilon():
    x = picture(5, 7)
    moments = color.Moments().update(x)
    pixels = x.astype(np.float64).reshape(-1, 3)
    np.testing.assert_allclose(moments.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, np.sqrt(pixels.var(0, ddof=1) + 1e-5), rtol=1e-12)


def test_moments_of_bands_are_those_of_the_whole():
    x = picture(40, 7) * np.linspace(0, 1, 40, dtype=np.float32)[:, None, None]
    whole, streamed = color.Moments().update(x), color.Moments()
    for rows in bands(x, [1, 0, 30, 9]):
        streamed.update(rows)
    np.testing.assert_allclose(streamed.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(streamed.std, whole.std, rtol=1e-12)
    assert streamed.count == 280


@pytest.mark.parametrize("shape", [(1, 1), (6, 4)])
def test_a_constant_picture_has_the_deviation_of_the_epsilon_alone(shape):
    moments = color.Moments().update(np.full((*shape, 3), 0.3, np.float32))
    np.testing.assert_allclose(moments.std, np.sqrt(1e-5), rtol=1e-6)


def test_adain_gives_the_target_the_sources_mean_and_deviation():
    target, source = 0.5 + 0.1 * picture(32, 48, 1), picture(8, 12, 2)
    fixed = color.adain(target, source).astype(np.float64)
    assert fixed.shape == target.shape
    np.testing.assert_allclose(fixed.mean((0, 1)), source.mean((0, 1)), rtol=1e-5)
    # The epsilons below the roots keep the ratio from being exact: 1e-5 beside a variance of 8e-4.
    np.testing.assert_allclose(fixed.std((0, 1)), source.std((0, 1)), rtol=1e-2)


def test_adain_of_a_picture_with_itself_changes_nothing():
    x = picture(16, 16)
    np.testing.assert_allclose(color.adain(x, x), x, atol=3e-7)


# --- wavelet --------------------------------------------------------------------------------------------------------


def test_smooth_is_five_dilated_blurs_with_repeated_edges():
    x = picture(20, 35)
    expected = x.astype(np.float64)
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    for d in (1, 2, 4, 8, 16):
        padded = np.pad(expected, ((d, d), (d, d), (0, 0)), mode="edge")
        expected = sum(
            kernel[i, j] * padded[i * d : i * d + 20, j * d : j * d + 35] for i in range(3) for j in range(3)
        )
    np.testing.assert_allclose(color.smooth(x), expected, atol=1e-6)


def test_the_halo_is_how_far_a_row_is_seen():
    x = np.zeros((101, 3, 3), np.float32)
    x[50] = 1
    rows = np.flatnonzero(color.smooth(x)[:, 0, 0])
    assert (rows[0], rows[-1]) == (50 - color.HALO, 50 + color.HALO) and color.HALO == 31


def test_wavelet_takes_the_detail_of_the_target_and_the_coarse_part_of_the_source():
    target, source = picture(70, 40, 1), picture(70, 40, 2)
    fixed = color.wavelet(target, source)
    np.testing.assert_allclose(fixed, (target - color.smooth(target)) + color.smooth(source), atol=1e-6)
    np.testing.assert_allclose(color.wavelet(target + 0.25, target), target, atol=1e-6)  # a colour cast is gone


@pytest.mark.parametrize("heights", [[150], [1] * 150, [31, 31, 31, 31, 26], [62, 88], [5, 0, 100, 45], [149, 1]])
def test_wavelet_by_bands_equals_wavelet_of_the_whole(heights):
    target, source = picture(150, 24, 1), picture(150, 24, 2)
    pairs = zip(bands(target, heights), bands(source, heights), strict=True)
    banded = np.concatenate(list(color.wavelet_bands(pairs)))
    np.testing.assert_array_equal(banded, color.wavelet(target, source))


def test_bands_lower_than_the_halo_and_no_bands_at_all_are_fine():
    target, source = picture(3, 3, 1), picture(3, 3, 2)
    np.testing.assert_array_equal(next(color.wavelet_bands([(target, source)])), color.wavelet(target, source))
    assert list(color.wavelet_bands([])) == []


def test_a_source_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"source is \(8, 8, 3\), the target \(16, 16, 3\); enlarge"):
        color.wavelet(picture(16, 16), picture(8, 8))


# --- levels, in bounded memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_enlarged_rows_together_are_the_enlarged_picture_of_pillow(scale):
    source = picture(23, 9)
    planes = [Image.fromarray(source[..., c]).resize((9 * scale, 23 * scale), Image.BICUBIC) for c in range(3)]
    ends = [0, 1, 2, 7, 8 * scale, 23 * scale]
    rows = [color.enlarged_rows(source, a, b, scale=scale) for a, b in itertools.pairwise(ends)]
    np.testing.assert_allclose(np.concatenate(rows), np.stack(planes, -1), atol=1e-6)


def enlarged(source, scale):
    return color.enlarged_rows(source, 0, len(source) * scale, scale=scale)


@pytest.mark.parametrize("how", ["wavelet", "adain"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_recolor_in_place_and_by_bands_equals_the_fix_of_the_whole(monkeypatch, how, dtype):
    top = 1 if dtype == np.float32 else np.iinfo(dtype).max
    pixels = (picture(300, 20, 1) * top).astype(dtype)
    source = (picture(150, 10, 2) * top).astype(dtype)
    unit = [(x / np.float64(top)).astype(np.float32) for x in (pixels, source)]
    want = np.clip(getattr(color, how)(unit[0], enlarged(unit[1], 2)), 0, 1) * top
    monkeypatch.setattr(color, "BAND_PIXELS", 0)  # the lowest bands: three for 300 rows
    color.recolor(pixels, source, how=how)
    assert pixels.dtype == dtype
    # Half a level, and one more where rounding is a tie.
    np.testing.assert_allclose(pixels.astype(np.float64), want, atol=1e-6 if dtype == np.float32 else 0.51)


def test_recolor_believes_the_moments_it_is_given():
    pixels, source = picture(40, 40, 1), picture(20, 20, 2)
    given = color.Moments().update(pixels * 0.5)
    want = color.match_moments(pixels, given, color.Moments().update(enlarged(source, 2)))
    color.recolor(pixels, source, how="adain", own=given)
    np.testing.assert_allclose(pixels, np.clip(want, 0, 1), atol=1e-6)


def test_none_leaves_every_pixel_as_it_is():
    pixels = picture(8, 8)
    before = pixels.copy()
    color.recolor(pixels, picture(4, 4), how="none")
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("how", ["wavelet", "adain"])
def test_recolor_takes_memory_for_a_band_not_for_the_picture(monkeypatch, how):
    monkeypatch.setattr(color, "BAND_PIXELS", 0)
    peaks = []
    for height in (1000, 8000):
        pixels, source = np.zeros((height, 100, 3), np.uint8), np.zeros((height // 4, 25, 3), np.uint8)
        tracemalloc.start()
        color.recolor(pixels, source, how=how)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] and peaks[1] < pixels.nbytes  # the whole as floats: four times that


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"how": "vivid"}, r"color_fix is 'vivid'; expected one of none, wavelet, adain\."),
        ({"source": np.zeros((3, 4, 3), np.uint8)}, r"result is \(8, 8, 3\), .* \(3, 4, 3\)"),
    ],
)
def test_what_cannot_be_recoloured_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        color.recolor(
            np.zeros((8, 8, 3), np.uint8), **{"source": np.zeros((4, 4, 3), np.uint8), "how": "adain"} | wrong
        )
