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
    input_gain: float = 4.0
    shrink: int = 96
    asize: int = 1
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

        z_y = lq[..., 3:]
        r = self.input_gain * (x - z_y)
        x = jnp.concatenate([r, lq], axis=-1)
        h, maps = conv(self.widths[0], "stem")(x), []
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
        shrunk = conv(self.shrink, "analysis", size=self.asize)(r) * conv(self.shrink, "gate", size=1)(h)
        return conv(self.latent_channels, "out", zero_init=True)(h) + conv(self.latent_channels, "synthesis", size=self.asize, zero_init=True)(shrunk)
