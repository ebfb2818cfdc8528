from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tadsr_jax.networks import abstract_variables, init_variables
from tadsr_jax.networks.space_to_depth import SpaceToDepth
from tadsr_jax.networks.unet_small import Cosines, SmallUNet, cosine_basis

SMALL = SmallUNet(latent_channels=12, widths=(32, 32), embed_dim=8)
SMALL_VARIABLES = jax.jit(partial(init_variables, SMALL))(jax.random.key(0))


small_apply = jax.jit(SMALL.apply, static_argnames="features_only")


@jax.jit
def stirred(key):
    """The parameters moved a little, so that none is zero."""
    leaves, tree = jax.tree.flatten(SMALL_VARIABLES)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(tree, [x + 0.05 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)])


def inputs(side=4, seed=1):
    key_x, key_lq = jax.random.split(jax.random.key(seed))
    return (
        jax.random.normal(key_x, (2, side, side, 12)),
        jnp.array([0, 3]),
        0.5 * jax.random.normal(key_lq, (2, side, side, 15)),
    )


def test_the_embedded_default_has_half_a_million_parameters():
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract_variables(SmallUNet()))) == 575_440


def test_a_new_network_without_time_gates_returns_zeros():
    variables = jax.tree.map(jnp.copy, SMALL_VARIABLES)
    variables["params"]["gate_emb"] = jax.tree.map(jnp.zeros_like, variables["params"]["gate_emb"])
    assert not np.any(small_apply(variables, *inputs()))


def test_every_parameter_the_step_and_both_conditions_reach_the_output():
    x, t, lq = inputs()
    params = stirred(jax.random.key(2))
    loss = lambda p, x, lq: jnp.sum(jnp.square(SMALL.apply(p, x, t, lq)))
    grads = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(params, x, lq)
    for name, leaf in flatten_dict(grads[0], sep=".").items():
        assert np.any(leaf), name
    assert np.all(np.any(np.asarray(grads[1]), axis=(0, 1, 2))) and np.all(np.any(np.asarray(grads[2]), axis=(0, 1, 2)))
    assert not np.allclose(small_apply(params, x, t, lq), small_apply(params, x, t + 1, lq))


def test_the_maps_for_a_discriminator_are_the_encoders_levels():
    shapes = [m.shape for m in small_apply(SMALL_VARIABLES, *inputs(side=6), features_only=True)]
    assert shapes == [(2, 6, 6, 32), (2, 3, 3, 32)]


def test_rematerialisation_changes_neither_names_nor_values():
    again = SmallUNet(latent_channels=12, widths=(32, 32), embed_dim=8, remat=True)
    params = stirred(jax.random.key(2))
    assert jax.tree.structure(abstract_variables(again)) == jax.tree.structure(params)
    np.testing.assert_allclose(jax.jit(again.apply)(params, *inputs()), small_apply(params, *inputs()), atol=1e-6)


def test_bfloat16_keeps_float32_parameters_and_comes_close():
    params = stirred(jax.random.key(2))
    half = SmallUNet(latent_channels=12, widths=(32, 32), embed_dim=8, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(abstract_variables(half))} == {jnp.dtype(jnp.float32)}
    got, want = jax.jit(half.apply)(params, *inputs()), small_apply(params, *inputs())
    assert got.dtype == jnp.bfloat16
    assert jnp.std(got.astype(jnp.float32) - want) < 0.03 * jnp.std(want)  # 8 significant bits, a dozen layers


def test_the_cosine_basis_of_two_is_the_mean_and_the_difference():
    np.testing.assert_allclose(cosine_basis(2), np.array([[1, 1], [1, -1]]) / np.sqrt(2), atol=1e-12)


def test_analysis_finds_the_frequency_of_a_block_and_synthesis_undoes_it():
    # Columns 1, 0, 0, 1 about their mean: one frequency along the row, none down the column, grey.
    wave = cosine_basis(4)[2] * 8**0.5
    picture = jnp.broadcast_to(jnp.asarray(wave, jnp.float32)[None, None, :, None], (1, 4, 4, 3))
    z = SpaceToDepth(4).apply({}, picture, method="encode")
    analysis, synthesis = Cosines(), Cosines(inverse=True)
    found = analysis.apply(analysis.init(jax.random.key(0), z), z)

    f, g, colour = 0, 2, 0
    channel = (f * 4 + g) * 3 + colour
    want = np.zeros(48)
    want[channel] = np.sqrt(8) * np.sqrt(4) * np.sqrt(3)  # the length of the wave, down four rows, over three colours
    np.testing.assert_allclose(found[0, 0, 0], want, atol=1e-5)
    np.testing.assert_allclose(synthesis.apply(synthesis.init(jax.random.key(0), z), found), z, atol=1e-5)


def test_latents_and_widths_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match=r"latent_channels is 4; expected 3 f\^2"):
        SmallUNet(latent_channels=4)
    with pytest.raises(ValueError, match=r"widths is \(48, 64\); expected multiples of 32"):
        SmallUNet(widths=(48, 64))
