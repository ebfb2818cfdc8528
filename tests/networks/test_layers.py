import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.networks import convolution, layers

pytestmark = pytest.mark.quick


def group_norm_in_float64(x, scale, bias, groups, epsilon):
    x = x.astype(np.float64)
    g = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    mean, var = g.mean((1, 3), keepdims=True), g.var((1, 3), keepdims=True)
    return ((g - mean) / np.sqrt(var + epsilon)).reshape(x.shape) * scale + bias


@pytest.mark.parametrize(
    ("mean", "deviation"),
    # The last: 1000 in float32 is exact to 6e-5, 6e-4 deviations of 0.1; E[x^2] - E[x]^2 would have no digit left.
    [(0, 1), (100, 1), (1, 1e-3), (1000, 0.1)],
)
def test_group_norm_keeps_its_digits_where_the_mean_is_large(mean, deviation):
    rng = np.random.default_rng(0)
    x = (mean + deviation * rng.normal(size=(2, 40, 24, 64))).astype(np.float32)
    scale, bias = rng.normal(size=(2, 64)).astype(np.float32)
    got = jax.jit(layers.GroupNorm().apply)({"params": {"scale": scale, "bias": bias}}, x)
    rounding_of_x = 2**-23 * abs(mean) / deviation
    np.testing.assert_allclose(got, group_norm_in_float64(x, scale, bias, 32, 1e-5), atol=2e-5 + 20 * rounding_of_x)


@pytest.mark.parametrize("options", [{}, {"epsilon": 1e-6}])
def test_group_norm_adds_epsilon_to_the_variance(options):
    x = np.full((1, 2, 2, 32), 1e-3, np.float32)
    x[:, :1] *= -1  # variance 1e-6
    variables = {"params": {"scale": np.ones(32, np.float32), "bias": np.zeros(32, np.float32)}}
    got = layers.GroupNorm(**options).apply(variables, x)
    np.testing.assert_allclose(got, x / np.sqrt(1e-6 + options.get("epsilon", 1e-5)), rtol=1e-5)


def test_group_norm_of_bfloat16_computes_in_float32_and_returns_bfloat16():
    x = np.float32(8) + np.random.default_rng(2).normal(size=(1, 16, 16, 32)).astype(np.float32)
    x = jnp.asarray(x, jnp.bfloat16)
    variables = {"params": {"scale": np.ones(32, np.float32), "bias": np.zeros(32, np.float32)}}
    got = layers.GroupNorm(dtype=jnp.bfloat16).apply(variables, x)
    want = group_norm_in_float64(np.asarray(x), 1, 0, 32, 1e-5)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(np.float32), want, atol=2**-8 * 4)  # one rounding of values up to 4


def test_kernels_and_biases_start_uniform_within_one_over_the_root_of_the_fan_in():
    params = layers.Conv(64).init(jax.random.key(0), jnp.zeros((1, 4, 4, 16)))["params"]
    bound = 1 / 12  # fan in 3 * 3 * 16 = 144
    for leaf in params.values():
        assert 0.9 * bound < np.abs(leaf).max() <= bound
    assert abs(np.std(params["kernel"]) - bound / 3**0.5) < 0.01 * bound
    zeros = layers.Conv(64, zero_init=True).init(jax.random.key(0), jnp.zeros((1, 4, 4, 16)))["params"]
    assert not any(np.any(leaf) for leaf in zeros.values())


def test_a_strided_convolution_is_padded_on_all_sides():
    picture = np.zeros((1, 4, 4, 1), np.float32)
    picture[0, 0, 0] = 1  # lies under the centre of the first window only if there is padding before it
    centre = np.zeros((3, 3, 1, 1), np.float32)
    centre[1, 1] = 1
    variables = {"params": {"kernel": centre, "bias": np.zeros(1, np.float32)}}
    got = layers.Conv(1, stride=2).apply(variables, picture)
    np.testing.assert_array_equal(got[0, :, :, 0], [[1, 0], [0, 0]])


def test_time_embeddings_are_cosines_then_sines_and_odd_widths_end_in_zero():
    got = layers.timestep_embedding(jnp.array([0, 3]), 5)
    np.testing.assert_allclose(got[0], [1, 1, 0, 0, 0])
    np.testing.assert_allclose(got[1], [np.cos(3), np.cos(0.03), np.sin(3), np.sin(0.03), 0], atol=1e-6)


def test_nearest_upsampling_then_averaging_changes_nothing():
    x = np.random.default_rng(3).normal(size=(2, 3, 5, 4)).astype(np.float32)
    up = convolution.upsample2(jnp.asarray(x))
    np.testing.assert_array_equal(up, x.repeat(2, 1).repeat(2, 2))
    np.testing.assert_array_equal(layers.downsample2(up), x)


def test_work_in_chunks_gives_the_values_and_gradients_of_work_in_one_piece():
    rng = np.random.default_rng(4)
    q, k = rng.normal(size=(2, 2, 150, 8)).astype(np.float32)
    attend = lambda q: jnp.einsum("nqk,nkc->nqc", jax.nn.softmax(jnp.einsum("nqc,nkc->nqk", q, k)), k)
    chunked = lambda q: layers.map_chunks(attend, q, rows=128)  # 64 of 150 at a time in each of two pictures
    np.testing.assert_allclose(chunked(q), attend(q), atol=1e-5)  # float32, sums of 150 terms up to 3
    weight = rng.normal(size=q.shape).astype(np.float32)
    got, want = (jax.grad(lambda q, f=f: jnp.sum(weight * f(q)))(q) for f in (chunked, attend))
    np.testing.assert_allclose(got, want, atol=1e-5)
