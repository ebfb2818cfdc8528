"""The embedded default's denoiser: a convolutional U-Net of a million parameters that learns in minutes on a CPU.

    [x - z_y | lq | z_y] -> stem -> down (blocks, halving) -> middle -> up (doubling, + skip, blocks) -> out

SmallUNet   the network        Block   two convolutions, steered by the step
It is made for a latent that is close to z_y, and for "preconditioned" predictions (`diffusion.shift`): the input is the
difference to z_y, the output what a linear guess leaves over, in units of its deviation. No normalisation: on few
samples a group norm couples flat areas to textured ones, and what it does to the contrast shows as grain.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tadsr_jax.networks.layers import Conv, Dense, Dtype, timestep_embedding, upsample2


class Block(nn.Module):
    """x + conv(silu(conv(silu(x)) (1 + scale(t)) + shift(t))): (n, h, w, c), (n, e) -> (n, h, w, c).

    The last convolution starts at zero, so that a new network of any depth passes its input on.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x, emb):
        c = x.shape[-1]
        h = Conv(c, dtype=self.dtype, name="conv1")(nn.silu(x))
        steering = Dense(2 * c, dtype=self.dtype, name="emb")(emb)[:, None, None]  # n 1 1 (2 c)
        scale, shift = jnp.split(steering, 2, axis=-1)
        return x + Conv(c, zero_init=True, dtype=self.dtype, name="conv2")(nn.silu(h * (1 + scale) + shift))


def cosine_basis(n: int) -> np.ndarray:
    """The orthonormal DCT-II matrix (n, n): row k holds cos(pi k (i + 1/2) / n)."""
    rows = np.cos(np.pi * np.arange(n)[:, None] * (np.arange(n) + 0.5) / n)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Transform(nn.Module):
    """3x3"""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x, inverse=False):
        c = x.shape[-1]
        f = round((c // 3) ** 0.5)
        basis = np.kron(np.kron(cosine_basis(f), cosine_basis(f)), cosine_basis(3))  # frequency x pixel
        centre = np.zeros((3, 3, c, c), np.float32)
        centre[1, 1] = basis if inverse else basis.T  # (in, out)
        kernel = self.param("kernel", lambda key: jnp.asarray(centre))
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype), kernel.astype(self.dtype), (1, 1), [(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class SmallUNet(nn.Module):
    """x (n, h, w, c), t (n,), lq (n, h, w, 3 + c) -> (n, h, w, c), or the list of the encoder's maps.

    `lq` holds the LQ picture and z_y side by side (`condition_on_z_y` of the family), at the latent's resolution.
    `widths` are the channels of each level, the finest first: multiples of 32, if a discriminator is to read the maps
    (its group norms need it). `input_gain` brings x - z_y to about unit deviation.
    """

    latent_channels: int = 48
    widths: tuple[int, ...] = (64, 96, 128)
    blocks: int = 2  # on every level of both sides, and in the middle
    embed_dim: int = 64
    detail_gain: float = 8.0
    soft_limit: float = 6.0
    gt: bool = True
    dtype: Dtype = jnp.float32
    remat: bool = False  # recompute the blocks in the backward pass: less memory, more time

    @property
    def size_multiple(self) -> int:
        """Sides of the latent must be multiples of this."""
        return 2 ** (len(self.widths) - 1)

    def example_inputs(self) -> tuple:
        side, c = self.size_multiple, self.latent_channels
        maps = [jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32) for channels in (c, 3 + c)]
        return maps[0], jax.ShapeDtypeStruct((1,), jnp.int32), maps[1]

    @nn.compact
    def __call__(self, x, t, lq, *, features_only: bool = False):
        block = nn.remat(Block) if self.remat else Block
        emb = nn.silu(Dense(self.embed_dim, name="time_embed")(timestep_embedding(t, self.embed_dim)))

        def run(h, name):
            for i in range(self.blocks):
                h = block(self.dtype, name=f"{name}.{i}")(h, emb)
            return h

        def conv(features, name, **options):
            return Conv(features, dtype=self.dtype, name=name, **options)

        lq, z_y = jnp.split(lq, [3], axis=-1)
        detail = self.detail_gain * (z_y - jnp.tile(lq, self.latent_channels // 3))
        h = jnp.concatenate([x / jnp.sqrt(1 + jnp.square(x / self.soft_limit)), lq, detail], axis=-1)
        h, maps = conv(self.widths[0], "stem")(h), []
        for level, width in enumerate(self.widths):
            if level:
                h = conv(width, f"down.{level}.conv", stride=2)(h)
            h = run(h, f"down.{level}.block")
            maps.append(h)
        if features_only:
            return maps
        for level in reversed(range(len(self.widths) - 1)):
            h = upsample2(conv(self.widths[level], f"up.{level}.conv", size=1)(h)) + maps[level]
            h = run(h, f"up.{level}.block")
        h = nn.silu(h)
        gate = conv(self.latent_channels, "gate", zero_init=True)(h)
        gate += Dense(self.latent_channels, dtype=self.dtype, name="gate_emb")(emb)[:, None, None] if self.gt else 0
        kept = Transform(self.dtype, name="synthesis")(gate * Transform(self.dtype, name="analysis")(x), inverse=True)
        return kept + conv(self.latent_channels, "out", zero_init=True)(h)
