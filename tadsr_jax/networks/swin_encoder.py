"""The Swin Transformer as an encoder of pictures of one size: a picture -> tokens, and their mean before them.

    picture --patches of 4--> [blocks, neighbours merged] * stages --norm--> tokens            [arXiv 2103.14030]

Attention and windows are those of `swin`, ResShift's variety; norms, dense layers and the mask are Swin's own.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from tadsr_jax.networks.layers import Conv, Dense, Dtype
from tadsr_jax.networks.swin import WindowAttention, block_geometry, column_mask, join_windows, split_windows

PATCH = 4  # pixels a side of what becomes one cell of the first map
LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)


def shifted_window_mask(rows: int, columns: int, *, window: int, shift: int):
    """(rows, columns, 1, tokens, tokens): -100 between tokens of a window that only the roll of the shift put together.

    Swin's own mask; `swin.window_mask` is ResShift's, with a fault that its weights are used to.
    """
    last = lambda count: jnp.arange(count).reshape(-1, 1, 1, 1) == count - 1
    columns_apart = column_mask(window, shift)
    transposed = columns_apart.reshape((window,) * 4).transpose(1, 0, 3, 2)  # token (s t) is then (t s)
    rows_apart = transposed.reshape(window**2, window**2)
    in_last_column = jnp.where(last(columns), columns_apart, 0)  # j 1 q k
    in_last_row = jnp.where(last(rows)[:, None], rows_apart, 0)  # i 1 1 q k
    return jnp.minimum(in_last_column, in_last_row)


class Block(nn.Module):
    """x + attention(norm1(x)), then x + mlp(norm2(x)): (n, h, w, c) -> the same.

    Attention is in windows, which are cut after a cyclic shift.
    """

    num_heads: int
    window: int
    shift: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        c = x.shape[-1]
        y = LayerNorm(dtype=self.dtype, name="norm1")(x)
        y = split_windows(jnp.roll(y, (-self.shift, -self.shift), (1, 2)), self.window)
        mask = shifted_window_mask(*y.shape[1:3], window=self.window, shift=self.shift) if self.shift else None
        y = WindowAttention(self.num_heads, self.window, self.dtype, name="attn")(y, mask)
        x = x + jnp.roll(join_windows(y), (self.shift, self.shift), (1, 2))
        y = LayerNorm(dtype=self.dtype, name="norm2")(x)
        y = Dense(4 * c, dtype=self.dtype, name="mlp.fc1")(y)
        return x + Dense(c, dtype=self.dtype, name="mlp.fc2")(nn.gelu(y, approximate=False))


class PatchMerging(nn.Module):
    """Four neighbours become one cell, twice as wide: (n, 2h, 2w, c) -> (n, h, w, 2c)."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        n, h, w, c = x.shape
        x = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 4, 2, 5)  # n i j (column row c): the lower left
        x = x.reshape(n, h // 2, w // 2, 4 * c)  # neighbour comes second
        x = LayerNorm(dtype=self.dtype, name="norm")(x)
        return nn.Dense(2 * c, use_bias=False, dtype=self.dtype, name="reduction")(x)


class SwinEncoder(nn.Module):
    """The Swin Transformer: (n, s, s, 3) normalised -> (n, 1 + tokens, c), the mean of the tokens before them.

    c = embed_dim 2^(stages - 1); each stage but the first has half the map and twice the channels. A map that is not
    larger than the window is one window.
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = Conv(self.embed_dim, PATCH, PATCH, ((0, 0), (0, 0)), dtype=self.dtype, name="patch_embed.proj")(x)
        x = LayerNorm(dtype=self.dtype, name="patch_embed.norm")(x)
        for stage, (depth, heads) in enumerate(zip(self.depths, self.num_heads)):
            for index in range(depth):
                window, shift = block_geometry(index, resolution=x.shape[1], window_size=self.window_size)
                x = Block(heads, window, shift, self.dtype, name=f"layers.{stage}.blocks.{index}")(x)
            if stage < len(self.depths) - 1:
                x = PatchMerging(self.dtype, name=f"layers.{stage}.downsample")(x)
        x = LayerNorm(name="norm")(x.reshape(x.shape[0], -1, x.shape[-1]))
        return jnp.concatenate([jnp.mean(x, axis=1, keepdims=True), x], axis=1)
