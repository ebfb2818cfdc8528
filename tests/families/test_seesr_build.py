"""The SeeSR family as it is built from settings, and behind the doors that know no family."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tadsr_jax import Upscaler, bundles
from tadsr_jax.families import FAMILIES
from tadsr_jax.families.seesr import enlarge
from tests.tiny_seesr import SETTINGS, random_params

rng = np.random.default_rng(0)
LQ = rng.uniform(-1, 1, (1, 8, 12, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def family():
    return FAMILIES["seesr"](**SETTINGS)


@pytest.fixture(scope="module")
def params(family):
    return random_params(family)


@pytest.fixture(scope="module")
def sample(family):
    return jax.jit(family.sample, static_argnames=("steps", "stochastic"))


@pytest.mark.quick
def test_its_networks_are_those_of_its_sections(family):
    assert family.fixed == ("autoencoder", "text_encoder", "tagger")
    assert family.latent(8, 12) == (4, 6, 4) and family.multiple == 2
    shapes = bundles.expected_shapes(family)
    assert set(shapes) == {"student", *family.fixed} and set(shapes["student"]) == {"unet", "controlnet"}


@pytest.mark.quick
@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("autoencoder", {"latent_channels": 8}, "autoencoder.latent_channels is 8; the other networks need 4"),
        ("text_encoder", {"hidden_size": 32}, "text_encoder.hidden_size is 32; the other networks need 16"),
        ("tagger", {"states_dim": 64}, "tagger.states_dim is 64; the other networks need 512"),
        ("denoiser", {"width": 3}, "denoiser.width is unknown; expected unet, controlnet, dtype, remat"),
        ("tagger", {"depth": 3}, "config.networks.tagger"),
    ],
)
def test_what_does_not_fit_together_is_told(section, change, message):
    with pytest.raises(ValueError, match=message):
        FAMILIES["seesr"](**SETTINGS | {section: SETTINGS[section] | change})


@pytest.mark.quick
def test_a_picture_is_enlarged_as_pillow_does_it():
    from PIL import Image

    one = rng.uniform(0, 1, (9, 7)).astype(np.float32)
    want = np.asarray(Image.fromarray(one).resize((28, 36), Image.Resampling.BICUBIC))
    got = enlarge(np.repeat(one[None, ..., None], 3, -1), 4)[0, ..., 0]
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_one_step_takes_noise_and_more_take_a_draw_each(family, params, sample):
    noise = rng.normal(size=(1, 3, *family.latent(8, 12))).astype(np.float32)
    one = sample(params, LQ, noise[:, 0], steps=1)
    two = sample(params, LQ, noise, steps=2, stochastic=True)
    assert one.shape == two.shape == (1, 32, 48, 3) and np.abs(one).max() <= 1
    other = sample(params, LQ, noise + np.float32([0, 1, 0])[:, None, None, None], steps=2, stochastic=True)
    assert np.abs(other - two).max() > 1e-3
    with pytest.raises(ValueError, match="stochastic=True"):
        sample(params, LQ, noise[:, 0], steps=2)


def test_words_and_image_states_change_the_picture(family, params, sample):
    noise = rng.normal(size=(1, *family.latent(8, 12))).astype(np.float32)
    picture = sample(params, LQ, noise, steps=1)
    known = {"tokens": np.array([SETTINGS["no_words"]]), "image_states": family.states(params, LQ, mode="bilinear")}
    told = lambda **extra: sample(params, LQ, noise, steps=1, extra=known | extra)
    np.testing.assert_allclose(told(), picture, atol=1e-5)
    assert np.abs(told(tokens=known["tokens"] + 5) - picture).max() > 1e-5
    assert np.abs(told(image_states=0 * known["image_states"]) - picture).max() > 1e-5


def test_a_bundle_of_it_upscales_pictures(family, params, tmp_path):
    info = {"recipe": "addsr", "scale": 4, "steps": 1, "sampler": family.sampler, "color_fix": family.color_fix}
    bundles.save(tmp_path / "bundle", family="seesr", settings=SETTINGS, params=params, info=info)
    loaded = bundles.load(tmp_path / "bundle")
    for path, leaf in flatten_dict(loaded.params).items():
        np.testing.assert_array_equal(leaf, flatten_dict(params)[path])
    picture = rng.integers(0, 255, (11, 18, 3), dtype=np.uint8)
    upscaler = Upscaler(loaded)
    with pytest.raises(ValueError, match="sampler is 'deterministic'; several steps of this model are stochastic"):
        upscaler(picture, steps=2, sampler="deterministic")
    whole = upscaler(picture, tile=None)
    assert whole.shape == (44, 72, 3)
    np.testing.assert_allclose(whole.mean((0, 1)), picture.mean((0, 1)), atol=3)  # colours are the input's
    assert upscaler(picture, tile=8).shape == whole.shape
