"""Models for the tests of recipes and training: one to work out by hand, one to compile in seconds.

toy_family        latents are pictures, the network a line:  z0 = gain * scale_input(z_t) + drift * t
tiny_family       the embedded default's networks, as small as they get
repeating_bundle  an upscaler's model: pixels become blocks, noise is added
"""

import jax
import jax.numpy as jnp
import numpy as np

from tadsr_jax.diffusion.shift import shift_schedule
from tadsr_jax.families import resshift
from tadsr_jax.types import Batch, Bundle, Family

CHANNELS = 32  # what the discriminator's group norms need
SHAPE = (2, 2, 2, CHANNELS)
STUDENT = {"gain": jnp.float32(0.9), "drift": jnp.float32(0.05)}
TEACHER = {"gain": jnp.float32(0.6), "drift": jnp.float32(0.1)}


def toy_family(calls: list | None = None, **diffusion) -> Family:
    """`calls` gets an entry whenever the network is traced: "z0" or "features"."""
    schedule = shift_schedule(**({"num_steps": 4, "kappa": 0.5} | diffusion))
    calls = [] if calls is None else calls

    def predict_z0(params, z_t, t, condition, chain=schedule):
        calls.append("z0")
        t = jnp.broadcast_to(t, z_t.shape[:1])
        return params["gain"] * chain.scale_input(z_t, condition["z_y"], t) + params["drift"] * t[:, None, None, None]

    def features(params, z_t, t, condition):
        calls.append("features")
        return [params["gain"] * schedule.scale_input(z_t, condition["z_y"], jnp.broadcast_to(t, z_t.shape[:1]))]

    return Family(
        networks={},
        schedule=schedule,
        scale=1,
        multiple=1,
        latent=lambda h, w: (h, w, CHANNELS),
        extras=(),
        encode=lambda frozen, image: image,
        decode=lambda frozen, z: z,
        condition=lambda frozen, lq, extra: {"lq": lq, "z_y": lq, "mask": extra.get("mask")},
        predict_z0=predict_z0,
        features=features,
        init=None,
        sample=None,
        longest=schedule.num_steps,
    )


def toy_batch(seed: int = 0, **extra) -> Batch:
    rng = np.random.default_rng(seed)
    lq, gt = (jnp.asarray(rng.normal(size=SHAPE), jnp.float32) for _ in range(2))
    return Batch(lq=lq, gt=gt, extra=extra)


def normal(seed: int, shape=SHAPE):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def tiny_family(dtype: str = "float32", **diffusion) -> Family:
    """Twice enlarged, one level of 32 channels, latents of 12."""
    return resshift.build(
        scale=2,
        denoiser={
            "kind": "small",
            "latent_channels": 12,
            "widths": (32,),
            "blocks": 1,
            "embed_dim": 8,
            "dtype": dtype,
        },
        autoencoder={"kind": "space_to_depth", "factor": 2},
        diffusion={"num_steps": 3, "kappa": 0.2} | diffusion,
        condition_on_z_y=True,
    )


def tiny_batch(size: int = 2, seed: int = 0) -> Batch:
    """`size` pictures of 8 x 8 pixels, halved."""
    gt = np.random.default_rng(seed).uniform(-1, 1, (size, 8, 8, 3)).astype(np.float32)
    lq = gt.reshape(size, 4, 2, 4, 2, 3).mean((2, 4))
    return Batch(lq=jnp.asarray(lq), gt=jnp.asarray(gt))


def randomised(tree, deviation: float = 0.3, seed: int = 0):
    """The tree (arrays or their shapes) with random numbers: what a network is after some training, nothing being 0."""
    leaves, structure = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    return structure.unflatten([jnp.asarray(deviation * rng.normal(size=leaf.shape), leaf.dtype) for leaf in leaves])


def repeating_bundle(
    *, scale: int = 4, multiple: int = 4, factor: int = 4, extras: tuple[str, ...] = (), smallest: int = 1, **info
) -> Bundle:
    """A model to work out by hand: every pixel becomes a block, brighter by a hundredth of its latent position's noise.

    `family.networks["traces"]` gets the shape of lq whenever the model is traced.
    """
    traces = []

    def latent(height, width):
        return height * scale // factor, width * scale // factor, 2

    def sample(params, lq, noise, *, steps, extra=None, stochastic=False):
        traces.append(lq.shape)
        noise = noise.sum(axis=1) if stochastic else noise
        size = (lq.shape[1] * scale) // noise.shape[1]
        shift = params["student"]["gain"] * jnp.repeat(jnp.repeat(noise[..., :1], size, 1), size, 2)
        enlarged = jnp.repeat(jnp.repeat(lq, scale, 1), scale, 2)
        if extras:
            enlarged = jnp.where(jnp.repeat(jnp.repeat(extra["mask"], scale, 1), scale, 2) > 0, 0.5, -0.25)
        if extra and "told" in extra:
            enlarged += extra["told"][:, None, None, None]
        return jnp.clip(enlarged + shift, -1, 1)

    family = Family(
        networks={"traces": traces},
        schedule=shift_schedule(num_steps=4, kappa=0.5),
        scale=scale,
        multiple=multiple,
        latent=latent,
        extras=extras,
        encode=None,
        decode=None,
        condition=None,
        predict_z0=None,
        features=None,
        init=None,
        sample=sample,
        longest=4,
        smallest=smallest,
    )
    return Bundle(family=family, params={"student": {"gain": jnp.float32(0.01)}}, info={"steps": 1} | info)
