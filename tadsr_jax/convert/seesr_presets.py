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
# Files and folders of others, by their usual names: (repository, licence).
OTHERS = {
    "stablediffusion2": ("stabilityai/stable-diffusion-2-base", "CreativeML Open RAIL++-M"),
    "sd2": ("stabilityai/stable-diffusion-2-base", "CreativeML Open RAIL++-M"),
    "ramswinlarge14m": ("xinyu1205/recognize-anything", "Apache-2.0"),
    "dape": ("cswry/SeeSR", "Apache-2.0"),
}


def preset_of(folder: str | Path) -> str | None:
    """The preset that the name of a folder tells."""
    letters = _letters(Path(folder).absolute().name)
    return next((preset for word, preset in FOLDERS.items() if word in letters), None)


def terms_of(name: str, part: str) -> dict:
    """Repository and licence of a part that is published in a folder, or as a file, of this name; {} where unknown."""
    if part in ("unet", "controlnet"):
        known = PRESETS.get(preset_of(name))
        terms = known and (known.repository, known.licence)
    else:
        terms = next((terms for word, terms in OTHERS.items() if word in _letters(name)), None)
    return dict(zip(("repository", "licence"), terms or ()))


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
