"""The U-Net of Stable Diffusion 2 with SeeSR's image attentions: it predicts the noise in a latent.

    x, t, text, image states --> down (skips + residuals of a ControlNet) --> middle (+ residual) --> up --> eps

SDUNet        the network, and its features of the way down        from_public   the same from a public configuration
Trunk         what it shares with its ControlNet                   is_trained    what AddSR and TAD-SeeSR train of both
SeeSR [arXiv 2311.16518], AddSR and TAD-SeeSR have one layout. Without image attentions it is the plain network of SD 2
[arXiv 2112.10752]. Latents may have any size: what does not halve evenly is rounded up.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tadsr_jax.networks.blocks_sd import ResnetBlock, Transformer
from tadsr_jax.networks.convolution import upsample2
from tadsr_jax.networks.layers import Conv, Dense, Dtype, NormSilu, timestep_embedding
from tadsr_jax.networks.public_sd import IMAGE_STATES, public_fields


class Trunk(nn.Module):
    """The fields of both networks, under their public names, and what both compute: time, way down, middle.

    Numbers for `layers_per_block` and `attention_head_dim` may be one for all levels, or one a level, the finest first.
    Blocks run in `dtype`; parameters, norms and softmax are float32. `remat` recomputes blocks in the backward pass.
    """

    in_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int | tuple[int, ...] = 2
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    attention_head_dim: int | tuple[int, ...] = (5, 10, 20, 20)  # the number of heads: the public name is a mistake
    cross_attention_dim: int = 1024  # width of the text states
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    use_linear_projection: bool = True
    use_image_cross_attention: bool = True
    dtype: Dtype = jnp.float32
    remat: bool = False

    def __post_init__(self):
        super().__post_init__()
        check_levels(self, "down_block_types", ("CrossAttnDownBlock2D", "DownBlock2D"))
        for key in ("layers_per_block", "attention_head_dim"):
            value = getattr(self, key)
            if not isinstance(value, int) and len(value) != self.levels:
                raise ValueError(f"{key} is {value}; expected one number, or one for each of {self.levels} levels.")
        if not isinstance(self.cross_attention_dim, int):
            raise ValueError(f"cross_attention_dim is {self.cross_attention_dim}; expected one number for all levels.")
        for level, width in enumerate(self.block_out_channels):
            for what, count in (("groups of a norm", self.norm_num_groups), ("heads", self.heads(level))):
                if width % count:
                    raise ValueError(f"block_out_channels[{level}] is {width}; expected a multiple of {count} {what}.")

    @property
    def levels(self) -> int:
        return len(self.block_out_channels)

    def layers(self, level: int) -> int:
        return self.layers_per_block if isinstance(self.layers_per_block, int) else self.layers_per_block[level]

    def heads(self, level: int) -> int:
        return self.attention_head_dim if isinstance(self.attention_head_dim, int) else self.attention_head_dim[level]

    def example_inputs(self) -> tuple:
        """Shapes of a smallest legal call: x, t, text, image states or None."""
        x, text, image_states = (
            jax.ShapeDtypeStruct(shape, jnp.float32)
            for shape in ((1, 1, 1, self.in_channels), (1, 1, self.cross_attention_dim), (1, 1, IMAGE_STATES))
        )
        t = jax.ShapeDtypeStruct((1,), jnp.int32)
        return x, t, text, image_states if self.use_image_cross_attention else None

    def contexts(self, text, image_states) -> dict:
        """{name of the transformers: states that they attend to}, in the order in which a layer has them."""
        wanted = {"text": (text, self.cross_attention_dim)}
        if self.use_image_cross_attention:
            wanted["image_states"] = (image_states, IMAGE_STATES)
        elif image_states is not None:
            raise ValueError("image_states are given, but use_image_cross_attention is False: leave them out.")
        for name, (states, width) in wanted.items():
            if states is None or states.shape[-1] != width:
                found = "None" if states is None else states.shape
                raise ValueError(f"{name}: {found}; this network needs states of width {width}, (n, tokens, {width}).")
        return dict(zip(("attentions", "image_attentions"), (states for states, _ in wanted.values())))

    def embed(self, t):
        """Steps (n,) -> silu of their embedding (n, 4 c), float32, c the width of the finest level."""
        width = self.block_out_channels[0]
        emb = Dense(4 * width, name="time_embedding.linear_1")(timestep_embedding(t, width))
        return nn.silu(Dense(4 * width, name="time_embedding.linear_2")(nn.silu(emb)))

    def resnet(self, x, emb, level: int, name: str):
        block = nn.remat(ResnetBlock) if self.remat else ResnetBlock
        width = self.block_out_channels[level]
        return block(width, self.norm_num_groups, self.norm_eps, self.dtype, name=name)(x, emb)

    def attend(self, x, contexts: dict, level: int, prefix: str, index: int):
        """One transformer for each context."""
        block = nn.remat(Transformer) if self.remat else Transformer
        options = (self.heads(level), self.norm_num_groups, self.use_linear_projection, self.dtype)
        for kind, context in contexts.items():
            x = block(*options, name=f"{prefix}.{kind}.{index}")(x, context)
        return x

    def enter(self, x):
        """The latent at the width of the finest level."""
        return Conv(self.block_out_channels[0], dtype=self.dtype, name="conv_in")(x)

    def down(self, x, emb, contexts: dict) -> list:
        """The skips: x itself, what every layer makes of it, and every downsampler, which the last level lacks."""
        skips = [x]
        for level, kind in enumerate(self.down_block_types):
            prefix = f"down_blocks.{level}"
            for index in range(self.layers(level)):
                x = self.resnet(x, emb, level, f"{prefix}.resnets.{index}")
                if kind.startswith("CrossAttn"):
                    x = self.attend(x, contexts, level, prefix, index)
                skips.append(x)
            if level < self.levels - 1:
                x = Conv(x.shape[-1], stride=2, dtype=self.dtype, name=f"{prefix}.downsamplers.0.conv")(x)
                skips.append(x)
        return skips

    def middle(self, x, emb, contexts: dict):
        level = self.levels - 1
        x = self.resnet(x, emb, level, "mid_block.resnets.0")
        x = self.attend(x, contexts, level, "mid_block", 0)
        return self.resnet(x, emb, level, "mid_block.resnets.1")


class SDUNet(Trunk):
    """eps (n, h, w, out_channels), float32, of the latent x (n, h, w, in_channels) at step t (n,).

    text: (n, tokens, cross_attention_dim); image_states: (n, tokens, 512), None without image attentions;
    residuals: (a list of maps, one for each skip, and one map for the middle) of a `ControlNet`, or None.
    """

    out_channels: int = 4
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3  # the coarsest level first

    def __post_init__(self):
        super().__post_init__()
        check_levels(self, "up_block_types", ("CrossAttnUpBlock2D", "UpBlock2D"))

    def features(self, x, t, text, image_states=None, residuals=None) -> list:
        """The last map of each level on the way down, before its downsampler, residuals added; the finest first.

        (n, h / 2^level, w / 2^level, c) in `dtype`; middle and way up are not computed. They are what TAD-SeeSR's
        discriminator reads of its teacher.
        """
        return self(x, t, text, image_states, residuals, features_only=True)

    @nn.compact
    def __call__(self, x, t, text, image_states=None, residuals=None, *, features_only: bool = False):
        contexts, emb = self.contexts(text, image_states), self.embed(t)
        skips = self.down(self.enter(x), emb, contexts)
        x = skips[-1]  # the middle reads it without the residual
        of_skips, of_middle = residuals or (None, None)
        if residuals is not None:
            check_residuals([*of_skips, of_middle], [*skips, skips[-1]])
            skips = [skip + residual.astype(self.dtype) for skip, residual in zip(skips, of_skips)]
        if features_only:
            return [skips[end] for end in np.cumsum([self.layers(level) + 1 for level in range(self.levels)]) - 1]
        x = self.middle(x, emb, contexts)
        if residuals is not None:
            x = x + of_middle.astype(self.dtype)
        x = self.up(x, skips, emb, contexts)
        # The last layers stay float32: bfloat16 would round the prediction to 8 bits.
        x = NormSilu(self.norm_num_groups, self.norm_eps, name="conv_norm_out")(x)
        return Conv(self.out_channels, name="conv_out")(x)

    def up(self, x, skips: list, emb, contexts: dict):
        """Every layer reads the next skip beside x, one layer more a level than on the way down."""
        skips = list(skips)
        for block, kind in enumerate(self.up_block_types):
            level, prefix = self.levels - 1 - block, f"up_blocks.{block}"
            for index in range(self.layers(level) + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = self.resnet(x, emb, level, f"{prefix}.resnets.{index}")
                if kind.startswith("CrossAttn"):
                    x = self.attend(x, contexts, level, prefix, index)
            if level > 0:
                x = self.upsample(x, skips[-1].shape[1:3], f"{prefix}.upsamplers.0.conv")
        return x

    def upsample(self, x, size: tuple[int, int], name: str):
        """Pixels repeated to `size`, that of the next skip, and a convolution: (n, h, w, c) -> (n, *size, c)."""
        _, h, w, c = x.shape
        if size == (2 * h, 2 * w):
            return Conv(c, dtype=self.dtype, upsampled=True, name=name)(x)
        # An odd size halves to the larger half: nearest neighbours are then every pixel twice, but the last once.
        return Conv(c, dtype=self.dtype, name=name)(upsample2(x)[:, : size[0], : size[1]])


def check_levels(module: nn.Module, key: str, kinds: tuple[str, ...]) -> None:
    """Refuse block types that are not one of `kinds` for each level."""
    types, levels = getattr(module, key), len(module.block_out_channels)
    if len(types) != levels or not set(types) <= set(kinds):
        raise ValueError(
            f"{key} is {types}; expected {levels} of {', '.join(kinds)}, as block_out_channels has levels."
        )


def check_residuals(residuals: list, maps: list) -> None:
    """Refuse residuals that are not one for each map, and of its shape."""
    found, wanted = ([tuple(array.shape) for array in arrays] for arrays in (residuals, maps))
    if found != wanted:
        raise ValueError(f"The residuals are {found}, the middle's last; this network needs {wanted}.")


def is_trained(path: tuple[str, ...]) -> bool:
    """Whether AddSR and TAD-SeeSR train the parameter at `path` (modules, then leaf) of the U-Net or the ControlNet.

    Those of the image transformers, and of the ControlNet's conditioning stem; everything else stays as SeeSR has it.
    """
    return not {"image_attentions", "controlnet_cond_embedding"}.isdisjoint(".".join(path).split("."))


def from_public(**config) -> SDUNet:
    """A network from a public configuration (arguments of `UNet2DConditionModel`), plus our `dtype` and `remat`.

    Raises ValueError for what this network cannot do and for unknown keys.
    """
    return SDUNet(**public_fields(SDUNet, config))
