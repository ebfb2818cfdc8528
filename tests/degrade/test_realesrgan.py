"""Drawing and replaying the second-order degradation; what its settings accept."""

import inspect

import numpy as np
import pytest

from tadsr_jax import degrade
from tadsr_jax.degrade import realesrgan
from tadsr_jax.degrade.realesrgan import Blur, GaussianNoise, Jpeg, PoissonNoise, Quantize, Resize
from tadsr_jax.degrade.settings import Settings

pytestmark = pytest.mark.quick

# One gentle stage: no sinc, no resize but the last, a little noise, good JPEG.
MILD = {
    "sinc_prob": 0.0,
    "final_sinc_prob": 0.0,
    "kernel_prob": [1, 0, 0, 0, 0, 0],
    "blur_sigma": [0.2, 1.2],
    "resize_prob": [0, 0, 1],
    "resize_modes": ["area"],
    "gaussian_noise_prob": 1.0,
    "noise_range": [0, 4],
    "jpeg_range": None,
    "second_order_prob": 0.0,
    "jpeg_range2": [75, 95],
}


def _gt(side=64):
    y, x = np.mgrid[:side, :side] / side
    return np.stack([y, x, 0.5 + 0.5 * np.sin(40 * x * y)], -1).astype(np.float32)


def _steps(count=2000, **settings):
    rng = np.random.default_rng(0)
    return [realesrgan.draw(rng, (64, 64, 3), scale=4, **settings).steps for _ in range(count)]


def _of(kind, steps):
    return [step for step in steps if isinstance(step, kind)]


def test_the_record_replays_to_the_same_picture_and_the_generator_to_the_same_record():
    draws = [realesrgan.draw(np.random.default_rng(5), (64, 64, 3), scale=4) for _ in range(2)]
    assert draws[0] == draws[1]
    first, second = (realesrgan.apply(_gt(), draw) for draw in draws)
    np.testing.assert_array_equal(first, second)
    rebuilt = eval(repr(draws[0]), vars(realesrgan))  # what is printed is all there is
    np.testing.assert_array_equal(realesrgan.apply(_gt(), rebuilt), first)


@pytest.mark.parametrize("settings", [{}, {"jpeg": "simulated"}, {"resize_grid": "size"}, {"usm": True}, MILD])
def test_lq_has_whole_levels_in_range_and_a_quarter_of_the_side(settings):
    for seed in range(8):
        lq, gt = degrade.degrade(_gt(), np.random.default_rng(seed), scale=4, **settings)
        assert lq.shape == (16, 16, 3) and lq.dtype == np.float32 and gt.shape == (64, 64, 3)
        np.testing.assert_allclose(lq * 255, np.rint(lq * 255), atol=1e-4)
        assert lq.min() >= 0 and lq.max() <= 1


def test_shares_of_the_draws_are_those_of_the_x4_models():
    steps = _steps()
    second = np.mean([len(_of((GaussianNoise, PoissonNoise), s)) == 2 for s in steps])
    assert abs(second - 0.5) < 0.04
    noise = [s for s in steps for s in _of((GaussianNoise, PoissonNoise), s)]
    assert abs(np.mean([isinstance(n, GaussianNoise) for n in noise]) - 0.5) < 0.04
    assert abs(np.mean([n.gray for n in noise]) - 0.4) < 0.04
    first = [_of(Blur, s)[0] for s in steps]
    assert abs(np.mean([blur.kind == "sinc" for blur in first]) - 0.1) < 0.03
    assert abs(np.mean([blur.kind == "iso" for blur in first]) - 0.9 * 0.45) < 0.04
    scaled = [_of(Resize, s)[0].scale for s in steps if _of(Resize, s)[0].scale]
    assert abs(np.mean([scale > 1 for scale in scaled]) - 0.2 / 0.9) < 0.04
    assert 0.15 <= min(scaled) < 0.17 and 1.45 < max(scaled) <= 1.5
    ends_with_jpeg = np.mean([isinstance(s[-2], Jpeg) for s in steps])
    assert abs(ends_with_jpeg - 0.5) < 0.04
    assert all(isinstance(s[-1], Quantize) for s in steps)


def test_kernel_sizes_leave_out_the_full_size_unless_realesrgan_is_asked_for():
    sizes = {_of(Blur, s)[0].size for s in _steps()}
    assert sizes == set(range(3, 20, 2))
    sizes = {_of(Blur, s)[0].size for s in _steps(kernel_sizes="realesrgan")}
    assert sizes == set(range(7, 22, 2))


def test_half_of_the_plateaus_have_a_beta_of_exactly_one():
    betas = [_of(Blur, s)[0].beta for s in _steps(kernel_prob=[0, 0, 0, 0, 0.5, 0.5], sinc_prob=0)]
    assert abs(np.mean([beta == 1 for beta in betas]) - 0.5) < 0.04 and 1.9 < max(betas) <= 2


def test_the_second_resize_counts_from_the_size_of_lq():
    sizes = [_of(Resize, s)[1].size for s in _steps(second_order_prob=1.0, resize_prob=[1, 0, 0])]
    assert min(h for h, _ in sizes) >= int(16 * 0.3) and max(h for h, _ in sizes) <= int(16 * 1.2)


def test_mild_settings_mean_one_blur_one_resize_a_little_noise_and_one_jpeg():
    for steps in _steps(200, **MILD):
        kinds = [type(step).__name__ for step in steps if type(step).__name__ != "Clip"]
        assert sorted(kinds) == ["Blur", "GaussianNoise", "Jpeg", "Quantize", "Resize"]
        assert _of(GaussianNoise, steps)[0].sigma <= 4 and _of(Jpeg, steps)[0].quality >= 75
        assert 0.2 <= _of(Blur, steps)[0].sigma_x <= 1.2


