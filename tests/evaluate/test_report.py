"""The report: what is compared with what, and the sheet of pictures."""

import numpy as np
import pytest

from tadsr_jax.evaluate import metrics
from tadsr_jax.evaluate import report as reports
from tadsr_jax.families import resshift

pytestmark = pytest.mark.quick


@pytest.fixture
def pairs():
    """Two smooth pictures at x2, in [-1, 1]."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    lqs = coarse.repeat(2, 1).repeat(2, 2)
    return [{"name": f"p{i}", "lq": lq, "gt": lq.repeat(2, 0).repeat(2, 1)} for i, lq in enumerate(lqs)]


def test_the_report_holds_every_figure_of_every_player(pairs):
    gt = reports.truth(pairs)
    student = [np.clip(picture.astype(int) + 4, 0, 255).astype(np.uint8) for picture in gt]
    teacher = [np.clip(picture.astype(int) + 2, 0, 255).astype(np.uint8) for picture in gt]
    told = reports.report(pairs, scale=2, student=student, teacher=teacher, undistilled=gt)
    for name in ("psnr_y", "ssim_y", "gmsd", "spectrum_error"):
        assert set(told[name]) == {"bicubic", "teacher", "student"}
    assert told["psnr_y"]["student"] == pytest.approx(np.mean([metrics.psnr_y(a, b) for a, b in zip(student, gt)]))
    assert told["psnr_to_teacher"]["student"] == pytest.approx(
        np.mean([metrics.psnr_rgb(a, b) for a, b in zip(student, teacher)])
    )
    assert told["psnr_to_teacher"]["undistilled"] == pytest.approx(
        np.mean([metrics.psnr_rgb(a, b) for a, b in zip(gt, teacher)])
    )
    assert told["validation"] == ["p0", "p1"]


def test_without_a_teacher_the_report_has_no_distance_to_one(pairs):
    told = reports.report(pairs, scale=2, student=reports.truth(pairs), teacher=None, undistilled=None)
    assert "psnr_to_teacher" not in told and set(told["psnr_y"]) == {"bicubic", "student"}


def test_noise_depends_on_seed_and_picture_alone(pairs):
    family = resshift.build(
        scale=2,
        denoiser={"kind": "small", "latent_channels": 12, "widths": (32,), "blocks": 1},
        autoencoder={"kind": "space_to_depth", "factor": 2},
        diffusion={"num_steps": 3},
        condition_on_z_y=True,
    )
    noise = reports.Sampler(family, pairs, seed=3).noise(1)
    assert noise.shape == (1, 16, 16, 12)
    np.testing.assert_array_equal(noise, reports.Sampler(family, [pairs[1], pairs[1]], seed=3).noise(1))
    assert not np.array_equal(noise, reports.Sampler(family, pairs, seed=4).noise(1))


def test_the_sheet_shows_the_middle_of_each_picture_unchanged(pairs):
    gt = reports.truth(pairs)
    sheet = reports.comparison({"a": gt, "b": gt}, size=16, rows=2)
    assert sheet.shape == (22 + 2 * 20 - 4, 2 * 20 - 4, 3)
    np.testing.assert_array_equal(sheet[22 : 22 + 16, 20:36], gt[0][8:24, 8:24])
    np.testing.assert_array_equal(sheet[42:58, :16], gt[1][8:24, 8:24])
