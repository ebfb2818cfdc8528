import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.networks import abstract_variables, unet_swin
from tadsr_jax.networks.unet_swin import SwinUNet
from tests.weights import random_variables

SMALL = {
    "image_size": 8,
    "model_channels": 32,
    "attention_resolutions": (8, 4),
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "num_head_channels": 16,
    "swin_embed_dim": 32,
    "window_size": 4,
    "lq_size": 16,
}


def inputs_of(h=8, w=16):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, h, w, 3)).astype(np.float32)
    return x, np.array([0, 14]), rng.uniform(-1, 1, size=(2, 2 * h, 2 * w, 3)).astype(np.float32)


def test_rematerialised_blocks_have_the_same_parameters_outputs_and_gradients():
    one_level = {**SMALL, "channel_mult": (1,), "attention_resolutions": (), "swin_depth": 1}  # compiles fast

    def loss_and_gradient(**options):
        module = SwinUNet(**one_level, **options)
        loss = lambda v: jnp.mean(jnp.square(module.apply(v, *inputs_of())))
        return jax.jit(jax.value_and_grad(loss))(random_variables(module))

    loss, gradient = loss_and_gradient()
    loss_remat, gradient_remat = loss_and_gradient(remat=True)
    np.testing.assert_allclose(loss_remat, loss, rtol=1e-5)
    assert jax.tree.structure(gradient) == jax.tree.structure(gradient_remat)
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(gradient))
    for ours, plain in zip(jax.tree.leaves(gradient_remat), jax.tree.leaves(gradient)):
        np.testing.assert_allclose(ours, plain, atol=1e-5 * largest)


def test_bfloat16_stays_close_to_float32_and_keeps_float32_parameters_and_output():
    plain, half = SwinUNet(**SMALL), SwinUNet(**SMALL, dtype=jnp.bfloat16)
    variables = random_variables(half)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    y, y_half = (jax.jit(module.apply)(variables, *inputs_of()) for module in (plain, half))
    assert y_half.dtype == jnp.float32
    # 8 significant bits through some forty layers: 2.5 % of the deviation was measured for a deeper network.
    assert 0 < np.std(y_half - y) < 0.04 * np.std(y)


def test_features_are_the_maps_after_each_halving_the_last_input_block_and_the_middle():
    module = SwinUNet(**{**SMALL, "channel_mult": (1, 2, 2), "attention_resolutions": (4,), "num_res_blocks": 2})
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 16, 16, 3), (1,), (1, 32, 32, 3))]
    apply = functools.partial(module.apply, features_only=True)
    features = jax.eval_shape(apply, abstract_variables(module), *inputs)
    assert [f.shape[1:] for f in features] == [(8, 8, 32), (4, 4, 64), (4, 4, 64), (4, 4, 64)]


@pytest.mark.quick
def test_the_public_layout_has_a_swin_group_after_the_first_block_of_every_level():
    blocks = {
        block[0].name.rsplit(".", 1)[0]: [layer.kind for layer in block] for block in unet_swin.layout(SwinUNet())
    }
    assert blocks["input_blocks.0"] == ["conv"]
    assert [blocks[f"input_blocks.{i}"] for i in (1, 2, 3)] == [["res", "swin"], ["res"], ["down"]]
    assert blocks["middle_block"] == ["res", "swin", "res"]
    assert blocks["output_blocks.2"] == ["res", "up"] and blocks["output_blocks.11"] == ["res"]
    assert len(blocks) == 12 + 1 + 12


@pytest.mark.quick
def test_sides_of_latents_are_multiples_of_the_windows_of_the_coarsest_level():
    assert SwinUNet().size_multiple == 64
    assert SwinUNet(**SMALL).size_multiple == 8
    # At nominal size 2 the window shrinks to 2: 4 times a window of 2, while the finest level needs 4.
    assert SwinUNet(**{**SMALL, "channel_mult": (1, 1, 1)}).size_multiple == 8
    assert SwinUNet(lq_size=512).lq_ratio == 8


@pytest.mark.quick
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dropout": 0.1}, "dropout must be 0"),
        ({"use_fp16": True}, "dtype=jnp.bfloat16"),
        ({"channel_mults": [1]}, "channel_mults. Accepted: image_size"),
        ({"lq_size": 96}, "lq_size is 96; expected image_size"),
        ({"num_res_blocks": [2, 2]}, r"num_res_blocks is \(2, 2\); expected one number, or 4"),
        ({"model_channels": 100}, "100 wide; group norm needs a multiple of 32"),
        ({"cond_lq": False, "cond_mask": True}, "cond_mask needs cond_lq"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        unet_swin.from_public(**change)


@pytest.mark.quick
def test_inputs_that_do_not_fit_are_refused_with_the_sizes_that_do():
    module = SwinUNet(**SMALL)
    x, t, lq = inputs_of()
    with pytest.raises(ValueError, match="latent is 8x12; this network needs multiples of 8"):
        jax.eval_shape(module.apply, {}, x[:, :, :12], t, lq)
    with pytest.raises(ValueError, match="lq is 8x16; for a latent of 8x16 this network takes 16x32"):
        jax.eval_shape(module.apply, {}, x, t, lq[:, ::2, ::2])
    with pytest.raises(ValueError, match="cond_lq is True, but lq is None"):
        jax.eval_shape(module.apply, {}, x, t)
    with pytest.raises(ValueError, match="cond_mask is False, but mask is given"):
        jax.eval_shape(module.apply, {}, x, t, lq, lq[..., :1])
