import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.networks import abstract_variables, kl_tiled
from tadsr_jax.networks.kl import AutoencoderKL
from tadsr_jax.networks.kl_tiled import Span
from tests.weights import random_variables

SMALL = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
rng = np.random.default_rng(0)


@pytest.mark.quick
def test_tiles_read_their_pads_and_reach_the_ends_of_the_axis():
    # 44 - 2 * 11 = 22 positions in tiles of at most 16: two of 11, rounded up to 16.
    assert kl_tiled.spans(44, tile=16, pad=11) == [Span(0, 38, 0, 27), Span(16, 44, 27, 44)]
    # 30 - 22 = 8: one tile.
    assert kl_tiled.spans(30, tile=16, pad=11) == [Span(0, 30, 0, 30)]
    # 256 - 22 = 234: two of 117, rounded up to 128.
    assert kl_tiled.spans(256, tile=224, pad=11) == [Span(0, 150, 0, 139), Span(128, 256, 139, 256)]
    # A size that no multiple of 2 within the tile reaches stays as it is.
    assert [span.start for span in kl_tiled.spans(28, tile=3, pad=11)] == [0, 14]


@pytest.mark.quick
@pytest.mark.parametrize(("tile", "pad"), [(16, 11), (5, 2), (64, 32), (3, 0)])
def test_every_position_comes_from_one_tile_that_saw_its_surroundings(tile, pad):
    for length in range(1, 300, 7):
        spans = kl_tiled.spans(length, tile=tile, pad=pad)
        assert [spans[0].start, *(span.stop for span in spans)] == [*(span.start for span in spans), length]
        for span in spans:
            assert 0 <= span.first <= span.start < span.stop <= span.last <= length
            assert span.first == 0 or span.start - span.first == pad
            assert span.last == length or span.last - span.stop == pad
            assert span.last - span.first <= max(tile, 1) + 2 * pad or len(spans) == 1


@pytest.mark.quick
def test_a_map_is_cut_where_its_longer_side_is_longer_than_a_tile_and_its_pads():
    assert kl_tiled.needed(8, 39, tile=16, pad=11)
    assert not kl_tiled.needed(38, 38, tile=16, pad=11)


@pytest.mark.quick
def test_tiles_share_the_means_of_their_means_and_variances():
    x = rng.normal(size=(4, 3, 4, 6)).astype(np.float32)  # two tiles of two pictures
    x[2:] += 3
    sizes = np.array([(3, 4), (3, 4), (2, 3), (2, 3)])
    mean, rstd = kl_tiled.pooled_statistics(jnp.asarray(x), jnp.asarray(sizes), count=2, groups=3, epsilon=1e-6)
    for picture in (0, 1):
        for group in (slice(0, 2), slice(2, 4), slice(4, 6)):
            tiles = [x[k, : sizes[k, 0], : sizes[k, 1], group].astype(np.float64) for k in (picture, picture + 2)]
            # 12 and 6 pixels; that the means lie 3 apart makes the pooled variance no larger
            want_mean, want_var = ((12 * f(tiles[0]) + 6 * f(tiles[1])) / 18 for f in (np.mean, np.var))
            for k in (picture, picture + 2):
                np.testing.assert_allclose(mean[k, 0, 0, group], want_mean, rtol=1e-5)
                np.testing.assert_allclose(rstd[k, 0, 0, group], 1 / np.sqrt(want_var + 1e-6), rtol=1e-5)


@pytest.mark.parametrize(("part", "remat"), [("encoder", False), ("decoder", True)])
def test_a_tile_that_is_the_whole_map_gives_the_whole_result_whatever_fills_it_up(part, remat):
    module = AutoencoderKL(**SMALL, remat=remat)
    method = lambda module, x: getattr(module, part)(x)
    variables = random_variables(module)
    (h, w), channels = ((7, 10), 3) if part == "encoder" else ((5, 6), 4)
    x = rng.normal(size=(2, 8, 12, channels)).astype(np.float32)  # beyond h and w: anything

    def both(variables, x):
        with nn.intercept_methods(kl_tiled.lock_step(np.array([(h, w)] * 2), (8, 12), 1, None)):
            tile = module.apply(variables, x, method=method)
        return tile, module.apply(variables, x[:, :h, :w], method=method)

    tile, whole = jax.jit(both)(variables, x)
    np.testing.assert_allclose(tile[:, : whole.shape[1], : whole.shape[2]], whole, atol=2e-5)


def test_in_tiles_a_picture_is_nearly_what_it_is_as_a_whole():
    module, z = AutoencoderKL(**SMALL), rng.normal(size=(2, 9, 34, 4)).astype(np.float32)
    variables = random_variables(module)
    whole = jax.jit(functools.partial(module.apply, method="decode"))(variables, z)
    decode = functools.partial(kl_tiled.decode, module, tile=8)
    tiled = jax.jit(decode)(variables, z)
    assert tiled.shape == whole.shape
    error = np.std(tiled - whole, axis=(0, 1, 3)) / np.std(whole)
    # No layer here reaches 11 latent positions, but the statistics, and attention, see two tiles and not the whole.
    assert 1e-4 < error.max() < 0.3
    # Both tiles use all of the same statistics: a step at the seam would be as large as they differ.
    seam = np.abs(np.diff(np.asarray(tiled - whole), axis=2)).mean(axis=(0, 1, 3))
    assert seam[37] < 3 * np.median(seam) + 1e-3


@pytest.mark.quick
def test_what_is_no_larger_than_a_tile_goes_through_the_network_as_it_is(monkeypatch):
    module = AutoencoderKL(**SMALL)
    shapes = lambda function, x: jax.eval_shape(functools.partial(function, module), abstract_variables(module), x)
    monkeypatch.setattr(kl_tiled, "lock_step", None)
    mean, logvar = shapes(kl_tiled.encode, jnp.zeros((1, 1088, 20, 3)))  # 1024 and two pads of 32
    assert mean.shape == logvar.shape == (1, 544, 10, 4)
    assert shapes(kl_tiled.decode, jnp.zeros((1, 246, 10, 4))).shape == (1, 492, 20, 3)  # 224 and two pads of 11
    with pytest.raises(TypeError, match="NoneType"):
        shapes(kl_tiled.decode, jnp.zeros((1, 247, 10, 4)))


def test_the_encoder_in_tiles_has_a_code_for_every_position_and_a_gradient():
    module = AutoencoderKL(**SMALL)

    def loss(x):
        mean, logvar = kl_tiled.encode(module, random_variables(module), x, tile=8, pad=4)
        return jnp.sum(mean**2) + jnp.sum(logvar**2), (mean, logvar)

    x = rng.uniform(-1, 1, (1, 30, 21, 3)).astype(np.float32)
    gradient, (mean, logvar) = jax.jit(jax.grad(loss, has_aux=True))(x)
    assert mean.shape == logvar.shape == (1, 15, 10, 4)
    assert np.all(np.isfinite(gradient)) and np.count_nonzero(gradient) == gradient.size


@pytest.mark.quick
def test_a_tile_that_latent_positions_do_not_divide_is_refused():
    module, x = AutoencoderKL(**SMALL), jnp.zeros((1, 40, 40, 3))
    with pytest.raises(ValueError, match="tile is 9 pixels; expected a multiple of 2, such as 8"):
        kl_tiled.encode(module, {}, x, tile=9)
    with pytest.raises(ValueError, match="tile is 0 latent positions; expected 1 or more"):
        kl_tiled.decoder(module, {}, jnp.zeros((1, 40, 40, 4)), tile=0)
