import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.convert import names
from tadsr_jax.networks import abstract_variables, clip_text
from tadsr_jax.networks.clip_text import CLIPTextModel
from tests.weights import public_entries, random_variables

pytestmark = pytest.mark.quick

SMALL = CLIPTextModel(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=12,
)
IDS = np.random.default_rng(0).integers(0, 50, (2, 9))


apply = jax.jit(SMALL.apply)
small_variables = functools.partial(random_variables, SMALL)


def test_names_and_shapes_are_those_of_stable_diffusion_2_in_the_order_of_its_file():
    shapes = names.public_shapes(abstract_variables(CLIPTextModel(**clip_text.SD2)))
    assert list(shapes.items()) == list(public_entries("sd2_clip_text").items())
    assert len(shapes) == 372 and sum(map(math.prod, shapes.values())) == 340_387_840


def test_a_token_sees_those_before_it_and_none_behind():
    states, changed = apply(small_variables(), IDS), IDS.copy()
    changed[:, 5] = (changed[:, 5] + 1) % 50
    difference = np.abs(apply(small_variables(), changed) - states).max(axis=(0, 2))
    assert difference[:5].max() < 1e-6 and difference[5:].min() > 1e-3
    np.testing.assert_allclose(apply(small_variables(), IDS[:, :4]), states[:, :4], atol=1e-6)


def test_the_same_word_differs_from_place_to_place():
    states = apply(small_variables(), np.full((1, 9), 7))
    assert np.abs(np.diff(states, axis=1)).max(axis=(0, 2)).min() > 1e-3


def test_states_come_out_of_the_last_norm():
    variables = {"params": small_variables()["params"] | {"text_model.final_layer_norm": {
        "scale": np.full(32, 3.0, np.float32), "bias": np.full(32, 0.5, np.float32)}}}  # fmt: skip
    states = apply(variables, IDS)
    np.testing.assert_allclose(np.mean(states, -1), 0.5, atol=1e-5)
    np.testing.assert_allclose(np.std(states, -1), 3, rtol=1e-3)  # the norm adds 1e-5 to the variance


def test_the_two_activations_are_the_exact_one_and_its_logistic_stand_in():
    for name, want in (("gelu", 0.5 * (1 + math.erf(0.5**0.5))), ("quick_gelu", 1 / (1 + math.exp(-1.702)))):
        np.testing.assert_allclose(clip_text.ACTIVATIONS[name](jnp.float32(1)), want, rtol=1e-6)


def test_bfloat16_keeps_parameters_and_stays_close_to_float32():
    module = SMALL.clone(dtype=jnp.bfloat16)
    assert jax.tree.map(jnp.shape, abstract_variables(module)) == jax.tree.map(jnp.shape, small_variables())
    states, want = jax.jit(module.apply)(small_variables(), IDS), apply(small_variables(), IDS)
    assert states.dtype == jnp.float32 and np.std(states - want) < 0.03 * np.std(want)  # 8 significant bits


def test_a_public_configuration_may_say_what_changes_nothing():
    config = {"_name_or_path": "x", "model_type": "clip_text_model", "projection_dim": 512, "torch_dtype": "float32"}
    assert clip_text.from_public(**config, **clip_text.SD2) == CLIPTextModel(**clip_text.SD2)
    assert clip_text.from_public().hidden_act == "quick_gelu"  # what transformers takes where the file is silent


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_act": "swish"}, "hidden_act is 'swish'; expected one of gelu, quick_gelu"),
        ({"hidden_size": 100}, "hidden_size is 100; it must be a multiple of num_attention_heads"),
        ({"hidden_sizes": 1}, "Unknown arguments of the text encoder: hidden_sizes. Accepted: vocab_size"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        clip_text.from_public(**config)


def test_a_text_of_too_many_tokens_is_refused():
    with pytest.raises(ValueError, match="the text has 13 tokens; this encoder reads up to 12: cut it off"):
        SMALL.apply(small_variables(), np.zeros((1, 13), np.int32))
