"""The SeeSR family from plain settings: its networks, its words, and what a user runs.

    lq --(bicubic x scale)--> picture --(start)--> z_T --(few_steps or many_steps)--> image

One to four steps are those of AddSR and TAD-SeeSR, more are SeeSR's own: DDPM steps with guidance.
"""

import jax
import jax.numpy as jnp

from tadsr_jax.config import bind
from tadsr_jax.diffusion.ddpm import FEW_STEPS, ddpm_schedule
from tadsr_jax.families import seesr_sampling
from tadsr_jax.families.seesr import NO_WORDS, Words, enlarge, words
from tadsr_jax.families.seesr_input import ADDED_WORDS, SMALLEST, preparer, requester
from tadsr_jax.networks import configured, init_variables
from tadsr_jax.networks.clip_text import CLIPTextModel
from tadsr_jax.networks.controlled_unet import ControlledUNet
from tadsr_jax.networks.controlnet import ControlNet
from tadsr_jax.networks.kl import AutoencoderKL
from tadsr_jax.networks.public_sd import IMAGE_STATES
from tadsr_jax.networks.ram import RAM
from tadsr_jax.networks.unet_sd import SDUNet
from tadsr_jax.types import Family

STEPS = 50  # of SeeSR's own sampling
# Sides of the tiles in which larger latents are denoised: SeeSR's, and those of the models of few steps.
TILE, TILE_OF_FEW = 96, 320


def _denoiser(unet: dict, controlnet: dict, shared: dict) -> ControlledUNet:
    return ControlledUNet(
        configured(SDUNet, "config.networks.denoiser.unet", unet | shared),
        configured(ControlNet, "config.networks.denoiser.controlnet", controlnet | shared),
    )


