import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tadsr_jax.convert.names import public_shapes
from tadsr_jax.networks import abstract_variables, controlnet, init_variables
from tadsr_jax.networks.controlnet import ControlNet, Stem
from tadsr_jax.networks.unet_sd import SDUNet, is_trained
from tests.weights import public_entries, random_variables

SMALL = {
    "block_out_channels": (16,),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D",),  # transformers in the middle alone: few to compile
    "attention_head_dim": 2,
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
}
SMALL_CONTROLNET = {**SMALL, "conditioning_embedding_out_channels": (4, 8)}
SMALL_UNET = {**SMALL, "up_block_types": ("UpBlock2D",)}


def draw(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def inputs_of(h=5, w=4):
    return draw(2, h, w, 4), np.array([0, 999]), draw(2, 3, 8), draw(2, 6, 512), draw(2, 2 * h, 2 * w, 3)


def test_names_and_shapes_are_those_of_the_public_file():
    shapes = public_shapes(abstract_variables(ControlNet()))
    assert list(shapes.items()) == list(public_entries("seesr_controlnet").items())
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == (522, 489_031_440)


def test_addsr_trains_the_stem_and_the_image_attentions():
    params = flatten_dict(abstract_variables(ControlNet())["params"])
    trained = {path: math.prod(leaf.shape) for path, leaf in params.items() if is_trained(path)}
    assert (len(trained), sum(trained.values())) == (198, 125_889_680)
    stem = [size for path, size in trained.items() if path[0] == "controlnet_cond_embedding"]
    assert (len(stem), sum(stem)) == (16, 1_086_480)


def test_a_new_controlnet_leaves_the_unet_alone():
    module = ControlNet(**SMALL_CONTROLNET)
    last = ("controlnet_down_blocks.0", "controlnet_down_blocks.1", "controlnet_mid_block")

    def new(key):
        params = init_variables(module, key)["params"]
        return [*(params[name] for name in last), params["controlnet_cond_embedding"]["conv_out"]]

    assert not any(np.any(leaf) for leaf in jax.tree.leaves(jax.jit(new)(jax.random.key(0))))


def test_the_scale_multiplies_residuals_and_guess_mode_makes_them_rise_from_a_tenth():
    module = ControlNet(**SMALL_CONTROLNET)
    apply = jax.jit(functools.partial(module.apply, random_variables(module)), static_argnames=("scale", "guess_mode"))
    flat = lambda outputs: [*outputs[0], outputs[1]]
    plain, scaled = flat(apply(*inputs_of())), flat(apply(*inputs_of(), scale=0.5))
    guessed = flat(apply(*inputs_of(), scale=2.0, guess_mode=True))
    for y, half, risen, weight in zip(plain, scaled, guessed, (0.1, 10**-0.5, 1), strict=True):
        np.testing.assert_allclose(half, 0.5 * y, atol=1e-5)
        np.testing.assert_allclose(risen, 2 * weight * y, atol=1e-5)


def test_the_stem_is_added_to_the_latent_and_can_be_had_alone():
    module = ControlNet(**SMALL_CONTROLNET)
    variables, (x, *others, picture) = random_variables(module), inputs_of()
    stem = module.apply(variables, picture, method="stem")
    assert stem.shape == (2, 5, 4, 16)
    # The first residual is a convolution of size 1 of conv_in(x) + stem, so without x it shows the stem.
    params = variables["params"]
    last = params["controlnet_down_blocks.0"]
    want = (stem + params["conv_in"]["bias"]) @ last["kernel"][0, 0] + last["bias"]
    residuals, _ = jax.jit(module.apply)(variables, np.zeros_like(x), *others, picture)
    np.testing.assert_allclose(residuals[0], want, atol=1e-5)


@pytest.mark.quick
def test_the_stem_of_the_public_widths_makes_an_eighth_and_starts_at_zero():
    module, picture = Stem((16, 32, 96, 256), 320), jax.ShapeDtypeStruct((1, 24, 40, 3), jnp.float32)
    variables = abstract_variables(module, picture)
    assert jax.eval_shape(module.apply, variables, picture).shape == (1, 3, 5, 320)
    kernels = [variables["params"][f"blocks.{index}"]["kernel"].shape[2:] for index in range(6)]
    assert kernels == [(16, 16), (16, 32), (32, 32), (32, 96), (96, 96), (96, 256)]
    assert ControlNet().factor == 8


@pytest.mark.quick
def test_a_controlnet_starts_from_the_unet_where_both_have_the_same():
    unet, ours = (random_variables(m)["params"] for m in (SDUNet(**SMALL_UNET), ControlNet(**SMALL_CONTROLNET)))
    ours = jax.tree.map(lambda leaf: leaf + 1, ours)
    started = controlnet.from_unet(unet, ours)
    assert list(started) == list(ours)
    kept = {name for name in started if started[name] is ours[name]}
    taken = {name for name in started if name in unet and started[name] is unet[name]}
    assert kept == {name for name in ours if name.startswith("controlnet_")}
    assert taken == set(ours) - kept and "mid_block.image_attentions.0" in taken

    plain = {name: module for name, module in unet.items() if "image_attentions" not in name}
    started = controlnet.from_unet(plain, ours)
    assert started["mid_block.image_attentions.0"] is ours["mid_block.image_attentions.0"]


@pytest.mark.quick
def test_a_controlnet_does_not_start_from_a_unet_of_another_width():
    unet = abstract_variables(SDUNet(**{**SMALL_UNET, "block_out_channels": (32,)}))["params"]
    with pytest.raises(ValueError, match="has other shapes in the U-Net than in the ControlNet"):
        controlnet.from_unet(unet, abstract_variables(ControlNet(**SMALL_CONTROLNET))["params"])


@pytest.mark.quick
def test_a_picture_of_another_size_is_refused():
    module = ControlNet(**SMALL_CONTROLNET)
    *inputs, picture = inputs_of()
    with pytest.raises(ValueError, match="The picture is 9x8x3; a latent of 5x4 needs 10x8x3"):
        jax.eval_shape(module.apply, abstract_variables(module), *inputs, picture[:, 1:])


@pytest.mark.quick
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"controlnet_conditioning_channel_order": "bgr"}, "controlnet_conditioning_channel_order='rgb' only"),
        ({"global_pool_conditions": True}, "global_pool_conditions is True"),
        ({"conditioning_channels": 4}, "conditioning_channels is 4; ControlNet has conditioning_channels=3 only"),
        ({"up_block_types": []}, "Unknown arguments of ControlNet: up_block_types"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        controlnet.from_public(**change)
