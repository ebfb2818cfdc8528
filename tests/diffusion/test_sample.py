from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tadsr_jax.diffusion import sample
from tadsr_jax.diffusion.shift import shift_schedule

pytestmark = pytest.mark.quick

SCHEDULE = shift_schedule(num_steps=4, kappa=0.5)
ETA, KAPPA = SCHEDULE.eta, 0.5
rng = np.random.default_rng(0)
Z0, Z_Y, EPS = (rng.normal(size=(2, 2, 2, 3)).astype(np.float32) for _ in range(3))
NEAR = {"rtol": 1e-5, "atol": 1e-5}  # float32, four steps of a few operations


def oracle(z_t, t):
    """A network that knows the answer."""
    return jnp.asarray(Z0)


def guess(z_t, t):
    """A network that depends on all it is given."""
    return 0.3 * z_t + 0.1 * t


def noised(t):
    """q(z_t | z0, z_y) with the noise EPS, in NumPy."""
    return Z0 + ETA[t] * (Z_Y - Z0) + KAPPA * np.sqrt(ETA[t]) * EPS


def test_one_call_of_the_network_decides_the_deterministic_path():
    z_0, path = jax.jit(partial(sample.deterministic, SCHEDULE, oracle))(noised(3), Z_Y)
    np.testing.assert_allclose(z_0, Z0, **NEAR)
    np.testing.assert_allclose(path["samples"][:3], [noised(2), noised(1), noised(0)], **NEAR)


def test_the_deterministic_loop_is_the_step_repeated_from_the_last_to_the_first():
    z = EPS
    for t in (3, 2, 1, 0):
        before = np.sqrt(ETA[t - 1]) if t else 0.0
        m, j = before / np.sqrt(ETA[t]), before**2 - before * np.sqrt(ETA[t])
        z = (1 - m - j) * (0.3 * z + 0.1 * t) + m * z + j * Z_Y
    got, path = sample.deterministic(SCHEDULE, guess, EPS, Z_Y)
    np.testing.assert_allclose(got, z, **NEAR)
    np.testing.assert_array_equal(path["samples"][-1], path["z0"][-1])  # the last step returns the prediction


def test_a_loop_started_at_the_last_step_is_the_whole_loop():
    whole, _ = sample.deterministic(SCHEDULE, guess, EPS, Z_Y)
    started = jax.jit(partial(sample.deterministic_from, SCHEDULE, guess))
    np.testing.assert_allclose(started(EPS, Z_Y, 3), whole, **NEAR)


def test_a_loop_started_at_the_first_step_is_one_prediction():
    np.testing.assert_allclose(sample.deterministic_from(SCHEDULE, guess, EPS, Z_Y, 0), 0.3 * EPS, **NEAR)


def test_the_stochastic_loop_draws_from_the_posterior_and_adds_nothing_at_the_end():
    noises = rng.normal(size=(4, *EPS.shape)).astype(np.float32)
    z = EPS
    for i, t in enumerate((3, 2, 1, 0)):
        before = ETA[t - 1] if t else 0.0
        z0 = 0.3 * z + 0.1 * t
        z = before / ETA[t] * z + (1 - before / ETA[t]) * z0
        z = z + KAPPA * np.sqrt(before / ETA[t] * (ETA[t] - before)) * noises[i]
    got, path = sample.stochastic(SCHEDULE, guess, EPS, lambda i: jnp.asarray(noises)[i])
    np.testing.assert_allclose(got, z, **NEAR)
    np.testing.assert_array_equal(path["samples"][-1], path["z0"][-1])


def test_inversion_takes_a_sample_back_to_where_it_came_from():
    z_T, path = sample.invert(SCHEDULE, oracle, noised(0), Z_Y)
    np.testing.assert_allclose(z_T, noised(3), **NEAR)
    np.testing.assert_allclose(path["samples"], [noised(1), noised(2), noised(3)], **NEAR)


def test_inversion_tells_the_network_the_step_that_it_goes_to():
    times = []

    def listening(z_t, t):
        jax.debug.callback(lambda t: times.append(int(t)), t, ordered=True)
        return z_t

    jax.block_until_ready(sample.invert(SCHEDULE, listening, EPS, Z_Y))
    jax.effects_barrier()
    assert times == [1, 2, 3]


def test_the_compiled_loop_holds_the_network_once():
    calls = []

    def counted(z_t, t):
        calls.append(t)
        return z_t

    jax.make_jaxpr(partial(sample.deterministic, SCHEDULE, counted))(EPS, Z_Y)
    assert len(calls) == 1
