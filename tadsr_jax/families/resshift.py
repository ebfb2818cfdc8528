"""The ResShift family: a denoiser over latents, told the low-quality picture, and an autoencoder around it.

    lq --(bicubic x scale)--> --(encode)--> z_y --(start)--> z_T --(predict_z0, 1 or T times)--> z0 --(decode)--> image

`build` makes the family from plain settings, `assemble` from modules. Everything in it is a function of explicit
parameters, kept in two trees: `frozen["autoencoder"]`, and the denoiser's (student and teacher have one architecture).
"""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from tadsr_jax.config import bind
from tadsr_jax.diffusion import sample as sampling
from tadsr_jax.diffusion.shift import ShiftSchedule, shift_schedule
from tadsr_jax.networks import configured, init_variables
from tadsr_jax.networks.space_to_depth import SpaceToDepth
from tadsr_jax.networks.unet_small import SmallUNet
from tadsr_jax.networks.unet_swin import SwinUNet
from tadsr_jax.networks.vq import VQModel
from tadsr_jax.types import Family

DENOISERS = {"swin": SwinUNet, "small": SmallUNet}
AUTOENCODERS = {"vq": VQModel, "space_to_depth": SpaceToDepth}


def upsample(picture, scale: int):
    """Bicubic enlargement as PyTorch's `interpolate` does it (a = -0.75, no antialias, edges repeated), unclipped.

    The public models were trained with it; jax's "cubic" has another kernel and differs by up to 0.3.
    """
    if scale == 1:
        return picture
    b, h, w, c = picture.shape
    method = jax.image.ResizeMethod.CUBIC_PYTORCH
    return jax.image.resize(picture, (b, h * scale, w * scale, c), method, antialias=False)


def _module(kinds: dict, section: str, settings: dict) -> nn.Module:
    """The linen module of a section of the config: its kind, and the fields of that module."""
    settings = dict(settings)
    kind = settings.pop("kind", None)
    if kind not in kinds:
        raise ValueError(f"config.networks.{section}.kind is {kind!r}; expected one of {', '.join(kinds)}.")
    return configured(kinds[kind], f"config.networks.{section}", settings)


def build(*, scale: int, denoiser: dict, autoencoder: dict, diffusion: dict, condition_on_z_y: bool = False) -> Family:
    """A family from plain settings; an unknown or impossible one is a ValueError that names it.

    scale              output pixels per input pixel along a side; 1 for faces and inpainting
    denoiser           kind ("swin" or "small"), dtype, and the fields of that network
    autoencoder        kind ("vq" or "space_to_depth"), dtype, and the fields of that network
    diffusion          keywords of `diffusion.shift.shift_schedule`
    condition_on_z_y   give the denoiser lq and z_y side by side instead of lq alone (needs lq at latent resolution)
    """
    return assemble(
        _module(DENOISERS, "denoiser", denoiser),
        _module(AUTOENCODERS, "autoencoder", autoencoder),
        shift_schedule(**bind(shift_schedule, "config.diffusion", diffusion)),
        scale=scale,
        condition_on_z_y=condition_on_z_y,
    )


def _check_fit(denoiser: nn.Module, autoencoder: nn.Module, *, scale: int, condition_on_z_y: bool) -> None:
    """Raise where the latents or the LQ of this family are not what the denoiser takes, as its example inputs are."""
    z, _, lq, *_ = denoiser.example_inputs()
    channels, factor = autoencoder.embed_dim, autoencoder.factor
    if factor > 1 or condition_on_z_y:  # else latents may come from an autoencoder that is not here
        for taken in (z.shape[-1], getattr(denoiser, "out_channels", channels)):
            if taken != channels:
                raise ValueError(
                    f"config.networks.denoiser is made for latents of {taken} channels; those of "
                    f"config.networks.autoencoder have {channels}."
                )
        if lq is not None and lq.shape[1] * scale != z.shape[1] * factor:
            raise ValueError(
                f"config.scale is {scale}; these networks make {z.shape[1] * factor / lq.shape[1]:g}: the sides of a "
                f"picture are {factor} times its latent's, those of the denoiser's LQ {lq.shape[1] / z.shape[1]:g} "
                "times."
            )
    if lq is not None and lq.shape[-1] != (given := 3 + condition_on_z_y * channels):
        raise ValueError(
            f"config.networks.condition_on_z_y is {condition_on_z_y}, which makes {given} channels of condition; this "
            f"denoiser takes {lq.shape[-1]}."
        )


