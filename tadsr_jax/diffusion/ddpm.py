"""The diffusion of Stable Diffusion (DDPM): a Markov chain from a sharp latent to noise alone.

    z0 --(add_noise)--> z_t --(network)--> eps_hat --(z0_from_eps)--> z0_hat --(posterior)--> z_{t-1}

ddpm_schedule   the chain of SD-2            from_public   the same from a public scheduler_config.json
DDPMSchedule    add_noise, z0_from_eps, eps_from_z0, velocity, signal, start, posterior; chains of some of the steps
FEW_STEPS       where the models of one to four steps are sampled        not_after   those that an early start leaves
Times are 0-based indices of a chain: t = 0 is the least noisy. Names as in `shift.py`, whose loops in `sample.py` serve
both. Sources: DDPM, arXiv 2006.11239; the velocity: arXiv 2202.00512; scheduling_ddpm.py of diffusers 0.21 and AddSR.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

FEW_STEPS = (999, 749, 499, 249)  # of AddSR, in the order of sampling; fewer steps are the first ones of these
SMALLEST_VARIANCE = 1e-20  # of a posterior; where it is none at all, its logarithm would be minus infinity

# What this chain cannot do otherwise, by its public key; a public file may say so, or leave the key out.
ONLY = {
    "prediction_type": "epsilon",
    "clip_sample": False,  # latents are not confined to [-1, 1]
    "thresholding": False,
    "trained_betas": None,
    "variance_type": "fixed_small",
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
}
# What it reads: public key -> ours.
SHARED = {"num_train_timesteps": "num_steps"} | {
    key: key for key in ("beta_start", "beta_end", "beta_schedule", "steps_offset")
}
BETA_SCHEDULES = ("scaled_linear", "linear")


@dataclasses.dataclass(frozen=True, eq=False)
class DDPMSchedule:
    """Tables of a chain (one entry a step) and the formulas at its steps `t` ((b,) or () int32).

    abar is the product of (1 - beta) up to a step, float64. Shapes: z0, z_t, eps (b, h, w, c).
    """

    abar: np.ndarray
    step_numbers: np.ndarray  # the step number that the network is told: of the whole chain
    steps_offset: int = 1  # of the public times of a shorter chain

    @property
    def num_steps(self) -> int:
        return len(self.abar)

    @property
    def abar_previous(self) -> np.ndarray:
        return np.append(1.0, self.abar[:-1])

    @property
    def posterior_variance(self) -> np.ndarray:
        """(1 - abar_{t-1}) / (1 - abar_t) beta_t, beta_t = 1 - abar_t / abar_{t-1}    [DDPM, Eq. 7]; at least 1e-20."""
        beta = 1 - self.abar / self.abar_previous
        return np.maximum((1 - self.abar_previous) / (1 - self.abar) * beta, SMALLEST_VARIANCE)

    def at(self, table: np.ndarray, t, ndim: int = 4):
        """Entries `t` of a table as float32, shaped (b, 1, 1, 1) to broadcast with `ndim`-dimensional arrays."""
        entries = jnp.asarray(table, jnp.float32)[t]
        return entries.reshape(entries.shape + (1,) * (ndim - 1)) if entries.ndim else entries

    def signal(self, t):
        """sqrt(abar_t), the share of z0 in z_t: also the weight of AddSR's distillation term (its get_weights)."""
        return self.at(np.sqrt(self.abar), t)

    def noise(self, t):
        """sqrt(1 - abar_t), the deviation of the noise in z_t; from float64, because 1 - abar_0 is 0.00085."""
        return self.at(np.sqrt(1 - self.abar), t)

    def add_noise(self, z0, t, eps):
        """A sample of q(z_t | z0): z_t = sqrt(abar_t) z0 + sqrt(1 - abar_t) eps    [DDPM, Eq. 4]."""
        return self.signal(t) * z0 + self.noise(t) * eps

    def z0_from_eps(self, z_t, t, eps):
        """z0 = (z_t - sqrt(1 - abar_t) eps) / sqrt(abar_t), the public get_z0 where eps is the network's output."""
        return (z_t - self.noise(t) * eps) / self.signal(t)

    def eps_from_z0(self, z_t, t, z0):
        """The noise that takes `z0` to `z_t`: eps = (z_t - sqrt(abar_t) z0) / sqrt(1 - abar_t)."""
        return (z_t - self.signal(t) * z0) / self.noise(t)

    def velocity(self, z0, t, eps):
        """v = sqrt(abar_t) eps - sqrt(1 - abar_t) z0    [arXiv 2202.00512, section 4]."""
        return self.signal(t) * eps - self.noise(t) * z0

    def start(self, z, eps, t=None):
        """z_T, where sampling starts from the latent z of the enlarged input, at the last step or an earlier `t`.

        The public code starts at 999 of 1000 steps also where its first step is another one (981 of a chain of 50).
        """
        return self.add_noise(z, self.num_steps - 1 if t is None else t, eps)

    def posterior(self, z_t, t, z0):
        """Mean and log variance of q(z_{t-1} | z_t, z0)    [DDPM, Eq. 7]; at t = 0 the mean is z0.

        mean = sqrt(abar_{t-1}) beta_t / (1 - abar_t) z0 + sqrt(1 - beta_t) (1 - abar_{t-1}) / (1 - abar_t) z_t
        """
        ratio = self.abar / self.abar_previous  # 1 - beta
        of_z0 = np.sqrt(self.abar_previous) * (1 - ratio) / (1 - self.abar)
        of_z_t = np.sqrt(ratio) * (1 - self.abar_previous) / (1 - self.abar)
        return self.at(of_z0, t) * z0 + self.at(of_z_t, t) * z_t, self.at(np.log(self.posterior_variance), t)

    def network_time(self, t):
        """The step number that the network is told."""
        return jnp.asarray(self.step_numbers, jnp.int32)[t]

    def timesteps(self, num_steps: int) -> np.ndarray:
        """Steps of a sampling with `num_steps`, in its order: k (T // num_steps) + offset, k = num_steps-1 .. 0.

        50 of 1000 are 981, 961, .., 1: the public "leading" spacing.
        """
        spacing = self.num_steps // num_steps if 1 <= num_steps <= self.num_steps else 0
        times = np.arange(num_steps - 1, -1, -1) * spacing + self.steps_offset
        if not spacing or times[0] >= self.num_steps:
            raise ValueError(
                f"num_steps is {num_steps}; expected 1 to {self.num_steps}, of which the last is "
                f"step {self.num_steps - 1} or an earlier one with steps_offset={self.steps_offset}."
            )
        return times

    def kept(self, times: Sequence[int]) -> "DDPMSchedule":
        """The chain of these steps alone, given in any order."""
        times = np.sort(np.asarray(times, np.int64))
        return dataclasses.replace(self, abar=self.abar[times], step_numbers=self.step_numbers[times])

    def respaced(self, num_steps: int) -> "DDPMSchedule":
        """The chain of `timesteps(num_steps)`."""
        return self.kept(self.timesteps(num_steps))