def build(
    *,
    scale: int = 4,
    denoiser: dict,
    autoencoder: dict,
    text_encoder: dict,
    tagger: dict,
    diffusion: dict,
    no_words: tuple[int, ...] = NO_WORDS,
    added_words: str = ADDED_WORDS["addsr"],
    smallest: int = SMALLEST,
) -> Family:
    """A family from plain settings; an unknown or impossible one is a ValueError that names it.

    scale          output pixels per input pixel along a side
    denoiser       {"unet": fields of `SDUNet`, "controlnet": fields of `ControlNet`}, and dtype and remat of both
    autoencoder, text_encoder, tagger   fields of `AutoencoderKL`, `CLIPTextModel`, `RAM`
    diffusion      keywords of `diffusion.ddpm.ddpm_schedule`
    no_words       token ids of an empty text, which is what the denoiser is told where nothing else is said
    added_words    what prompts end with
    smallest       of an enlarged picture's sides: smaller ones are enlarged before
    """
    section = "config.networks"
    parts = dict(denoiser)
    unet, controlnet = (dict(parts.pop(name, {})) for name in ("unet", "controlnet"))
    if unknown := sorted(parts.keys() - {"dtype", "remat"}):
        raise ValueError(f"{section}.denoiser.{unknown[0]} is unknown; expected unet, controlnet, dtype, remat.")
    networks = {
        "denoiser": _denoiser(unet, controlnet, parts),
        "autoencoder": configured(AutoencoderKL, f"{section}.autoencoder", autoencoder),
        "text_encoder": configured(CLIPTextModel, f"{section}.text_encoder", text_encoder),
        "tagger": configured(RAM, f"{section}.tagger", tagger),
    }
    _check_fit(networks, scale=scale)
    schedule = ddpm_schedule(**bind(ddpm_schedule, "config.diffusion", diffusion))
    vocabulary = words(*networks.values(), schedule, tagger_size=networks["tagger"].image_size, no_words=no_words)
    factor = networks["autoencoder"].factor
    multiple = max(factor // scale, 1)

    def init(key):
        """Fresh parameters of all networks."""
        keys = dict(zip(networks, jax.random.split(key, len(networks)), strict=True))
        return {name: init_variables(module, keys[name]).get("params", {}) for name, module in networks.items()}

    def latent(height, width):
        return height * scale // factor, width * scale // factor, networks["autoencoder"].latent_channels

    return Family(
        networks=networks,
        schedule=schedule,
        scale=scale,
        multiple=multiple,
        latent=latent,
        extras=(),
        init=init,
        sample=sampler(vocabulary, scale=scale),
        longest=STEPS,
        samplers=("stochastic",),
        color_fix="adain",
        smallest=smallest // scale,
        largest=TILE * factor // scale,
        stride=multiple * 2 ** (len(networks["denoiser"].unet.block_out_channels) - 1),
        no_words=tuple(no_words),
        request=requester(networks["text_encoder"]),
        prepare=preparer(networks["text_encoder"], networks["tagger"], no_words=no_words, added=added_words),
        **{name: getattr(vocabulary, name) for name in Words.__dataclass_fields__ if name != "schedule"},
    )


def _check_fit(networks: dict, *, scale: int) -> None:
    """Raise where what one network makes is not what another takes."""
    unet, controlnet = networks["denoiser"].unet, networks["denoiser"].controlnet
    autoencoder, factor = networks["autoencoder"], networks["autoencoder"].factor
    wanted = {
        "autoencoder.latent_channels": (autoencoder.latent_channels, unet.in_channels),
        "text_encoder.hidden_size": (networks["text_encoder"].hidden_size, unet.cross_attention_dim),
        "denoiser.controlnet: the picture's size": (controlnet.factor, factor),
        "denoiser.controlnet.block_out_channels": (controlnet.block_out_channels, unet.block_out_channels),
        "denoiser.controlnet.in_channels": (controlnet.in_channels, unet.in_channels),
        "denoiser.controlnet.cross_attention_dim": (controlnet.cross_attention_dim, unet.cross_attention_dim),
        "tagger.states_dim": (networks["tagger"].states_dim, IMAGE_STATES),
    }
    for name, (found, expected) in wanted.items():
        if found != expected:
            raise ValueError(f"config.networks.{name} is {found}; the other networks need {expected}.")
    if factor % scale and scale % factor:
        raise ValueError(f"config.scale is {scale}; expected a divisor of {factor}, a pixel's share of the latent.")


def sampler(words: Words, *, scale: int):
    """The family's `sample`."""

    def sample(params, lq, noise, *, steps: int, extra: dict | None = None, stochastic: bool = False):
        """The picture of `lq` (n, h, w, 3) by `steps` steps from latent `noise`.

        noise    (n, h, w, c) of the start, for one step; for more, with `stochastic`, (n, steps + 1, h, w, c): that of
                 the start and that of each step. The latent of the picture is its mean.
        extra    what `seesr_input.preparer` tells of the picture, each with n in front, any of it left out; without
                 negative_text there is no guidance
        """
        if steps > 1 and not stochastic:
            raise ValueError(f"steps is {steps}; this family draws noise at every step: stochastic=True.")
        extra = dict(extra or {})
        each = lambda name, default: jnp.reshape(extra.get(name, default), (-1, 1, 1, 1))  # a number a picture
        picture = enlarge(lq, scale)
        if "image_states" not in extra:  # of the small picture, as the public scripts have it
            extra["image_states"] = words.states(params, lq, mode="bilinear")
        known = words.condition(params, picture, extra)
        begin, step_noise = (noise[:, 0], lambda i: noise[:, 1 + i]) if stochastic else (noise, None)
        from_picture = seesr_sampling.start(words, params, picture, begin)
        z_T = jnp.where(each("from_noise", False), begin, from_picture)
        few = steps <= len(FEW_STEPS)
        is_fixed = all(isinstance(side, int) for side in z_T.shape[1:3])  # a program for any size knows no tiles
        options = {"steps": steps, "tile": (TILE_OF_FEW if few else TILE) if is_fixed else None}
        if few:
            options["refinement"] = each("refinement", seesr_sampling.REFINEMENT)
            image, _ = seesr_sampling.few_steps(words, params, known, z_T, step_noise, **options)
        else:
            options["guidance"] = each("guidance", seesr_sampling.GUIDANCE)
            negative = extra.get("negative_text")
            image, _ = seesr_sampling.many_steps(words, params, known, z_T, step_noise, negative=negative, **options)
        return jnp.clip(image, -1, 1)

    return sample
