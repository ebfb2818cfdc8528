import math

import numpy as np
import pytest

from tadsr_jax.diffusion import latent_tiles

pytestmark = pytest.mark.quick


def test_tiles_lie_at_one_stride_and_the_last_one_ends_with_the_latent():
    assert latent_tiles.starts(13, tile=8, overlap=2) == [0, 5]
    assert latent_tiles.starts(14, tile=8, overlap=2) == [0, 6]
    assert latent_tiles.starts(15, tile=8, overlap=2) == [0, 6, 7]
    assert latent_tiles.starts(8, tile=8, overlap=2) == [0]


@pytest.mark.parametrize("overlap", [0, 3])
def test_every_pixel_lies_in_a_tile_and_one_tile_less_would_not_do(overlap):
    for length in range(6, 40):
        first = latent_tiles.starts(length, tile=6, overlap=overlap)
        covered = set().union(*(range(start, start + 6) for start in first))
        assert covered == set(range(length))
        assert len(first) == 1 or (len(first) - 2) * (6 - overlap) + 6 < length


def test_tiles_are_no_larger_than_the_latent():
    assert latent_tiles.places(4, 7, tile=6, overlap=2) == (4, [(0, 0), (0, 2), (0, 3)])
    assert latent_tiles.places(2, 4, tile=6, overlap=3) == (2, [(0, 0), (0, 1), (0, 2)])  # an overlap of 1 is left
    tile, where = latent_tiles.places(10, 13, tile=8, overlap=2)
    assert tile == 8 and where == [(0, 0), (0, 5), (2, 0), (2, 5)]


def test_a_latent_is_cut_where_it_has_more_pixels_than_a_tile():
    assert not latent_tiles.needed(8, 8, tile=8) and not latent_tiles.needed(4, 16, tile=8)
    assert latent_tiles.needed(5, 13, tile=8)


def test_an_overlap_as_wide_as_the_tile_is_refused():
    with pytest.raises(ValueError, match="overlap is 8; expected 0 to 7, less than the tile of 8"):
        latent_tiles.starts(20, tile=8, overlap=8)


def test_weights_are_gaussians_whose_midpoints_differ_by_half_a_pixel():
    w = latent_tiles.weights(8)
    density = lambda d: math.exp(-(d**2) / (64 * 0.02)) / math.sqrt(0.02 * math.pi)
    assert w.dtype == np.float64
    assert w[4, 3] == pytest.approx(density(0) * density(0.5), rel=1e-12)
    assert w[1, 6] == pytest.approx(density(3) * density(2.5), rel=1e-12)
    np.testing.assert_allclose(w, w[:, ::-1], rtol=1e-12)  # even along x, not along y
    np.testing.assert_allclose(w[1:], w[:0:-1], rtol=1e-12)


def test_tiles_cut_from_a_latent_blend_to_the_latent():
    z = np.random.default_rng(0).normal(size=(2, 10, 13, 4)).astype(np.float32)
    tile, where = latent_tiles.places(10, 13, tile=8, overlap=2)
    tiles = latent_tiles.cut(z, where, tile=tile)
    assert tiles.shape == (8, 8, 8, 4)
    np.testing.assert_array_equal(tiles[2:4], z[:, :8, 5:])  # the second tile of both latents
    np.testing.assert_allclose(latent_tiles.blend(tiles, where, height=10, width=13), z, atol=1e-6)


def test_where_tiles_differ_their_weights_decide():
    where, w = [(0, 0), (0, 3)], latent_tiles.weights(4)
    tiles = np.stack([np.zeros((4, 4, 1)), np.ones((4, 4, 1))]).astype(np.float32)
    blended = np.asarray(latent_tiles.blend(tiles, where, height=4, width=7))[0, :, :, 0]
    np.testing.assert_array_equal(blended[:, :3], 0)
    np.testing.assert_allclose(blended[:, 4:], 1, rtol=1e-6)
    np.testing.assert_allclose(blended[:, 3], w[:, 0] / (w[:, 0] + w[:, 3]), rtol=1e-5)


def test_the_picture_of_a_latent_is_cut_at_the_same_places():
    picture = np.arange(16 * 24).reshape(1, 16, 24, 1)
    tiles = latent_tiles.cut(picture, [(0, 0), (1, 2)], tile=1, factor=8)
    np.testing.assert_array_equal(tiles[1], picture[0, 8:16, 16:24])
