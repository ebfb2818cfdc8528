"""The U-Net and the ControlNet of the Stable-Diffusion side."""

import jax
import jax.numpy as jnp

from tadsr_jax.convert.names import to_flax
from tadsr_jax.networks import abstract_variables, controlnet, unet_sd
from tests.parity.runners.compiled import cached
from tests.parity.runners.layout import nchw, nhwc

SKIPS = "down_block_additional_residuals."


@cached
def unet_of(**config):
    """(abstract variables, jitted apply)."""
    module = unet_sd.from_public(**config)
    return abstract_variables(module), jax.jit(module.apply)


@cached
def controlnet_of(**config):
    """(abstract variables, jitted apply, jitted stem)."""
    module = controlnet.from_public(**config)
    apply = jax.jit(module.apply, static_argnames=("scale", "guess_mode"))
    return abstract_variables(module), apply, jax.jit(lambda v, picture: module.apply(v, picture, method="stem"))


def latent_and_states(inputs: dict) -> list:
    """[x, t, text, image states or None]."""
    x, t, text = nhwc(inputs["sample"]), jnp.asarray(inputs["timestep"]), inputs["encoder_hidden_states"]
    return [x, t, text, inputs.get("image_encoder_hidden_states")]


def residuals_of(inputs: dict):
    """(one map for each skip, one for the middle), None where the case has none."""
    names = sorted((name for name in inputs if name.startswith(SKIPS)), key=lambda name: int(name[len(SKIPS) :]))
    if not names:
        return None
    return [nhwc(inputs[name]) for name in names], nhwc(inputs["mid_block_additional_residual"])


def sd_unet_seesr(case):
    variables, apply = unet_of(case.config)
    eps = apply(to_flax(variables, case.weights()), *latent_and_states(case.inputs), residuals_of(case.inputs))
    return {"sample": nchw(eps)}


def sd_controlnet_seesr(case):
    config = dict(case.config)
    call = config.pop("call", {})
    abstract, apply, stem = controlnet_of(config)
    variables, picture = to_flax(abstract, case.weights()), nhwc(case.inputs["controlnet_cond"])
    residuals, middle = apply(
        variables,
        *latent_and_states(case.inputs),
        picture,
        scale=call.get("conditioning_scale", 1.0),
        guess_mode=call.get("guess_mode", False),
    )
    outputs = {f"down_block_res_samples.{index}": nchw(residual) for index, residual in enumerate(residuals)}
    return outputs | {"mid_block_res_sample": nchw(middle), "cond_embedding": nchw(stem(variables, picture))}


RUNNERS = {"sd_unet_seesr": sd_unet_seesr, "sd_controlnet_seesr": sd_controlnet_seesr}
