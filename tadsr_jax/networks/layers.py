"""Layers that several networks share, with PyTorch's parameters and initial values, in NHWC.

Conv, Dense   parameters float32, computed in `dtype`        GroupNorm, NormSilu   float32 inside
map_chunks    attention and searches in bounded memory       timestep_embedding    cos | sin of a step index
downsample2   means of 2x2 pixels
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tadsr_jax.networks.convolution import conv1x1, conv3x3, convolve, upsampled_conv3x3
from tadsr_jax.networks.norms import Activated, group_norm

Dtype = Any


def torch_uniform(fan_in: int) -> Callable:
    """PyTorch's default for kernels and biases: uniform in +-1/sqrt(fan_in), which is kaiming_uniform(a=sqrt 5)."""
    bound = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


class Conv(nn.Module):
    """2-D convolution: (n, h, w, i) -> (n, h', w', features). Pads `size // 2` on every side unless told otherwise.

    `padding` is ((top, bottom), (left, right)): never 'SAME', which pads even sizes unlike PyTorch at stride 2.
    `upsampled` takes every pixel of x four times, before a convolution of size 3. x may be `Activated`; the result of a
    convolution of size 3 and stride 1 is added to the map `onto`, where one is given.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: tuple | None = None
    upsampled: bool = False
    zero_init: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x, onto=None):
        fan_in = self.size**2 * x.shape[-1]
        init = nn.initializers.zeros_init() if self.zero_init else torch_uniform(fan_in)
        kernel = self.param("kernel", init, (self.size, self.size, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", init, (self.features,), jnp.float32)
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        if self.upsampled:
            return upsampled_conv3x3(x, kernel, bias)
        if (self.size, self.stride, self.padding) == (3, 1, None):
            return conv3x3(x, kernel, bias, None if onto is None else onto.astype(self.dtype))
        if (self.size, self.stride, self.padding) == (1, 1, None):
            return conv1x1(x, kernel, bias)
        return convolve(x, kernel, self.padding or ((self.size // 2, self.size // 2),) * 2, self.stride) + bias


class Dense(nn.Module):
    """Affine map of the last axis: (..., i) -> (..., features)."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        init = torch_uniform(x.shape[-1])
        kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", init, (self.features,), jnp.float32)
        return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)


class GroupNorm(nn.Module):
    """Group normalisation over all positions and the channels of a group: (n, ..., c) -> the same, in `dtype`.

    y = (x - mean) / sqrt(var + epsilon) * scale + bias, statistics and arithmetic in float32
    """

    groups: int = 32
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        return group_norm(x, *self.affine(x), self.groups, self.epsilon).astype(self.dtype)

    def affine(self, x):
        """The parameters scale and bias, (c,)."""
        scale = self.param("scale", nn.initializers.ones_init(), x.shape[-1:], jnp.float32)
        return scale, self.param("bias", nn.initializers.zeros_init(), x.shape[-1:], jnp.float32)


class NormSilu(GroupNorm):
    """silu(GroupNorm(x)) of a map (n, h, w, c), put off until a convolution reads it: `Activated`."""

    @nn.compact
    def __call__(self, x):
        return Activated(x, *self.affine(x), self.groups, self.epsilon, self.dtype)


def timestep_embedding(t, dim: int, max_period: float = 10000):
    """[cos(t f), sin(t f)], f_i = max_period^(-i / (dim // 2)): (n,) -> (n, dim) float32, odd `dim` padded by a zero.

    Cosines first, as the public code has it; the Transformer paper has sines first.
    """
    half = dim // 2
    frequencies = np.exp(-math.log(max_period) * np.arange(half) / half).astype(np.float32)
    angles = jnp.asarray(t, jnp.float32)[:, None] * frequencies
    embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


def downsample2(x):
    """Means of 2x2 pixels: (n, 2h, 2w, c) -> (n, h, w, c)."""
    n, h, w, c = x.shape
    return jnp.mean(x.reshape(n, h // 2, 2, w // 2, 2, c), axis=(2, 4))


def map_chunks(function: Callable, x, *, rows: int):
    """`function` of (n, p, ...) along p, about `rows` at a time in all: the same result, bounded memory, gradients too.

    A symbolic batch counts as one picture.
    """
    n, p = x.shape[:2]
    chunk = max(32, rows // n) if isinstance(n, int) else rows
    if isinstance(p, int) and p <= chunk:
        return function(x)
    count = -(-p // chunk)
    x = jnp.pad(x, ((0, 0), (0, count * chunk - p)) + ((0, 0),) * (x.ndim - 2))
    chunks = jnp.moveaxis(x.reshape(n, count, chunk, *x.shape[2:]), 1, 0)  # k n q ...
    # Without the checkpoint the backward pass would keep what is in between of every chunk.
    y = jnp.moveaxis(jax.lax.map(jax.checkpoint(function), chunks), 0, 1)  # n k q ...
    return y.reshape(n, count * chunk, *y.shape[3:])[:, :p]
