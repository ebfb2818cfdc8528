"""Sampling loops, for any schedule with the method names of `diffusion.shift.ShiftSchedule`.

`predict_z0(z_t, t) -> z0` is the network with everything but the state bound; t is a scalar int32. Each loop is one
`lax.scan` over steps, so that the compiled program holds the network once. Loops return the last state and the
trajectory {"samples", "z0"} (one entry a step, in the order of the steps); a caller that leaves the trajectory alone
pays nothing for it, because XLA drops it.
"""

import jax
import jax.numpy as jnp


def _downwards(first) -> jax.Array:
    return jnp.arange(first, -1, -1, dtype=jnp.int32)


def deterministic(schedule, predict_z0, z_T, z_y):
    """From z_T to z_0 by `deterministic_step`, T network calls    [SinSR, Eq. 7; its ddim_sample]."""

    def step(z_t, t):
        z0 = predict_z0(z_t, t)
        z_t = schedule.deterministic_step(z_t, z_y, t, z0)
        return z_t, {"samples": z_t, "z0": z0}

    return jax.lax.scan(step, z_T, _downwards(schedule.num_steps - 1))


def deterministic_from(schedule, predict_z0, z_t, z_y, first):
    """As `deterministic`, but started at step `first`, a traced scalar: the loop runs first + 1 times."""

    def body(i, z_t):
        t = first - i
        return schedule.deterministic_step(z_t, z_y, t, predict_z0(z_t, t))

    return jax.lax.fori_loop(0, first + 1, body, z_t)


def stochastic(schedule, predict_z0, z_T, step_noise):
    """From z_T to z_0 by draws from the posterior    [ResShift, Algorithm 2].

    `step_noise(i)` is the standard normal noise of iteration i, counted from 0 at t = T-1; at t = 0 none is added.
    """

    def step(z_t, t):
        z0 = predict_z0(z_t, t)
        mean, log_variance = schedule.posterior(z_t, t, z0)
        noise = jnp.where(t == 0, 0.0, jnp.exp(0.5 * log_variance)) * step_noise(schedule.num_steps - 1 - t)
        return mean + noise, {"samples": mean + noise, "z0": z0}

    return jax.lax.scan(step, z_T, _downwards(schedule.num_steps - 1))


def invert(schedule, predict_z0, z_0, z_y):
    """From z_0 to z_T by `inverse_step`, t = 1 .. T-1    [SinSR's ddim_inverse_loop].

    The state that enters iteration t counts as z_{t-1}, and the network is told t. Step 0 cannot be inverted.
    """

    def step(z_previous, t):
        z0 = predict_z0(z_previous, t)
        z_t = schedule.inverse_step(z_previous, z_y, t, z0)
        return z_t, {"samples": z_t, "z0": z0}

    return jax.lax.scan(step, z_0, jnp.arange(1, schedule.num_steps, dtype=jnp.int32))
