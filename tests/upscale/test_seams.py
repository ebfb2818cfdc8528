"""The seam contract: what tiles and the picture as a whole may differ by, in grey levels of 8 bits (docs/upscaling.md).

Two causes are left when tiles start where the network's own grid has a place: group norms whose statistics are those
of a tile, and surroundings that end with it. The small architecture has no norms, and its contract is rounding alone.
"""

import jax
import numpy as np
import pytest

from benchmarks import seams
from tadsr_jax.families import resshift
from tadsr_jax.types import Bundle
from tadsr_jax.upscale import enlargement, grid
from tadsr_jax.upscale.upscaler import Upscaler
from tests.toys import randomised


def small_bundle() -> Bundle:
    """The embedded default's architecture at three levels, with a residual on what bicubic gives."""
    family = resshift.build(
        scale=4,
        denoiser={"kind": "small", "widths": (32, 32, 32), "blocks": 1, "embed_dim": 16},
        autoencoder={"kind": "space_to_depth", "factor": 4},
        diffusion={
            "num_steps": 6,
            "kappa": 0.2,
            "predict": "preconditioned",
            "input_scaling": "preconditioned",
            "sigma_data": 0.1,
        },
        condition_on_z_y=True,
    )
    shapes = jax.eval_shape(family.init, jax.random.key(0))
    return Bundle(family, {"student": randomised(shapes["denoiser"], 0.05), "autoencoder": {}}, {"steps": 1})


def pictures(height: int, width: int) -> dict[str, np.ndarray]:
    """uint8 by name: a photograph, one colour, a ramp."""
    named = seams.pictures(height, width)
    named.pop("tulips")
    return {name: np.rint((lq + 1) * 127.5).astype(np.uint8) for name, lq in named.items()}


class Case:
    """An upscaler, its pictures, and what it makes of them without tiles."""

    def __init__(self, bundle: Bundle, height: int, width: int, tile: int):
        self.upscaler, self.tile, self.pictures = Upscaler(bundle), tile, pictures(height, width)
        self.wholes = {name: self.upscaler(picture, tile=None) for name, picture in self.pictures.items()}

    def apart(self, name: str, monkeypatch, *, overlap: int = grid.OVERLAP, align: int | None = None):
        """(largest difference, mean, `seams.seam`) of a picture by tiles; `overlap` and `align` instead of ours."""
        with monkeypatch.context() as patch:
            make = lambda *args, **kwargs: grid.make_grid(*args, **kwargs, overlap=overlap)
            patch.setattr(enlargement, "make_grid", make)
            if align:
                patch.setattr(grid, "alignment", lambda family: align)
            made = self.upscaler(self.pictures[name], tile=self.tile)
        difference = made.astype(float) - self.wholes[name]
        line = seams.seam(difference, self.tile * self.upscaler.scale)
        return np.abs(difference).max(), np.abs(difference).mean(), line


# ---- the small architecture: rounding alone --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> Case:
    return Case(small_bundle(), 64, 192, 64)


@pytest.mark.parametrize("name", ["matterhorn", "flat", "gradient"])
def test_without_norms_tiles_equal_the_whole_within_a_level(small, monkeypatch, name):
    """All that a pixel depends on lies in the overlap, but for what has shrunk below half a level."""
    largest, mean, line = small.apart(name, monkeypatch)
    assert small.wholes[name].std() > 10  # the network says something
    assert largest <= 1 and mean <= 0.02 and line <= 0.1


@pytest.mark.parametrize("how", [{"overlap": 0}, {"align": 1}])
def test_without_overlap_or_alignment_tiles_are_many_levels_off(small, monkeypatch, how):
    largest, mean, _ = small.apart("matterhorn", monkeypatch, **how)
    assert largest > 20 and mean > 0.2


# ---- Swin U-Net and VQ: group norms and attention see a tile instead of the picture ----------------------------------


@pytest.fixture(scope="module")
def swin() -> Case:
    """Tiles of 48, where the default has 128: what comes from statistics is at its worst."""
    return Case(seams.fitted(count=6, side=32), 48, 96, 48)


# (largest, mean, line). Measured: (95, 3.5, 3.7), (34, 1.9, 1.7), (64, 8.4, 22). A ramp is one column of latents again
# and again, so that another code moves a whole line of pixels; the picture as a whole has such lines, too.
SWIN = {"matterhorn": (128, 5, 6), "flat": (64, 3, 4), "gradient": (128, 12, 32)}


@pytest.mark.parametrize("name", SWIN)
def test_with_norms_and_codes_tiles_differ_by_their_statistics_and_not_in_lines(swin, monkeypatch, name):
    apart = swin.apart(name, monkeypatch)
    assert swin.wholes[name].std() > 5
    assert all(value <= limit for value, limit in zip(apart, SWIN[name], strict=True)), apart


@pytest.mark.parametrize("name", ["matterhorn", "flat"])
def test_without_overlap_there_are_lines(swin, monkeypatch, name):
    assert swin.apart(name, monkeypatch, overlap=0)[2] > 2 * SWIN[name][2]
