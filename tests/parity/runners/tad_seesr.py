"""TAD-SeeSR's losses and their gradients, against the public trainer.

Recorded noises and steps take the places of those that the recipe draws. The tagger's states are recorded as well.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tadsr_jax.convert import names
from tadsr_jax.networks import abstract_variables, parts, unet_sd
from tadsr_jax.networks.discriminators import TimeAwareDiscriminator
from tadsr_jax.recipes import tad_seesr
from tadsr_jax.types import Batch
from tests.parity.runners.compiled import QUICKLY, cached
from tests.parity.runners.layout import nchw, nhwc
from tests.parity.runners.sd_discriminators import unit_vectors
from tests.parity.runners.seesr import denoiser_params, family_of, frozen_params, gradients

# A term of the student's -> (its loss and its weight in the cases, the public weight)
TERMS = {
    "gan": ("gan_loss", "GAN_weight", 0.2),
    "hsd": ("hsd_loss", "hsd_weight", 1.0),
    "mse": ("mse_loss", "mse_weight", 0.2),
}
PLAYERS = {"student": "_stu", "teacher": "_tea"}


class Setting(NamedTuple):
    """What is made once for a configuration."""

    networks: dict[str, nn.Module]  # by the case's names, less the player
    discriminator: dict  # abstract variables
    evaluate: Callable  # `evaluate`, jitted


@cached
def setting_of(**config) -> Setting:
    family, networks = family_of(config)
    maps = [jax.ShapeDtypeStruct((1, 2, 2, c), jnp.float32) for c in networks["unet"].block_out_channels]
    discriminator = TimeAwareDiscriminator(**config["disc"])
    variables = abstract_variables(discriminator, maps, jax.ShapeDtypeStruct((1,), jnp.int32))
    compiled = jax.jit(partial(evaluate, family, config), compiler_options=QUICKLY)
    return Setting(networks, variables, compiled)


def weight_of(term: str, config: dict) -> float:
    _, key, public = TERMS[term]
    return config.get(key, public)


def recipe_of(family, config: dict):
    return tad_seesr.recipe(
        family,
        regression=weight_of("mse", config),
        score=weight_of("hsd", config),
        adversarial=weight_of("gan", config),
        target=config["target"].lower(),
        teacher_condition="lq" if config["ram_input_different"] else "gt",
        discriminator=config["disc"],
    )


def evaluate(family, config: dict, student, frozen, discriminator, stats, batch: Batch, noise: dict, given: dict):
    """Both losses once, and the gradients of the student's terms with respect to z0 and to its parameters.

    noise: what the autoencoder's draws are made with; given: the other recorded draws.
    """
    recipe = recipe_of(family, config)
    draws = recipe.draw(jax.random.key(0), frozen, batch) | given
    draws["z_gt"] = family.encode(frozen, batch.gt, noise["z_gt"])
    draws["z_tch"] = family.encode(frozen, batch.extra["tch"], noise["z_tch"])

    def generate(student, shift):
        """The recipe's outputs, z0 shifted: the gradient of the shift is that of z0."""
        shifted = lambda *arguments: family.predict_z0(*arguments) + shift
        moved = recipe_of(dataclasses.replace(family, predict_z0=shifted), config)
        return moved.generate(student, frozen, batch, draws)

    def terms(outputs):
        """The weighted terms, and the loss."""
        loss, (logs, _) = recipe.student_loss(outputs, discriminator, stats, frozen, batch, draws)
        return jnp.stack([*(weight_of(term, config) * jnp.mean(logs[term]) for term in TERMS), loss])

    outputs, to_student = jax.vjp(generate, student, jnp.zeros_like(draws["z_gt"]))
    judged = lambda p: recipe.discriminator_loss(p, stats, outputs, frozen, batch, draws)
    grad_d, (logs, stats) = jax.grad(judged, has_aux=True)(discriminator)
    values, to_outputs = jax.vjp(terms, outputs)
    (back,) = jax.vmap(to_outputs)(jnp.eye(len(values)))
    of_student, of_z0 = jax.lax.map(lambda cotangents: to_student(cotangents), back)

    latents = jnp.stack([outputs["z0"], draws["z_tch" if config["target"] == "tch" else "z_gt"]])
    score = (draws[name] for name in ("score_t", "score_eps", "teacher_condition"))
    return {
        "values": values,
        "logs": logs,
        "grad_d": grad_d,
        "grad_student": jax.tree.map(lambda rows: rows[-1], of_student),
        "dz0": of_z0,
        "outputs": outputs,
        "draws": draws,
        "z_T": family.schedule.start(draws["z_gt"], draws["eps"]),
        "eps": tad_seesr.teacher_eps(family, frozen["teacher"], latents, *score),
    }


