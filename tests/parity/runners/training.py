"""ResShift's own training loss, on pictures through the autoencoder, and its gradient."""

import jax
import jax.numpy as jnp

from tadsr_jax.convert import names
from tadsr_jax.recipes import RECIPES
from tadsr_jax.types import Batch
from tests.parity.runners.diffusion import family_of
from tests.parity.runners.layout import nchw, nhwc


def training_losses(case) -> dict:
    assert case.config["lpips_coef"] is None, case.config["lpips_coef"]
    family, inputs = family_of(case), case.inputs
    weighting = "bound" if case.config["diffusion"]["weighted_mse"] else "uniform"
    recipe = RECIPES["teacher"](family, weighting=weighting)
    student = names.to_flax(family.networks["denoiser"], case.weights("unet"))["params"]
    frozen = {"autoencoder": names.to_flax(family.networks["autoencoder"], case.weights("autoencoder"))["params"]}
    batch = Batch(lq=nhwc(inputs["lq"]), gt=nhwc(inputs["gt"]))
    given = {"t": jnp.asarray(inputs["timesteps"], jnp.int32), "eps": nhwc(inputs["noise"])}

    @jax.jit
    def evaluate(student, frozen, batch, given):
        draws = recipe.draw(jax.random.key(0), frozen, batch) | given
        z_t = family.schedule.add_noise(draws["z0"], draws["condition"]["z_y"], draws["t"], draws["eps"])

        def loss(student):
            outputs = recipe.generate(student, frozen, batch, draws)
            value, (logs, _) = recipe.student_loss(outputs, None, None, frozen, batch, draws)
            return value, (logs["loss"], outputs["z0"])

        grads, (values, z0) = jax.grad(loss, has_aux=True)(student)
        return draws, z_t, values, z0, grads

    draws, z_t, values, z0, grads = evaluate(student, frozen, batch, given)
    made = {"z_y": nchw(draws["condition"]["z_y"]), "z_start": nchw(draws["z0"]), "z_t": nchw(z_t)}
    made |= {"pred_zstart": nchw(z0), "mse": values}
    return made | {f"grad:{name}": value for name, value in names.to_torch({"params": grads}).items()}


RUNNERS = {"resshift_training_losses": training_losses}
