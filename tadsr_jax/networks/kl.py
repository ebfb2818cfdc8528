"""The autoencoder of Stable Diffusion: pictures in [-1, 1] <-> Gaussians over latents, 8 times smaller as published.

    x --encoder--> quant_conv --> mean, logvar ~~sample~~> z ~~diffusion~~> z --post_quant_conv--> decoder --> x

AutoencoderKL   encode, decode             sample        a latent of a Gaussian
from_public     the same from config.json of diffusers; its scaling factor belongs to the diffusion, not in here
Memory grows with the number of pixels, not with its square: attention works in chunks. In tiles: kl_tiled.py.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tadsr_jax.networks.layers import Conv, Dense, Dtype, GroupNorm, NormSilu, map_chunks
from tadsr_jax.networks.vq import ATTENTION_ROWS, Downsample, Upsample

EPSILON = 1e-6  # of every group norm here; the U-Net's residual blocks have 1e-5
LOGVAR_RANGE = (-30.0, 20.0)

# What this network cannot do otherwise, by its public key.
ONLY = {
    "act_fn": ("silu", "swish"),
    "mid_block_add_attention": (True,),
    "use_quant_conv": (True,),
    "use_post_quant_conv": (True,),
}
BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
# Public keys that change nothing in here: of the diffusion's scale, of training, or kept by diffusers for itself.
INERT = ("sample_size", "scaling_factor", "shift_factor", "latents_mean", "latents_std", "force_upcast")


def sample(mean, logvar, noise):
    """z = mean + exp(logvar / 2) noise: a latent of the Gaussian that `encode` gives; all (n, h, w, c)."""
    return mean + jnp.exp(logvar / 2) * noise


class ResnetBlock(nn.Module):
    """x + conv2(silu(norm2(conv1(silu(norm1(x)))))), with x through a 1x1 convolution where the width changes."""

    features: int
    groups: int = 32
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        h = NormSilu(self.groups, EPSILON, self.dtype, name="norm1")(x)
        h = Conv(self.features, dtype=self.dtype, name="conv1")(h)
        h = NormSilu(self.groups, EPSILON, self.dtype, name="norm2")(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, dtype=self.dtype, name="conv_shortcut")(x)
        return Conv(self.features, dtype=self.dtype, name="conv2")(h, onto=x)


class Attention(nn.Module):
    """x + to_out(softmax(q k^T / sqrt(c)) v), one head over all pixels of the map: (n, h, w, c) -> the same.

    `bias` (n, h w) is added to the scores of every query: -inf hides a pixel from all others.
    """

    groups: int = 32
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x, bias=None):
        n, h, w, c = x.shape
        y = GroupNorm(self.groups, EPSILON, self.dtype, name="group_norm")(x).reshape(n, h * w, c)
        q, k, v = (Dense(c, self.dtype, name=name)(y) for name in ("to_q", "to_k", "to_v"))

        def attend(q):
            scores = jnp.einsum("nqc,nkc->nqk", q * c**-0.5, k, preferred_element_type=jnp.float32)
            scores = scores if bias is None else scores + bias[:, None]
            return jnp.einsum("nqk,nkc->nqc", jax.nn.softmax(scores, axis=-1).astype(self.dtype), v)

        y = map_chunks(attend, q, rows=ATTENTION_ROWS)
        return x + Dense(c, self.dtype, name="to_out.0")(y).reshape(n, h, w, c)


class Levels(nn.Module):
    """What encoder and decoder share: the widths of the levels, finest first, and the middle."""

    features: int  # of what comes out
    widths: tuple[int, ...]
    blocks: int  # residual blocks a level
    groups: int
    dtype: Dtype = jnp.float32
    remat: bool = False

    def wrapped(self, module):
        return nn.remat(module) if self.remat else module

    def level(self, x, width: int, prefix: str):
        for index in range(self.blocks):
            x = self.wrapped(ResnetBlock)(width, self.groups, self.dtype, name=f"{prefix}.resnets.{index}")(x)
        return x

    def middle(self, x):
        block, width = self.wrapped(ResnetBlock), x.shape[-1]
        x = block(width, self.groups, self.dtype, name="mid_block.resnets.0")(x)
        x = self.wrapped(Attention)(self.groups, self.dtype, name="mid_block.attentions.0")(x)
        return block(width, self.groups, self.dtype, name="mid_block.resnets.1")(x)

    def finish(self, x):
        """The last layers, in float32: bfloat16 has fewer levels than a picture."""
        return Conv(self.features, name="conv_out")(NormSilu(self.groups, EPSILON, name="conv_norm_out")(x))


class Encoder(Levels):
    """(n, f h, f w, channels) -> (n, h, w, features), f = 2^(levels - 1); what is left over of a side is lost."""

    @nn.compact
    def __call__(self, x):
        x = Conv(self.widths[0], dtype=self.dtype, name="conv_in")(x)
        for number, width in enumerate(self.widths):
            x = self.level(x, width, f"down_blocks.{number}")
            if number < len(self.widths) - 1:
                x = Downsample(self.dtype, name=f"down_blocks.{number}.downsamplers.0")(x)
        return self.finish(self.middle(x))


class Decoder(Levels):
    """(n, h, w, z) -> (n, f h, f w, features), not clipped. Blocks are numbered from the coarsest level."""

    @nn.compact
    def __call__(self, z):
        x = self.middle(Conv(self.widths[-1], dtype=self.dtype, name="conv_in")(z))
        for number, width in enumerate(reversed(self.widths)):
            x = self.level(x, width, f"up_blocks.{number}")
            if number < len(self.widths) - 1:
                x = Upsample(self.dtype, name=f"up_blocks.{number}.upsamplers.0")(x)
        return self.finish(x)


class AutoencoderKL(nn.Module):
    """The public `AutoencoderKL` with its arguments; the defaults are those of Stable Diffusion."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    dtype: Dtype = jnp.float32
    remat: bool = False

    def __post_init__(self):
        super().__post_init__()
        if wrong := [width for width in self.block_out_channels if width % self.norm_num_groups]:
            raise ValueError(
                f"block_out_channels has {wrong[0]}; group norm needs multiples of norm_num_groups="
                f"{self.norm_num_groups}."
            )

    @property
    def factor(self) -> int:
        """Sides of a picture are this many times those of its latent."""
        return 2 ** (len(self.block_out_channels) - 1)

    def example_inputs(self) -> tuple:
        """Shapes of a smallest legal call."""
        return (jax.ShapeDtypeStruct((1, self.factor, self.factor, self.in_channels), jnp.float32),)

    def setup(self):
        shared = {
            "widths": self.block_out_channels,
            "groups": self.norm_num_groups,
            "dtype": self.dtype,
            "remat": self.remat,
        }
        moments = 2 * self.latent_channels
        self.encoder = Encoder(moments, blocks=self.layers_per_block, **shared)
        self.decoder = Decoder(self.out_channels, blocks=self.layers_per_block + 1, **shared)
        self.quant_conv = Conv(moments, 1)
        self.post_quant_conv = Conv(self.latent_channels, 1)

    def __call__(self, x):
        return self.decode(self.encode(x)[0])

    def encode(self, x):
        """Picture (n, f h, f w, 3) in [-1, 1] -> mean and log variance of its latent, (n, h, w, z) each; float32."""
        return self.gaussian(self.encoder(x))

    def moments(self, x):
        """The two side by side as the network makes them, (n, h, w, 2 z): the log variance is not clamped yet."""
        return self.quant_conv(self.encoder(x))

    def gaussian(self, features):
        """What the encoder made, (n, h, w, 2 z), as mean and log variance, clamped to [-30, 20]."""
        mean, logvar = jnp.split(self.quant_conv(features), 2, axis=-1)
        return mean, jnp.clip(logvar, *LOGVAR_RANGE)

    def decode(self, z):
        """Latent (n, h, w, z), in the encoder's own scale -> picture (n, f h, f w, 3), not clipped; float32."""
        return self.decoder(self.post_quant_conv(z))