def few_steps(num_steps: int = len(FEW_STEPS)) -> tuple[int, ...]:
    """The steps of a sampling in 1 to 4 steps: 999, 749, 499, 249, stopped early.

    The public code of AddSR takes all four whatever it is asked for; fewer are its author's advice.
    """
    if not 1 <= num_steps <= len(FEW_STEPS):
        raise ValueError(f"num_steps is {num_steps}; expected 1 to {len(FEW_STEPS)}.")
    return FEW_STEPS[:num_steps]


def not_after(times: Sequence[int], start: int | None) -> tuple[int, ...]:
    """Those of `times` that are not noisier than step `start`, where a sampling starts; all of them for None."""
    kept = tuple(int(t) for t in times if start is None or t <= start)
    if not kept:
        raise ValueError(f"start is {start}; expected {min(times)} or more, the least noisy of the steps to take.")
    return kept


def ddpm_schedule(
    *,
    num_steps: int = 1000,
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    beta_schedule: str = "scaled_linear",
    steps_offset: int = 1,
) -> DDPMSchedule:
    """abar_t = prod_{s <= t} (1 - beta_s); the defaults are those of SD-2, and of all that is built on it.

    scaled_linear   sqrt(beta) runs from sqrt(beta_start) to sqrt(beta_end) on a line      linear   beta itself does
    """
    if not 0 < beta_start <= beta_end < 1:
        raise ValueError(f"beta_start is {beta_start}, beta_end {beta_end}; expected 0 < beta_start <= beta_end < 1.")
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; expected 1 or more, such as 1000.")
    if beta_schedule not in BETA_SCHEDULES:
        raise ValueError(f"beta_schedule is {beta_schedule!r}; expected one of {', '.join(BETA_SCHEDULES)}.")
    power = 2 if beta_schedule == "scaled_linear" else 1
    beta = np.linspace(beta_start ** (1 / power), beta_end ** (1 / power), num_steps) ** power
    return DDPMSchedule(np.cumprod(1 - beta), np.arange(num_steps), steps_offset)


def from_public(**config) -> DDPMSchedule:
    """The chain of a public scheduler_config.json: of DDPM, or what other schedulers' files share with it.

    Keys that only steer other samplers change nothing. A chain that is not this one is a ValueError.
    """
    for key, only in ONLY.items():
        if (value := config.get(key, only)) != only:
            raise ValueError(f"{key} is {value!r}; this schedule has {key}={only!r} only.")
    if missing := [key for key in ("beta_start", "beta_end", "beta_schedule") if key not in config]:
        raise ValueError(
            f"The scheduler's configuration lacks {', '.join(missing)}; SD-2's has 0.00085 to 0.012, 'scaled_linear'."
        )
    given = {"steps_offset": 0} | {ours: config[key] for key, ours in SHARED.items() if key in config}
    return ddpm_schedule(**given)
