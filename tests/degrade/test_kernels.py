"""Blur kernels, against their formulas."""

import numpy as np
import pytest

from tadsr_jax.degrade import kernels

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("kind", kernels.KERNEL_TYPES)
def test_every_kernel_sums_to_one_and_is_symmetric_about_its_centre(kind):
    kernel = kernels.gaussian_kernel(kind, 11, 2.0, 0.8, 0.7, 1.5)
    assert kernel.shape == (11, 11) and kernel.dtype == np.float32
    np.testing.assert_allclose(kernel.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], rtol=1e-5)


def test_ratios_of_taps_follow_the_three_shapes():
    taps = {kind: kernels.gaussian_kernel(kind, 5, 2.0, beta=1.5)[2, 2:4] for kind in kernels.KERNEL_TYPES[::2]}
    q = 1 / 4  # one pixel from the centre, sigma 2
    np.testing.assert_allclose(taps["iso"][1] / taps["iso"][0], np.exp(-q / 2), rtol=1e-6)
    np.testing.assert_allclose(
        taps["generalized_iso"][1] / taps["generalized_iso"][0], np.exp(-(q**1.5) / 2), rtol=1e-6
    )
    np.testing.assert_allclose(taps["plateau_iso"][1] / taps["plateau_iso"][0], 1 / (1 + q**1.5), rtol=1e-6)


def test_sigma_x_runs_along_columns_and_a_quarter_turn_swaps_the_axes():
    wide = kernels.gaussian_kernel("aniso", 9, 3.0, 0.5)
    assert wide[4, 8] > 100 * wide[8, 4]
    np.testing.assert_allclose(kernels.gaussian_kernel("aniso", 9, 3.0, 0.5, np.pi / 2), wide.T, atol=1e-7)


def test_a_sinc_of_cutoff_pi_has_negative_lobes_and_keeps_the_mean():
    kernel = kernels.sinc_kernel(9, np.pi)
    assert kernel.min() < 0
    np.testing.assert_allclose(kernel.sum(), 1, rtol=1e-6)
    # w^2/(4 pi) in the centre against w J1(w)/(2 pi) one pixel away, J1(pi) = 0.2846153.
    np.testing.assert_allclose(kernel[4, 5] / kernel[4, 4], 2 * 0.28461534 / np.pi, rtol=1e-5)


def test_padding_puts_zeros_around_and_never_cuts():
    kernel = kernels.gaussian_kernel("iso", 3, 1.0)
    padded = kernels.pad_kernel(kernel, 7)
    np.testing.assert_array_equal(padded[2:5, 2:5], kernel)
    assert np.count_nonzero(padded) == 9 and kernels.pad_kernel(kernel, 0) is not None
    assert kernels.pad_kernel(padded, 3).shape == (7, 7)


def test_an_even_size_and_an_unknown_type_are_refused():
    with pytest.raises(ValueError, match="size is 4; expected an odd"):
        kernels.sinc_kernel(4, 2.0)
    with pytest.raises(ValueError, match="'box'; expected one of iso"):
        kernels.gaussian_kernel("box", 3, 1.0)