def tadseesr_losses(case) -> dict:
    setting = setting_of({key: value for key, value in case.config.items() if key != "trainable"})
    variables = dict(names.to_flax(setting.discriminator, unit_vectors(case.weights("discriminator"))))
    params, stats = variables.pop("params"), variables
    frozen = {player: denoiser_params(case, setting.networks, public) for player, public in PLAYERS.items()}
    frozen |= frozen_params(case, setting.networks)
    student = parts.picked(frozen["student"], unet_sd.is_trained)
    made = setting.evaluate(student, frozen, params, stats, *recorded(case.inputs))
    return as_recorded(made, stats)


def recorded(inputs: dict) -> tuple[Batch, dict, dict]:
    """(batch, noise of the autoencoder's draws, the other draws) of a case."""
    states = {"text": "encoder_hidden_states", "image_states": "ram_states_lr", "gt_image_states": "ram_states_hr"}
    extra = {ours: jnp.asarray(inputs[theirs]) for ours, theirs in states.items()}
    batch = Batch(
        lq=2 * nhwc(inputs["conditioning_pixel_values"]) - 1,  # a condition in [0, 1]
        gt=nhwc(inputs["pixel_values"]),
        extra=extra | {"tch": nhwc(inputs["tch_out"])},
    )
    noise = {"z_gt": nhwc(inputs["vae_noise_hr"]), "z_tch": nhwc(inputs["vae_noise_tch"])}
    given = {"eps": nhwc(inputs["noise"])}
    for ours, theirs in {"disc": "dis", "score": "hsd"}.items():
        given[f"{ours}_eps"] = nhwc(inputs[f"noise_{theirs}"])
        given[f"{ours}_t"] = jnp.asarray(inputs[f"timesteps_{theirs}"], jnp.int32)
    return batch, noise, given


def as_recorded(made: dict, stats: dict) -> dict:
    """What `evaluate` returns under the cases' names."""
    real, fake = made["logs"]["logit_real"], made["logs"]["logit_fake"]
    latents = {"latents": made["draws"]["z_gt"], "tch_latents": made["draws"]["z_tch"], "noisy_latents": made["z_T"]}
    latents |= {"z0_stu": made["outputs"]["z0"]}
    latents |= dict(zip(("eps_student_noised", "eps_target_noised"), made["eps"]))
    latents |= {f"fake_features.{k}": maps for k, maps in enumerate(made["outputs"]["features"])}
    latents |= {f"dz0.{term}": gradient for term, gradient in zip(TERMS, made["dz0"])}
    outputs = {key: nchw(array) for key, array in latents.items()}
    outputs |= dict(zip([name for name, _, _ in TERMS.values()] + ["loss"], made["values"]))
    outputs |= {"logits_real": real, "logits_fake": fake, "loss_D": jnp.mean(made["logs"]["loss_d"])}
    outputs |= {"loss_real": jnp.mean(jax.nn.relu(1 - real)), "loss_fake": jnp.mean(jax.nn.relu(1 + fake))}
    of_student = made["grad_student"]
    outputs |= gradients("grad_D", "grad_D_norm", {"params": made["grad_d"], **stats})
    outputs |= gradients("grad_G", "grad_G_norm_unet", {"params": of_student["unet"]})
    return outputs | gradients("grad_G_controlnet", "grad_G_norm_controlnet", {"params": of_student["controlnet"]})


RUNNERS = {"tadseesr_losses": tadseesr_losses}
