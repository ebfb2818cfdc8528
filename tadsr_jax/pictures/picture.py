"""The picture that everything here passes on, and its form as a Pillow image."""

import dataclasses

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Picture:
    """An upright picture and what its file said about it.

    pixels: uint8 or uint16; (h, w) grey, (h, w, 2) grey and alpha, (h, w, 3) RGB, (h, w, 4) RGB and alpha; alpha is
    straight (colours are not multiplied by it). icc: a profile as bytes. exif: a block as Pillow has it ("Exif", two
    zeros, TIFF), its orientation 1. xmp: a packet. dpi: across and down. notes: what a person should be told.
    """

    pixels: np.ndarray
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


def check_pixels(pixels: np.ndarray) -> None:
    """ValueError unless the array is one that a Picture can hold."""
    good = isinstance(pixels, np.ndarray) and pixels.dtype.kind == "u" and pixels.dtype.itemsize < 3 and pixels.size
    if not (good and (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (2, 3, 4)))):
        what = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise ValueError(
            f"pixels are {what}; expected uint8 or uint16 of (h, w), or (h, w, c) with 2, 3 or 4 channels."
        )


def to_pil(pixels: np.ndarray) -> Image.Image:
    """A Pillow image. 16-bit grey stays so (mode I;16); Pillow has no 16-bit colour, which is rounded to 8 bits."""
    from tadsr_jax.pictures.levels import to_8_bits

    check_pixels(pixels)
    if pixels.dtype == np.uint16 and pixels.ndim == 3:
        pixels = to_8_bits(pixels)
    return Image.fromarray(pixels.astype(pixels.dtype.newbyteorder("="), copy=False))
