import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from tadsr_jax.networks import convolution, norms

pytestmark = pytest.mark.quick

ROWS, COLUMNS, IN, OUT = 2 * convolution.BAND, 5, 64, 96


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def problem():
    """A map, a kernel of a deviation that keeps that of the map, and a bias."""
    x, kernel, bias = arrays((2, ROWS, COLUMNS, IN), (3, 3, IN, OUT), (OUT,))
    return x, kernel / np.float32(np.sqrt(9 * IN)), bias


def in_float64(x, kernel, bias):
    """Nine shifted products over a border of zeros."""
    _, h, w, _ = x.shape
    x = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(x[:, i : i + h, j : j + w] @ kernel[i, j].astype(np.float64) for i in range(3) for j in range(3)) + bias


def rms(x):
    return np.sqrt(np.mean(np.square(x)))


@pytest.mark.parametrize("form", ["_plain", "_by_toom_cook"])
def test_both_forms_of_a_convolution_are_the_sum_of_nine_products(form):
    x, kernel, bias = problem()
    got = jax.jit(getattr(convolution, form))(x, kernel, bias)
    # Rounding of sums of 576 terms to a deviation of 1: 3e-7 in the plain form, and 2.3 times that at these points.
    assert rms(got - in_float64(x, kernel, bias)) < 1e-6


@pytest.mark.parametrize("form", ["_plain1x1", "_by_bands"])
def test_both_forms_of_a_convolution_of_size_1_are_a_product_at_every_pixel(form):
    x, kernel, bias = problem()
    got = jax.jit(getattr(convolution, form))(x, kernel[:1, :1], bias)
    assert rms(got - (x.astype(np.float64) @ kernel[0, 0] + bias)) < 1e-6


@pytest.mark.parametrize("form", ["_plain", "_by_toom_cook"])
def test_both_forms_add_to_a_map(form):
    x, kernel, bias = problem()
    (onto,) = arrays((2, ROWS, COLUMNS, OUT))
    apply = jax.jit(getattr(convolution, form))
    np.testing.assert_allclose(apply(x, kernel, bias, onto), apply(x, kernel, bias) + onto, atol=1e-5)


@pytest.mark.parametrize("form", ["_plain_upsampled", "_by_neighbours"])
def test_both_forms_of_an_upsampling_convolution_are_that_of_repeated_pixels(form):
    x, kernel, bias = problem()
    got = jax.jit(getattr(convolution, form))(x, kernel, bias)
    assert rms(got - in_float64(x.repeat(2, 1).repeat(2, 2), kernel, bias)) < 1e-6


@pytest.mark.parametrize("form", ["_plain", "_by_toom_cook"])
def test_both_forms_activate_what_was_put_off(form):
    x, kernel, bias = problem()
    scale, shift = arrays((2, IN), (IN,))
    h = x.astype(np.float64).reshape(2, -1, 32, IN // 32)
    h = ((h - h.mean((1, 3), keepdims=True)) / np.sqrt(h.var((1, 3), keepdims=True) + 1e-5)).reshape(x.shape)
    h = h * scale[:, None, None] + shift
    pending = norms.Activated(jnp.asarray(x), scale, shift, 32, 1e-5, jnp.float32)
    got = jax.jit(getattr(convolution, form))(pending, kernel, bias)
    want = in_float64(h / (1 + np.exp(-h)), kernel, bias)
    assert rms(got - want) < 1e-6


def test_products_at_points_are_a_correlation():
    points = np.array([0, 1, -1, 2])
    A, G, B = convolution.toom_cook(points, 3, 3)
    x, k = np.arange(5) ** 2 - 3.0, np.array([2.0, -1, 5])
    np.testing.assert_allclose(A @ ((G @ k) * (B @ x)), np.correlate(x, k), rtol=1e-12)


def program(function, platform, *arguments):
    return export.export(jax.jit(function), platforms=[platform])(*arguments).mlir_module()


@pytest.mark.parametrize("function", [convolution.conv3x3, convolution.upsampled_conv3x3])
def test_the_fast_form_is_for_the_cpu_alone(function):
    x, kernel, bias = problem()
    assert "stablehlo.while" in program(function, "cpu", x, kernel, bias)
    for platform in ("tpu", "cuda"):
        text = program(function, platform, x, kernel, bias)
        assert text.count("stablehlo.convolution(") == 1 and "stablehlo.while" not in text


@pytest.mark.parametrize("change", ["few channels", "odd rows", "bfloat16"])
def test_a_convolution_that_gains_nothing_stays_plain(change):
    x, kernel, bias = problem()
    if change == "few channels":
        kernel, bias = kernel[..., :32], bias[:32]
    elif change == "odd rows":
        x = x[:, :-2]
    else:
        x, kernel, bias = (jnp.asarray(a, jnp.bfloat16) for a in (x, kernel, bias))
    assert "stablehlo.while" not in program(convolution.conv3x3, "cpu", x, kernel, bias)


@pytest.mark.parametrize("name", ["conv3x3", "upsampled_conv3x3"])
def test_gradients_are_those_of_the_plain_form(name):
    fast, plain = getattr(convolution, name), getattr(convolution, {"conv3x3": "_plain"}.get(name, "_plain_upsampled"))
    x, kernel, bias = problem()
    scale, shift = arrays((IN,), (IN,))
    pending = norms.Activated(jnp.asarray(x), scale, shift, 32, 1e-5, jnp.float32)

    def answer(function):
        loss = lambda *arguments: jnp.mean(jnp.square(function(*arguments)))
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(pending, kernel, bias)

    (got, got_gradients), (want, want_gradients) = answer(fast), answer(plain)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), got_gradients, want_gradients)
