"""Group normalisation of NHWC maps: statistics in float32, in few passes over memory, with its own gradient.

group_norm   the function      Activated   silu(group_norm(x)) put off until a convolution reads it
"""

import functools

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def group_norm(x, scale, bias, groups: int, epsilon: float):
    """Normalised over all positions and the channels of a group: x (n, ..., c) -> the same, float32.

        y = (x - mean) / sqrt(var + epsilon) * scale + bias

    `scale` and `bias` are (c,), or (n, c) to steer each picture by itself. The gradient takes one pass over x for the
    sums and one for the result, where autodiff makes several.
    """
    return _forward(x, scale, bias, groups, epsilon)[0]


def _forward(x, scale, bias, groups, epsilon):
    mean, rstd = statistics(x, groups, epsilon)
    return (x.astype(jnp.float32) - mean) * (rstd * along(x, scale)) + along(x, bias), (x, scale, mean, rstd)


def _backward(groups, epsilon, residuals, g):
    """With h = (x - mean) rstd: dx = rstd (s g - mean(s g) - h mean(s g h)), means over the group, s the scale."""
    x, scale, mean, rstd = residuals
    s, h = along(x, scale), (x.astype(jnp.float32) - mean) * rstd
    positions = tuple(range(1, x.ndim - 1))
    sum_g, sum_gh = jnp.sum(g, axis=positions, keepdims=True), jnp.sum(g * h, axis=positions, keepdims=True)
    count = x.size // (x.shape[0] * x.shape[-1])
    mean_sg, mean_sgh = (_group_mean(s * total / count, groups) for total in (sum_g, sum_gh))
    dx = rstd * (s * g - mean_sg - h * mean_sgh)
    like_scale = lambda total: (
        jnp.sum(total, axis=(0, *positions)) if scale.ndim == 1 else jnp.squeeze(total, positions)
    )
    return dx.astype(x.dtype), like_scale(sum_gh), like_scale(sum_g)


group_norm.defvjp(_forward, _backward)


def along(x, parameter):
    """A parameter of channels, (c,) or (n, c), in a shape that meets x (n, ..., c)."""
    return parameter.reshape(-1, *(1,) * (x.ndim - 2), x.shape[-1])


def statistics(x, groups: int, epsilon: float):
    """Mean and 1 / sqrt(variance + epsilon) of x (n, ..., c) by group: two of (n, 1, ..., c), float32.

    By channel first, in two passes, and then the spread of the channels' means: E[x^2] - E[x]^2 would lose every digit
    where the mean is large beside the deviation. A map is not flattened for it: a CPU might keep both shapes of it.
    """
    x = x.astype(jnp.float32)
    mean_of = functools.partial(jnp.mean, axis=tuple(range(1, x.ndim - 1)), keepdims=True)
    channel_mean = mean_of(x)
    channel_var = mean_of(jnp.square(x - channel_mean))
    mean = _group_mean(channel_mean, groups)
    var = _group_mean(channel_var + jnp.square(channel_mean - mean), groups)
    return mean, jax.lax.rsqrt(var + epsilon)


def _group_mean(x, groups):
    """(n, 1, ..., c) -> the same, every channel the mean of its group."""
    by_group = x.reshape(*x.shape[:-1], groups, -1)
    return jnp.broadcast_to(jnp.mean(by_group, axis=-1, keepdims=True), by_group.shape).reshape(x.shape)


@flax.struct.dataclass
class Activated:
    """silu(group_norm(x)) of a map (n, h, w, c), not computed yet: `whole` computes it, `by_pixel` says how.

    A convolution that works in bands activates each band as it comes, and the activated map is never stored.
    `scale` and `bias` as in `group_norm`. Statistics are float32, the result has the dtype `dtype`.
    """

    x: jax.Array
    scale: jax.Array
    bias: jax.Array
    groups: int = flax.struct.field(pytree_node=False)
    epsilon: float = flax.struct.field(pytree_node=False)
    dtype: jnp.dtype = flax.struct.field(pytree_node=False)

    @property
    def shape(self):
        return self.x.shape

    def astype(self, dtype):
        return self.replace(dtype=dtype)

    def whole(self):
        """The map itself."""
        return nn.silu(group_norm(self.x, self.scale, self.bias, self.groups, self.epsilon).astype(self.dtype))

    def by_pixel(self):
        """A function of any part of x (n, i, j, c) that activates it by the statistics of the whole."""
        mean, rstd = statistics(self.x, self.groups, self.epsilon)
        factor, bias = rstd * along(self.x, self.scale), along(self.x, self.bias)
        return lambda part: nn.silu(((part.astype(jnp.float32) - mean) * factor + bias).astype(self.dtype))

    def steered(self, scale, shift):
        """With (1 + scale) and shift, (n, c) each, applied after the norm and before the activation."""
        factor = 1 + scale.astype(jnp.float32)
        return self.replace(scale=self.scale * factor, bias=self.bias * factor + shift.astype(jnp.float32))
