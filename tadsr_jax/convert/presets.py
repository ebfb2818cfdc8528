"""The public releases of ResShift, SinSR and TAD-SR by name: how their networks are built and sampled.

PRESETS   name -> Preset        find      by name, in any spelling        by_file   by the name of the weights file
Everything here is plain data: a configuration holds the public arguments, for `convert.settings`. The names are those
of `releases.RELEASES`, which says where the files are.
"""

import difflib
import re
from pathlib import Path
from typing import NamedTuple

from tadsr_jax.releases import RELEASES


class Preset(NamedTuple):
    """A public release: how its networks are built, and how its authors sample with them."""

    recipe: str  # name in `recipes.RECIPES` of the method that trained it
    config: dict  # public arguments, for `settings.family_settings`
    steps: int
    sampler: str  # "stochastic" or "deterministic"


UNET = {
    "image_size": 64,
    "in_channels": 3,  # latent channels; those of the LQ are added inside
    "model_channels": 160,
    "out_channels": 3,
    "attention_resolutions": [64, 32, 16, 8],
    "dropout": 0,
    "channel_mult": [1, 2, 2, 4],
    "num_res_blocks": [2, 2, 2, 2],
    "conv_resample": True,
    "dims": 2,
    "use_fp16": False,
    "num_head_channels": 32,
    "use_scale_shift_norm": True,
    "resblock_updown": False,
    "swin_depth": 2,
    "swin_embed_dim": 192,
    "window_size": 8,
    "mlp_ratio": 4,
    "cond_lq": True,
    "lq_size": 64,
}
FACE_UNET = UNET | {"in_channels": 8, "out_channels": 8, "lq_size": 512}
MASKED_UNET = UNET | {"cond_mask": True, "lq_size": 256}

DDCONFIG = {"double_z": False, "in_channels": 3, "out_ch": 3, "attn_resolutions": [], "dropout": 0.0}
VQ_F4 = {
    "embed_dim": 3,
    "n_embed": 8192,
    "ddconfig": DDCONFIG | {"z_channels": 3, "resolution": 256, "ch": 128, "ch_mult": [1, 2, 4], "num_res_blocks": 2},
}
VQ_F8 = {
    "embed_dim": 8,
    "n_embed": 4096,
    "ddconfig": DDCONFIG
    | {"z_channels": 8, "resolution": 512, "ch": 64, "ch_mult": [1, 2, 4, 8], "num_res_blocks": [1, 2, 3, 4]},
}


def _public(*, sf: int, steps: int, min_noise: float, cap: bool, kappa: float = 2.0, unet=UNET, autoencoder=VQ_F4):
    """A configuration in the public words."""
    diffusion = {
        "sf": sf,
        "schedule_name": "exponential",
        "schedule_kwargs": {"power": 0.3},
        "etas_end": 0.99,
        "steps": steps,
        "min_noise_level": min_noise,
        "kappa": kappa,
        "weighted_mse": False,
        "predict_type": "xstart",
        "timestep_respacing": None,
        "scale_factor": 1.0,
        "normalize_input": True,
        "latent_flag": True,
    }
    return {"diffusion": diffusion, "eta_start_cap": cap, "unet": unet, "autoencoder": autoencoder}


# The journal version starts its 4 steps at sqrt(eta) = 0.1; everybody else caps the start at 0.0316. TAD-SR distilled
# the journal's face model with the capped schedule.
X4_15 = _public(sf=4, steps=15, min_noise=0.04, cap=True)
X4_4 = _public(sf=4, steps=4, min_noise=0.2, cap=False)
X2_4 = _public(sf=2, steps=4, min_noise=0.2, cap=False, unet=UNET | {"lq_size": 128})
X4_15_KAPPA_1 = _public(sf=4, steps=15, min_noise=0.04, kappa=1.0, cap=True)
INPAINTING = _public(sf=1, steps=4, min_noise=0.2, cap=False, unet=MASKED_UNET)
FACES = _public(sf=1, steps=4, min_noise=0.2, cap=False, unet=FACE_UNET, autoencoder=VQ_F8)
FACES_CAPPED = FACES | {"eta_start_cap": True}


def _resshift(config: dict) -> Preset:
    return Preset("teacher", config, config["diffusion"]["steps"], "stochastic")


PRESETS = {
    "resshift-realsr-v1": _resshift(X4_15),
    "resshift-realsr-v2": _resshift(X4_15),
    "resshift-realsr-v3": _resshift(X4_4),
    "resshift-bicsr": _resshift(X4_4),
    "resshift-inpaint-imagenet": _resshift(INPAINTING),
    "resshift-inpaint-face": _resshift(INPAINTING),
    "resshift-faceir": _resshift(FACES),
    "resshift-realsr-v0": _resshift(X4_15),  # of the first release, before the versions had numbers
    "resshift-bicsr-opencv": _resshift(X4_15_KAPPA_1),
    "resshift-bicsr-matlab": _resshift(X4_15),
    "resshift-realsr-x2": _resshift(X2_4),  # its weights were not published
    "sinsr-v1": Preset("sinsr", X4_15, 1, "deterministic"),
    "sinsr-v2": Preset("sinsr", X4_15, 1, "deterministic"),
    "tad-sr": Preset("tadsr", X4_15, 1, "deterministic"),
    "tad-faceir": Preset("tadsr", FACES_CAPPED, 1, "deterministic"),
}


def find(name: str) -> str:
    """The key of PRESETS that `name` means: the key, "resshift-" left out if you like, or the file of its weights."""
    if (key := by_file(name)) in PRESETS:
        return key
    for key in PRESETS:
        if _letters(name) in (_letters(key), _letters(key.removeprefix("resshift-"))):
            return key
    near = difflib.get_close_matches(name.lower(), PRESETS, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ValueError(f"preset is {name!r}; expected one of {', '.join(PRESETS)}.{hint}")


def by_file(path: str | Path) -> str | None:
    """The key of the release whose file is called like `path`, whatever the suffix; None where none is."""
    return next((key for key, release in RELEASES.items() if _stem(path) == _stem(release.file)), None)


def autoencoder_of(key: str) -> str:
    """The release of the autoencoder that a preset was trained with."""
    return RELEASES[key].needs if key in RELEASES else "vq-f4"


def _stem(path: str | Path) -> str:
    """The letters of a file's name. The authors' own code looks for their "inpainting" files as "inpaint"."""
    name = re.sub(r"\.(pth|pt|ckpt|bin|safetensors)$", "", Path(path).name)
    return _letters(name).replace("inpainting", "inpaint")


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
