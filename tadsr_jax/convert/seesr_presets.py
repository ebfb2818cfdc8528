"""What is published of SeeSR, AddSR and TAD-SeeSR, and of what they stand on, and whose it is.

PRESETS   name -> Preset        preset_of   by the name of a folder        terms_of   repository and licence
Everything here is plain data.
"""

import re
from pathlib import Path
from typing import NamedTuple


class Preset(NamedTuple):
    """A model as its authors published it."""

    steps: int  # that its authors sample with
    longest: int  # the most that it can be sampled with
    repository: str
    licence: str


PRESETS = {
    "seesr": Preset(50, 50, "cswry/SeeSR", "Apache-2.0"),
    "addsr": Preset(
        4, 4, "NJU-PCALab/AddSR", "Apache-2.0, and the terms of SeeSR, StyleGAN-T and ADD that its README names"
    ),
    "tad_seesr": Preset(1, 4, "LearningHx/TAD-SR", "Apache-2.0"),
}
# Words in the name of a folder that tell the preset, the first one that is there: "tadseesr" has "seesr" in it.
FOLDERS = {"tadseesr": "tad_seesr", "tadsr": "tad_seesr", "addsr": "addsr", "seesr": "seesr"}
SD2_BASE = ("stabilityai/stable-diffusion-2-base", "CreativeML Open RAIL++-M")
# What is others', by the usual names of folders and files, whole ones: "stable-diffusion-2" is another release.
SD2_FOLDERS = dict.fromkeys(("stablediffusion2base", "stabilityaistablediffusion2base", "sd2base"), SD2_BASE)
OTHERS = {  # part -> {name: (repository, licence)}
    "vae": SD2_FOLDERS,
    "text_encoder": SD2_FOLDERS,
    "tagger": {"ramswinlarge14m": ("xinyu1205/recognize-anything", "Apache-2.0")},
    "tagger_updates": {"dape": ("cswry/SeeSR", "Apache-2.0")},
}
TERMS = ("repository", "licence")


def preset_of(folder: str | Path) -> str | None:
    """The preset that the name of a folder tells."""
    letters = _letters(Path(folder).absolute().name)
    return next((preset for word, preset in FOLDERS.items() if word in letters), None)


def terms_of(name: str, part: str, preset: str) -> dict:
    """Repository and licence of a part that is published in a folder, or as a file, of this name; {} where unknown.

    U-Net and ControlNet are those of the `preset`, unless the name says another one.
    """
    if part in ("unet", "controlnet"):
        known = PRESETS[preset]
        terms = (known.repository, known.licence) if preset_of(name) in (None, preset) else ()
    else:
        terms = OTHERS.get(part, {}).get(_letters(name), ())
    return dict(zip(TERMS, terms))


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
