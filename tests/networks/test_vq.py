import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.networks import abstract_variables, vq
from tadsr_jax.networks.vq import VQModel
from tests.weights import random_variables

SMALL = {"n_embed": 32, "ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "resolution": 16}


def latent(h=4, w=6, c=3):
    return np.random.default_rng(1).normal(size=(2, h, w, c)).astype(np.float32)


def test_a_code_is_the_nearest_one_and_the_first_of_equals():
    codes = np.array([[1, 0], [0, 1], [1, 0], [-3, 0]], np.float32)
    apply = functools.partial(vq.Codebook(4, 2).apply, {"params": {"embedding": codes}})
    z = np.array([[[[0.9, 0.2], [0.2, 0.9], [-1.1, 0], [-0.9, 0]]]], np.float32)
    # -1.1 is 1.9 away from code 3 and 1.4866 from code 1: distances, not products, decide.
    np.testing.assert_array_equal(apply(z, method="nearest"), [[[0, 1, 1, 1]]])
    np.testing.assert_array_equal(apply(np.array([[[3]]])), [[[[-3, 0]]]])


def test_codes_far_from_the_origin_are_told_apart_by_small_gaps():
    rng = np.random.default_rng(2)
    codes = (0.01 * rng.normal(size=(512, 4))).astype(np.float32)
    z = np.float32(30) + rng.normal(size=(1, 8, 8, 4)).astype(np.float32)  # |z|^2 = 3600 would leave no digit
    got = vq.Codebook(512, 4).apply({"params": {"embedding": codes}}, z, method="nearest")
    distances = np.square(z.astype(np.float64)[:, :, :, None] - codes).sum(-1)
    gap = np.take_along_axis(distances, np.asarray(got)[..., None], -1)[..., 0] - distances.min(-1)
    assert gap.max() < 1e-6


def test_gradients_pass_the_quantiser_as_if_the_latent_had_stayed():
    module, z, weight = VQModel(**SMALL), latent(), latent(c=3) * 2
    quantize = lambda z: module.apply(random_variables(module), z, method="quantize")[0]
    codes = random_variables(module)["params"]["quantize"]["embedding"]
    indices = module.apply(random_variables(module), z, method="quantize")[1]
    np.testing.assert_allclose(quantize(z), codes[indices], atol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda z: jnp.sum(weight * quantize(z)))(z), weight)


def test_decoding_numbers_of_codes_is_decoding_with_quantisation():
    module, z = VQModel(**SMALL), latent()
    apply = functools.partial(module.apply, random_variables(module))
    _, indices = apply(z, method="quantize")
    picture = jax.jit(functools.partial(apply, method="decode"))(z)
    assert picture.shape == (2, 8, 12, 3) and module.factor == 2
    np.testing.assert_allclose(jax.jit(functools.partial(apply, method="decode_indices"))(indices), picture, atol=1e-5)


def test_attention_in_chunks_equals_attention_in_one_piece(monkeypatch):
    block, x = vq.AttnBlock(), np.random.default_rng(3).normal(size=(1, 12, 16, 32)).astype(np.float32)
    variables = jax.tree.map(
        lambda leaf: np.random.default_rng(4).normal(size=leaf.shape).astype(np.float32) / 4,
        abstract_variables(block, x),
    )
    whole = block.apply(variables, x)
    monkeypatch.setattr(vq, "ATTENTION_ROWS", 80)  # of 192 queries
    np.testing.assert_allclose(block.apply(variables, x), whole, atol=1e-5)


def test_bfloat16_and_remat_keep_parameters_and_stay_close_to_float32():
    plain = VQModel(**SMALL)
    variables, z = random_variables(plain), latent()
    want = jax.jit(functools.partial(plain.apply, quantize=False, method="decode"))(variables, z)
    for module, share in ((VQModel(**SMALL, dtype=jnp.bfloat16), 0.06), (VQModel(**SMALL, remat=True), 1e-5)):
        assert jax.tree.map(jnp.shape, abstract_variables(module)) == jax.tree.map(jnp.shape, variables)
        got = jax.jit(functools.partial(module.apply, quantize=False, method="decode"))(variables, z)
        # 4 % of the deviation was measured for bfloat16: 8 significant bits through some twenty layers.
        assert got.dtype == jnp.float32 and np.std(got - want) < share * np.std(want)


@pytest.mark.quick
def test_the_downsampler_pads_at_the_right_and_at_the_bottom_only():
    picture = np.zeros((1, 4, 4, 1), np.float32)
    picture[0, 0, 0] = picture[0, 2, 2] = 1
    corner = np.zeros((3, 3, 1, 1), np.float32)
    corner[0, 0] = 1  # the first tap lies on the pixel itself, not on one before it
    variables = {"params": {"conv": {"kernel": corner, "bias": np.zeros(1, np.float32)}}}
    np.testing.assert_array_equal(vq.Downsample().apply(variables, picture)[0, :, :, 0], [[1, 0], [0, 1]])


@pytest.mark.quick
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ddconfig": {"double_z": True}}, "double_z is True; this autoencoder has double_z=False only"),
        ({"ddconfig": {"dropout": 0.5}}, "dropout is 0.5"),
        ({"ddconfig": {"chs": 64}}, "chs. Accepted: embed_dim"),
        ({"ddconfig": {"num_res_blocks": [1, 2]}}, "expected one number, or 3"),
        ({"ddconfig": {"ch": 48}}, "ch is 48; group norm needs a multiple of 32"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        vq.from_public(**change)
