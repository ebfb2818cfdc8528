"""ResShift's training: predict z0 from z_t at a random step    [arXiv 2307.12348; with LPIPS: arXiv 2403.07319].

L = mse + perceptual * LPIPS(clip(decode(z0_hat)), gt)
"""

import jax
import jax.numpy as jnp
import numpy as np

from tadsr_jax import losses
from tadsr_jax.networks.perceptual import lpips
from tadsr_jax.recipes import objectives
from tadsr_jax.types import Family, Recipe

WEIGHTINGS = ("uniform", "bound", "preconditioned")


def step_weight(schedule, weighting: str) -> np.ndarray:
    """Weight of mean((z0_hat - z0)^2) at each step, float64.

    "uniform" is ResShift's loss: the error of the network's output, in whatever it predicts. For a residual that is the
    error in z0; for noise, eps - eps_hat = (1 - eta) / (kappa sqrt(eta)) (z0_hat - z0).
    "bound" multiplies that by the weight in the variational bound (the public `weighted_mse`).
    "preconditioned" is the error in units of c_out, as EDM weights it: the same for every step when nothing is learnt.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"config.losses.weighting is {weighting!r}; expected one of {', '.join(WEIGHTINGS)}.")
    eta, noise = schedule.eta, schedule.kappa * schedule.sqrt_eta
    if weighting == "preconditioned":
        if schedule.sigma_data is None:
            raise ValueError(
                "config.losses.weighting='preconditioned' needs config.diffusion.predict='preconditioned'."
            )
        return ((1 - eta) / noise) ** 2 + 1 / schedule.sigma_data**2  # = 1 / c_out^2
    in_output = ((1 - eta) / noise) ** 2 if schedule.predict.startswith("epsilon") else np.ones_like(eta)
    return in_output * schedule.mse_weight if weighting == "bound" else in_output


def recipe(family: Family, *, weighting: str = "uniform", perceptual: float = 0.0) -> Recipe:
    """ResShift's own training.

    weighting    how the steps are weighted, see `step_weight`
    perceptual   weight of the LPIPS term (VGG; the weights are the user's files): 0 (v1, v2), 1 (v3, bicubic, x2) or
                 10 (faces, inpainting). A step with an LPIPS that is not finite is left out; the public code falls
                 back to the mse alone there.
    """
    schedule = family.schedule
    weight = step_weight(schedule, weighting)

    def draw(key, frozen, batch):
        key_t, key_eps = jax.random.split(key)
        condition = family.condition(frozen, batch.lq, batch.extra)
        z0 = family.encode(frozen, batch.gt)
        return {
            "condition": condition,
            "z0": z0,
            "t": jax.random.randint(key_t, z0.shape[:1], 0, schedule.num_steps),
            "eps": jax.random.normal(key_eps, z0.shape),
        }

    def generate(student, frozen, batch, draws):
        z_t = schedule.add_noise(draws["z0"], draws["condition"]["z_y"], draws["t"], draws["eps"])
        return {"z0": family.predict_z0(student, z_t, draws["t"], draws["condition"])}

    def student_loss(outputs, discriminator, stats, frozen, batch, draws):
        terms = {"mse": (schedule.at(weight, draws["t"], ndim=1), losses.mse(outputs["z0"], draws["z0"]))}
        if perceptual:
            image = jnp.clip(family.decode(frozen, outputs["z0"]), -1, 1)
            terms["lpips"] = perceptual, lpips(frozen["lpips"], image, batch.gt)
        return objectives.weighted(terms, stats)

    frozen = ("autoencoder", "lpips") if perceptual else ("autoencoder",)
    return Recipe(
        adds={},
        frozen=frozen,
        draw=draw,
        generate=generate,
        student_loss=student_loss,
        sample_steps=schedule.num_steps,
    )
