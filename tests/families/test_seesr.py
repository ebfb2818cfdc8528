import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.diffusion.ddpm import ddpm_schedule
from tadsr_jax.families import seesr
from tadsr_jax.networks import kl_tiled, ram

pytestmark = pytest.mark.quick

SCHEDULE = ddpm_schedule()
FROZEN = {"autoencoder": {}, "text_encoder": {}, "tagger": {}}
rng = np.random.default_rng(0)
PICTURE = rng.uniform(-1, 1, (2, 4, 6, 3)).astype(np.float32)
Z, EPS = rng.normal(size=(2, 2, 2, 3, 4)).astype(np.float32)


class Autoencoder(nn.Module):
    """Means are colours and their sum, deviations e; decoding goes back."""

    def encode(self, x):
        x = x[:, ::2, ::2]
        mean = jnp.concatenate([x, x.sum(axis=-1, keepdims=True)], axis=-1)
        return mean, jnp.full_like(mean, 2.0)

    def decode(self, z):
        return jnp.repeat(jnp.repeat(z[..., :3], 2, 1), 2, 2).astype(jnp.bfloat16)


class Denoiser(nn.Module):
    """A line in each of the things that it is told."""

    @nn.compact
    def __call__(self, x, t, text, image_states, picture, *, scale=1.0, features_only=False):
        gain = self.param("gain", nn.initializers.ones, ())
        by_sample = 0.001 * t + text.mean((1, 2)) - image_states.mean((1, 2)) + scale * picture.mean((1, 2, 3))
        y = (gain * x + by_sample[:, None, None, None]).astype(jnp.bfloat16)
        return [y, y[:, ::2, ::2]] if features_only else y


class TextEncoder(nn.Module):
    def __call__(self, tokens):
        return jnp.stack([tokens, 2 * tokens], axis=-1).astype(jnp.float32)


class Tagger(nn.Module):
    """The prepared picture, pixel by pixel."""

    def __call__(self, prepared):
        return prepared.reshape(len(prepared), -1, 3)


WORDS = seesr.words(Denoiser(), Autoencoder(), TextEncoder(), Tagger(), SCHEDULE, scaling=0.5, tagger_size=5)
PARAMS = {"gain": jnp.float32(0.5)}
TOKENS = np.array([[1, 2, 3], [4, 5, 6]])


@functools.cache
def prepared(*, clip):
    """What a tagger gets of the picture, pixel by pixel."""
    return ram.prepare(PICTURE / 2 + 0.5, size=5, clip=clip).reshape(2, 25, 3)


def test_a_latent_is_the_mean_of_the_encoder_or_a_draw_from_it_scaled():
    mean = np.concatenate([PICTURE[:, ::2, ::2], PICTURE[:, ::2, ::2].sum(-1, keepdims=True)], axis=-1)
    np.testing.assert_allclose(WORDS.encode(FROZEN, PICTURE), 0.5 * mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(WORDS.encode(FROZEN, PICTURE, EPS), 0.5 * (mean + np.e * EPS), rtol=1e-5, atol=1e-5)


def test_decoding_takes_the_scale_off_and_is_float32():
    decoded = WORDS.decode(FROZEN, Z)
    assert decoded.dtype == jnp.float32 and decoded.shape == (2, 4, 6, 3)
    np.testing.assert_allclose(decoded[:, ::2, ::2], 2 * Z[..., :3], rtol=2**-8)


def test_only_decoding_has_a_gradient():
    assert not jax.grad(lambda x: WORDS.encode(FROZEN, x).sum())(PICTURE).any()
    np.testing.assert_array_equal(jax.grad(lambda z: WORDS.decode(FROZEN, z).sum())(Z)[..., 0], 8)  # 4 pixels, by 2


def test_image_states_are_those_of_the_picture_in_zero_to_one_clipped_where_asked():
    for clip in (False, True):
        got = WORDS.states(FROZEN, PICTURE, clip=clip)
        np.testing.assert_allclose(got, prepared(clip=clip), atol=1e-5)
    assert np.abs(prepared(clip=True) - prepared(clip=False)).max() > 1e-3


def test_the_denoiser_is_told_the_picture_in_zero_to_one_its_states_and_the_text():
    condition = WORDS.condition(FROZEN, PICTURE, {"tokens": TOKENS})
    np.testing.assert_allclose(condition["picture"], PICTURE / 2 + 0.5)
    np.testing.assert_allclose(condition["image_states"], prepared(clip=True), atol=1e-5)
    np.testing.assert_array_equal(condition["text"], np.stack([TOKENS, 2 * TOKENS], axis=-1))


def test_what_is_known_already_is_not_computed():
    words = seesr.words(Denoiser(), Autoencoder(), None, None, SCHEDULE)
    text, states = np.ones((2, 3, 2)), np.zeros((2, 7, 3))
    condition = words.condition({}, PICTURE, {"text": text, "image_states": states})
    assert condition["text"] is text and condition["image_states"] is states


@functools.cache
def told():
    return WORDS.condition(FROZEN, PICTURE, {"tokens": TOKENS})


def by_sample(t, scale=1.0):
    condition = {name: np.asarray(array, np.float64) for name, array in told().items()}
    text, states = (condition[name].mean((1, 2)) for name in ("text", "image_states"))
    return 0.001 * np.asarray(t) + text - states + scale * condition["picture"].mean((1, 2, 3))


def test_the_noise_is_what_the_denoiser_says_of_all_it_is_told_in_float32():
    for t, scale in ((999, 1.0), (np.array([20, 880]), 0.25)):
        eps = WORDS.predict_eps(PARAMS, Z, t, told(), scale=scale)
        assert eps.dtype == jnp.float32
        want = 0.5 * Z + by_sample(t, scale)[:, None, None, None]
        np.testing.assert_allclose(eps, want, rtol=2**-8, atol=1e-3)


def test_the_latent_is_the_one_that_the_noise_implies():
    t = np.array([999, 249])
    eps, z0 = WORDS.predict_eps(PARAMS, Z, t, told()), WORDS.predict_z0(PARAMS, Z, t, told())
    abar = SCHEDULE.abar[t][:, None, None, None]
    np.testing.assert_allclose(z0, (Z - np.sqrt(1 - abar) * eps) / np.sqrt(abar), rtol=1e-4, atol=1e-4)


def test_features_are_the_maps_of_the_way_down_in_float32():
    fine, coarse = WORDS.features(PARAMS, Z, 20, told())
    assert fine.dtype == coarse.dtype == jnp.float32
    np.testing.assert_array_equal(coarse, fine[:, ::2, ::2])
    np.testing.assert_allclose(fine, WORDS.predict_eps(PARAMS, Z, 20, told()))


def test_the_autoencoder_works_in_tiles_where_that_is_asked_for(monkeypatch):
    def tiled(name):
        return lambda module, variables, x, *, tile: module.apply(variables, x / tile, method=name)

    for name in ("encode", "decode"):
        monkeypatch.setattr(kl_tiled, name, tiled(name))
    words = seesr.words(None, Autoencoder(), None, None, SCHEDULE, scaling=0.5, encoder_tile=8, decoder_tile=16)
    np.testing.assert_allclose(words.encode(FROZEN, PICTURE), WORDS.encode(FROZEN, PICTURE / 8), rtol=1e-5)
    np.testing.assert_allclose(words.decode(FROZEN, Z), WORDS.decode(FROZEN, Z / 16), rtol=1e-5)
