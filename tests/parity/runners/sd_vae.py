"""Stable Diffusion's autoencoder, whole and in tiles, and its noise schedule."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tadsr_jax.convert.names import to_flax
from tadsr_jax.convert.sd_names import modern_vae_names
from tadsr_jax.diffusion import ddpm
from tadsr_jax.networks import kl, kl_tiled
from tests.parity.runners.compiled import cached
from tests.parity.runners.layout import nchw, nhwc

TILES = ("encoder_tile_size", "decoder_tile_size", "encoder_pad", "decoder_pad")  # of a case; not of the network


def autoencoder_of(config: dict):
    """(module, {what: jitted function of variables and one array}) of a case's config."""
    return _autoencoder({key: value for key, value in config.items() if key not in TILES})


@cached
def _autoencoder(**config):
    module = kl.from_public(**config)
    whole = {
        "encode": "encode",
        "moments": "moments",
        "decode": "decode",
        "encoder": lambda module, x: module.encoder(x),
        "decoder": lambda module, z: module.decoder(z),
    }
    return module, {key: jax.jit(functools.partial(module.apply, method=method)) for key, method in whole.items()}


def sd_vae(case) -> dict:
    module, methods = autoencoder_of(case.config)
    variables = to_flax(module, modern_vae_names(case.weights()))
    image, z, noise = (nhwc(case.inputs[key]) for key in ("image", "z", "noise"))
    mean, logvar = methods["encode"](variables, image)
    made = {
        "moments": methods["moments"](variables, image),
        "mean": mean,
        "std": jnp.exp(logvar / 2),
        "sample_scaled": kl.sample(mean, logvar, noise) * case.config.get("scaling_factor", 0.18215),
        "decoded": methods["decode"](variables, z),
    }
    return {key: nchw(array) for key, array in made.items()}


def sd_vae_tiled(case) -> dict:
    config = case.config
    module, whole = autoencoder_of(config)
    variables = to_flax(module, modern_vae_names(case.weights()))
    image, z = nhwc(case.inputs["image"]), nhwc(case.inputs["z"])

    def tiled(function, x, name: str, pad: int):
        # The public code takes 32 groups whatever the network has.
        options = {"tile": config[f"{name}_tile_size"], "pad": config.get(f"{name}_pad", pad), "groups": 32}
        return jax.jit(functools.partial(function, module, **options))(variables, x)

    made = {
        "encoder_out": tiled(kl_tiled.encoder, image, "encoder", kl_tiled.ENCODER_PAD),
        "decoder_out": tiled(kl_tiled.decoder, z, "decoder", kl_tiled.DECODER_PAD),
        "encoder_untiled": whole["encoder"](variables, image),
        "decoder_untiled": whole["decoder"](variables, z),
    }
    return {key: nchw(array) for key, array in made.items()}


def sd_scheduler(case) -> dict:
    config = {key: value for key, value in case.config.items() if key != "step_timesteps"}
    num_inference_steps = config.pop("num_inference_steps")
    chain = ddpm.from_public(**config)
    x0, noise, output, variance_noise = (
        nhwc(case.inputs[key]) for key in ("x0", "noise", "model_output", "variance_noise")
    )
    t = np.asarray(case.inputs["timestep"])
    z_t = chain.add_noise(x0, t, noise)
    made = {
        "add_noise": z_t,
        "get_z0": chain.z0_from_eps(z_t, t, output),
        "get_velocity": chain.velocity(x0, t, noise),
    }
    for t_step in case.config["step_timesteps"]:
        made |= public_step(chain, x0, t_step, output, variance_noise, stride=chain.num_steps // num_inference_steps)
    return {
        "alphas_cumprod": chain.abar,
        "timesteps": chain.timesteps(num_inference_steps),
        "get_weights": chain.signal(t),
        **{key: nchw(array) for key, array in made.items()},
    }


def public_step(chain, z_t, t: int, output, eps, *, stride: int) -> dict:
    """One step from t to t - stride, as a chain of these two steps makes it; of one step where that is below 0."""
    pair = chain.kept([t - stride, t] if t >= stride else [t])
    last = pair.num_steps - 1
    z0 = pair.z0_from_eps(z_t, last, output)
    mean, log_variance = pair.posterior(z_t, last, z0)
    noise = jnp.exp(0.5 * log_variance) * eps if t > 0 else 0.0
    return {f"step.{t}.prev_sample": mean + noise, f"step.{t}.pred_original_sample": z0}


RUNNERS = {"sd_vae": sd_vae, "sd_vae_tiled": sd_vae_tiled, "sd_scheduler": sd_scheduler}