def assemble(
    denoiser: nn.Module, autoencoder: nn.Module, schedule: ShiftSchedule, *, scale: int, condition_on_z_y: bool = False
) -> Family:
    """The family of these two networks and this schedule; ValueError where they do not fit together."""
    _check_fit(denoiser, autoencoder, scale=scale, condition_on_z_y=condition_on_z_y)
    factor = autoencoder.factor
    # Latent sides are lq sides * scale / factor, and must be multiples of what the denoiser needs.
    multiple = math.lcm(denoiser.size_multiple * factor, scale) // scale

    def encode(frozen, image):
        z = autoencoder.apply({"params": frozen["autoencoder"]}, image, method="encode")
        return jax.lax.stop_gradient(z.astype(jnp.float32))

    def decode(frozen, z):
        image = autoencoder.apply({"params": frozen["autoencoder"]}, z, method="decode")
        return image.astype(jnp.float32)

    def condition(frozen, lq, extra):
        return {"lq": lq, "z_y": encode(frozen, upsample(lq, scale)), "mask": extra.get("mask")}

    def inputs(z_t, t, condition, chain):
        lq = condition["lq"]
        if condition_on_z_y:
            lq = jnp.concatenate([lq, condition["z_y"]], axis=-1)
        masks = () if condition.get("mask") is None else (condition["mask"],)
        return chain.scale_input(z_t, condition["z_y"], t), chain.network_time(t), lq, *masks

    def predict_z0(params, z_t, t, condition, chain=schedule):
        t = jnp.broadcast_to(t, z_t.shape[:1])
        output = denoiser.apply({"params": params}, *inputs(z_t, t, condition, chain))
        return chain.z0_from_output(output.astype(jnp.float32), z_t, condition["z_y"], t)

    def features(params, z_t, t, condition):
        t = jnp.broadcast_to(t, z_t.shape[:1])
        maps = denoiser.apply({"params": params}, *inputs(z_t, t, condition, schedule), features_only=True)
        return [m.astype(jnp.float32) for m in maps]

    def init(key):
        """Fresh parameters of both networks, drawn as the public code draws them."""
        keys = dict(zip(("denoiser", "autoencoder"), jax.random.split(key), strict=True))
        modules = {"denoiser": denoiser, "autoencoder": autoencoder}
        return {name: init_variables(module, keys[name]).get("params", {}) for name, module in modules.items()}

    def latent(height, width):
        return height * scale // factor, width * scale // factor, autoencoder.embed_dim

    def sample(params, lq, noise, *, steps: int, extra: dict | None = None, stochastic: bool = False):
        """The picture of `lq` by `steps` steps from latent `noise` (b, h, w, c).

        One step is SinSR's and TAD-SR's. More are deterministic, or draws from the posterior (ResShift's own sampler):
        then noise is (b, steps + 1, h, w, c), that of the start and that of each step.
        """
        known = condition(params, lq, extra or {})
        noise, step_noise = (noise[:, 0], noise[:, 1:]) if stochastic else (noise, None)
        if steps == 1:  # at the last step, which a respaced chain would not keep
            z0 = predict_z0(params["student"], schedule.start(known["z_y"], noise), schedule.num_steps - 1, known)
        else:
            chain = schedule.respaced(steps)
            predict = partial(predict_z0, params["student"], condition=known, chain=chain)
            z_T = chain.start(known["z_y"], noise)
            if stochastic:
                z0, _ = sampling.stochastic(chain, predict, z_T, lambda i: step_noise[:, i])
            else:
                z0, _ = sampling.deterministic(chain, predict, z_T, known["z_y"])
        return jnp.clip(decode(params, z0), -1, 1)

    return Family(
        networks={"denoiser": denoiser, "autoencoder": autoencoder},
        schedule=schedule,
        scale=scale,
        multiple=multiple,
        latent=latent,
        extras=("mask",) if getattr(denoiser, "cond_mask", False) else (),
        encode=encode,
        decode=decode,
        condition=condition,
        predict_z0=predict_z0,
        features=features,
        init=init,
        sample=sample,
        longest=schedule.num_steps,
    )
