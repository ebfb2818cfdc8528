"""The vector-quantising autoencoders of ResShift (VQGAN of LDM): pictures in [-1, 1] <-> latents, 4 or 8 times smaller.

    x --encoder--> quant_conv --> z (not quantised) ~~diffusion~~> z --nearest codes--> post_quant_conv --decoder--> x

VQModel       encode, quantize, decode, decode_indices           from_public   the same from a public configuration
Memory grows with the number of pixels, not with its square: attention and the code search work in chunks.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tadsr_jax.networks.layers import Conv, Dtype, GroupNorm, NormSilu, map_chunks

EPSILON = 1e-6  # of every group norm here; the U-Net has 1e-5
# Queries, and pixels, at a time. Products want many; the search has hardly any, and is fastest within the cache.
ATTENTION_ROWS, SEARCH_ROWS = 512, 64


class ResnetBlock(nn.Module):
    """x + conv2(silu(norm2(conv1(silu(norm1(x)))))), with x through a 1x1 convolution where the width changes."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        h = NormSilu(epsilon=EPSILON, dtype=self.dtype, name="norm1")(x)
        h = Conv(self.features, dtype=self.dtype, name="conv1")(h)
        h = NormSilu(epsilon=EPSILON, dtype=self.dtype, name="norm2")(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, dtype=self.dtype, name="nin_shortcut")(x)
        return Conv(self.features, dtype=self.dtype, name="conv2")(h, onto=x)


class AttnBlock(nn.Module):
    """x + proj_out(softmax(q k^T / sqrt(c)) v), one head over all pixels of the map: (n, h, w, c) -> the same."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        n, h, w, c = x.shape
        y = GroupNorm(epsilon=EPSILON, dtype=self.dtype, name="norm")(x)
        q, k, v = (Conv(c, 1, dtype=self.dtype, name=name)(y).reshape(n, h * w, c) for name in "qkv")

        def attend(q):
            logits = jnp.einsum("nqc,nkc->nqk", q * c**-0.5, k, preferred_element_type=jnp.float32)
            return jnp.einsum("nqk,nkc->nqc", jax.nn.softmax(logits, axis=-1).astype(self.dtype), v)

        y = map_chunks(attend, q, rows=ATTENTION_ROWS).reshape(n, h, w, c)
        return x + Conv(c, 1, dtype=self.dtype, name="proj_out")(y)


class Downsample(nn.Module):
    """Convolution of stride 2, padded by one at the right and at the bottom only."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        return Conv(x.shape[-1], stride=2, padding=((0, 1), (0, 1)), dtype=self.dtype, name="conv")(x)


