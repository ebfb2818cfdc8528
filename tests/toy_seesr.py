"""SeeSR's family as one line, to work out by hand:

    gain z_t + drift t / 1000 + look picture + states        picture (b, h, w, c) in [0, 1], states (b, 1, c)

denoiser   its parameters, named so that gain and look learn      line      what it makes of them
by_hand    the line in NumPy                                      noised    q(z, eps, t) in NumPy
"""

import jax.numpy as jnp
import numpy as np

from tadsr_jax.diffusion.ddpm import ddpm_schedule

SCHEDULE = ddpm_schedule()


def denoiser(gain: float, drift: float, look: float) -> dict:
    """Parameters where the public ones are: image attentions and the stem learn, everything else is fixed."""
    return {
        "unet": {"mid_block.image_attentions.0": {"gain": jnp.float32(gain)}, "conv_in": {"drift": jnp.float32(drift)}},
        "controlnet": {"controlnet_cond_embedding.conv_in": {"look": jnp.float32(look)}},
    }


def line(params, z_t, t, condition):
    gain, drift = params["unet"]["mid_block.image_attentions.0"]["gain"], params["unet"]["conv_in"]["drift"]
    look = params["controlnet"]["controlnet_cond_embedding.conv_in"]["look"]
    t = jnp.broadcast_to(t, z_t.shape[:1])[:, None, None, None]
    return gain * z_t + drift * t / 1000 + look * condition["picture"] + condition["image_states"][:, :, None]


def by_hand(parameters, z_t, t, picture, states):
    """parameters: (gain, drift, look); t (b,)."""
    gain, drift, look = parameters
    return gain * z_t + drift * per_sample(t) / 1000 + look * picture + np.asarray(states)[:, :, None]


def noised(z, t, eps):
    abar = per_sample(SCHEDULE.abar[np.asarray(t)])
    return np.sqrt(abar) * np.asarray(z) + np.sqrt(1 - abar) * np.asarray(eps)


def per_sample(values):
    return np.asarray(values, np.float64).reshape(-1, 1, 1, 1)
