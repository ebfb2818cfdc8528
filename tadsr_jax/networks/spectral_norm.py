"""Spectral normalisation: a convolution whose weight is divided by a running estimate of its largest singular value.

    v <- W^T u / |W^T u|,   u <- W v / |W v|,   sigma = u . (W v),   weight = W / sigma      [arXiv 1802.05957, Alg. 1]

as_matrix        a kernel as the matrix W that torch's hook normalises
power_iteration  one improvement of the vectors u, v         spectral_norm   the estimate sigma
SpectralConv1d   the layer; its vectors live in the mutable collection "spectral"
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from tadsr_jax.networks.layers import Dtype, torch_uniform

EPS = 1e-12  # floor of the norms, as in torch.nn.utils.spectral_norm


def as_matrix(kernel: Array) -> Array:
    """A kernel (..., i, o) as the matrix (o, i ...) of the PyTorch layout: W[o, i * k + position], taps innermost.

    The order of the columns only permutes v; keeping torch's lets public vectors serve unchanged.
    """
    return jnp.moveaxis(kernel, (-1, -2), (0, 1)).reshape(kernel.shape[-1], -1)


def _normalize(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x), EPS)


def power_iteration(w: Array, u: Array) -> tuple[Array, Array]:
    """One power iteration on W (o, m): (u, v), v = W^T u / |W^T u| first, then u = W v / |W v|. No gradient."""
    w, u = lax.stop_gradient(w), lax.stop_gradient(u)
    v = _normalize(jnp.matmul(u, w, precision=lax.Precision.HIGHEST))
    return _normalize(jnp.matmul(w, v, precision=lax.Precision.HIGHEST)), v


def spectral_norm(w: Array, u: Array, v: Array) -> Array:
    """sigma = u . (W v), () : the spectral norm of W once u and v have converged. Its gradient runs through W alone."""
    u, v = lax.stop_gradient(u), lax.stop_gradient(v)
    return jnp.dot(u, jnp.matmul(w, v, precision=lax.Precision.HIGHEST), precision=lax.Precision.HIGHEST)


def _unit_normal(key: Array, size: int) -> Array:
    return _normalize(jax.random.normal(key, (size,)))


class SpectralConv1d(nn.Module):
    """Convolution of sequences (n, l, i) -> (n, l, o) with weight W / sigma(W), wrapping around at the ends.

    `update_stats=True` makes one power iteration first and stores it: apply with `mutable=["spectral"]`. Otherwise the
    stored vectors are used. The bias is not normalised. A new layer holds random u, v, without warm-up, as in torch.
    """

    features: int
    kernel_size: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, update_stats: bool) -> Array:
        fan_in = self.kernel_size * x.shape[-1]
        init = torch_uniform(fan_in)
        kernel = self.param("kernel", init, (self.kernel_size, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", init, (self.features,), jnp.float32)
        u = self.variable("spectral", "u", lambda: _unit_normal(self.make_rng("params"), self.features))
        v = self.variable("spectral", "v", lambda: _unit_normal(self.make_rng("params"), fan_in))

        w = as_matrix(kernel)
        if update_stats and not self.is_initializing():
            u.value, v.value = power_iteration(w, u.value)
        kernel = kernel / spectral_norm(w, u.value, v.value)

        pad = self.kernel_size // 2
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (pad, pad), (0, 0)), mode="wrap")
        x = lax.conv_general_dilated(
            x, kernel.astype(self.dtype), (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
        )
        return x + bias.astype(self.dtype)
