"""The photographs that ship with the package, some of them held out: `assets/demo`, credits in its CREDITS.csv."""

import functools
from pathlib import Path

import numpy as np

from tadsr_jax import assets, images

FOLDER = Path(assets.__file__).parent / "demo"


def paths(*, is_training: bool) -> list[Path]:
    """The training photographs, or those that training never sees, by name."""
    return sorted((FOLDER / ("train" if is_training else "validation")).glob("*.jpg"))


@functools.lru_cache(maxsize=64)
def read(path: Path) -> np.ndarray:
    """Decoded once for each process: all of them together take 35 MB."""
    picture = images.read(path)
    picture.flags.writeable = False  # many examples are cut from the one array
    return picture
