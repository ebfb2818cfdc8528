"""The residual-shifting diffusion of ResShift: a Markov chain from a sharp latent to a degraded, noisy one.

    z0 --(add_noise)--> z_t --(network)--> z0_hat --(posterior or deterministic step)--> z_{t-1}

shift_schedule   sqrt(eta_t) as a geometric ramp        start                z_T from z_y, where to start
add_noise        q(z_t | z0, z_y)                       deterministic_step   z_{t-1} from z_t and z0_hat; its inverse
eps_from_z0      noise that explains z_t, given z0      posterior            mean and variance of q(z_{t-1} | z_t, z0)
scale_input      what the network gets                  z0_from_output       what its output means
Times are 0-based indices: t = 0 is the least noisy, t = num_steps - 1 the prior. Notation: docs/notation.md.
Source: ResShift, arXiv 2307.12348; the deterministic form: SinSR, arXiv 2311.14760.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

PREDICTS = ("xstart", "residual", "epsilon", "epsilon_scale", "preconditioned")
INPUT_SCALINGS = ("latent", "pixel", "preconditioned", "none")


# ---- formulas: free functions of arrays that broadcast ---------------------------------------------------------------


def add_noise(z0, z_y, eta_t, eps, *, kappa):
    """Shift `z0` towards `z_y` and add noise: a sample of q(z_t | z0, z_y).

        z_t = z0 + eta_t (z_y - z0) + kappa sqrt(eta_t) eps          [ResShift, Eq. 2]

    Shapes: z0, z_y, eps (b, h, w, c); eta_t (b, 1, 1, 1), in (0, 1].
    """
    return z0 + eta_t * (z_y - z0) + kappa * jnp.sqrt(eta_t) * eps


def eps_from_z0(z_t, z_y, eta_t, z0, *, kappa):
    """The noise that takes `z0` to `z_t`: eps = (z_t - (1 - eta_t) z0 - eta_t z_y) / (kappa sqrt(eta_t))."""
    return (z_t - (1 - eta_t) * z0 - eta_t * z_y) / (kappa * jnp.sqrt(eta_t))


def z0_from_eps(z_t, z_y, eta_t, eps, *, kappa):
    """The inverse of `eps_from_z0` in z0: z0 = (z_t - kappa sqrt(eta_t) eps - eta_t z_y) / (1 - eta_t)."""
    return (z_t - kappa * jnp.sqrt(eta_t) * eps - eta_t * z_y) / (1 - eta_t)


def deterministic_coefficients(sqrt_eta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """k, m, j of z_{t-1} = k z0 + m z_t + j z_y, one entry a step, float64    [SinSR, Eq. 7-9]

        m = sqrt(eta_{t-1} / eta_t)    j = eta_{t-1} - sqrt(eta_{t-1} eta_t)    k = 1 - m - j

    with eta_{-1} = 0. It is the step that keeps the noise: with eps = eps_from_z0(z_t, ...),
    z_{t-1} = (1 - eta_{t-1}) z0 + eta_{t-1} z_y + kappa sqrt(eta_{t-1}) eps.
    """
    previous = np.append(0.0, sqrt_eta[:-1])
    m = previous / sqrt_eta
    j = previous**2 - previous * sqrt_eta
    return 1 - m - j, m, j


def linear_estimate(eta_t, *, kappa, sigma_data):
    """c_skip and c_out of the best linear guess of z0 - z_y, whose standard deviation is `sigma_data`, from z_t - z_y.

        c_skip = (1 - eta) s^2 / v,   c_out = s kappa sqrt(eta) / sqrt(v),   v = (1 - eta)^2 s^2 + kappa^2 eta

    c_out is the standard deviation of what the guess leaves over, so a network that predicts the rest in units of c_out
    has a target of unit variance at every step. The same reasoning as EDM's (arXiv 2206.00364, appendix B.6), for a
    process that shifts.
    """
    signal, noise = (1 - eta_t) * sigma_data, kappa * eta_t**0.5
    variance = signal**2 + noise**2
    return signal * sigma_data / variance, sigma_data * noise / variance**0.5


# ---- the schedule: tables, and the formulas at a step ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class ShiftSchedule:
    """Tables of a shift schedule (float64, one entry a step) and the formulas at steps `t` ((b,) or () int32)."""

    sqrt_eta: np.ndarray
    kappa: float
    step_numbers: np.ndarray  # the step number that the network is told: of the chain before respacing
    predict: str = "xstart"  # what the network's output means, one of PREDICTS
    input_scaling: str = "latent"  # how its input is normalised, one of INPUT_SCALINGS
    sigma_data: float | None = None  # standard deviation of z0 - z_y, for "preconditioned"

    @property
    def num_steps(self) -> int:
        return len(self.sqrt_eta)

    @property
    def eta(self) -> np.ndarray:
        return self.sqrt_eta**2

    @property
    def eta_previous(self) -> np.ndarray:
        return np.append(0.0, self.eta[:-1])

    @property
    def alpha(self) -> np.ndarray:
        """eta_t - eta_{t-1}, what a step shifts."""
        return self.eta - self.eta_previous

    @property
    def posterior_variance(self) -> np.ndarray:
        return self.kappa**2 * self.eta_previous / self.eta * self.alpha

    @property
    def posterior_variance_clipped(self) -> np.ndarray:
        """The same with entry 1 in the place of entry 0, whose logarithm would be minus infinity."""
        variance = self.posterior_variance
        return np.append(variance[1], variance[1:]) if len(variance) > 1 else variance

    @property
    def input_factor(self) -> np.ndarray:
        """What the network's input is multiplied with; "latent": 1/std of z_t where z0 has a deviation of 1."""
        if self.input_scaling == "latent":
            return 1 / np.sqrt(self.kappa**2 * self.eta + 1)
        if self.input_scaling == "pixel":  # three standard deviations of the noise beside pictures in [-1, 1]
            return 1 / (3 * self.kappa * self.sqrt_eta + 1)
        if self.input_scaling == "preconditioned":
            return 1 / np.asarray(linear_estimate(self.eta, kappa=self.kappa, sigma_data=self.sigma_data)[1])
        return np.ones(self.num_steps)

    @property
    def mse_weight(self) -> np.ndarray:
        """Weight of the mean squared error in the variational bound (`weighted_mse` of the public code)."""
        half = 0.5 / self.posterior_variance_clipped
        if self.predict in ("epsilon", "epsilon_scale"):
            return half * (self.kappa * self.alpha / ((1 - self.eta) * self.sqrt_eta)) ** 2
        return half * (self.alpha / self.eta) ** 2

    def at(self, table: np.ndarray, t, ndim: int = 4):
        """Entries `t` of a table as float32, shaped (b, 1, 1, 1) to broadcast with `ndim`-dimensional arrays."""
        entries = jnp.asarray(table, jnp.float32)[t]
        return entries.reshape(entries.shape + (1,) * (ndim - 1)) if entries.ndim else entries

    def add_noise(self, z0, z_y, t, eps):
        return add_noise(z0, z_y, self.at(self.eta, t), eps, kappa=self.kappa)

    def eps_from_z0(self, z_t, z_y, t, z0):
        return eps_from_z0(z_t, z_y, self.at(self.eta, t), z0, kappa=self.kappa)

    def z0_from_eps(self, z_t, z_y, t, eps):
        return z0_from_eps(z_t, z_y, self.at(self.eta, t), eps, kappa=self.kappa)

    def start(self, z_y, eps, t=None):
        """z_T, where sampling starts: z_y + kappa sqrt(eta_T) eps, the mean being all of z_y; `t`: an earlier start."""
        t = self.num_steps - 1 if t is None else t
        return z_y + self.at(self.kappa * self.sqrt_eta, t) * eps

    def deterministic_step(self, z_t, z_y, t, z0):
        """z_{t-1}; at t = 0 that is z0 itself."""
        k, m, j = (self.at(table, t) for table in deterministic_coefficients(self.sqrt_eta))
        return k * z0 + m * z_t + j * z_y

    def inverse_step(self, z_previous, z_y, t, z0):
        """z_t from z_{t-1}, for t >= 1: the deterministic step solved for z_t."""
        k, m, j = (self.at(table, t) for table in deterministic_coefficients(self.sqrt_eta))
        return (z_previous - k * z0 - j * z_y) / m

    def posterior(self, z_t, t, z0):
        """Mean and log variance of q(z_{t-1} | z_t, z0)    [ResShift, Eq. 7]; at t = 0 the mean is z0."""
        mean = self.at(self.eta_previous / self.eta, t) * z_t + self.at(self.alpha / self.eta, t) * z0
        return mean, self.at(np.log(self.posterior_variance_clipped), t)

    def scale_input(self, z_t, z_y, t):
        """z_t as the network gets it: divided by its standard deviation, by and large.

        "preconditioned": z_t - z_y in units of c_out, the noise in it being about 1 at every step.
        """
        if self.input_scaling == "preconditioned":
            z_t = z_t - z_y
        return z_t * self.at(self.input_factor, t)

    def network_time(self, t):
        """The step number that the network is told."""
        return jnp.asarray(self.step_numbers, jnp.int32)[t]

    def z0_from_output(self, output, z_t, z_y, t):
        """The network's output read as z0, by `predict`."""
        if self.predict == "xstart":
            return output
        if self.predict == "residual":
            return z_y - output
        if self.predict == "epsilon":
            return self.z0_from_eps(z_t, z_y, t, output)
        if self.predict == "epsilon_scale":  # the output is kappa sqrt(eta_t) eps
            eta = self.at(self.eta, t)
            return (z_t - output - eta * z_y) / (1 - eta)
        skip, out = linear_estimate(self.at(self.eta, t), kappa=self.kappa, sigma_data=self.sigma_data)
        return z_y + skip * (z_t - z_y) + out * output

    def respaced(self, num_steps: int) -> "ShiftSchedule":
        """The chain of `num_steps` of these steps: numbers int(T/n i), i = 0..n-1, so the last one is not kept."""
        kept = sorted({int(self.num_steps / num_steps * i) for i in range(num_steps)})
        return dataclasses.replace(self, sqrt_eta=self.sqrt_eta[kept], step_numbers=self.step_numbers[kept])