def test_the_published_test_set_maker_is_expressible():
    Settings(
        blur_kernel_size=13, blur_kernel_size2=7, kernel_prob=[0.6, 0.4, 0, 0, 0, 0],
        kernel_prob2=[0.6, 0.4, 0, 0, 0, 0],
        sinc_prob2=0, blur_sigma=[0.2, 0.8], blur_sigma2=[0.2, 0.5], betag_range=[1, 1.5], betag_range2=[0.5, 0.8],
        betap_range=[1, 1.2], betap_range2=[1, 1.2], final_sinc_prob=0.2, resize_range=[0.5, 1.5], noise_range=[1, 15],
        poisson_scale_range=[0.05, 0.3], jpeg_range=[70, 95], second_order_prob=0, second_blur_prob=0.2,
        resize_range2=[0.8, 1.2], noise_range2=[1, 10], poisson_scale_range2=[0.05, 0.2], jpeg_range2=[80, 100],
    )  # fmt: skip


def test_usm_changes_the_target_too_and_nothing_else_does():
    _, gt = degrade.degrade(_gt(), np.random.default_rng(0), scale=4)
    np.testing.assert_array_equal(gt, _gt())
    _, gt = degrade.degrade(_gt(), np.random.default_rng(0), scale=4, usm=True)
    assert np.abs(gt - _gt()).max() > 0.01


def test_bicubic_is_matlab_and_not_rounded_unless_asked_for():
    lq, _ = degrade.degrade(np.full((16, 16, 3), 0.3001, np.float32), None, kind="bicubic", scale=4)
    np.testing.assert_allclose(lq, 0.3001, rtol=1e-6)
    lq, _ = degrade.degrade(np.full((16, 16, 3), 0.3001, np.float32), None, kind="bicubic", scale=4, quantize=True)
    np.testing.assert_allclose(lq, 77 / 255, rtol=1e-6)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"noise_rang": [1, 2]}, "realesrgan.noise_rang is no setting; .*noise_range, poisson_scale_range"),
        ({"sinc_prob": 1.5}, "sinc_prob is 1.5; expected a probability from 0 to 1"),
        ({"sinc_prob": True}, "sinc_prob is True; expected a probability"),
        ({"noise_range2": [25, 1]}, r"noise_range2 is \(25, 1\); expected two numbers, low and high"),
        ({"noise_range": 5}, "noise_range is 5; expected two numbers"),
        ({"noise_range": ["a", 5]}, "expected two numbers"),
        ({"resize_range": [0.2, 0.9]}, "expected two numbers, low and high, 0 < low <= 1 <= high"),
        ({"kernel_prob": [1, 0, 0]}, "expected 6 probabilities that add up to 1"),
        ({"resize_prob2": [0.5, 0.5, 0.5]}, "expected 3 probabilities that add up to 1"),
        ({"blur_kernel_size": 20}, "blur_kernel_size is 20; expected an odd number from 5 to 51"),
        ({"jpeg": "fake"}, "jpeg is 'fake'; expected one of 'real', 'simulated'"),
        ({"jpeg_range": [0, 50]}, "from 1 to 100, or None"),
        ({"resize_modes": []}, "a list of one or more of area, bilinear, bicubic, matlab_bicubic"),
        ({"quantize": 1}, "quantize is 1; expected one of True, False"),
    ],
)
def test_wrong_settings_are_refused_with_what_is_accepted(settings, words):
    with pytest.raises(ValueError, match=words):
        degrade.validate({"kind": "realesrgan", "realesrgan": settings}, scale=4)


@pytest.mark.parametrize(
    "section, words",
    [
        ({"kind": "blur"}, "config.data.degradation.kind is 'blur'; expected one of realesrgan, bicubic, none"),
        ({"jpeg": "real"}, "config.data.degradation.jpeg is no setting; expected kind, and a section for realesrgan"),
        ({"kind": "bicubic", "bicubic": {"jpeg": "real"}}, "bicubic.jpeg is no setting; bicubic has the keys quantize"),
        ({"kind": "bicubic", "bicubic": {"quantize": 2}}, "bicubic.quantize is 2; expected True or False"),
        ({"kind": "none"}, "the scale is 4; use kind='bicubic'"),
    ],
)
def test_a_wrong_section_is_refused_with_what_is_accepted(section, words):
    with pytest.raises(ValueError, match=words):
        degrade.validate(section, scale=4)


def test_the_kind_chooses_among_the_sections_and_the_others_stand_by():
    section = {"kind": "bicubic", "realesrgan": {"jpeg": "real"}, "bicubic": {"quantize": True}}
    degrade.validate(section, scale=4)
    assert degrade.chosen(section) == {"kind": "bicubic", "quantize": True}
    assert degrade.chosen(section | {"kind": "realesrgan"}) == {"kind": "realesrgan", "jpeg": "real"}


def test_every_number_of_the_public_configs_is_a_setting_of_the_right_default():
    defaults = {name: p.default for name, p in inspect.signature(Settings).parameters.items()}
    assert defaults["resize_range"] == (0.15, 1.5) and defaults["poisson_scale_range2"] == (0.05, 2.5)
    assert defaults["second_order_prob"] == 0.5 and defaults["final_sinc_prob"] == 0.8 and not defaults["usm"]
    degrade.validate({"kind": "realesrgan", "realesrgan": defaults}, scale=4)
