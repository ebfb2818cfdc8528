"""A second referee: the Flax networks of diffusers in their stock configuration, on the same weights.

Its U-Net and ControlNet differ from those of PyTorch, and so from ours, in two constants: the GELU of the feed-forward
is the tanh form, not the exact one, and the group norm before a transformer has an epsilon of 1e-5 instead of 1e-6.
They are compared as they are, within what these two explain, and with the two made equal, up to rounding.
"""

import functools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from tadsr_jax.networks import abstract_variables, blocks_sd, controlnet, kl, unet_sd

pytest.importorskip(
    "diffusers.models.modeling_flax_utils",
    reason="needs the extra: pip install 'tadsr_jax[diffusers]' (diffusers has no Flax after 0.39)",
)
from diffusers import FlaxAutoencoderKL, FlaxControlNetModel, FlaxUNet2DConditionModel
from diffusers.utils import logging

logging.set_verbosity_error()  # every module would say that its kind is going to be removed
# Shares of the largest value. Found: 1.4e-6, and 2.2e-4.
ROUNDING = 5e-6  # float32 through some twenty layers, whose sums are in another order
CONSTANTS = 1e-3  # the two forms of GELU differ by 5e-4 at most, of gates around 1; the epsilon counts for less
SMALL = {  # as SD 2 has it; the library's norms have 32 groups, whatever the width
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "attention_head_dim": (2, 4),
    "cross_attention_dim": 16,
    "use_linear_projection": True,
}
WAY_UP = {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
SD1 = {"use_linear_projection": False, "attention_head_dim": 2}  # convolutions around transformers, one head count
STEM = {"conditioning_embedding_out_channels": (8, 8, 16, 16)}
VAE = {
    "block_out_channels": (16, 32, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
}
# As published; the sizes that are not said are the library's defaults.
SD2 = {"attention_head_dim": (5, 10, 20, 20), "cross_attention_dim": 1024, "use_linear_projection": True}
SD2_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
# The library's VAE has the names of old checkpoints.
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out_0": "proj_attn"}


def flax_names(params, renamed=None):
    """Our tree under the library's names: indices of lists are joined by an underscore. Leaves have one layout."""
    named = {}
    for path, leaf in flatten_dict(params).items():
        words = re.sub(r"\.(\d+)(?=\.)", r"_\1", ".".join(path)).split(".")
        named[tuple((renamed or {}).get(word, word) for word in words)] = leaf
    return unflatten_dict(named)


def random_params(module, seed=0):
    """Every parameter of our module: kernels with deviations of 1 over the root of the fan-in; norms near 1 and 0."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        if path[-1].key in ("scale", "bias"):
            return float(path[-1].key == "scale") + noise / 5
        return noise / np.float32(math.sqrt(math.prod(leaf.shape[:-1])))

    return jax.tree_util.tree_map_with_path(draw, abstract_variables(module)["params"])


def draws(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def nchw(x):
    return jnp.moveaxis(x, -1, 1)


def shapes_of(tree):
    return {path: leaf.shape for path, leaf in flatten_dict(tree).items()}


def assert_close(ours, theirs, *, share):
    """Within a share of the largest value, map by map."""
    ours, theirs = jax.tree.leaves(ours), jax.tree.leaves(theirs)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, other, rtol=0, atol=share * float(jnp.abs(other).max()))


@pytest.fixture
def same_constants(monkeypatch):
    """GELU as it is everywhere else, in theirs; the epsilon of theirs, in ours."""
    monkeypatch.setattr(nn, "gelu", functools.partial(jax.nn.gelu, approximate=False))
    monkeypatch.setattr(blocks_sd, "TRANSFORMER_EPSILON", 1e-5)
    assert blocks_sd.nn.gelu is nn.gelu  # ours says approximate=False itself, so that only theirs changes


def unet_outputs(style, *, residuals=False):
    """(ours, theirs) of a U-Net: two latents at their steps, texts of five tokens, and what a ControlNet would add."""
    config = SMALL | WAY_UP | style
    ours = unet_sd.from_public(**config)
    params = random_params(ours)
    x, t, text = draws(2, 6, 10, 4), np.array([0, 981]), draws(2, 5, 16)
    skips = [draws(2, 6, 10, 32), draws(2, 6, 10, 32), draws(2, 3, 5, 32), draws(2, 3, 5, 64)]
    skips, middle = (skips, draws(2, 3, 5, 64, seed=2)) if residuals else (None, None)
    theirs = jax.jit(FlaxUNet2DConditionModel(**config).apply)(
        {"params": flax_names(params)}, nchw(x), t, text, None, skips, middle
    )
    pair = (skips, middle) if residuals else None
    return nchw(jax.jit(ours.apply)({"params": params}, x, t, text, None, pair)), theirs.sample


def controlnet_outputs(*, scale):
    """(ours, theirs) of a ControlNet: residuals, the finest first, then the middle's."""
    config = SMALL | STEM
    ours = controlnet.from_public(**config)
    params = random_params(ours)
    x, t, text, picture = draws(2, 6, 10, 4), np.array([0, 981]), draws(2, 5, 16), draws(2, 48, 80, 3)
    theirs = jax.jit(FlaxControlNetModel(**config).apply)(
        {"params": flax_names(params)}, nchw(x), t, text, nchw(picture), scale
    )
    residuals, middle = jax.jit(ours.apply)({"params": params}, x, t, text, None, picture, scale=scale)
    return [*residuals, middle], [*theirs.down_block_res_samples, theirs.mid_block_res_sample]


def test_the_unet_is_the_stock_one_up_to_its_two_constants():
    assert_close(*unet_outputs({}), share=CONSTANTS)


def test_the_controlnet_is_the_stock_one_up_to_its_two_constants():
    assert_close(*controlnet_outputs(scale=1.0), share=CONSTANTS)


@pytest.mark.parametrize("style", [{}, SD1], ids=["sd2", "sd1"])
def test_with_the_same_constants_the_unet_differs_by_rounding_alone(style, same_constants):
    assert_close(*unet_outputs(style, residuals=not style), share=ROUNDING)


def test_with_the_same_constants_the_controlnet_differs_by_rounding_alone(same_constants):
    assert_close(*controlnet_outputs(scale=0.7), share=ROUNDING)


def test_the_autoencoder_is_the_stock_one():
    ours, theirs = kl.from_public(**VAE), FlaxAutoencoderKL(**VAE)
    params = random_params(ours)
    named = {"params": flax_names(params, OLD_NAMES)}
    picture = draws(2, 27, 22, 3)  # what is left over of a side is lost

    def encode(variables, picture):
        gaussian = theirs.apply(variables, picture, method="encode").latent_dist
        return gaussian.mean, gaussian.logvar  # NHWC, unlike everything else

    mean, logvar = jax.jit(functools.partial(ours.apply, method="encode"))({"params": params}, picture)
    assert_close((mean, logvar), jax.jit(encode)(named, nchw(picture)), share=ROUNDING)
    decoded = jax.jit(functools.partial(theirs.apply, method="decode"))(named, nchw(mean)).sample
    drawn = jax.jit(functools.partial(ours.apply, method="decode"))({"params": params}, mean)
    assert_close(nchw(drawn), decoded, share=ROUNDING)


@pytest.mark.parametrize(
    "ours, theirs, renamed",
    [
        pytest.param(unet_sd.SDUNet(use_image_cross_attention=False), FlaxUNet2DConditionModel(**SD2), {}, id="unet"),
        pytest.param(
            controlnet.ControlNet(use_image_cross_attention=False), FlaxControlNetModel(**SD2), {}, id="controlnet"
        ),
        pytest.param(kl.AutoencoderKL(), FlaxAutoencoderKL(**SD2_VAE), OLD_NAMES, id="vae"),
    ],
)
def test_names_and_shapes_of_sd2_are_the_stock_ones(ours, theirs, renamed):
    wanted = jax.eval_shape(theirs.init_weights, jax.random.key(0))
    assert shapes_of(flax_names(abstract_variables(ours)["params"], renamed)) == shapes_of(wanted)