def shift_schedule(
    *,
    num_steps: int = 15,
    kappa: float = 2.0,
    min_noise_level: float = 0.04,
    etas_end: float = 0.99,
    power: float = 0.3,
    cap_start: bool = True,
    predict: str = "xstart",
    input_scaling: str = "latent",
    sigma_data: float | None = None,
) -> ShiftSchedule:
    """The exponential schedule of ResShift; the defaults are those of its real-world x4 models, SinSR and TAD-SR.

        sqrt(eta_t) = s b^(e_t),   e_t = (T-1) (t/(T-1))^power,   b = (etas_end / s)^(1/(T-1)),
        s = min(min_noise_level / kappa, min_noise_level [, sqrt(0.001)])

    `etas_end` ends the ramp of sqrt(eta), so the last eta is etas_end^2 (0.9801, not 0.99). `cap_start` is the third
    term of s: SinSR, TAD-SR and ResShift's first code base have it, the journal version (v3, faces) does not.
    """
    for name, value, low, high in (
        ("num_steps", num_steps, 2, 1000),
        ("kappa", kappa, 0, math.inf),
        ("min_noise_level", min_noise_level, 0, math.inf),
        ("etas_end", etas_end, 0, 1),
        ("power", power, 0, math.inf),
    ):
        if not low <= value <= high or value == 0:
            raise ValueError(f"config.diffusion.{name} is {value}; expected a number above 0, from {low} to {high}.")
    if predict not in PREDICTS:
        raise ValueError(f"config.diffusion.predict is {predict!r}; expected one of {', '.join(PREDICTS)}.")
    if input_scaling not in INPUT_SCALINGS:
        raise ValueError(
            f"config.diffusion.input_scaling is {input_scaling!r}; expected one of {', '.join(INPUT_SCALINGS)}."
        )
    if ("preconditioned" in (predict, input_scaling)) != (sigma_data is not None):
        raise ValueError(
            f"config.diffusion.sigma_data is {sigma_data} with predict={predict!r}, input_scaling={input_scaling!r}; "
            "set it (the standard deviation of z0 - z_y) with 'preconditioned', and only there."
        )
    start = min(min_noise_level / kappa, min_noise_level, *([math.sqrt(0.001)] if cap_start else []))
    if start >= etas_end:
        raise ValueError(
            f"config.diffusion.min_noise_level is {min_noise_level}: the ramp would start at {start:.3g}, "
            f"above its end etas_end={etas_end}; use a smaller one."
        )
    ramp = np.linspace(0, 1, num_steps) ** power
    sqrt_eta = start * (etas_end / start) ** ramp
    return ShiftSchedule(sqrt_eta, kappa, np.arange(num_steps), predict, input_scaling, sigma_data)
