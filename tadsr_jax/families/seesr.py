"""The SeeSR family: Stable Diffusion 2, shown the enlarged picture by a ControlNet, and told what is in it by a tagger.

    picture --(tagger)--> image states        words --(text encoder)--> text        picture --(encode)--> z
    z, noise --(start)--> z_T --(predict_z0 with picture, image states, text; 1 to 50 times)--> z0 --(decode)--> image

words   the vocabulary; who says what: `seesr_sampling` (samplers), `seesr_input` (what it is told), recipes
SeeSR [arXiv 2311.16518], AddSR [arXiv 2404.01717] and TAD-SeeSR [arXiv 2408.07476] are one family: the same networks
with other weights and other samplers. Everything is a function of explicit parameters: `frozen` has "autoencoder",
"text_encoder" and "tagger"; the denoiser's tree has "unet" and "controlnet".
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from tadsr_jax.diffusion.ddpm import DDPMSchedule
from tadsr_jax.networks import kl, kl_tiled, ram
from tadsr_jax.networks.clip_text import CLIPTextModel
from tadsr_jax.networks.controlled_unet import ControlledUNet
from tadsr_jax.networks.kl import AutoencoderKL
from tadsr_jax.networks.ram import RAM

NO_WORDS = (49406, 49407, *(0,) * 75)  # an empty text as SD-2's tokenizer writes it: start, end, padding
SCALING = 0.18215  # latents of SD have a deviation of 1 / 0.18215; the diffusion's have one of 1


def enlarge(lq, scale: int):
    """Bicubic enlargement (a = -0.5), as Pillow's, which the public scripts use: (n, h, w, 3) -> (n, s h, s w, 3)."""
    n, h, w, c = lq.shape
    return jax.image.resize(lq, (n, scale * h, scale * w, c), "cubic")


@dataclasses.dataclass(frozen=True, eq=False)
class Words:
    """What a recipe or a sampler may say about the model; functions of explicit parameters, pictures in [-1, 1].

    encode(frozen, picture, noise=None)            the latent z (n, h, w, 4): the mean, or a draw with this noise
    decode(frozen, z)                              the picture, not clipped
    states(frozen, picture, mode=, clip=)          the tagger's image states (n, tokens, 512)
    condition(frozen, picture, extra)              what the denoiser is told: {"picture", "image_states", "text"}
    predict_eps, predict_z0(params, z_t, t, condition)      the denoiser's noise, and the latent that it implies;
                                                   `scale=` multiplies what the picture adds to it (predict_eps alone)
    features(params, z_t, t, condition)            maps of the way down of its U-Net, the finest first, float32
    """

    schedule: DDPMSchedule
    encode: Callable
    decode: Callable
    states: Callable
    condition: Callable
    predict_eps: Callable
    predict_z0: Callable
    features: Callable


def words(
    denoiser: ControlledUNet,
    autoencoder: AutoencoderKL,
    text_encoder: CLIPTextModel | None,
    tagger: RAM | None,
    schedule: DDPMSchedule,
    *,
    scaling: float = SCALING,
    tagger_size: int = 384,
    no_words: tuple[int, ...] = NO_WORDS,
    encoder_tile: int | None = None,
    decoder_tile: int | None = None,
) -> Words:
    """The functions of a family of these networks. Those of a network that is None raise when they are called.

    no_words       token ids of an empty text, what the denoiser is told where nothing else is said
    encoder_tile, decoder_tile   pixels, latent positions: what is larger is encoded or decoded as SeeSR does it, in
                                 tiles (`kl_tiled`: its ENCODER_TILE, DECODER_TILE); None, as in training: whole
    """

    def encode(frozen, picture, noise=None):
        variables = {"params": frozen["autoencoder"]}
        if encoder_tile is None:
            mean, logvar = autoencoder.apply(variables, picture, method="encode")
        else:
            mean, logvar = kl_tiled.encode(autoencoder, variables, picture, tile=encoder_tile)
        z = mean if noise is None else kl.sample(mean, logvar, noise)
        return jax.lax.stop_gradient(z.astype(jnp.float32) * scaling)

    def decode(frozen, z):
        variables = {"params": frozen["autoencoder"]}
        if decoder_tile is None:
            picture = autoencoder.apply(variables, z / scaling, method="decode")
        else:
            picture = kl_tiled.decode(autoencoder, variables, z / scaling, tile=decoder_tile)
        return picture.astype(jnp.float32)

    def states(frozen, picture, *, mode: str = "bicubic", clip: bool = False):
        prepared = ram.prepare(picture / 2 + 0.5, size=tagger_size, mode=mode, clip=clip)
        return tagger.apply({"params": frozen["tagger"]}, prepared)

    def condition(frozen, picture, extra):
        """`extra`: "text" (n, tokens, c), or "tokens" (n, tokens) to be encoded, if any; "image_states", if known."""
        text = extra.get("text")
        if text is None:
            tokens = extra.get("tokens", jnp.broadcast_to(jnp.asarray(no_words), (picture.shape[0], len(no_words))))
            text = text_encoder.apply({"params": frozen["text_encoder"]}, tokens)
        image_states = extra.get("image_states")
        if image_states is None:
            image_states = states(frozen, picture, clip=True)
        return {"picture": picture / 2 + 0.5, "text": text, "image_states": image_states}

    def network(params, z_t, t, condition, **options):
        t = jnp.broadcast_to(t, z_t.shape[:1])
        inputs = (condition[name] for name in ("text", "image_states", "picture"))
        return denoiser.apply({"params": params}, z_t, t, *inputs, **options)

    def predict_eps(params, z_t, t, condition, *, scale: float = 1.0):
        return network(params, z_t, t, condition, scale=scale).astype(jnp.float32)

    def predict_z0(params, z_t, t, condition):
        return schedule.z0_from_eps(z_t, t, predict_eps(params, z_t, t, condition))

    def features(params, z_t, t, condition):
        return [maps.astype(jnp.float32) for maps in network(params, z_t, t, condition, features_only=True)]

    return Words(schedule, encode, decode, states, condition, predict_eps, predict_z0, features)
