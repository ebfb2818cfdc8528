"""What a program takes, worked out by hand: vectors of 256 float32 numbers are 1 KiB."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.live import peak

pytestmark = pytest.mark.quick

KIB = 1024
VECTOR = jax.ShapeDtypeStruct((256,), jnp.float32)
SQUARE = jax.ShapeDtypeStruct((256, 256), jnp.float32)  # 256 KiB


def kib(function, *shapes, donated=()) -> float:
    return peak(jax.make_jaxpr(function)(*shapes), donated) / KIB


def test_a_product_holds_its_argument_and_what_it_makes():
    assert kib(lambda a, x: a @ x, SQUARE, VECTOR) == 256 + 1 + 1


def test_what_is_read_no_more_goes():
    """Of a chain of products two vectors are there at once, beside the arguments."""
    assert kib(lambda a, x: a @ (a @ (a @ (a @ x))), SQUARE, VECTOR) == 256 + 1 + 2


def test_what_is_read_later_stays():
    def function(a, x):
        first = a @ x
        return a @ (a @ first) + first

    assert kib(function, SQUARE, VECTOR) == 256 + 1 + 3


def test_what_no_result_needs_is_not_computed():
    def function(a, x):
        a @ a @ a
        return a @ x

    assert kib(function, SQUARE, VECTOR) == 256 + 1 + 1


def test_elementwise_operations_write_where_they_read():
    assert kib(lambda x: jnp.sum(jnp.exp(x) * 2 + 1), SQUARE) == pytest.approx(256 + 256, abs=0.01)
    assert kib(lambda a, x: a @ (jnp.exp(a @ x) * 2 + 1), SQUARE, VECTOR) == 256 + 1 + 2


def test_a_call_is_what_it_runs():
    product = jax.jit(lambda a, x: jnp.exp(a @ x))
    assert kib(lambda a, x: a @ product(a, x), SQUARE, VECTOR) == 256 + 1 + 2  # the exponential is written over a x


def test_an_update_of_a_donated_state_takes_its_place():
    update = lambda state, gradient: jnp.where(jnp.sum(gradient) < 9, state - 0.1 * gradient, state)
    assert kib(update, SQUARE, SQUARE, donated=(0,)) == pytest.approx(512, abs=0.01)
    assert kib(update, SQUARE, SQUARE) == pytest.approx(768, abs=0.01)


def test_a_loop_holds_one_iteration():
    def function(a, xs):
        return jax.lax.map(lambda x: a @ (a @ x), xs)

    xs = jax.ShapeDtypeStruct((8, 256), jnp.float32)
    assert kib(function, SQUARE, xs) == 256 + 8 + 8 + 2  # what comes in and goes out; two vectors of the iteration


def test_of_a_loop_with_a_carry_one_is_counted():
    def function(a, x):
        return jax.lax.fori_loop(0, 9, lambda i, x: a @ x, x)

    assert kib(function, SQUARE, VECTOR) == pytest.approx(256 + 3, abs=0.1)  # x, the loop's, the iteration's next


def test_of_branches_the_largest_counts():
    def function(a, x):
        return jax.lax.cond(x[0] > 0, lambda: a @ (a @ (a @ x)), lambda: x)

    assert kib(function, SQUARE, VECTOR) == pytest.approx(256 + 1 + 2, abs=0.1)


def gradient_of_blocks(remat: bool):
    """Of ten blocks of two sines, which the backward pass needs the arguments or the cosines of."""
    layer = lambda a, x: a @ jnp.sin(a @ jnp.sin(a @ x))
    block = jax.checkpoint(layer) if remat else layer

    def loss(x, a):
        for _ in range(10):
            x = block(a, x)
        return jnp.sum(x)

    return jax.grad(loss)


def test_blocks_that_run_again_in_the_backward_pass_store_what_goes_in():
    batch = jax.ShapeDtypeStruct((256, 1024), jnp.float32)  # 1 MiB
    stored, again = (kib(gradient_of_blocks(remat), batch, SQUARE) / KIB for remat in (False, True))
    assert 20 <= stored <= 24  # two a block
    assert 10 <= again <= 15  # one a block, and what is inside of one


def test_a_custom_gradient_is_followed():
    @jax.custom_vjp
    def twice(a, x):
        return a @ (a @ x)

    twice.defvjp(lambda a, x: (twice(a, x), a), lambda a, g: (jnp.zeros_like(a), a.T @ (a.T @ g)))
    gradient = jax.grad(lambda x, a: jnp.sum(twice(a, x)))
    assert 256 + 1 + 2 <= kib(gradient, VECTOR, SQUARE) <= 256 + 1 + 3
