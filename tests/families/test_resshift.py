import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.families import resshift
from tests.toys import randomised, tiny_batch, tiny_family

SMALL = {"kind": "small", "latent_channels": 12, "widths": (32,), "blocks": 1, "embed_dim": 8}
SWIN = {"kind": "swin", "image_size": 8, "in_channels": 12, "out_channels": 12, "model_channels": 32,
        "attention_resolutions": [8], "channel_mult": [1], "num_res_blocks": 1, "swin_depth": 1, "swin_embed_dim": 32,
        "window_size": 4, "lq_size": 8}  # fmt: skip
LOSSLESS = {"kind": "space_to_depth", "factor": 2}
KEY = jax.random.key(0)


def build(**settings):
    given = {"scale": 2, "denoiser": SMALL, "autoencoder": LOSSLESS, "diffusion": {"num_steps": 3, "kappa": 0.2}}
    return resshift.build(**(given | {"condition_on_z_y": True} | settings))


# ---- the picture before the network ----------------------------------------------------------------------------------


def cubic(x, a=-0.75):
    """PyTorch's kernel."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def test_enlargement_is_pytorchs_bicubic_with_its_edges_repeated():
    row = np.array([0.0, 1.0, -1.0, 0.5], np.float32)
    want = []
    for i in range(8):
        source = (i + 0.5) / 2 - 0.5
        near = int(np.floor(source))
        want.append(sum(row[np.clip(near + k, 0, 3)] * cubic(source - near - k) for k in (-1, 0, 1, 2)))
    picture = jnp.asarray(np.tile(row[None, None, :, None], (1, 4, 1, 1)))
    got = resshift.upsample(picture, 2)
    assert got.shape == (1, 8, 8, 1)
    np.testing.assert_allclose(got[0, 3, :, 0], want, atol=1e-6)
    assert resshift.upsample(picture, 1) is picture


# ---- what the sizes must be ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "multiple"),
    [
        ({}, 1),  # latents of lq's size, one level
        ({"denoiser": SMALL | {"widths": (32, 32, 32)}}, 4),  # halved twice
        ({"condition_on_z_y": False, "denoiser": SWIN}, 4),  # whole windows
        ({"scale": 1, "condition_on_z_y": False, "denoiser": SWIN | {"lq_size": 16}}, 8),  # latents of half lq's size
        ({"scale": 3, "condition_on_z_y": False, "denoiser": SWIN | {"cond_lq": False}}, 8),  # 3 times lq's, by 8
    ],
)
def test_the_sides_of_lq_are_multiples_of_what_both_networks_need(settings, multiple):
    family = build(**settings)
    assert family.multiple == multiple


# ---- the words -------------------------------------------------------------------------------------------------------


def test_the_condition_is_the_picture_and_the_latent_of_its_enlargement():
    family, batch = tiny_family(), tiny_batch()
    frozen = {"autoencoder": {}}
    condition = family.condition(frozen, batch.lq, {})
    assert condition["lq"] is batch.lq and condition["mask"] is None
    np.testing.assert_allclose(family.decode(frozen, condition["z_y"]), resshift.upsample(batch.lq, 2), atol=1e-6)
    np.testing.assert_array_equal(family.condition(frozen, batch.lq, {"mask": 1})["mask"], 1)


def test_encoding_takes_no_gradient():
    family, batch = tiny_family(), tiny_batch()
    gradient = jax.grad(lambda image: family.encode({"autoencoder": {}}, image).sum())(batch.gt)
    assert not gradient.any()


def test_fresh_parameters_are_those_of_both_networks_and_of_the_key():
    shapes = jax.eval_shape(tiny_family().init, KEY)
    assert set(shapes) == {"denoiser", "autoencoder"}
    assert shapes["autoencoder"] == {}
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def network():
    """A family with a network that says something, and a condition."""
    family, batch = tiny_family(), tiny_batch()
    params = randomised(jax.eval_shape(family.init, KEY)["denoiser"], 0.05)
    return family, params, family.condition({"autoencoder": {}}, batch.lq, {}), batch


def test_a_scalar_step_is_that_of_every_sample_and_samples_may_be_at_steps_of_their_own():
    family, params, condition, _ = network()
    z = jax.random.normal(KEY, condition["z_y"].shape)
    predict = jax.jit(family.predict_z0)
    mixed = predict(params, z, jnp.array([0, 2]), condition)
    np.testing.assert_allclose(mixed[0], predict(params, z, jnp.array([0, 0]), condition)[0], atol=1e-5)
    np.testing.assert_allclose(mixed[1], predict(params, z, jnp.array([2, 2]), condition)[1], atol=1e-5)
    np.testing.assert_array_equal(family.predict_z0(params, z, 2, condition).shape, z.shape)
    assert np.abs(mixed[1] - predict(params, z, jnp.array([0, 0]), condition)[1]).max() > 1e-4


def test_the_features_are_the_encoders_maps_in_float32():
    family, params, condition, _ = network()
    (maps,) = family.features(params, condition["z_y"], 0, condition)
    assert maps.shape == (2, 4, 4, 32) and maps.dtype == jnp.float32


def test_one_step_of_sampling_is_one_prediction_at_the_last_step_clipped():
    family, params, condition, batch = network()
    noise = jax.random.normal(KEY, condition["z_y"].shape)
    z_T = condition["z_y"] + 0.2 * 0.99 * noise
    want = family.decode({"autoencoder": {}}, family.predict_z0(params, z_T, 2, condition))
    sample = jax.jit(family.sample, static_argnames="steps")
    got = sample({"student": params, "autoencoder": {}}, batch.lq, noise, steps=1)
    np.testing.assert_allclose(got, np.clip(want, -1, 1), atol=1e-4)
    assert got.shape == (2, 8, 8, 3) and np.abs(got).max() <= 1


def test_fewer_steps_are_those_of_the_respaced_chain():
    family, params, condition, batch = network()
    schedule, z_y = family.schedule, np.asarray(condition["z_y"])
    noise = jax.random.normal(KEY, z_y.shape)
    root = schedule.sqrt_eta[[0, 1]]  # of three steps, two: int(1.5 i)
    z = z_y + 0.2 * root[1] * np.asarray(noise)
    z0 = np.asarray(family.predict_z0(params, z, 1, condition))
    m, j = root[0] / root[1], root[0] ** 2 - root[0] * root[1]
    z = (1 - m - j) * z0 + m * z + j * z_y
    want = family.decode({"autoencoder": {}}, family.predict_z0(params, jnp.asarray(z, jnp.float32), 0, condition))
    got = family.sample({"student": params, "autoencoder": {}}, batch.lq, noise, steps=2)
    np.testing.assert_allclose(got, np.clip(want, -1, 1), atol=1e-4)


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"denoiser": {"kind": "unet"}}, "config.networks.denoiser.kind is 'unet'; expected one of swin, small."),
        ({"autoencoder": {}}, "config.networks.autoencoder.kind is None; expected one of vq, space_to_depth."),
        (
            {"denoiser": SMALL | {"dtype": "float16"}},
            "config.networks.denoiser.dtype is 'float16'; expected one of float32, bfloat16.",
        ),
        (
            {"denoiser": SMALL | {"width": 3}},
            "config.networks.denoiser.width is unknown; config.networks.denoiser has the",
        ),
        (
            {"scale": 3},
            "config.scale is 3; these networks make 2: the sides of a picture are 2 times its latent's, those of the "
            "denoiser's LQ 1 times.",
        ),
        (
            {"scale": 2, "condition_on_z_y": False, "denoiser": SWIN | {"lq_size": 16}},
            "config.scale is 2; these networks make 1: ",
        ),
        (
            {"scale": 4, "autoencoder": {"kind": "space_to_depth", "factor": 4}},
            "config.networks.denoiser is made for latents of 12 channels; those of config.networks.autoencoder have 48",
        ),
        (
            {"condition_on_z_y": False, "denoiser": SWIN | {"out_channels": 3}},
            "config.networks.denoiser is made for latents of 3 channels; those of config.networks.autoencoder have 12.",
        ),
        (
            {"condition_on_z_y": False},
            "config.networks.condition_on_z_y is False, which makes 3 channels of condition; this denoiser takes 15.",
        ),
        (
            {"denoiser": SWIN},
            "config.networks.condition_on_z_y is True, which makes 15 channels of condition; this denoiser takes 3.",
        ),
        ({"denoiser": SMALL | {"blocks": "2"}}, "config.networks.denoiser.blocks is '2'; expected int."),
        (
            {"diffusion": {"kapa": 2}},
            "config.diffusion.kapa is unknown; config.diffusion has the keys num_steps, kappa",
        ),
    ],
)
def test_settings_that_make_no_model_are_refused(settings, message):
    with pytest.raises(ValueError) as error:
        build(**settings)
    assert str(error.value).startswith(message)


def test_without_an_autoencoder_latents_may_be_those_of_one_that_is_elsewhere():
    """Recorded latents of the public face model: 8 channels, an eighth of the picture's size."""
    denoiser = SWIN | {"in_channels": 8, "out_channels": 8, "lq_size": 64}
    identity = {"kind": "space_to_depth", "factor": 1}
    assert build(scale=1, condition_on_z_y=False, denoiser=denoiser, autoencoder=identity).scale == 1
