import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.networks import norms

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("shape", [(64,), (2, 64)])  # parameters for all pictures, or for each
def test_the_gradient_of_group_norm_is_that_of_its_formula(shape):
    rng = np.random.default_rng(1)
    x, weight = rng.normal(size=(2, 2, 30, 64)).astype(np.float32)
    scale, bias = rng.normal(size=(2, *shape)).astype(np.float32)

    def formula(x, scale, bias):
        g = x.reshape(2, 30, 4, 16)
        g = (g - g.mean((1, 3), keepdims=True)) * jax.lax.rsqrt(g.var((1, 3), keepdims=True) + 1e-3)
        return g.reshape(x.shape) * norms.along(x, scale) + norms.along(x, bias)

    got = jax.grad(lambda *a: jnp.sum(weight * norms.group_norm(*a, 4, 1e-3)), (0, 1, 2))(x, scale, bias)
    want = jax.grad(lambda *a: jnp.sum(weight * formula(*a)), (0, 1, 2))(x, scale, bias)
    for ours, theirs in zip(got, want):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def pending():
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(2, 3, size=(2, 8, 6, 32)), jnp.float32)
    return norms.Activated(x, *rng.normal(size=(2, 32)).astype(np.float32), 4, 1e-5, jnp.float32)


def test_a_part_is_activated_as_in_the_whole():
    whole = pending().whole()
    np.testing.assert_allclose(pending().by_pixel()(pending().x[:, 2:5]), whole[:, 2:5], atol=1e-5)
    norm = norms.group_norm(pending().x.reshape(2, 48, 32), pending().scale, pending().bias, 4, 1e-5)
    np.testing.assert_allclose(whole, nn.silu(norm).reshape(whole.shape), atol=1e-6)


def test_steering_scales_and_shifts_each_picture_between_the_norm_and_its_activation():
    scale, shift = np.random.default_rng(3).normal(size=(2, 2, 32)).astype(np.float32)
    norm = norms.group_norm(pending().x.reshape(2, 48, 32), pending().scale, pending().bias, 4, 1e-5)
    want = nn.silu(norm * (1 + scale[:, None]) + shift[:, None])
    np.testing.assert_allclose(pending().steered(scale, shift).whole().reshape(want.shape), want, atol=1e-5)
