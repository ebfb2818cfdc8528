import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.convert.names import public_shapes
from tadsr_jax.networks import abstract_variables, kl
from tests.weights import public_entries, random_variables

SMALL = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
SD = {  # config.json of SD-2-base's autoencoder
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.10.0.dev0",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 768,
    "scaling_factor": 0.18215,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}


def latent(h=4, w=6):
    return np.random.default_rng(1).normal(size=(2, h, w, 4)).astype(np.float32)


def test_names_shapes_and_their_order_are_those_of_the_public_file():
    shapes = public_shapes(abstract_variables(kl.from_public(**SD)))
    assert list(shapes.items()) == list(public_entries("sd2_vae").items())
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == (248, 83_653_863)


@pytest.mark.quick
def test_a_sample_lies_half_the_log_variance_from_the_mean():
    # exp(log(4) / 2) = 2 deviations' worth
    assert kl.sample(1.0, math.log(4.0), 3.0) == pytest.approx(7)


@pytest.mark.quick
def test_the_log_variance_is_clamped_and_the_mean_is_not():
    module = kl.AutoencoderKL(**SMALL)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), abstract_variables(module))
    variables["params"]["quant_conv"]["kernel"] = jnp.eye(8)[None, None]
    features = jnp.array([100.0, -100, 0, 1, 100, -100, 0, 1]).reshape(1, 1, 1, 8)
    mean, logvar = module.apply(variables, features, method="gaussian")
    np.testing.assert_array_equal(mean.ravel(), [100, -100, 0, 1])
    np.testing.assert_array_equal(logvar.ravel(), [20, -30, 0, 1])


def test_sides_that_are_no_multiples_of_the_factor_lose_what_is_left_over():
    module = kl.AutoencoderKL(**SMALL)
    shape = lambda h, w: jax.eval_shape(module.apply, random_variables(module), jnp.zeros((1, h, w, 3))).shape
    assert module.factor == 2
    assert shape(24, 20) == (1, 24, 20, 3) and shape(25, 21) == (1, 24, 20, 3)


def test_encoding_gives_the_two_halves_of_the_moments():
    module, x = kl.AutoencoderKL(**SMALL), np.random.default_rng(2).uniform(-1, 1, (2, 8, 12, 3)).astype(np.float32)
    apply = functools.partial(module.apply, random_variables(module), x)
    moments, (mean, logvar) = jax.jit(lambda: (apply(method="moments"), apply(method="encode")))()
    assert mean.shape == logvar.shape == (2, 4, 6, 4)
    np.testing.assert_allclose(moments, np.concatenate([mean, logvar], axis=-1), atol=1e-5)


@pytest.fixture
def attention():
    """(module, its variables, a map of 192 pixels)."""
    module, x = kl.Attention(groups=8), np.random.default_rng(3).normal(size=(1, 12, 16, 32)).astype(np.float32)
    return module, random_variables(module, x), x


def test_attention_in_chunks_equals_attention_in_one_piece(attention, monkeypatch):
    block, variables, x = attention
    whole = block.apply(variables, x)
    monkeypatch.setattr(kl, "ATTENTION_ROWS", 80)  # of 192 queries
    np.testing.assert_allclose(block.apply(variables, x), whole, atol=1e-5)


def test_a_hidden_pixel_changes_no_other(attention):
    block, variables, x = attention
    hidden = np.zeros((1, 192), np.float32)
    hidden[0, 5] = -np.inf
    # The group norm sees all pixels: two of them are exchanged in what is hidden, so that its statistics stay.
    hidden[0, 9] = -np.inf
    exchanged = x.copy()
    exchanged[0, 0, [5, 9]] = x[0, 0, [9, 5]]
    rest = np.ones(192, bool)
    rest[[5, 9]] = False
    plain, moved = (np.asarray(block.apply(variables, a, hidden)).reshape(192, 32)[rest] for a in (x, exchanged))
    np.testing.assert_allclose(moved, plain, atol=1e-5)
    assert np.abs(plain - np.asarray(block.apply(variables, x)).reshape(192, 32)[rest]).max() > 1e-3


def test_bfloat16_and_remat_keep_parameters_and_stay_close_to_float32():
    plain, z = kl.AutoencoderKL(**SMALL), latent()
    variables = random_variables(plain)
    decode = lambda module: jax.jit(functools.partial(module.apply, method="decode"))(variables, z)
    want = decode(plain)
    for module, share in (
        (kl.AutoencoderKL(**SMALL, dtype=jnp.bfloat16), 0.06),
        (kl.AutoencoderKL(**SMALL, remat=True), 1e-5),
    ):
        assert jax.tree.map(jnp.shape, abstract_variables(module)) == jax.tree.map(jnp.shape, variables)
        got = decode(module)
        # 8 significant bits through some twenty layers.
        assert got.dtype == jnp.float32 and np.std(got - want) < share * np.std(want)


def test_the_gradient_of_a_picture_reaches_its_latent_through_every_layer():
    module, z = kl.AutoencoderKL(**SMALL, remat=True), latent(2, 2)
    loss = lambda variables, z: jnp.sum(jnp.square(module.apply(variables, z, method="decode")))
    of_variables, of_z = jax.jit(jax.grad(loss, argnums=(0, 1)))(random_variables(module), z)
    decoder = of_variables["params"]["decoder"]
    # But for the key's bias: it moves all scores of a query alike, and a softmax does not notice.
    silent = ("mid_block.attentions.0", "to_k", "bias")
    for path, leaf in jax.tree_util.tree_leaves_with_path(decoder):
        names = tuple(key.key for key in path)
        assert np.all(np.isfinite(leaf)) and (np.abs(leaf).max() > 1e-4 or names == silent), names
    assert np.abs(of_z).min() > 0


@pytest.mark.quick
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_fn": "relu"}, "act_fn is 'relu'; this autoencoder has act_fn='silu' only"),
        ({"mid_block_add_attention": False}, "mid_block_add_attention is False"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, "DownEncoderBlock2D only, here 4 of them"),
        ({"up_block_types": ["UpDecoderBlock2D"] * 3}, "UpDecoderBlock2D only, here 4 of them"),
        ({"block_out_chanels": [64]}, "Unknown arguments of the autoencoder: block_out_chanels. Accepted: in_channels"),
        ({"norm_num_groups": 24}, "block_out_channels has 128; .* multiples of norm_num_groups=24"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        kl.from_public(**{**SD, **change})


@pytest.mark.quick
def test_the_defaults_are_those_of_stable_diffusion():
    assert kl.from_public(**SD) == kl.AutoencoderKL()