def from_public(**config) -> AutoencoderKL:
    """An autoencoder from a public config.json (diffusers' `AutoencoderKL`), plus our `dtype` and `remat`.

    Keys that change nothing in the network are left out. ValueError for what it cannot do, and for unknown keys.
    """
    config = {key: value for key, value in config.items() if key not in INERT and not key.startswith("_")}
    for key, accepted in ONLY.items():
        if (value := config.pop(key, accepted[0])) not in accepted:
            raise ValueError(f"{key} is {value!r}; this autoencoder has {key}={accepted[0]!r} only.")
    widths = tuple(config.get("block_out_channels", AutoencoderKL.block_out_channels))
    for key, kind in BLOCKS.items():
        if (value := list(config.pop(key, [kind] * len(widths)))) != [kind] * len(widths):
            raise ValueError(f"{key} is {value}; this autoencoder has {kind} only, here {len(widths)} of them.")
    accepted = [name for name in AutoencoderKL.__dataclass_fields__ if name not in ("parent", "name")]
    if unknown := sorted(set(config) - set(accepted)):
        raise ValueError(
            f"Unknown arguments of the autoencoder: {', '.join(unknown)}. Accepted: {', '.join(accepted)}."
        )
    return AutoencoderKL(**{**config, "block_out_channels": widths})
