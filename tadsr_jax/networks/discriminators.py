"""Discriminators that judge feature maps of a frozen network instead of pictures.

TimeAwareDiscriminator     one modulated head a feature map, told the noise level t      [TAD-SR, arXiv 2408.07476]
ConditionalDiscriminator   one head a feature map, asked about a condition c               [AddSR, arXiv 2404.01717]

A discriminator takes a list of maps of any channel counts, and returns one array of logits a map; losses average over
all logits together. Submodule names, joined with dots, are those of the public `ProjectedDiscriminator` (of TAD-SR, and
of AddSR without its backbone) and `Time_Aware_Discriminator` (TAD-SeeSR).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from tadsr_jax.networks.layers import Conv, Dense, Dtype, GroupNorm, timestep_embedding
from tadsr_jax.networks.spectral_norm import SpectralConv1d


class SequenceHead(nn.Module):
    """Logits of every position of a sequence: (n, l, c) -> (n, l, c_dim), the head of StyleGAN-T [arXiv 2301.09515].

    A 1-wide layer, a 9-wide residual layer (h + f(h)) / sqrt(2), a 1-wide classifier, all spectrally normalised.
    """

    c_dim: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, update_stats: bool) -> Array:
        def layer(x: Array, name: str, kernel_size: int) -> Array:
            conv = SpectralConv1d(x.shape[-1], kernel_size, self.dtype, name=f"{name}.0")
            x = GroupNorm(4, dtype=self.dtype, name=f"{name}.1")(conv(x, update_stats=update_stats))
            return nn.leaky_relu(x, 0.2)

        x = layer(x, "main.0", 1)
        x = (layer(x, "main.1.fn", 9) + x) / math.sqrt(2)
        return SpectralConv1d(self.c_dim, 1, self.dtype, name="cls")(x, update_stats=update_stats)


class TimeAwareDiscriminator(nn.Module):
    """Logits of feature maps at noise level t, one head a map.

    features: maps (n, h, w, c), h w at least 4, c a multiple of 32; t: (n,) integer steps. Returns a list of float32
    logits (n, c_dim h w), all positions of the first logit channel first. The time enters as a scale and a shift:

        h = GroupNorm(feature) (1 + scale(t)) + shift(t);   logits = head(conv3x3(silu(h)))

    The 3x3 convolutions start at zero, so that a new discriminator sees neither the picture nor the time: the student
    gets no adversarial gradient until the discriminator has learnt something. `update_stats` as in SpectralConv1d.
    The defaults are TAD-SR's. TAD-SeeSR has c_dim = embed_dim = 320, and four maps of 320 times 1, 2, 4, 4 channels.
    """

    c_dim: int = 64  # logits at each position; public files with 0 mean 1
    embed_dim: int = 160  # width of the time embedding: the teacher's model_channels in the public files
    dtype: Dtype = jnp.float32

    def example_inputs(self):
        """Shapes of a smallest legal call with the channels of the public U-Net's five maps."""
        maps = [jax.ShapeDtypeStruct((1, 2, 2, self.embed_dim * level), jnp.float32) for level in (1, 2, 2, 4, 4)]
        return maps, jax.ShapeDtypeStruct((1,), jnp.int32)

    @nn.compact
    def __call__(self, features: list[Array], t: Array, *, update_stats: bool = False) -> list[Array]:
        embedding = nn.silu(timestep_embedding(t, self.embed_dim))
        logits = []
        for k, feature in enumerate(features):
            n, h, w, c = feature.shape
            time = Dense(2 * c, name=f"emb_layers.{k}.1")(embedding)
            scale, shift = jnp.split(time[:, None, None, :], 2, axis=-1)  # two of n 1 1 c
            x = GroupNorm(32, name=f"out_layers.{k}.0")(feature)
            x = nn.silu(x * (1 + scale) + shift)
            x = Conv(c, zero_init=True, dtype=self.dtype, name=f"out_layers.{k}.3")(x)
            head = SequenceHead(max(self.c_dim, 1), self.dtype, name=f"heads.{k}")
            x = head(x.reshape(n, h * w, c), update_stats=update_stats)  # n (h w) c_dim, row by row
            logits.append(x.transpose(0, 2, 1).reshape(n, -1).astype(jnp.float32))  # n (c_dim h w)
        return logits


class ScaledDense(nn.Module):
    """Affine map x W / sqrt(i) + b: (n, i) -> (n, features), float32. W starts with a deviation of 1, b at zero."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        i = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.normal(1), (i, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        return x.astype(jnp.float32) @ (kernel / math.sqrt(i)) + bias


class ConditionalDiscriminator(nn.Module):
    """Logits of feature maps under a condition, one head a map; the projected discriminator of StyleGAN-T.

    features: maps (n, h, w, dim), h w at least 4, dim a multiple of 4: for AddSR the five of DINO. c: (n, c_dim), for
    AddSR the class token of DINOv2. Returns a list of float32 logits (n, h w), positions row by row:

        logits = head(feature) . cmap(c) / sqrt(cmap_dim)        [projection, arXiv 1802.05637; arXiv 2301.09515]

    `update_stats` as in SpectralConv1d.
    """

    cmap_dim: int = 64
    dtype: Dtype = jnp.float32

    def example_inputs(self):
        """Shapes of a smallest legal call with the widths of ViT-S: five maps and a class token of 384."""
        return [jax.ShapeDtypeStruct((1, 2, 2, 384), jnp.float32)] * 5, jax.ShapeDtypeStruct((1, 384), jnp.float32)

    @nn.compact
    def __call__(self, features: list[Array], c: Array, *, update_stats: bool = False) -> list[Array]:
        logits = []
        for k, feature in enumerate(features):
            n, h, w, dim = feature.shape
            head = SequenceHead(self.cmap_dim, self.dtype, name=f"heads.{k}")
            x = head(feature.reshape(n, h * w, dim), update_stats=update_stats).astype(jnp.float32)  # n (h w) j
            cmap = ScaledDense(self.cmap_dim, name=f"heads.{k}.cmapper")(c)  # n j
            logits.append(jnp.einsum("nlj,nj->nl", x, cmap) / math.sqrt(self.cmap_dim))
        return logits
