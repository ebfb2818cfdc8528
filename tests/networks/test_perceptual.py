import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.losses import lpips_distance
from tadsr_jax.networks import abstract_variables
from tadsr_jax.networks.perceptual import SMALLEST, Backbone, head_shapes, lpips, lpips_terms

pytestmark = pytest.mark.quick


def random_like(tree):
    """Small random numbers in the shapes of `tree`."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(0.05 * rng.standard_normal(leaf.shape, np.float32)), tree)


@pytest.fixture(scope="module")
def alex():
    heads = jax.tree.map(jnp.abs, random_like(head_shapes("alex")["params"]))
    return {"backbone": random_like(abstract_variables(Backbone("alex"))["params"]), "heads": heads}


def pictures(seed, size=31):
    return jax.random.uniform(jax.random.key(seed), (2, size, size, 3), minval=-1, maxval=1)


@pytest.mark.parametrize(
    ("net", "channels", "sides", "parameters"),
    [
        ("alex", [64, 192, 384, 256, 256], [15, 7, 3, 3, 3], 2_469_696),
        ("vgg", [64, 128, 256, 512, 512], [64, 32, 16, 8, 4], 14_714_688),
    ],
)
def test_taps_have_the_channels_and_strides_of_torchvision(net, channels, sides, parameters):
    module = Backbone(net)
    variables = abstract_variables(module)
    taps = jax.eval_shape(module.apply, variables, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    assert [tap.shape for tap in taps] == [(1, side, side, c) for side, c in zip(sides, channels)]
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == parameters
    assert [leaf.size for leaf in jax.tree.leaves(head_shapes(net))] == channels


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_the_smallest_picture_works_and_a_smaller_one_is_refused(net):
    module, size = Backbone(net), SMALLEST[net]
    variables = abstract_variables(module)
    jax.eval_shape(module.apply, variables, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
    with pytest.raises(ValueError, match=f"at least {size} pixels a side, got {size - 1}x40"):
        jax.eval_shape(module.apply, variables, jax.ShapeDtypeStruct((1, size - 1, 40, 3), jnp.float32))


def test_lpips_is_zero_for_equal_pictures_symmetric_and_the_sum_of_its_terms(alex):
    a, b = pictures(0), pictures(1)
    measure = jax.jit(lambda a, b: lpips_terms(alex, a, b, net="alex"))
    np.testing.assert_allclose(measure(a, a)[0], 0, atol=1e-12)  # a fused multiply-add leaves 1e-16
    distance, terms = measure(a, b)
    assert distance.shape == (2,) and terms.shape == (5, 2) and (terms > 0).all()
    np.testing.assert_allclose(distance, terms.sum(0), rtol=1e-6)
    np.testing.assert_allclose(measure(b, a)[0], distance, rtol=1e-5)


def test_the_distance_of_features_follows_its_formula():
    rng = np.random.default_rng(0)
    a, b, head = rng.normal(size=(1, 2, 2, 3)), rng.normal(size=(1, 2, 2, 3)), rng.uniform(size=3)
    unit = lambda x: x / (np.sqrt((x**2).sum(-1, keepdims=True)) + 1e-10)
    want = ((unit(a) - unit(b)) ** 2 @ head).mean()
    distance, terms = lpips_distance([jnp.float32(a)] * 2, [jnp.float32(b)] * 2, [jnp.float32(head), jnp.zeros(3)])
    np.testing.assert_allclose(terms[:, 0], [want, 0], rtol=1e-5)
    np.testing.assert_allclose(distance, [want], rtol=1e-5)


def test_gradients_are_finite_where_all_features_are_zero():
    zero, other, head = jnp.zeros((1, 2, 2, 3)), jnp.ones((1, 2, 2, 3)), jnp.ones(3)
    for target in (zero, other):
        value, gradient = jax.value_and_grad(lambda f: lpips_distance([f], [target], [head])[0].sum())(zero)  # noqa: B023
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_gradients_of_equal_pictures_are_finite(alex):
    black = jnp.full((1, 31, 31, 3), -1.0)
    gradient = jax.jit(jax.grad(lambda x: lpips(alex, x, black, net="alex").sum()))(black)
    assert np.isfinite(gradient).all()
