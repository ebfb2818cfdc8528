"""SeeSR's ControlNet [arXiv 2302.05543]: it reads the enlarged picture, and adds to the skips of an `SDUNet`.

    picture --stem--> + x --> down, middle (as the U-Net's, image attentions too) --1x1 convolutions--> residuals

ControlNet   the network, and its conditioning stem         from_public   the same from a public configuration
Stem        eight times smaller, by strided convolutions    from_unet     parameters to start from
Its last convolutions start at zero, so that a new ControlNet leaves the U-Net alone.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tadsr_jax.networks.layers import Conv, Dtype
from tadsr_jax.networks.public_sd import public_fields
from tadsr_jax.networks.unet_sd import Trunk


class Stem(nn.Module):
    """Picture (n, f h, f w, 3) -> (n, h, w, features), f = 2^(widths - 1).

    silu after every convolution but the last, which starts at zero: two a width, the second halving the size.
    """

    widths: tuple[int, ...]
    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, picture):
        x = nn.silu(Conv(self.widths[0], dtype=self.dtype, name="conv_in")(picture))
        for index, (width, wider) in enumerate(zip(self.widths, self.widths[1:])):
            x = nn.silu(Conv(width, dtype=self.dtype, name=f"blocks.{2 * index}")(x))
            x = nn.silu(Conv(wider, stride=2, dtype=self.dtype, name=f"blocks.{2 * index + 1}")(x))
        return Conv(self.features, zero_init=True, dtype=self.dtype, name="conv_out")(x)


class ControlNet(Trunk):
    """Residuals for an `SDUNet` of the same levels: (a list of maps, one for each skip, and one map for the middle).

    x, t, text, image_states as the U-Net takes them; picture (n, f h, f w, 3) in [0, 1], f times the latent's size.
    Maps are in `dtype`.
    """

    conditioning_embedding_out_channels: tuple[int, ...] = (16, 32, 96, 256)

    def setup(self):
        widths, features = self.conditioning_embedding_out_channels, self.block_out_channels[0]
        self.read = Stem(widths, features, self.dtype, name="controlnet_cond_embedding")

    @property
    def factor(self) -> int:
        """Sides of a picture are this many times those of the latent."""
        return 2 ** (len(self.conditioning_embedding_out_channels) - 1)

    def example_inputs(self) -> tuple:
        """Shapes of a smallest legal call."""
        picture = jax.ShapeDtypeStruct((1, self.factor, self.factor, 3), jnp.float32)
        return *super().example_inputs(), picture

    def stem(self, picture):
        """The picture as it is added to the latent, (n, h, w, c)."""
        return self.read(picture)

    @nn.compact
    def __call__(self, x, t, text, image_states, picture, *, scale: float = 1.0, guess_mode: bool = False):
        """`scale` multiplies all residuals; `guess_mode` makes those of fine levels smaller, from a tenth to all."""
        h, w = (self.factor * side for side in x.shape[1:3])
        if picture.shape[1:] != (h, w, 3):
            found = "x".join(map(str, picture.shape[1:]))
            raise ValueError(f"The picture is {found}; a latent of {x.shape[1]}x{x.shape[2]} needs {h}x{w}x3.")
        contexts, emb = self.contexts(text, image_states), self.embed(t)
        skips = self.down(self.enter(x) + self.stem(picture), emb, contexts)
        middle = self.middle(skips[-1], emb, contexts)
        names = [*(f"controlnet_down_blocks.{index}" for index in range(len(skips))), "controlnet_mid_block"]
        weights = np.logspace(-1, 0, len(names)) if guess_mode else np.ones(len(names))
        *residuals, residual = (
            Conv(y.shape[-1], 1, zero_init=True, dtype=self.dtype, name=name)(y) * (scale * weight)
            for y, name, weight in zip([*skips, middle], names, weights.tolist())
        )
        return residuals, residual


def from_unet(unet_params: dict, controlnet_params: dict) -> dict:
    """Parameters of a ControlNet to start from: those that the U-Net has too are taken from it, the others stay.

    Image attentions stay as well where the U-Net has none. Raises ValueError where the two are of different sizes.
    """
    shared = {name: module for name, module in unet_params.items() if name in controlnet_params}
    shapes = lambda module: jax.tree.map(jnp.shape, module)
    for name, module in shared.items():
        if shapes(module) != shapes(controlnet_params[name]):
            raise ValueError(f"{name} has other shapes in the U-Net than in the ControlNet: give both the same widths.")
    return {**controlnet_params, **shared}


def from_public(**config) -> ControlNet:
    """A network from a public configuration (arguments of `ControlNetModel`), plus our `dtype` and `remat`.

    Raises ValueError for what this network cannot do and for unknown keys.
    """
    return ControlNet(**public_fields(ControlNet, config))
