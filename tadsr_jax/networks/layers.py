"""Layers that several networks share, with PyTorch's parameters and initial values, in NHWC.

Conv, Dense    parameters float32, computed in `dtype`             GroupNorm            float32 inside, one pass over x
map_chunks     attention and searches in bounded memory            timestep_embedding   cos | sin of a step index
upsample2, downsample2   nearest and average, without parameters
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Dtype = Any
# Working set of one chunk: about the cache of a CPU core, where it is fastest, and small on an accelerator.
CHUNK_BYTES = 8 * 2**20


def torch_uniform(fan_in: int) -> Callable:
    """PyTorch's default for kernels and biases: uniform in +-1/sqrt(fan_in), which is kaiming_uniform(a=sqrt 5)."""
    bound = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


class Conv(nn.Module):
    """2-D convolution: (n, h, w, i) -> (n, h', w', features). Pads `size // 2` on every side unless told otherwise.

    `padding` is ((top, bottom), (left, right)): never 'SAME', which pads even sizes unlike PyTorch at stride 2.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: tuple | None = None
    zero_init: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        fan_in = self.size**2 * x.shape[-1]
        init = nn.initializers.zeros_init() if self.zero_init else torch_uniform(fan_in)
        kernel = self.param("kernel", init, (self.size, self.size, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", init, (self.features,), jnp.float32)
        x = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding=self.padding or [(self.size // 2, self.size // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return x + bias.astype(self.dtype)


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
        c = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (c,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (c,), jnp.float32)
        flat = x.reshape(x.shape[0], -1, c)  # n p c
        return group_norm(flat, scale, bias, self.groups, self.epsilon).reshape(x.shape).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def group_norm(x, scale, bias, groups: int, epsilon: float):
    """The function of `GroupNorm`: x (n, p, c), scale and bias (c,) -> (n, p, c) float32.

    Its own gradient: one pass over x for the sums and one for the result, where autodiff makes several.
    """
    return _group_norm_forward(x, scale, bias, groups, epsilon)[0]


def _group_norm_forward(x, scale, bias, groups, epsilon):
    mean, var = _group_statistics(x, groups)
    rstd = jax.lax.rsqrt(var + epsilon)
    return (x.astype(jnp.float32) - mean) * (rstd * scale) + bias, (x, scale, mean, rstd)


def _group_norm_backward(groups, epsilon, residuals, g):
    """With h = (x - mean) rstd: dx = rstd (s g - mean(s g) - h mean(s g h)), means over the group, s the scale."""
    x, scale, mean, rstd = residuals
    h = (x.astype(jnp.float32) - mean) * rstd
    sum_g, sum_gh = jnp.sum(g, axis=1, keepdims=True), jnp.sum(g * h, axis=1, keepdims=True)  # n 1 c
    mean_sg, mean_sgh = (_group_mean(scale * s / x.shape[1], groups) for s in (sum_g, sum_gh))
    dx = rstd * (scale * g - mean_sg - h * mean_sgh)
    return dx.astype(x.dtype), jnp.sum(sum_gh, axis=(0, 1)), jnp.sum(sum_g, axis=(0, 1))


group_norm.defvjp(_group_norm_forward, _group_norm_backward)


def _group_statistics(x, groups):
    """Mean and variance of x (n, p, c) by group, in one pass: two of (n, 1, c), equal within a group; float32.

    E[x^2] - E[x]^2 would lose every digit where the mean is large beside the deviation, so x is first shifted by a
    rough mean of its channel; then the spread of the channels' means is added.
    """
    x = x.astype(jnp.float32)
    # A sample of the positions is rough enough; an odd stride visits every column of a picture.
    rough = jnp.mean(x[:, ::31], axis=1, keepdims=True)
    shifted = x - rough
    offset = jnp.mean(shifted, axis=1, keepdims=True)
    channel_mean = rough + offset
    channel_var = jnp.mean(jnp.square(shifted), axis=1, keepdims=True) - jnp.square(offset)
    mean = _group_mean(channel_mean, groups)
    var = _group_mean(channel_var + jnp.square(channel_mean - mean), groups)
    return mean, jnp.maximum(var, 0)


def _group_mean(x, groups):
    """(n, 1, c) -> the same, every channel the mean of its group."""
    by_group = x.reshape(x.shape[0], 1, groups, -1)
    return jnp.broadcast_to(jnp.mean(by_group, axis=-1, keepdims=True), by_group.shape).reshape(x.shape)


def timestep_embedding(t, dim: int, max_period: float = 10000):
    """[cos(t f), sin(t f)], f_i = max_period^(-i / (dim // 2)): (n,) -> (n, dim) float32, odd `dim` padded by a zero.

    Cosines first, as the public code has it; the Transformer paper has sines first.
    """
    half = dim // 2
    frequencies = np.exp(-math.log(max_period) * np.arange(half) / half).astype(np.float32)
    angles = jnp.asarray(t, jnp.float32)[:, None] * frequencies
    embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


def upsample2(x):
    """Every pixel twice in both directions: (n, h, w, c) -> (n, 2h, 2w, c)."""
    n, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)


def downsample2(x):
    """Means of 2x2 pixels: (n, 2h, 2w, c) -> (n, h, w, c)."""
    n, h, w, c = x.shape
    return jnp.mean(x.reshape(n, h // 2, 2, w // 2, 2, c), axis=(2, 4))


def map_chunks(function: Callable, x, *, row_bytes: int):
    """`function` of (n, p, ...) along p, a few rows at a time: the same result in bounded memory, gradients included.

    `row_bytes` is what one row needs in between, a row of an attention matrix for example.
    """
    n, p = x.shape[:2]
    chunk = max(64, CHUNK_BYTES // (n * row_bytes))
    if p <= chunk:
        return function(x)
    count = math.ceil(p / chunk)
    x = jnp.pad(x, ((0, 0), (0, count * chunk - p)) + ((0, 0),) * (x.ndim - 2))
    chunks = jnp.moveaxis(x.reshape(n, count, chunk, *x.shape[2:]), 1, 0)  # k n q ...
    # Without the checkpoint the backward pass would keep what is in between of every chunk.
    y = jnp.moveaxis(jax.lax.map(jax.checkpoint(function), chunks), 0, 1)  # n k q ...
    return y.reshape(n, count * chunk, *y.shape[3:])[:, :p]
