"""SeeSR's family as cases record it: networks, parameters, gradients under the public names; no cases of its own."""

import numpy as np

from tadsr_jax.convert import lora, names
from tadsr_jax.convert.sd_names import modern_vae_names
from tadsr_jax.diffusion import ddpm
from tadsr_jax.families import seesr
from tadsr_jax.networks import controlnet, kl, ram, unet_sd
from tadsr_jax.networks.controlled_unet import ControlledUNet

RUNNERS = {}


def family_of(config: dict):
    """(words, {part: network}) of a case's config."""
    modules = {
        "unet": unet_sd.from_public(**config["unet"]),
        "controlnet": controlnet.from_public(**config["controlnet"]),
        "vae": kl.from_public(**config["vae"]),
    }
    if "ram" in config:
        modules["ram"] = ram.from_public(vision=config["ram"])
    words = seesr.words(
        ControlledUNet(modules["unet"], modules["controlnet"]),
        modules["vae"],
        None,
        modules.get("ram"),
        ddpm.from_public(**config["scheduler"]),
        scaling=config["vae"].get("scaling_factor", seesr.SCALING),
        tagger_size=config.get("ram_image_size", 384),
    )
    return words, modules


def frozen_params(case, modules: dict) -> dict:
    """Parameters of the autoencoder and, where the case has one, of the tagger."""
    params = {"autoencoder": names.to_flax(modules["vae"], modern_vae_names(case.weights("vae")))["params"]}
    if "ram" in modules:
        alpha = case.config.get("lora_alpha", 1)
        state_dict = lora.ram(case.weights("ram"), network=modules["ram"], alpha=alpha)
        params["tagger"] = names.to_flax(modules["ram"], state_dict)["params"]
    return params


def denoiser_params(case, modules: dict, player: str = "") -> dict:
    """Parameters of U-Net and ControlNet; player: what the case adds to the names of its parts, such as "_stu"."""
    return {
        part: names.to_flax(modules[part], case.weights(part + player))["params"] for part in ("unet", "controlnet")
    }


def gradients(prefix: str, norm: str, variables: dict) -> dict:
    """The entries of a gradient, "PREFIX.NAME", and the norm over all of them.

    The vectors of spectral norms are among `variables` because their weights are called by them; they have no gradient.
    """
    public = names.to_torch(variables)
    public = {name: a for name, a in public.items() if not name.endswith(("weight_u", "weight_v"))}
    squares = (np.sum(np.square(a, dtype=np.float64)) for a in public.values())
    return {norm: np.sqrt(sum(squares))} | {f"{prefix}.{name}": a for name, a in public.items()}
