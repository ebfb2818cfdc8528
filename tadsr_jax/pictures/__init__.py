"""Picture files for people: any PNG, JPEG, WebP, BMP or TIFF in, the same kinds out, with nothing lost on the way.

    file --(read)--> Picture --(the upscaler)--> pixels --(write, like=picture)--> file

Picture         upright pixels of 8 or 16 bits, grey or RGB, with or without alpha; ICC, EXIF, XMP, dpi; notes
read, size      whole, and the header alone         check_target, losses   what a format can hold, before the work
write           atomically, by suffix               bleed                  colours under no cover, before upscaling
from_pil, to_pil                                    opened, samples        for those who need arrays alone (images.py)

reading and writing are the doors, which lean on Pillow; png, tiff and exif add what it lacks (16 bits, by OpenCV and
tifffile); levels has the arithmetic on samples. No jax.
"""

from tadsr_jax.pictures.levels import bleed, on_white, to_8_bits
from tadsr_jax.pictures.picture import Picture, to_pil
from tadsr_jax.pictures.reading import MAX_PIXELS, from_pil, opened, read, samples, size
from tadsr_jax.pictures.writing import SUFFIXES, check_target, largest_side, losses, write

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "Picture",
    "bleed",
    "check_target",
    "from_pil",
    "largest_side",
    "losses",
    "on_white",
    "opened",
    "read",
    "samples",
    "size",
    "to_8_bits",
    "to_pil",
    "write",
]
