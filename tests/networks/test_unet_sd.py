import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from tadsr_jax.convert.names import public_shapes
from tadsr_jax.networks import abstract_variables, unet_sd
from tadsr_jax.networks.unet_sd import SDUNet
from tests.weights import public_entries, random_variables

SMALL = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 2,
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
}
ONE_LEVEL = {  # transformers in the middle alone: few to compile
    **SMALL,
    "block_out_channels": (16,),
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
}


def draw(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def inputs_of(h=5, w=4, n=2):
    return draw(n, h, w, 4), np.array([0, 999])[:n], draw(n, 3, 8), draw(n, 6, 512)


def residuals_like(shapes, scale=1.0):
    *skips, middle = (scale * draw(*shape) for shape in shapes)
    return skips, middle


def test_names_and_shapes_are_those_of_the_public_file():
    shapes = public_shapes(abstract_variables(SDUNet()))
    assert list(shapes.items()) == list(public_entries("seesr_unet").items())
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == (1102, 1_126_760_324)


def test_addsr_trains_the_image_attentions_alone():
    sizes = {path: math.prod(leaf.shape) for path, leaf in flatten_dict(abstract_variables(SDUNet())["params"]).items()}
    trained = [size for path, size in sizes.items() if unet_sd.is_trained(path)]
    assert (len(trained), sum(trained)) == (416, 260_849_600)
    assert not unet_sd.is_trained(("down_blocks.0.attentions.0", "norm", "scale"))


def test_a_unet_without_image_attentions_has_none_of_their_parameters():
    plain = abstract_variables(SDUNet(**SMALL, use_image_cross_attention=False))["params"]
    with_them = abstract_variables(SDUNet(**SMALL))["params"]
    assert set(plain) == {name for name in with_them if "image_attentions" not in name}


def test_features_are_the_last_maps_of_the_levels_with_the_residuals_added():
    module = SDUNet(**SMALL)
    apply = jax.jit(functools.partial(module.apply, random_variables(module), method="features"))
    residuals = residuals_like([(2, 5, 4, 16), (2, 5, 4, 16), (2, 3, 2, 16), (2, 3, 2, 32), (2, 3, 2, 32)])
    plain, changed = apply(*inputs_of()), apply(*inputs_of(), residuals)
    assert [y.shape for y in plain] == [(2, 5, 4, 16), (2, 3, 2, 32)]
    for index, (after, before) in zip((1, 3), zip(changed, plain)):
        np.testing.assert_allclose(after - before, residuals[0][index], atol=1e-5)


def test_layers_may_differ_by_level_and_features_find_their_ends():
    module = SDUNet(**{**SMALL, "layers_per_block": (2, 1)})
    features = functools.partial(module.apply, method="features")
    shapes = [y.shape for y in jax.eval_shape(features, abstract_variables(module), *inputs_of())]
    assert shapes == [(2, 5, 4, 16), (2, 3, 2, 32)]
    names = set(abstract_variables(module)["params"])
    assert {"down_blocks.0.resnets.1", "up_blocks.0.resnets.1", "up_blocks.1.resnets.2"} <= names
    assert not {"down_blocks.1.resnets.1", "up_blocks.0.resnets.2"} & names


@pytest.mark.parametrize("size", [(1, 1), (7, 10), (8, 12)])
def test_any_size_of_latent_comes_out_as_it_went_in(size):
    levels = {"block_out_channels": (16, 32, 32), "down_block_types": ("DownBlock2D",) * 3}
    module = SDUNet(**{**SMALL, **levels, "up_block_types": ("UpBlock2D",) * 3})
    y = jax.eval_shape(module.apply, abstract_variables(module), *inputs_of(*size))
    assert y.shape == (2, *size, 4) and y.dtype == jnp.float32


def test_residuals_of_zero_change_nothing_and_the_middles_is_added_after_it():
    module, shapes = SDUNet(**ONE_LEVEL), [(2, 5, 4, 16)] * 3
    variables, apply = random_variables(module), jax.jit(module.apply)
    want = apply(variables, *inputs_of())
    np.testing.assert_allclose(apply(variables, *inputs_of(), residuals_like(shapes, 0.0)), want, atol=1e-5)
    # A constant residual is a bias of the middle's last convolution, and reaches no skip.
    constant = draw(16)
    residuals = [np.zeros(shape, np.float32) for shape in shapes[:2]], np.broadcast_to(constant, shapes[2])
    got = apply(variables, *inputs_of(), residuals)
    moved = jax.tree.map(lambda leaf: leaf, variables)
    moved["params"]["mid_block.resnets.1"]["conv2"]["bias"] += constant
    np.testing.assert_allclose(got, apply(moved, *inputs_of()), atol=1e-5 * np.abs(want).max())
    assert np.std(got - want) > 0.01 * np.std(want)


def test_bfloat16_stays_close_to_float32_and_remat_equals_it_gradients_of_the_trained_part_included():
    params = flatten_dict(random_variables(SDUNet(**ONE_LEVEL))["params"])
    trained = {path: leaf for path, leaf in params.items() if unet_sd.is_trained(path)}

    def loss(trained, module):
        eps = module.apply({"params": unflatten_dict(params | trained)}, *inputs_of())
        return jnp.mean(jnp.square(eps)), eps

    run = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    (_, eps), gradient = run(trained, SDUNet(**ONE_LEVEL))
    (_, eps_remat), gradient_remat = run(trained, SDUNet(**ONE_LEVEL, remat=True))
    np.testing.assert_allclose(eps_remat, eps, atol=1e-5 * np.abs(eps).max())
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in gradient.values())
    for path, leaf in gradient.items():
        assert np.any(leaf), path
        np.testing.assert_allclose(gradient_remat[path], leaf, atol=1e-5 * largest)

    _, eps_half = jax.jit(loss, static_argnums=1)(trained, SDUNet(**ONE_LEVEL, dtype=jnp.bfloat16))
    assert eps_half.dtype == jnp.float32
    assert 0 < np.std(eps_half - eps) < 0.05 * np.std(eps)


