import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.networks.spectral_norm import SpectralConv1d, as_matrix, power_iteration, spectral_norm

pytestmark = pytest.mark.quick

RNG = np.random.default_rng(0)


def test_the_columns_of_the_matrix_are_ordered_as_in_a_pytorch_weight():
    weight = RNG.normal(size=(5, 3, 4)).astype(np.float32)  # o i k
    np.testing.assert_array_equal(as_matrix(weight.transpose(2, 1, 0)), weight.reshape(5, 12))


def test_one_power_iteration_updates_v_from_u_and_then_u_from_the_new_v():
    w, u = RNG.normal(size=(4, 6)), RNG.normal(size=4)
    v_new = w.T @ u / np.linalg.norm(w.T @ u)
    u_new = w @ v_new / np.linalg.norm(w @ v_new)
    got_u, got_v = power_iteration(jnp.float32(w), jnp.float32(u))
    np.testing.assert_allclose(got_v, v_new, atol=1e-6)
    np.testing.assert_allclose(got_u, u_new, atol=1e-6)


def test_after_many_iterations_sigma_is_the_largest_singular_value():
    w = jnp.float32(RNG.normal(size=(4, 6)))
    u = jnp.ones(4)
    for _ in range(100):
        u, v = power_iteration(w, u)
    np.testing.assert_allclose(spectral_norm(w, u, v), np.linalg.norm(w, 2), rtol=1e-5)


def test_a_zero_weight_gives_finite_vectors():
    u, v = power_iteration(jnp.zeros((3, 2)), jnp.ones(3))
    assert np.isfinite(u).all() and np.isfinite(v).all()


def test_the_gradient_runs_through_the_weight_in_numerator_and_sigma_but_not_through_the_vectors():
    w, g, u = (jnp.float32(RNG.normal(size=shape)) for shape in [(4, 6), (4, 6), (4,)])

    def loss(w):
        u_new, v_new = power_iteration(w, u)
        return jnp.sum(g * w / spectral_norm(w, u_new, v_new))

    u_new, v_new = power_iteration(w, u)
    sigma = u_new @ w @ v_new
    want = (g - jnp.sum(g * w) / sigma * jnp.outer(u_new, v_new)) / sigma  # quotient rule, with d sigma / dW = u v^T
    np.testing.assert_allclose(jax.grad(loss)(w), want, rtol=1e-4, atol=1e-5)


def test_the_layer_convolves_with_wrapped_ends_and_adds_an_unscaled_bias():
    x = RNG.normal(size=(1, 5, 2)).astype(np.float32)
    layer = SpectralConv1d(3, kernel_size=9)
    variables = layer.init(jax.random.key(0), x, update_stats=False)
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    u, v = variables["spectral"]["u"], variables["spectral"]["v"]
    weight = kernel / (u @ as_matrix(kernel) @ v)
    want = np.stack([sum(x[0, (i + j - 4) % 5] @ weight[j] for j in range(9)) + bias for i in range(5)])
    np.testing.assert_allclose(layer.apply(variables, x, update_stats=False)[0], want, rtol=1e-4, atol=1e-5)


def test_the_layer_stores_one_iteration_a_call_and_none_without_update_stats():
    x = jnp.ones((1, 5, 2))
    layer = SpectralConv1d(3)
    variables = layer.init(jax.random.key(0), x, update_stats=True)
    old = variables["spectral"]
    np.testing.assert_allclose(jnp.linalg.norm(old["u"]), 1, rtol=1e-6)

    _, kept = layer.apply(variables, x, update_stats=False, mutable=["spectral"])
    np.testing.assert_array_equal(kept["spectral"]["u"], old["u"])

    _, new = layer.apply(variables, x, update_stats=True, mutable=["spectral"])
    want_u, want_v = power_iteration(as_matrix(variables["params"]["kernel"]), old["u"])
    np.testing.assert_allclose(new["spectral"]["u"], want_u, rtol=1e-6)
    np.testing.assert_allclose(new["spectral"]["v"], want_v, rtol=1e-6)
