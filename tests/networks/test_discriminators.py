from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tadsr_jax.convert import names
from tadsr_jax.networks import abstract_variables
from tadsr_jax.networks.discriminators import (
    ConditionalDiscriminator,
    ScaledDense,
    SequenceHead,
    TimeAwareDiscriminator,
)
from tests.weights import public_entries, random_variables

pytestmark = pytest.mark.quick

SMALL = TimeAwareDiscriminator(c_dim=2, embed_dim=32)
CONDITIONAL = ConditionalDiscriminator(cmap_dim=8)


def features(*shapes, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes)]


@jax.jit
def small_variables(maps, t):
    return SMALL.init(jax.random.key(0), maps, t, update_stats=False)


small_logits = jax.jit(partial(SMALL.apply, update_stats=False))


def test_paths_joined_by_dots_are_the_public_names_at_released_size():
    variables = abstract_variables(TimeAwareDiscriminator())

    leaves = {"weight_orig": "kernel", "weight_u": "u", "weight_v": "v", "bias": "bias"}
    want = {}
    for name, shape in public_entries("tadsr_discriminator_full").items():
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


# ---- the Stable-Diffusion side ---------------------------------------------------------------------------------------


def seesr_maps():
    """Shapes of the four maps that TAD-SeeSR's discriminator judges."""
    return [jax.ShapeDtypeStruct((1, 2, 2, 320 * level), jnp.float32) for level in (1, 2, 4, 4)]


@pytest.mark.parametrize(
    ("file", "module", "inputs", "entries", "values"),
    [
        ("addsr_discriminator_heads", ConditionalDiscriminator(), (), 90, 7_656_000),
        (
            "tadseesr_discriminator",
            TimeAwareDiscriminator(320, 320),
            (seesr_maps(), jax.ShapeDtypeStruct((1,), jnp.int32)),
            88,
            75_453_440,
        ),
    ],
)
def test_names_and_shapes_of_the_stable_diffusion_side_are_the_public_ones(file, module, inputs, entries, values):
    variables = abstract_variables(module, *inputs)
    public = public_entries(file)
    assert list(names.public_shapes(variables).items()) == list(public.items())
    assert (len(public), sum(leaf.size for leaf in jax.tree.leaves(variables))) == (entries, values)


MAPS, ASKED = features((2, 4, 3, 16), (2, 2, 2, 32)), jax.random.normal(jax.random.key(1), (2, 6))
conditional_variables = partial(random_variables, CONDITIONAL, MAPS, ASKED)
conditional_logits = jax.jit(CONDITIONAL.apply)


def test_a_conditional_logit_is_the_product_of_what_is_seen_and_what_is_asked():
    variables = conditional_variables()
    logits = conditional_logits(variables, MAPS, ASKED)
    assert [array.shape for array in logits] == [(2, 12), (2, 4)]
    own = {part: tree["heads.1"] for part, tree in variables.items()}
    seen = jax.jit(partial(SequenceHead(8).apply, update_stats=False))(own, MAPS[1].reshape(2, 4, 32))
    cmapper = jax.tree.map(np.asarray, variables["params"]["heads.1.cmapper"])
    cmap = np.asarray(ASKED) @ cmapper["kernel"] / 6**0.5 + cmapper["bias"]
    np.testing.assert_allclose(logits[1], np.sum(seen * cmap[:, None], -1) / 8**0.5, rtol=1e-4, atol=1e-5)


def test_a_conditional_discriminator_answers_to_the_picture_and_to_the_condition():
    variables = conditional_variables()
    logits = conditional_logits(variables, MAPS, ASKED)[0]
    other = conditional_logits(variables, [x[::-1] for x in MAPS], ASKED)[0]
    asked = conditional_logits(variables, MAPS, ASKED[::-1])[0]
    assert jnp.abs(other - logits).max() > 1e-2 and jnp.abs(asked - logits).max() > 1e-2


def test_a_new_map_of_the_condition_has_unit_weights_and_no_bias():
    params = jax.jit(ScaledDense(64).init)(jax.random.key(0), ASKED)["params"]
    assert 0.85 < np.std(params["kernel"]) < 1.15  # 384 standard normals
    assert not params["bias"].any()


def test_training_passes_of_a_conditional_discriminator_move_all_its_vectors():
    variables = conditional_variables()
    apply = jax.jit(partial(CONDITIONAL.apply, update_stats=True, mutable=["spectral"]))
    before, after = (flatten_dict(tree["spectral"]) for tree in (variables, apply(variables, MAPS, ASKED)[1]))
    assert before.keys() == after.keys()
    assert all(jnp.abs(after[path] - before[path]).max() > 1e-3 for path in before)


def test_in_bfloat16_conditional_logits_stay_float32():
    variables = conditional_variables()
    low = jax.jit(ConditionalDiscriminator(8, jnp.bfloat16).apply)(variables, MAPS, ASKED)[0]
    full = conditional_logits(variables, MAPS, ASKED)[0]
    assert low.dtype == jnp.float32
    assert np.std(low - full) < 0.03 * np.std(full)  # 8 significant bits, about ten roundings in a row
