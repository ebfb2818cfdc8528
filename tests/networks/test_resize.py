import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from tadsr_jax import images
from tadsr_jax.networks import resize as module

pytestmark = pytest.mark.quick
resize = jax.jit(module.resize, static_argnames=("size", "mode"))


def draw(*shape):
    return np.random.default_rng(0).random(shape, np.float32)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(11, 5), (64, 40), (13, 29), (1, 1)])
def test_a_picture_is_resized_as_on_the_host(mode, size):
    x = draw(2, 13, 29, 3)
    want = [images.torch_resize(picture, mode, size=size) for picture in x]
    np.testing.assert_allclose(resize(x, size, mode=mode), want, atol=2e-5)  # as near as OpenCV is to PyTorch


def test_bilinear_pixels_between_two_are_their_mixture_and_beyond_the_ends_repeat():
    line = np.array([0, 1], np.float32).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(resize(line, (1, 4), mode="bilinear").ravel(), [0, 0.25, 0.75, 1])


def test_bicubic_weights_are_those_of_a_cubic_with_a_of_minus_three_quarters():
    impulse = np.array([0, 0, 1, 0, 0, 0], np.float32).reshape(1, 6, 1, 1)
    # Twelve pixels from six read a quarter of a pixel off. Keys at 1/4 and 3/4: 225/256 and 67/256; at 5/4 and 7/4:
    # a (d^3 - 5 d^2 + 8 d - 4) = -27/256 and -9/256.
    want = np.array([0, -9, -27, 67, 225, 225, 67, -27, -9, 0, 0, 0]) / 256
    got = resize(impulse, (12, 1), mode="bicubic").ravel()
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_shrinking_does_not_average():
    line = np.arange(12, dtype=np.float32).reshape(1, 12, 1, 1)
    np.testing.assert_allclose(resize(line, (4, 1), mode="bilinear").ravel(), [1, 4, 7, 10])  # pixels, not their means


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_its_own_size_gives_the_picture_itself(mode):
    x = draw(1, 7, 9, 2)
    np.testing.assert_array_equal(resize(x, (7, 9), mode=mode), x)


def test_gradients_share_out_what_every_new_pixel_asks_for():
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(resize(x, (6, 10), mode="bicubic"))))(draw(1, 13, 4, 1))
    np.testing.assert_allclose(np.sum(gradient), 60, rtol=1e-5)


def test_one_program_resizes_pictures_of_any_size():
    shape = jax.ShapeDtypeStruct(export.symbolic_shape("b, h, w, 3"), jnp.float32)
    function = functools.partial(resize, size=(8, 6), mode="bicubic")
    call = jax.jit(export.export(jax.jit(function))(shape).call)
    for x in (draw(2, 5, 9, 3), draw(1, 17, 6, 3)):
        np.testing.assert_allclose(call(x), function(x), atol=1e-6)


def test_another_mode_is_refused():
    with pytest.raises(ValueError, match="resize mode is 'area'; expected bilinear or bicubic"):
        resize(draw(1, 4, 4, 3), (2, 2), mode="area")
