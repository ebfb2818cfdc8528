"""The Swin blocks of ResShift's U-Net: attention in windows of a feature map, with GroupNorm and 1x1 convolutions.

    x --patch_embed--> [x + attention(norm1(x)); x + mlp(norm2(x))] * depth --patch_unembed--> y

Three things differ from the Swin Transformer (arXiv 2103.14030), and the public weights were trained with them:
the mask of shifted windows (`window_mask`), the norms (GroupNorm over the whole map), no residual around the group.
Sides of the map must be multiples of the window.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tadsr_jax.networks.layers import Conv, Dense, Dtype, GroupNorm


def block_geometry(index: int, *, resolution: int, window_size: int) -> tuple[int, int]:
    """(window, shift) of block `index` of a group whose nominal map is `resolution` wide.

    The nominal size decides, whatever the actual one: a network built for latents of 64 never shifts at its level 8.
    """
    if resolution <= window_size:
        return resolution, 0
    return window_size, window_size // 2 if index % 2 else 0


def relative_position_index(window: int) -> np.ndarray:
    """(tokens, tokens) rows of the bias table: (h_i - h_j + w - 1) (2w - 1) + (w_i - w_j + w - 1), tokens row-major."""
    h, w = np.divmod(np.arange(window**2), window)
    return (h[:, None] - h + window - 1) * (2 * window - 1) + (w[:, None] - w + window - 1)


def column_mask(window: int, shift: int) -> np.ndarray:
    """(tokens, tokens) float32: -100 between columns left and right of the cut that a shift makes, else 0."""
    wrapped = np.arange(window**2) % window >= window - shift if shift else np.zeros(window**2, bool)
    return np.where(wrapped[:, None] != wrapped, np.float32(-100), np.float32(0))


def window_mask(h: int, w: int, *, window: int, shift: int) -> np.ndarray:
    """(windows, tokens, tokens) float32: what the public code adds to the attention logits; windows row by row.

    `column_mask` for the windows of the last row, zero elsewhere. That is not Swin's mask: windows at the right edge
    mix columns that a roll brought together, and rows never matter. The public code slices a wrong axis
    (calculate_mask), and its weights are used to it: with the textbook mask the output changes by its own deviation.
    """
    mask = np.zeros((h // window, w // window, window**2, window**2), np.float32)
    mask[-1] = column_mask(window, shift)
    return mask.reshape(-1, window**2, window**2)


def last_row_mask(rows: int, *, window: int, shift: int):
    """`window_mask` of `rows` rows of windows, (rows, 1, 1, tokens, tokens), for WindowAttention.

    Made in the program from one window's mask: as a constant, the mask of a large map would fill it.
    """
    in_last_row = (jnp.arange(rows) == rows - 1).reshape(rows, 1, 1, 1, 1)
    return jnp.where(in_last_row, column_mask(window, shift), 0)


def split_windows(x, size):
    """Cut (n, h, w, c) into square windows: n (i s) (j t) c -> n i j (s t) c."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // size, size, w // size, size, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h // size, w // size, size**2, c)


def join_windows(x):
    """The inverse: n i j (s t) c -> n (i s) (j t) c."""
    n, i, j, tokens, c = x.shape
    size = math.isqrt(tokens)
    return x.reshape(n, i, j, size, size, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, i * size, j * size, c)


class WindowAttention(nn.Module):
    """Multi-head self-attention with a relative position bias: (n, i, j, tokens, c), i x j windows -> the same.

    `mask` is added to the logits; it broadcasts to (i, j, heads, tokens, tokens).
    """

    num_heads: int
    window: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x, mask=None):
        n, i, j, tokens, c = x.shape
        table = self.param(
            "relative_position_bias_table",
            nn.initializers.truncated_normal(0.02),
            ((2 * self.window - 1) ** 2, self.num_heads),
            jnp.float32,
        )
        qkv = Dense(3 * c, dtype=self.dtype, name="qkv")(x)
        qkv = qkv.reshape(n, i, j, tokens, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.transpose(4, 0, 1, 2, 5, 3, 6)  # n i j t (3 h d) -> three of n i j h t d
        q = q * (c // self.num_heads) ** -0.5
        logits = jnp.einsum("nijhqd,nijhkd->nijhqk", q, k, preferred_element_type=jnp.float32)
        logits += table[relative_position_index(self.window)].transpose(2, 0, 1)  # h q k
        if mask is not None:
            logits += mask
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        x = jnp.einsum("nijhqk,nijhkd->nijqhd", weights, v).reshape(n, i, j, tokens, c)
        return Dense(c, dtype=self.dtype, name="proj")(x)


class SwinBlock(nn.Module):
    """x + attention(norm1(x)), then x + mlp(norm2(x)); windows are cut after a cyclic shift, which is undone."""

    num_heads: int
    window: int
    shift: int
    mlp_ratio: float = 4
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        c = x.shape[-1]
        y = GroupNorm(dtype=self.dtype, name="norm1")(x)
        y = split_windows(jnp.roll(y, (-self.shift, -self.shift), (1, 2)), self.window)
        mask = last_row_mask(y.shape[1], window=self.window, shift=self.shift) if self.shift else None
        y = WindowAttention(self.num_heads, self.window, self.dtype, name="attn")(y, mask)
        x = x + jnp.roll(join_windows(y), (self.shift, self.shift), (1, 2))
        y = GroupNorm(dtype=self.dtype, name="norm2")(x)
        y = Conv(int(c * self.mlp_ratio), 1, dtype=self.dtype, name="mlp.fc1")(y)
        return x + Conv(c, 1, dtype=self.dtype, name="mlp.fc2")(nn.gelu(y, approximate=False))


class SwinGroup(nn.Module):
    """`depth` blocks at a width of their own, even ones without and odd ones with shift: (n, h, w, c) -> the same."""

    resolution: int
    embed_dim: int
    num_heads: int
    window_size: int = 8
    depth: int = 2
    mlp_ratio: float = 4
    patch_norm: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        c = x.shape[-1]
        x = Conv(self.embed_dim, 1, dtype=self.dtype, name="patch_embed.proj")(x)
        if self.patch_norm:
            x = GroupNorm(dtype=self.dtype, name="patch_embed.norm")(x)
        for index in range(self.depth):
            window, shift = block_geometry(index, resolution=self.resolution, window_size=self.window_size)
            x = SwinBlock(self.num_heads, window, shift, self.mlp_ratio, self.dtype, name=f"blocks.{index}")(x)
        x = Conv(c, 1, dtype=self.dtype, name="patch_unembed.proj")(x)
        return GroupNorm(dtype=self.dtype, name="patch_unembed.norm")(x) if self.patch_norm else x
