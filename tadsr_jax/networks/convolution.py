"""Convolutions of stride 1 in NHWC, in the form that suits the platform. The choice is made here and nowhere else.

convolve            the plain form, of any size, stride and padding
conv1x1             the same without neighbours
conv3x3             the same with padding of one, by half of the multiplications on a CPU
upsampled_conv3x3   conv3x3(upsample2(x)), by a quarter of them

A CPU is bound by multiplications and memory: there both work in bands of rows, so that what is in between stays in the
cache, for 2 to 3 times the rounding errors. An accelerator has multiplications to spare, and prefers few large
convolutions. Gradients are those of the plain form everywhere, and so is the forward pass that they need.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tadsr_jax.networks.norms import Activated

BAND = 32  # rows of a map
MIN_CHANNELS = 64  # with fewer, sums and differences take longer than the multiplications that they save


def convolve(x, kernel, padding, stride: int = 1):
    """The convolution of x (n, h, w, i) with kernel (s, t, i, o), padding ((top, bottom), (left, right))."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=layout)


def upsample2(x):
    """Every pixel twice in both directions: (n, h, w, c) -> (n, 2h, 2w, c)."""
    n, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)


def conv1x1(x, kernel, bias):
    """x (n, h, w, i), an array, with kernel (1, 1, i, o), plus bias (o,). In bands, a CPU makes one map and not two."""
    return (_conv1x1 if _pays(x, kernel) else _plain1x1)(x, kernel, bias)


def conv3x3(x, kernel, bias, onto=None):
    """x (n, h, w, i), an array or `Activated`, with kernel (3, 3, i, o) and a border of zeros, plus bias (o,).

    Added to the map `onto` (n, h, w, o) where one is given: a CPU needs no further one for it.
    """
    return (_conv3x3 if _pays(x, kernel) else _plain)(x, kernel, bias, onto)


def upsampled_conv3x3(x, kernel, bias):
    """The same of every pixel of x four times: (n, h, w, i) -> (n, 2h, 2w, o)."""
    return (_upsampled_conv3x3 if _pays(x, kernel) else _plain_upsampled)(x, kernel, bias)


def _pays(x, kernel) -> bool:
    """Whether a CPU gains by the fast forms: enough channels and whole bands, which must be sure of a symbolic size.

    Not in bfloat16: differences would have no digits left.
    """
    return kernel.dtype == jnp.float32 and min(kernel.shape[2:]) >= MIN_CHANNELS and x.shape[1] % BAND == 0


def _chosen(plain: Callable, on_cpu: Callable) -> Callable:
    """`plain(x, kernel, bias)`, computed by `on_cpu` where the program runs on a CPU; differentiated as `plain` is."""

    @jax.custom_vjp
    def convolution(*arguments):
        return jax.lax.platform_dependent(*arguments, cpu=on_cpu, default=plain)

    convolution.defvjp(lambda *arguments: jax.vjp(plain, *arguments), lambda pullback, g: pullback(g))
    return convolution


# ---- plain forms -----------------------------------------------------------------------------------------------------


def _plain(x, kernel, bias, onto=None):
    y = convolve(_whole(x), kernel, ((1, 1), (1, 1))) + bias
    return y if onto is None else onto + y


def _plain1x1(x, kernel, bias):
    return convolve(x, kernel, ((0, 0), (0, 0))) + bias


def _plain_upsampled(x, kernel, bias):
    return _plain(upsample2(_whole(x)), kernel, bias)


def _whole(x):
    return x.whole() if isinstance(x, Activated) else x


# ---- forms for a CPU -------------------------------------------------------------------------------------------------