class Upsample(nn.Module):
    """Every pixel four times, then a convolution."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        return Conv(x.shape[-1], dtype=self.dtype, upsampled=True, name="conv")(x)


class Levels(nn.Module):
    """What encoder and decoder share: widths, resolutions and blocks of the levels, and the middle."""

    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int | tuple[int, ...]
    attn_resolutions: tuple[int, ...]
    resolution: int
    features: int  # of what comes out
    dtype: Dtype = jnp.float32
    remat: bool = False

    def blocks(self, level: int) -> int:
        return self.num_res_blocks if isinstance(self.num_res_blocks, int) else self.num_res_blocks[level]

    def wrapped(self, module):
        return nn.remat(module) if self.remat else module

    def level(self, x, prefix: str, level: int, count: int):
        """`count` residual blocks, each followed by attention where the nominal resolution asks for it."""
        for index in range(count):
            block = self.wrapped(ResnetBlock)
            x = block(self.ch * self.ch_mult[level], self.dtype, name=f"{prefix}.{level}.block.{index}")(x)
            # The resolution is counted from the configured one, whatever the picture's size.
            if self.resolution // 2**level in self.attn_resolutions:
                x = self.wrapped(AttnBlock)(self.dtype, name=f"{prefix}.{level}.attn.{index}")(x)
        return x

    def middle(self, x):
        x = self.wrapped(ResnetBlock)(x.shape[-1], self.dtype, name="mid.block_1")(x)
        x = self.wrapped(AttnBlock)(self.dtype, name="mid.attn_1")(x)
        return self.wrapped(ResnetBlock)(x.shape[-1], self.dtype, name="mid.block_2")(x)

    def finish(self, x):
        """The last layers, in float32: bfloat16 has fewer levels than a picture."""
        return Conv(self.features, name="conv_out")(NormSilu(epsilon=EPSILON, name="norm_out")(x))


class Encoder(Levels):
    """(n, f h, f w, 3) -> (n, h, w, features), f = 2^(levels - 1)."""

    @nn.compact
    def __call__(self, x):
        x = Conv(self.ch, dtype=self.dtype, name="conv_in")(x)
        for level in range(len(self.ch_mult)):
            x = self.level(x, "down", level, self.blocks(level))
            if level < len(self.ch_mult) - 1:
                x = Downsample(self.dtype, name=f"down.{level}.downsample")(x)
        return self.finish(self.middle(x))


class Decoder(Levels):
    """(n, h, w, z) -> (n, f h, f w, features), not clipped. Level 0 is the finest and comes last."""

    @nn.compact
    def __call__(self, z):
        x = self.middle(Conv(self.ch * self.ch_mult[-1], dtype=self.dtype, name="conv_in")(z))
        for level in reversed(range(len(self.ch_mult))):
            x = self.level(x, "up", level, self.blocks(level) + 1)
            if level > 0:
                x = Upsample(self.dtype, name=f"up.{level}.upsample")(x)
        return self.finish(x)


class Codebook(nn.Module):
    """`n_embed` codes of `embed_dim` numbers: nearest codes of latents, and codes by number."""

    n_embed: int
    embed_dim: int

    def setup(self):
        bound = 1 / self.n_embed
        init = lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound)
        self.codes = self.param("embedding", init, (self.n_embed, self.embed_dim))

    def nearest(self, z):
        """(n, h, w, embed_dim) -> (n, h, w) int32: argmin_k |e_k|^2 - 2 z e_k, the first on ties.

        float32 at full precision: a wrong digit picks another code. |z|^2 is the same for all codes and would hide
        small gaps, so it is left out.
        """
        codes = self.codes
        square = jnp.sum(jnp.square(codes), axis=-1)

        def search(z):
            product = jnp.einsum("npc,kc->npk", z, codes, precision=jax.lax.Precision.HIGHEST)
            distance = square - 2 * product
            # Two plain minima: jnp.argmin, which carries numbers along, takes five times as long on a CPU.
            is_nearest = distance == jnp.min(distance, axis=-1, keepdims=True)
            return jnp.min(jnp.where(is_nearest, jnp.arange(self.n_embed), self.n_embed), axis=-1)

        n, h, w, c = z.shape
        pixels = z.astype(jnp.float32).reshape(n, h * w, c)
        return map_chunks(search, jax.lax.stop_gradient(pixels), rows=SEARCH_ROWS).reshape(n, h, w)

    def __call__(self, indices):
        return self.codes[indices]


class VQModel(nn.Module):
    """The public `VQModelTorch`, with its arguments and those of its `ddconfig`. Latents have `embed_dim` channels.

    `attn_resolutions` are counted from `resolution`. Convolutions and attention run in `dtype`; parameters, norms,
    softmax, code search and the last layers are float32. `remat` recomputes blocks in the backward pass.
    """

    embed_dim: int = 3
    n_embed: int = 8192
    z_channels: int = 3
    resolution: int = 256
    in_channels: int = 3
    out_ch: int = 3
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int | tuple[int, ...] = 2
    attn_resolutions: tuple[int, ...] = ()
    dtype: Dtype = jnp.float32
    remat: bool = False

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.num_res_blocks, int) and len(self.num_res_blocks) != len(self.ch_mult):
            raise ValueError(
                f"num_res_blocks is {self.num_res_blocks}; expected one number, or {len(self.ch_mult)} as ch_mult has."
            )
        if self.ch % 32:
            raise ValueError(f"ch is {self.ch}; group norm needs a multiple of 32 channels.")

    @property
    def factor(self) -> int:
        """Sides of a picture are this many times those of its latent."""
        return 2 ** (len(self.ch_mult) - 1)

    def example_inputs(self) -> tuple:
        """Shapes of a smallest legal call."""
        return (jax.ShapeDtypeStruct((1, self.factor, self.factor, self.in_channels), jnp.float32),)

    def setup(self):
        levels = {
            "ch": self.ch,
            "ch_mult": self.ch_mult,
            "num_res_blocks": self.num_res_blocks,
            "attn_resolutions": self.attn_resolutions,
            "resolution": self.resolution,
            "dtype": self.dtype,
            "remat": self.remat,
        }
        self.encoder = Encoder(features=self.z_channels, **levels)
        self.decoder = Decoder(features=self.out_ch, **levels)
        self.quantize_codes = Codebook(self.n_embed, self.embed_dim, name="quantize")
        self.quant_conv = Conv(self.embed_dim, 1)
        self.post_quant_conv = Conv(self.z_channels, 1)

    def __call__(self, x):
        return self.decode(self.encode(x))

    def encode(self, x):
        """Picture (n, f h, f w, 3) in [-1, 1] -> latent (n, h, w, embed_dim), not quantised; float32."""
        return self.quant_conv(self.encoder(x))

    def quantize(self, z):
        """(z moved to its nearest codes, their numbers (n, h, w) int32). Gradients pass through as if z had stayed."""
        indices = self.quantize_codes.nearest(z)
        return z + jax.lax.stop_gradient(self.quantize_codes(indices) - z), indices

    def decode(self, z, quantize: bool = True):
        """Latent -> picture (n, f h, f w, 3), not clipped; float32. `quantize` moves z to its nearest codes first."""
        return self.decoder(self.post_quant_conv(self.quantize(z)[0] if quantize else z))

    def decode_indices(self, indices):
        """Code numbers (n, h, w) -> picture."""
        return self.decode(self.quantize_codes(indices), quantize=False)


def from_public(**config) -> VQModel:
    """An autoencoder from a public configuration (`VQModelTorch` with its `ddconfig`), plus our `dtype` and `remat`.

    Raises ValueError for what this network cannot do (dropout, double_z) and for unknown keys.
    """
    config = {**config, **config.get("ddconfig", {})}
    config.pop("ddconfig", None)
    for key, only in (("double_z", False), ("dropout", 0), ("padding_mode", "zeros")):
        if (value := config.pop(key, only)) != only:
            raise ValueError(f"{key} is {value!r}; this autoencoder has {key}={only!r} only.")
    accepted = [name for name in VQModel.__dataclass_fields__ if name not in ("parent", "name")]
    if unknown := sorted(set(config) - set(accepted)):
        raise ValueError(
            f"Unknown arguments of the autoencoder: {', '.join(unknown)}. Accepted: {', '.join(accepted)}."
        )
    return VQModel(**{key: tuple(value) if isinstance(value, list | tuple) else value for key, value in config.items()})
