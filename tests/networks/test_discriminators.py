import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tadsr_jax.networks import abstract_variables
from tadsr_jax.networks.discriminators import TimeAwareDiscriminator

pytestmark = pytest.mark.quick

PUBLIC_NAMES = Path(__file__).parents[1] / "fixtures/lists/tadsr_discriminator_full.json"
SMALL = TimeAwareDiscriminator(c_dim=2, embed_dim=32)


def features(*shapes, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes)]


@jax.jit
def small_variables(maps, t):
    return SMALL.init(jax.random.key(0), maps, t, update_stats=False)


small_logits = jax.jit(partial(SMALL.apply, update_stats=False))


def test_paths_joined_by_dots_are_the_public_names_at_released_size():
    variables = abstract_variables(TimeAwareDiscriminator())

    public = json.loads(PUBLIC_NAMES.read_text())
    leaves = {"weight_orig": "kernel", "weight_u": "u", "weight_v": "v", "bias": "bias"}
    want = {}
    for name, shape in public.items():
        module, leaf = name.rsplit(".", 1)
        ours = leaves.get(leaf) or ("scale" if len(shape) == 1 else "kernel")
        want[f"{module}.{ours}"] = int(np.prod(shape))
    flat = {**flatten_dict(variables["params"], sep="."), **flatten_dict(variables["spectral"], sep=".")}
    assert {name: leaf.size for name, leaf in flat.items()} == want
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 20_764_320


def test_it_takes_any_number_of_maps_of_any_channel_counts():
    maps, t = features((2, 4, 3, 32), (2, 2, 2, 96)), jnp.array([0, 14])
    logits = small_logits(small_variables(maps, t), maps, t)
    assert [array.shape for array in logits] == [(2, 2 * 12), (2, 2 * 4)]


def test_a_new_discriminator_sees_neither_the_picture_nor_the_time():
    maps, t = features((2, 4, 4, 32)), jnp.array([0, 14])
    (logits,) = small_logits(small_variables(maps, t), maps, t)
    for channel in logits.reshape(2, 2, 16).transpose(1, 0, 2):
        np.testing.assert_allclose(channel, channel[0, 0], atol=1e-6)


def test_a_trained_discriminator_sees_both():
    maps, t = features((2, 4, 4, 32)), jnp.array([0, 14])
    variables = small_variables(maps, t)
    kernel = variables["params"]["out_layers.0.3"]["kernel"]
    variables["params"]["out_layers.0.3"]["kernel"] = jax.random.normal(jax.random.key(1), kernel.shape)
    (logits,) = small_logits(variables, maps, t)
    (later,) = small_logits(variables, maps, t + 1)
    (other,) = small_logits(variables, [maps[0][::-1]], t)
    assert jnp.abs(later - logits).max() > 1e-3
    assert jnp.abs(other - logits).max() > 1e-3


def test_logits_come_channel_by_channel():
    maps, t = features((2, 4, 4, 32)), jnp.array([0, 14])
    variables = small_variables(maps, t)
    (before,) = small_logits(variables, maps, t)
    cls = variables["params"]["heads.0"]["cls"]
    cls["bias"] = cls["bias"] + jnp.array([10.0, 20.0])
    (after,) = small_logits(variables, maps, t)
    np.testing.assert_allclose(after - before, [[10.0] * 16 + [20.0] * 16] * 2, rtol=1e-5)


def test_in_bfloat16_parameters_and_logits_stay_float32():
    maps, t = features((2, 4, 4, 32)), jnp.array([0, 14])
    model = TimeAwareDiscriminator(c_dim=2, embed_dim=32, dtype=jnp.bfloat16)
    abstract = abstract_variables(model, maps, t)
    assert {leaf.dtype for leaf in jax.tree.leaves(abstract)} == {jnp.dtype("float32")}
    variables = small_variables(maps, t)
    (low,) = jax.jit(model.apply)(variables, maps, t)
    (full,) = small_logits(variables, maps, t)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, full, rtol=0.03)  # 8 significant bits, about ten roundings in a row