def _in_bands(function: Callable, x, bias, onto=None, *, halo: bool = True):
    """`function` of bands of rows with the rows above and below, n (r + 2) w c -> n (s r) (s w) o, joined; s = 1 or 2.

    Without a `halo`, of n r w c. x is an array or `Activated`; it is not copied, and zeros surround it. The bias is
    added, and the whole to `onto`, in place, where that is given.
    """
    x, activate = (x.x, x.by_pixel()) if isinstance(x, Activated) else (x, lambda part: part)
    height = x.shape[1]

    def rows(start, count):
        part = activate(jax.lax.dynamic_slice_in_dim(x, start, count, axis=1))
        return part if count > 1 else jnp.where((start >= 0) & (start < height), part, 0)

    def apply(start):
        band = rows(start, BAND)
        return function(jnp.concatenate([rows(start - 1, 1), band, rows(start + BAND, 1)], axis=1) if halo else band)

    n, out_rows, *rest = jax.eval_shape(apply, 0).shape

    def put(i, y):
        band = apply(i * BAND) + bias
        if onto is not None:
            band += jax.lax.dynamic_slice_in_dim(y, i * out_rows, out_rows, axis=1)
        return jax.lax.dynamic_update_slice_in_dim(y, band, i * out_rows, axis=1)

    # Filled with anything that only this layer has: of a constant XLA would make the maps of all layers early, of a
    # number that two layers share it would copy one map for the other.
    y = jnp.full((n, height // BAND * out_rows, *rest), x[0, 0, 0, 0] + bias[0]) if onto is None else onto
    return jax.lax.fori_loop(0, height // BAND, put, y)


def _by_bands(x, kernel, bias):
    """`conv1x1`."""
    return _in_bands(lambda band: convolve(band, kernel, ((0, 0), (0, 0))), x, bias, halo=False)


def _by_toom_cook(x, kernel, bias, onto=None):
    """`conv3x3` with Winograd's F(4, 3) along the rows: 6 products make 4 rows, which take 12 in the plain form."""

    def convolve_band(band):
        rows = [band[:, k : k + BAND - ROWS + 1 : ROWS] for k in range(len(INPUT))]  # six of n (h / 4) w i

        def product(coefficients):
            of_rows, of_taps = coefficients
            return convolve(_combined(of_rows, rows), _combined(of_taps, kernel)[None], ((0, 0), (1, 1)))

        products = jax.lax.map(product, (INPUT, KERNEL))  # a loop: unrolled, it would keep six kernels, and compile six
        _, n, h, w, o = products.shape
        return jnp.stack([_combined(c, products) for c in OUTPUT], axis=2).reshape(n, h * ROWS, w, o)

    return _in_bands(convolve_band, x, bias, onto)


def _by_neighbours(x, kernel, bias):
    """`upsampled_conv3x3` with outer taps applied to differences of pixels, which several outputs share.

    Along one axis, with every x_i twice and taps (u, v, w), the two outputs at pixel i are

        (u + v + w) x_i + u (x_(i-1) - x_i)    and    (u + v + w) x_i + w (x_(i+1) - x_i)

    that is 3 products instead of 6; along two axes 9 instead of 36.
    """

    def convolve_band(band):
        band = jnp.pad(band, ((0, 0), (0, 0), (1, 1), (0, 0)))
        taps = [_sum_and_ends(part, 0) for part in _sum_and_ends(kernel, 0)]
        parts = [_neighbours(part, 2) for part in _neighbours(band, 1)]
        z = [[part @ tap for part, tap in zip(*row)] for row in zip(parts, taps)]
        phases = [jnp.stack([z[0][0] + z[a][0] + z[0][b] + z[a][b] for b in (1, 2)], axis=3) for a in (1, 2)]
        n, h, w, o = z[0][0].shape
        return jnp.stack(phases, axis=2).reshape(n, 2 * h, 2 * w, o)  # n h a w b o

    return _in_bands(convolve_band, x, bias)


def _sum_and_ends(kernel, axis: int):
    """[the sum of the three taps along `axis`, the first, the last], without that axis."""
    u, v, w = (jax.lax.index_in_dim(kernel, k, axis, keepdims=False) for k in range(3))
    return [u + v + w, u, w]


def _neighbours(x, axis: int):
    """[x, the difference to the one before, the difference to the one after], without the ends of `axis`."""
    before, x, after = (jax.lax.slice_in_dim(x, k, x.shape[axis] - 2 + k, axis=axis) for k in range(3))
    return [x, before - x, after - x]


def _combined(coefficients, arrays):
    """sum_k coefficients[k] arrays[k], without those that are known to be zero."""
    return sum(c * a for c, a in zip(coefficients, arrays) if not (isinstance(c, np.generic) and c == 0))


def toom_cook(points: np.ndarray, outputs: int, taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(A, G, B), float64: y = A ((G k) * (B x)) are `outputs` values of the correlation of x with k of `taps` values.

    One product at each of the points and one at infinity. With V_j the matrix of the powers below j of the points:

        A = V_outputs^T;   G = V_taps / N;   row a of B: coefficients of prod_(b != a) (x - p_b), N_a its value at p_a
    """
    others = [np.delete(points, a) for a in range(len(points))]
    scale = np.array([np.prod(p - rest) for p, rest in zip(points, others)] + [1])

    def powers(count):
        return np.vstack([points[:, None] ** np.arange(count), np.eye(count)[-1]])

    polynomials = [[*np.poly(rest)[::-1], 0] for rest in others] + [np.poly(points)[::-1]]
    return powers(outputs).T, powers(taps) / scale[:, None], np.array(polynomials)


# Points at +-sqrt(1/2) and +-sqrt(2) have 2.3 times the rounding errors of the plain form; +-1 and +-2 have 3.3.
ROWS = 4
OUTPUT, KERNEL, INPUT = (
    m.round(15).astype(np.float32) for m in toom_cook(np.array([0, 0.5, -0.5, 1, -1]) * 2**0.5, ROWS, 3)
)

_conv1x1 = _chosen(_plain1x1, _by_bands)
_conv3x3 = _chosen(_plain, _by_toom_cook)
_upsampled_conv3x3 = _chosen(_plain_upsampled, _by_neighbours)
