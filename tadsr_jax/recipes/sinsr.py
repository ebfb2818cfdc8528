"""SinSR: one step learns the teacher's deterministic sampling, its own inverse, and the ground truth.

    z_T = start(z_y, eps)          z_tea = deterministic(teacher, z_T)          G = student
    L = |G(z_T, T-1) - z_tea|^2 + inverse |G(z_tea, 0) - z_T|^2 + gt |G(sg[G(z_gt, 0)], T-1) - z_gt|^2
[arXiv 2311.14760, Eq. 10, 13, 15.] All inputs are divided by the standard deviation of step T-1, also where the network
is told step 0: the public code does so, and its weights were trained with it.
"""

import jax
import jax.numpy as jnp
from jax import lax

from tadsr_jax import losses
from tadsr_jax.recipes import objectives, targets
from tadsr_jax.types import Family, Recipe


def recipe(
    family: Family,
    *,
    inverse: float = 1.0,
    gt: float = 1.0,
    covariance: float = 0.0,
    uncertainty: float = 0.0,
    uncertainty_passes: int = 2,
    teacher_sampling: str = "deterministic",
) -> Recipe:
    """SinSR's distillation. Weights of 0 take a term out of the program.

    inverse              weight of the inverse term (the public `learn_xT`)
    gt                   weight of the ground-truth term (`finetune_use_gt`)
    covariance           weight of the whiteness of the inverted noise (`xT_cov_loss`)
    uncertainty          factor u of the map that trades the teacher's output for the ground truth where the student
                         is unsure (`uncertainty_hyper`): target = m z_tea + (1 - m) z_gt, m = clip(u range, 0, 1),
                         the range over `uncertainty_passes` outputs from fresh noises, its largest over channels
    teacher_sampling     "deterministic" or "stochastic" (`distill_ddpm`)
    """
    schedule = family.schedule
    last = schedule.num_steps - 1
    targets.check_sampling(teacher_sampling)
    if (inverse or gt or covariance) and (schedule.predict != "xstart" or schedule.input_scaling == "preconditioned"):
        raise ValueError(
            "config.losses: inverse, gt and covariance predict pure noise at step 0, which needs "
            f"config.diffusion.predict='xstart' (it is {schedule.predict!r}) and an input_scaling without z_y; "
            "set them to 0."
        )

    def told(student, z, t, condition):
        """The student at a latent scaled as of step T-1, told step t. `predict_z0` scales by t, so undo that first."""
        rescaled = z * (schedule.input_factor[last] / schedule.input_factor[t])
        return family.predict_z0(student, rescaled, t, condition)

    def draw(key, frozen, batch):
        key_target, key_passes = jax.random.split(key)
        draws = targets.draw(family, key_target, frozen, batch, sampling=teacher_sampling)
        if uncertainty:
            shape = (uncertainty_passes, *draws["z_gt"].shape)
            draws["pass_eps"] = jax.random.normal(key_passes, shape)
        return draws

    def uncertainty_map(student, draws):
        """m = clip(u max_c(max - min over passes), 0, 1) of the student's outputs from q(z_tea, fresh noise)."""
        condition, t = draws["condition"], jnp.full(draws["z_gt"].shape[:1], last)
        one_pass = lambda eps: told(
            lax.stop_gradient(student), schedule.add_noise(draws["z_tea"], condition["z_y"], t, eps), last, condition
        )
        outputs = lax.map(one_pass, draws["pass_eps"])
        spread = jnp.max(jnp.max(outputs, 0) - jnp.min(outputs, 0), axis=-1, keepdims=True)
        return jnp.clip(uncertainty * spread, 0, 1)

    def generate(student, frozen, batch, draws):
        condition = draws["condition"]
        outputs = {"z0": told(student, draws["z_T"], last, condition)}
        if inverse:
            outputs["z_T"] = told(student, draws["z_tea"], 0, condition)
        if gt or covariance:
            # The noise of the ground truth gets a gradient from the covariance penalty alone.
            z_T_gt = told(student if covariance else lax.stop_gradient(student), draws["z_gt"], 0, condition)
            if covariance:
                outputs["z_T_gt"] = z_T_gt
            if gt:
                outputs["z0_gt"] = told(student, lax.stop_gradient(z_T_gt), last, condition)
        if uncertainty:
            outputs["unsure"] = uncertainty_map(student, draws)
        return outputs

    def student_loss(outputs, discriminator, stats, frozen, batch, draws):
        target = draws["z_tea"]
        if uncertainty:
            target = target * outputs["unsure"] + draws["z_gt"] * (1 - outputs["unsure"])
        terms = {"mse": (1.0, losses.mse(outputs["z0"], target))}
        if inverse:
            terms["mse_inverse"] = inverse, losses.mse(outputs["z_T"], draws["z_T"])
        if covariance:
            residual = outputs["z_T_gt"] - draws["condition"]["z_y"]
            std = schedule.kappa * schedule.sqrt_eta[last]
            terms["covariance"] = covariance, losses.covariance_penalty(residual, std)
        if gt:
            terms["mse_gt"] = gt, losses.mse(outputs["z0_gt"], draws["z_gt"])
        return objectives.weighted(terms, stats)

    return Recipe(adds={}, frozen=("teacher", "autoencoder"), draw=draw, generate=generate, student_loss=student_loss)