PUBLIC = {  # unet/config.json of SD 2, an early version of the library
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.10.0.dev0",
    "act_fn": "silu",
    "attention_head_dim": [5, 10, 20, 20],
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 1024,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "out_channels": 4,
    "sample_size": 96,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "upcast_attention": True,
    "use_linear_projection": True,
}


@pytest.mark.quick
def test_a_public_configuration_is_read_and_what_it_lacks_means_what_it_means_there():
    assert unet_sd.from_public(**PUBLIC) == SDUNet(use_image_cross_attention=False)
    assert unet_sd.from_public(**PUBLIC, use_image_cross_attention=True) == SDUNet()
    older = {key: value for key, value in PUBLIC.items() if key != "use_linear_projection"}
    assert not unet_sd.from_public(**older).use_linear_projection


@pytest.mark.quick
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_fn": "gelu"}, "act_fn is 'gelu'; SDUNet has act_fn='silu' only"),
        ({"class_embed_type": "timestep"}, "class_embed_type is 'timestep'; SDUNet has class_embed_type=None only"),
        ({"transformer_layers_per_block": [1, 2, 10, 10]}, "transformer_layers_per_block=1 only"),
        ({"widths": [1]}, "Unknown arguments of SDUNet: widths. Accepted: in_channels"),
        ({"norm_num_groups": None}, "norm_num_groups is null"),
        ({"attention_head_dim": [5, 10]}, "expected one number, or one for each of 4 levels"),
        ({"attention_head_dim": 7}, r"block_out_channels\[0\] is 320; expected a multiple of 7 heads"),
        ({"down_block_types": ["AttnDownBlock2D"] * 4}, "expected 4 of CrossAttnDownBlock2D, DownBlock2D"),
        ({"up_block_types": ["UpBlock2D"]}, "expected 4 of CrossAttnUpBlock2D, UpBlock2D"),
        ({"cross_attention_dim": [768, 1024, 1024, 1024]}, "cross_attention_dim is .*; expected one number"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        unet_sd.from_public(**{**PUBLIC, **change})


@pytest.mark.quick
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_states": None}, "image_states: None; this network needs states of width 512"),
        ({"image_states": draw(2, 6, 1536)}, r"image_states: \(2, 6, 1536\)"),
        ({"text": draw(2, 3, 16)}, r"text: \(2, 3, 16\); this network needs states of width 8"),
        ({"residuals": residuals_like([(2, 5, 4, 16)] * 2)}, "The residuals are"),
        ({"residuals": residuals_like([(2, 5, 4, 16), (2, 1, 1, 16), (2, 5, 4, 16)])}, "this network needs"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(changes, message):
    module = SDUNet(**ONE_LEVEL)
    inputs = dict(zip(("x", "t", "text", "image_states"), inputs_of())) | changes
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: module.apply(abstract_as_zeros(module), **inputs))


def abstract_as_zeros(module):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract_variables(module))


@pytest.mark.quick
def test_image_states_for_a_unet_that_has_no_image_attentions_are_refused():
    module = SDUNet(**ONE_LEVEL, use_image_cross_attention=False)
    with pytest.raises(ValueError, match="image_states are given, but use_image_cross_attention is False"):
        module.init(jax.random.key(0), *inputs_of())
