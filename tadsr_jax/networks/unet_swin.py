"""The Swin U-Net of ResShift, SinSR and TAD-SR: a denoiser of latents, conditioned on a step index and on the LQ.

    [x | stem(lq)] -> input_blocks -> middle_block -> output_blocks (with skips) -> out          no residual around it

SwinUNet      the network; its arguments have the public names       layout       what each block consists of
from_public   the same from a public configuration                   ResBlock     convolutions steered by the step
Facts that look like mistakes and are kept are labelled where they are; the public weights depend on them.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tadsr_jax.networks.convolution import upsample2
from tadsr_jax.networks.layers import Conv, Dense, Dtype, NormSilu, downsample2, timestep_embedding
from tadsr_jax.networks.swin import SwinGroup, block_geometry


class ResBlock(nn.Module):
    """Two convolutions and a skip, steered by the time embedding: (n, h, w, c), (n, e) -> (n, h', w', features).

        h = conv(silu(norm(x)));  h = conv(silu(norm(h) * (1 + scale) + shift));  y = skip(x) + h

    `resample` "up" or "down" doubles or halves the map between the first norm and its convolution, and in the skip.
    Without `use_scale_shift_norm` the embedding is added to h before its norm.
    """

    features: int
    use_scale_shift_norm: bool = True
    resample: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x, emb):
        h = NormSilu(dtype=self.dtype, name="in_layers.0")(x)
        if self.resample == "up":
            x = upsample2(x)
        elif self.resample == "down":
            x, h = downsample2(x), downsample2(h.whole())
        h = Conv(self.features, upsampled=self.resample == "up", dtype=self.dtype, name="in_layers.2")(h)
        steering = Dense((1 + self.use_scale_shift_norm) * self.features, name="emb_layers.1")(nn.silu(emb))  # n (2 c)
        if not self.use_scale_shift_norm:
            h = h + steering[:, None, None].astype(self.dtype)
        h = NormSilu(dtype=self.dtype, name="out_layers.0")(h)
        if self.use_scale_shift_norm:
            h = h.steered(*jnp.split(steering, 2, axis=-1))
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, dtype=self.dtype, name="skip_connection")(x)
        return Conv(self.features, zero_init=True, dtype=self.dtype, name="out_layers.3")(h, onto=x)


class Downsample(nn.Module):
    """Half the sides: a convolution of stride 2 (padded on all sides), or means of 2x2 pixels."""

    use_conv: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        return Conv(x.shape[-1], stride=2, dtype=self.dtype, name="op")(x) if self.use_conv else downsample2(x)


class Upsample(nn.Module):
    """Twice the sides: every pixel four times, then a convolution unless told otherwise."""

    use_conv: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        if not self.use_conv:
            return upsample2(x)
        return Conv(x.shape[-1], upsampled=True, dtype=self.dtype, name="conv")(x)


class Layer(NamedTuple):
    """One layer of a block: `kind` is conv, res, swin, down or up; `size` the nominal side of the map it works on."""

    name: str
    kind: str
    features: int
    size: int


class SwinUNet(nn.Module):
    """The public `UNetModelSwin`, with its arguments: x (n, h, w, in_channels), t (n,) -> (n, h, w, out_channels).

    `in_channels` counts the latent alone; `lq_size / image_size` is the power of two by which the LQ picture is
    larger than the latent. `image_size` fixes windows and shifts, not the size of what may come in: any latent whose
    sides are multiples of `size_multiple`. `attention_resolutions` are nominal sizes of maps. Convolutions and
    attention run in `dtype`; parameters, norms, softmax, time embedding and the last layer are float32. `remat`
    recomputes blocks in the backward pass instead of storing what is inside them.
    """

    image_size: int = 64
    in_channels: int = 3
    model_channels: int = 160
    out_channels: int = 3
    attention_resolutions: tuple[int, ...] = (64, 32, 16, 8)
    channel_mult: tuple[float, ...] = (1, 2, 2, 4)
    num_res_blocks: int | tuple[int, ...] = 2
    conv_resample: bool = True
    num_heads: int = 1
    num_head_channels: int = 32
    use_scale_shift_norm: bool = True
    resblock_updown: bool = False
    swin_depth: int = 2
    swin_embed_dim: int = 192
    window_size: int = 8
    mlp_ratio: float = 4
    patch_norm: bool = False
    cond_lq: bool = True
    cond_mask: bool = False
    lq_size: int = 64
    dtype: Dtype = jnp.float32
    remat: bool = False

    def __post_init__(self):
        super().__post_init__()
        _check(self)

    @property
    def heads(self) -> int:
        """`num_heads`, or as many as `num_head_channels` gives unless that is -1."""
        return self.num_heads if self.num_head_channels == -1 else self.swin_embed_dim // self.num_head_channels

    @property
    def lq_ratio(self) -> int:
        """Sides of the LQ picture are this many times those of the latent."""
        return self.lq_size // self.image_size if self.cond_lq else 1

    @property
    def size_multiple(self) -> int:
        """Sides of a latent must be multiples of this: whole windows wherever there is attention, and even halves."""
        multiples = [2 ** (len(self.channel_mult) - 1)]
        for layer in (layer for block in layout(self) for layer in block if layer.kind == "swin"):
            window, _ = block_geometry(0, resolution=layer.size, window_size=self.window_size)
            multiples.append(self.image_size // layer.size * window)
        return math.lcm(*multiples)

    def example_inputs(self) -> tuple:
        """Shapes of a smallest legal call."""
        side, picture = self.size_multiple, self.size_multiple * self.lq_ratio
        lq = jax.ShapeDtypeStruct((1, picture, picture, 3), jnp.float32) if self.cond_lq else None
        mask = jax.ShapeDtypeStruct((1, picture, picture, 1), jnp.float32) if self.cond_mask else None
        x = jax.ShapeDtypeStruct((1, side, side, self.in_channels), jnp.float32)
        return x, jax.ShapeDtypeStruct((1,), jnp.int32), lq, mask

    @nn.compact
    def __call__(self, x, t, lq=None, mask=None, *, features_only=False):
        """Predict from the scaled latent `x`, the step `t` and the raw `lq` (n, r h, r w, 3), r = `lq_ratio`.

        `mask` (n, r h, r w, 1) is -1 or 1 and belongs to inpainting. `features_only` stops after the middle block and
        returns [maps]: after every halving, after the last input block, and the middle one: what the discriminator of
        TAD-SR looks at.
        """
        self._check_inputs(x, lq, mask)
        emb = Dense(4 * self.model_channels, name="time_embed.0")(timestep_embedding(t, self.model_channels))
        emb = Dense(4 * self.model_channels, name="time_embed.2")(nn.silu(emb))
        if self.cond_lq:
            x = jnp.concatenate([x, self._stem(lq if mask is None else jnp.concatenate([lq, mask], -1))], axis=-1)

        skips, taps = [], []
        for block in layout(self):
            if block[0].name.startswith("output_blocks"):
                if features_only:
                    break
                x = jnp.concatenate([x, skips.pop()], axis=-1)
            for layer in block:
                x = self._apply(layer, x, emb)
            if block[0].name.startswith("input_blocks"):
                skips.append(x)
            if block[-1].kind == "down" or block[0].name.startswith("middle_block"):
                taps.append(x)
        if features_only:
            return [*taps[:-1], skips[-1], taps[-1]]
        # The last layers stay float32: bfloat16 would round the prediction to 8 bits.
        return Conv(self.out_channels, name="out.2")(NormSilu(name="out.0")(x))

    def _apply(self, layer: Layer, x, emb):
        """The module that `layer` describes, applied. Names are explicit, so remat does not change paths."""
        wrap = nn.remat if self.remat else lambda module: module
        name, dtype = layer.name, self.dtype
        if layer.kind == "conv":
            return Conv(layer.features, dtype=dtype, name=name)(x)
        if layer.kind == "swin":
            return wrap(SwinGroup)(
                resolution=layer.size,
                embed_dim=self.swin_embed_dim,
                num_heads=self.heads,
                window_size=self.window_size,
                depth=self.swin_depth,
                mlp_ratio=self.mlp_ratio,
                patch_norm=self.patch_norm,
                dtype=dtype,
                name=name,
            )(x)
        if layer.kind == "res" or self.resblock_updown:
            resample = None if layer.kind == "res" else layer.kind
            return wrap(ResBlock)(layer.features, self.use_scale_shift_norm, resample, dtype, name=name)(x, emb)
        resample = {"down": Downsample, "up": Upsample}[layer.kind]
        return resample(self.conv_resample, dtype, name=name)(x)

    def _stem(self, lq):
        """The LQ at the size of the latent: itself, or halved by strided convolutions of 32, 64, 128 channels."""
        for stage in range(int(math.log2(self.lq_ratio))):
            # There is no activation after the strided convolution.
            lq = Conv(16 * 2**stage, dtype=self.dtype, name=f"feature_extractor.{3 * stage}")(lq)
            name = f"feature_extractor.{3 * stage + 2}.op"
            lq = Conv(32 * 2**stage, stride=2, dtype=self.dtype, name=name)(nn.silu(lq))
        return lq

    def _check_inputs(self, x, lq, mask):
        h, w = x.shape[1:3]
        if h % self.size_multiple or w % self.size_multiple:
            raise ValueError(f"The latent is {h}x{w}; this network needs multiples of {self.size_multiple}: pad it.")
        for name, picture, wanted in (("lq", lq, self.cond_lq), ("mask", mask, self.cond_mask)):
            given = "None" if picture is None else "given"
            if wanted != (picture is not None):
                raise ValueError(f"cond_{name} is {wanted}, but {name} is {given}.")
            if wanted and picture.shape[1:3] != (h * self.lq_ratio, w * self.lq_ratio):
                raise ValueError(
                    f"{name} is {picture.shape[1]}x{picture.shape[2]}; for a latent of {h}x{w} this network takes "
                    f"{h * self.lq_ratio}x{w * self.lq_ratio} (lq_size / image_size = {self.lq_ratio})."
                )


def layout(unet: SwinUNet) -> list[list[Layer]]:
    """The blocks in the order of execution, each a list of layers. A name's first word says which part it belongs to.

    A Swin group follows the first ResBlock of a level if the level's nominal size is in `attention_resolutions`, and
    always that of the middle. The last ResBlock of a decoder level (all but the finest) is followed by "up".
    """
    widths = [int(mult * unet.model_channels) for mult in unet.channel_mult]
    sizes = [unet.image_size // 2**level for level in range(len(widths))]
    counts = unet.num_res_blocks
    counts = [counts] * len(widths) if isinstance(counts, int) else list(counts)

    encoder = [[("conv", widths[0], sizes[0])]]
    for level, (width, size, count) in enumerate(zip(widths, sizes, counts, strict=True)):
        for index in range(count):
            encoder.append([("res", width, size)])
            if index == 0 and size in unet.attention_resolutions:
                encoder[-1].append(("swin", width, size))
        if level < len(widths) - 1:
            encoder.append([("down", width, size)])
    middle = [("res", widths[-1], sizes[-1]), ("swin", widths[-1], sizes[-1]), ("res", widths[-1], sizes[-1])]
    decoder = []
    for level in reversed(range(len(widths))):
        width, size = widths[level], sizes[level]
        for index in range(counts[level] + 1):
            decoder.append([("res", width, size)])
            if index == 0 and size in unet.attention_resolutions:
                decoder[-1].append(("swin", width, size))
        if level > 0:
            decoder[-1].append(("up", width, size))

    def named(prefix, block):
        return [Layer(f"{prefix}.{position}", *layer) for position, layer in enumerate(block)]

    return [
        *(named(f"input_blocks.{index}", block) for index, block in enumerate(encoder)),
        named("middle_block", middle),
        *(named(f"output_blocks.{index}", block) for index, block in enumerate(decoder)),
    ]


def from_public(**config) -> SwinUNet:
    """A network from a public configuration (the arguments of `UNetModelSwin`), plus our `dtype` and `remat`.

    Raises ValueError for what this network cannot do (dropout, 3-D, half precision by flag) and for unknown keys.
    """
    config = dict(config)
    if config.pop("dropout", 0):
        raise ValueError("dropout must be 0: no public network uses it, and a sampler must be deterministic.")
    if config.pop("dims", 2) != 2:
        raise ValueError("dims must be 2: this network takes pictures.")
    if config.pop("use_fp16", False):
        raise ValueError("use_fp16 must be false; pass dtype=jnp.bfloat16 to compute in half precision.")
    return SwinUNet(**_known(config))


def _known(config: dict) -> dict:
    """`config` with lists as tuples; unknown keys are a ValueError."""
    accepted = [name for name in SwinUNet.__dataclass_fields__ if name not in ("parent", "name")]
    if unknown := sorted(set(config) - set(accepted)):
        raise ValueError(f"Unknown arguments of the U-Net: {', '.join(unknown)}. Accepted: {', '.join(accepted)}.")
    return {key: tuple(value) if isinstance(value, list | tuple) else value for key, value in config.items()}


def _check(unet: SwinUNet) -> None:
    """Refuse arguments that contradict each other, before anything is traced."""
    levels, counts = len(unet.channel_mult), unet.num_res_blocks
    if not isinstance(counts, int) and len(counts) != levels:
        raise ValueError(f"num_res_blocks is {counts}; expected one number, or {levels} as channel_mult has levels.")
    ratio = unet.lq_size / unet.image_size
    if unet.cond_lq and (ratio < 1 or ratio != 2 ** int(math.log2(ratio))):
        raise ValueError(f"lq_size is {unet.lq_size}; expected image_size ({unet.image_size}) times a power of 2.")
    if unet.cond_mask and not unet.cond_lq:
        raise ValueError("cond_mask needs cond_lq: the mask enters the network with the LQ picture.")
    if unet.image_size % 2 ** (levels - 1):
        raise ValueError(f"image_size is {unet.image_size}; {levels} levels need a multiple of {2 ** (levels - 1)}.")
    if unet.swin_embed_dim % unet.heads:
        raise ValueError(f"swin_embed_dim is {unet.swin_embed_dim}; expected a multiple of its {unet.heads} heads.")
    for width in (*(int(mult * unet.model_channels) for mult in unet.channel_mult), unet.swin_embed_dim):
        if width % 32:
            raise ValueError(f"A level of the U-Net is {width} wide; group norm needs a multiple of 32 channels.")
