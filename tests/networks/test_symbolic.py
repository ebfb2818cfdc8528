"""Networks are exported once for all sizes and platforms, and then do what they do when compiled for a size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from tadsr_jax.networks.unet_swin import SwinUNet
from tadsr_jax.networks.vq import VQModel
from tests.weights import random_variables

PLATFORMS = ("cpu", "cuda", "tpu")
# Wide enough for the forms that are for a CPU alone: 64 channels, and bands of 32 rows at the finest level.
AUTOENCODER = VQModel(n_embed=64, ch=64, ch_mult=(1, 2), num_res_blocks=1, resolution=32)
UNET = SwinUNet(image_size=16, model_channels=64, channel_mult=(1, 1), num_res_blocks=1, attention_resolutions=(8,),
                swin_embed_dim=64, lq_size=16)  # fmt: skip


def draw(shape, rng, deviation=1.0):
    return jnp.asarray(deviation * rng.normal(size=shape), jnp.float32)


def exported(function, variables, *shapes):
    """The function for all platforms and symbolic shapes, written and read; weights are arguments."""
    scope = export.SymbolicScope()
    shapes = [jax.ShapeDtypeStruct(export.symbolic_shape(shape, scope=scope), dtype) for shape, dtype in shapes]
    made = export.export(jax.jit(function), platforms=PLATFORMS)(jax.eval_shape(lambda: variables), *shapes)
    return export.deserialize(made.serialize()).call


def assert_same(got, want):
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=1e-5 * np.std(want))  # fused differently, some ten layers in float32


def test_an_autoencoder_is_exported_for_all_sizes():
    variables, rng = random_variables(AUTOENCODER), np.random.default_rng(1)
    through = lambda variables, x: AUTOENCODER.apply(variables, x)  # with quantisation
    call = exported(through, variables, ("b, 64*h, 64*w, 3", jnp.float32))
    x = draw((2, 64, 128, 3), rng)
    assert_same(jax.jit(call)(variables, x), jax.jit(through)(variables, x))


def test_a_decoder_is_exported_for_latents_whose_pixels_need_not_be_whole_chunks():
    variables, rng = random_variables(AUTOENCODER), np.random.default_rng(2)
    decode = functools.partial(AUTOENCODER.apply, method="decode")
    call = exported(decode, variables, ("b, 8*h, 8*w, 3", jnp.float32))
    z = draw((2, 24, 40, 3), rng)
    assert_same(jax.jit(call)(variables, z), jax.jit(decode)(variables, z))


def test_a_unet_is_exported_for_all_sizes():
    variables, rng = random_variables(UNET), np.random.default_rng(3)
    latents = ("b, 32*h, 32*w, 3", jnp.float32)
    call = exported(UNET.apply, variables, latents, ("b", jnp.int32), latents)
    x, lq = draw((2, 64, 32, 3), rng), draw((2, 64, 32, 3), rng)
    steps = jnp.array([3, 14])
    assert_same(jax.jit(call)(variables, x, steps, lq), jax.jit(UNET.apply)(variables, x, steps, lq))
