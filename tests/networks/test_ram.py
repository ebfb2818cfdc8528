import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.convert import names
from tadsr_jax.networks import abstract_variables, ram
from tadsr_jax.networks.ram import RAM
from tests.weights import public_entries, random_variables

pytestmark = pytest.mark.quick

SMALL = RAM(
    image_size=32,
    window_size=4,
    embed_dim=8,
    depths=(2, 1),
    num_heads=(2, 4),
    states_dim=16,
    num_class=7,
    hidden_size=24,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=3,
)
VISION = {"image_res": 32, "window_size": 4, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 4], "vision_width": 16}


def picture(side=32):
    return np.random.default_rng(2).normal(size=(2, side, side, 3)).astype(np.float32)


apply = jax.jit(SMALL.apply)
small_variables = functools.partial(random_variables, SMALL)
prepare = jax.jit(ram.prepare, static_argnames=("size", "mode", "clip"))


def test_names_and_shapes_are_those_of_the_public_file_in_its_order():
    variables = abstract_variables(RAM())
    shapes = names.public_shapes(variables)
    assert list(shapes.items()) == list(public_entries("ram_swin_large_tagging_head").items())
    assert len(shapes) == 366 and sum(map(math.prod, shapes.values())) == 212_117_045
    # 384 pixels make 12 x 12 cells after four stages, and one more state for all of them.
    states = jax.eval_shape(RAM().apply, variables, *RAM().example_inputs())
    assert states.shape == (1, 145, 512)


def test_the_first_state_is_the_mean_of_the_others():
    states = apply(small_variables(), picture())
    assert states.shape == (2, 1 + 4 * 4, 16)
    np.testing.assert_allclose(states[:, 0], np.mean(states[:, 1:], axis=1), atol=1e-5)


def test_without_a_tagging_head_there_are_states_alone():
    module = SMALL.clone(num_class=None)
    variables = abstract_variables(module)
    assert sorted(variables["params"]) == ["image_proj", "visual_encoder"]
    assert jax.eval_shape(module.apply, variables, picture()).shape == (2, 17, 16)


def test_logits_depend_on_the_label_and_on_the_picture():
    states = 3 * np.random.default_rng(5).normal(size=(2, 17, 16)).astype(np.float32)
    tag_logits = jax.jit(functools.partial(SMALL.apply, method="tag_logits"))
    logits = tag_logits(small_variables(), states)
    assert logits.shape == (2, 7) and np.abs(logits[0] - logits[1]).max() > 1e-3
    order = np.array([6, 5, 4, 3, 2, 1, 0])
    turned = small_variables()["params"] | {"label_embed": small_variables()["params"]["label_embed"][order]}
    np.testing.assert_allclose(tag_logits({"params": turned}, states), logits[:, order], atol=1e-6)


def test_bfloat16_keeps_parameters_and_stays_close_to_float32():
    module = SMALL.clone(dtype=jnp.bfloat16)
    assert jax.tree.map(jnp.shape, abstract_variables(module)) == jax.tree.map(jnp.shape, small_variables())
    states, want = jax.jit(module.apply)(small_variables(), picture()), apply(small_variables(), picture())
    assert states.dtype == jnp.float32 and np.std(states - want) < 0.03 * np.std(want)  # 8 significant bits


def test_a_picture_is_resized_and_normalised_by_channel():
    got = prepare(np.full((1, 5, 7, 3), 0.5, np.float32), size=8)
    want = [(0.5 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.5 - 0.406) / 0.225]
    np.testing.assert_allclose(got, np.broadcast_to(want, (1, 8, 8, 3)), rtol=1e-4)


def test_only_clipping_takes_off_what_bicubic_overshoots():
    step = np.zeros((1, 1, 4, 3), np.float32)
    step[:, :, 2:] = 1
    back = lambda x: x * np.float32(ram.DEVIATION) + np.float32(ram.MEAN)
    for options, beyond in (({}, True), ({"clip": True}, False), ({"mode": "bilinear"}, False)):
        levels = back(prepare(step, size=8, **options))
        assert (levels.max() > 1.01 and levels.min() < -0.01) == beyond


def test_tags_are_the_labels_above_their_thresholds_in_the_order_of_the_list():
    logits = np.array([[2.0, -3.0, 0.5], [-9.0, -9.0, -9.0]])  # sigmoid: 0.88, 0.05, 0.62
    assert ram.tags(logits, [0.65, 0.04, 0.65], ["cat", "sky", "dog"]) == ["cat, sky", ""]


def test_labels_that_do_not_fit_the_classes_are_refused():
    with pytest.raises(ValueError, match="2 labels and 3 thresholds for 3 classes; expected one label and one"):
        ram.tags(np.zeros((1, 3)), [0.5] * 3, ["cat", "dog"])


def test_public_configurations_are_understood():
    q2l = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 3,
           "hidden_act": "gelu", "layer_norm_eps": 1e-12, "vocab_size": 30524, "add_cross_attention": True}  # fmt: skip
    assert ram.from_public(vision=VISION, q2l=q2l, num_class=7, encoder_width=16) == SMALL
    assert ram.from_public(vision=VISION).num_class is None


@pytest.mark.parametrize(
    ("vision", "q2l", "message"),
    [
        ({"vision_width": 32}, {}, "vision_width is 32; embed_dim and depths make it 16"),
        ({"image_res": 36}, {}, "image_size is 36; stage 0 has a map of 9 cells a side, which windows of 4"),
        ({"num_heads": [2]}, {}, r"num_heads is \(2,\); expected 2 numbers"),
        ({"num_heads": [2, 3]}, {}, r"num_heads is \(2, 3\); 16 channels have no 3"),
        ({"depth": 2}, {}, "Unknown arguments of vision: depth. Accepted: image_size"),
        ({}, {"hidden": 2}, "Unknown arguments of q2l: hidden. Accepted: hidden_size"),
        ({}, {"hidden_act": "relu"}, "hidden_act is 'relu'; this tagging head has hidden_act='gelu' only"),
        ({}, {"num_attention_heads": 5}, "hidden_size is 768; it must be a multiple of num_attention_heads"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(vision, q2l, message):
    with pytest.raises(ValueError, match=message):
        ram.from_public(vision=VISION | vision, q2l=q2l)


def test_a_picture_of_another_size_is_refused():
    with pytest.raises(ValueError, match="RAM was given a picture of 36x36; `prepare` it at 32x32"):
        SMALL.apply(small_variables(), picture(36))
