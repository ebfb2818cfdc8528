"""Fixed networks stored as they are read: half the memory, the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tadsr_jax.networks import storage, synthetic_params
from tadsr_jax.networks.clip_text import CLIPTextModel
from tadsr_jax.networks.dino import VisionTransformer
from tadsr_jax.networks.unet_swin import SwinUNet

SWIN = dict(image_size=8, model_channels=32, channel_mult=(1,), attention_resolutions=(8,), num_res_blocks=1,
            num_head_channels=16, swin_embed_dim=32, window_size=4, lq_size=8)  # fmt: skip
TEXT = dict(vocab_size=9, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
VIT = dict(patch=8, dim=16, depth=1, heads=2, image_size=16, taps=(0,))


def made(kind, fields: dict, dtype):
    module = kind(**fields, dtype=dtype)
    return module, synthetic_params(module, 0)


@pytest.mark.parametrize(("kind", "fields"), [(SwinUNet, SWIN), (CLIPTextModel, TEXT), (VisionTransformer, VIT)])
def test_a_network_stored_as_it_is_read_makes_the_same_numbers(kind, fields):
    module, params = made(kind, fields, jnp.bfloat16)
    rng = np.random.default_rng(1)
    drawn = lambda shape: None if shape is None else rng.uniform(0, 8, shape.shape).astype(shape.dtype)
    inputs = [drawn(shape) for shape in module.example_inputs()]
    before, after = (module.apply({"params": tree}, *inputs) for tree in (params, storage.rounded(module, params)))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_kernels_are_stored_in_the_dtype_of_their_layers_and_the_rest_stays():
    module, params = made(SwinUNet, SWIN, jnp.bfloat16)
    stored = flatten_dict(storage.rounded(module, params), sep="/")
    assert stored["input_blocks.0.0/kernel"].dtype == jnp.bfloat16
    for name in ("input_blocks.0.0/bias", "time_embed.0/kernel", "out.0/scale", "out.2/kernel"):
        assert stored[name].dtype == np.float32
    assert {leaf.dtype for name, leaf in stored.items() if "relative_position" in name} == {np.dtype(np.float32)}
    assert sum(leaf.nbytes for leaf in stored.values()) < 0.65 * sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def test_a_network_of_float32_is_stored_as_it_is():
    module, params = made(VisionTransformer, VIT, jnp.float32)
    jax.tree.map(np.testing.assert_array_equal, storage.rounded(module, params), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(storage.rounded(module, params))} == {np.dtype(np.float32)}


def test_the_source_is_not_changed():
    module, params = made(VisionTransformer, VIT, jnp.bfloat16)
    storage.rounded(module, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
