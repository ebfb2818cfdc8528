"""Pictures -> files, whole or not at all.

write           by the suffix of the path, with all that the format can hold of what the source said
check_target    whether a format can hold a picture of a size: to be asked before the work
largest_side    the pixels that a side may have
losses          what a format will not keep, as lines for a person

Pillow writes what has 8 bits, after copying the picture (4 bytes a pixel of RGB); OpenCV 16-bit PNG, by way of a second
file beside the first; tifffile TIFF, strip by strip.
"""

import contextlib
import itertools
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tadsr_jax.pictures import exif as exif_blocks
from tadsr_jax.pictures import png
from tadsr_jax.pictures.levels import on_white, to_8_bits
from tadsr_jax.pictures.picture import Picture, check_pixels
from tadsr_jax.pictures.reading import shown

IN_32_BITS = 2**32 - 2**25  # offsets have 32 bits; some room for a profile and for pixels that do not shrink
_numbers = itertools.count()
_mine: set[str] = set()  # names of unfinished files of this process


class Format(NamedTuple):
    """What a format can hold. most_*: bytes; 0 for nothing."""

    name: str
    side: int
    is_deep: bool = False
    has_alpha: bool = False
    has_grey: bool = True
    most_pixels: int = 2**63  # bytes of samples
    most_icc: int = 2**31
    most_exif: int = 2**31
    most_xmp: int = 2**31


PNG = Format("PNG", 2**31 - 1, is_deep=True, has_alpha=True, most_icc=2**20)  # what Pillow and others inflate at most
TIFF = Format("TIFF", 2**31 - 1, is_deep=True, has_alpha=True, most_pixels=IN_32_BITS)
# libjpeg stops at 65,500; a marker holds 65,533 bytes, XMP has 29 of them for its name; a profile has 255 markers.
JPEG = Format("JPEG", 65500, most_icc=255 * 65519, most_exif=65533, most_xmp=65504)
WEBP = Format("WebP", 16383, has_alpha=True, has_grey=False)
BMP = Format("BMP", 2**31 - 1, most_pixels=IN_32_BITS, most_icc=0, most_exif=0, most_xmp=0)
FORMATS = {".png": PNG, ".jpg": JPEG, ".jpeg": JPEG, ".webp": WEBP, ".tif": TIFF, ".tiff": TIFF, ".bmp": BMP}
SUFFIXES = tuple(FORMATS)


# --- what formats can hold ------------------------------------------------------------------------------------------


def format_of(suffix: str) -> Format:
    """The format that a file suffix means; ValueError with the accepted ones."""
    if suffix.lower() not in FORMATS:
        raise ValueError(f"file suffix is {suffix!r}; expected one of {', '.join(SUFFIXES)}.")
    return FORMATS[suffix.lower()]


def largest_side(suffix: str) -> int:
    """Pixels that a side of a picture in this format may have."""
    return format_of(suffix).side


def check_target(suffix: str, height: int, width: int, channels: int = 3, bits: int = 8) -> None:
    """ValueError where a file of this suffix cannot hold such a picture."""
    form = format_of(suffix)
    if max(height, width) > form.side:
        raise ValueError(
            f"a {form.name} file holds at most {form.side:,} pixels a side, and the result has {width}x{height}; "
            "write a .png or .tif."
        )
    depth = bits if form.is_deep else 8
    channels = channels if form.has_alpha else {2: 1, 4: 3}.get(channels, channels)
    need = height * width * channels * depth // 8
    if need > form.most_pixels:
        raise ValueError(
            f"a {form.name} file holds at most 4 GiB, and the result of {width}x{height} has {need / 2**30:.1f}; "
            "write a .png."
        )


def losses(suffix: str, like: Picture, channels: int, bits: int) -> tuple[str, ...]:
    """What a file of this suffix will not keep of a picture of so many channels and bits and the metadata of `like`."""
    form = format_of(suffix)
    notes = []
    if bits > 8 and not form.is_deep:
        notes.append(f"{form.name} has 8 bits: {bits} bits rounded")
    if channels in (2, 4) and not form.has_alpha:
        notes.append(f"{form.name} has no transparency: laid on white")
    if like.icc and form.most_icc and not _fits(like.icc, form, channels):
        notes.append(f"its ICC profile is not for the {_colours(form, channels)} samples of the result: left out")
    for name, data, most in (
        ("ICC profile", like.icc, form.most_icc),
        ("EXIF data", like.exif, form.most_exif),
        ("XMP data", like.xmp, form.most_xmp),
    ):
        if data and len(data) > most:
            why = (
                f"{form.name} holds at most {most:,} bytes, not {len(data):,}" if most else f"{form.name} has no place"
            )
            notes.append(f"{name} left out: {why}")
    return tuple(notes)


def _colours(form: Format, channels: int) -> str:
    return "grey" if channels <= 2 and form.has_grey else "RGB"


def _fits(icc: bytes, form: Format, channels: int) -> bool:
    """Whether a profile speaks of the samples that are written; its bytes 16..19 say of which colours it speaks."""
    return icc[16:20] == {"grey": b"GRAY", "RGB": b"RGB "}[_colours(form, channels)]


# --- writing --------------------------------------------------------------------------------------------------------


def write(
    path: str | os.PathLike,
    pixels: np.ndarray,
    *,
    like: Picture | None = None,
    quality: int = 95,
    notes: list[str] | None = None,
) -> Path:
    """Save (h, w[, c]) uint8 or uint16 by the suffix of `path`, with ICC, EXIF, XMP, dpi of `like`; returns the path.

    The file appears whole, by rename, or not at all. 16 bits stay in PNG and TIFF, and are rounded to 8 elsewhere;
    alpha is laid on white where a format has none. quality: 1..100, of JPEG and WebP. What the format cannot keep is
    appended to `notes`. ValueError for what no file of this suffix can hold, OSError where the disk refuses.
    """
    path = Path(path)
    check_pixels(pixels)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    form, channels, bits = format_of(path.suffix), pixels[:1, :1].size, pixels.dtype.itemsize * 8
    check_target(path.suffix, *pixels.shape[:2], channels, bits)
    like = like or Picture(pixels)
    if notes is not None:
        notes.extend(losses(path.suffix, like, channels, bits))
    if pixels.ndim == 3 and channels in (2, 4) and not form.has_alpha:
        pixels = on_white(pixels)
    if bits > 8 and not form.is_deep:
        pixels = to_8_bits(pixels)
    kept = {
        "icc": like.icc if like.icc and len(like.icc) <= form.most_icc and _fits(like.icc, form, channels) else None,
        "exif": like.exif and len(like.exif) <= form.most_exif and exif_blocks.resized(like.exif, *pixels.shape[:2]),
        "xmp": like.xmp if like.xmp and len(like.xmp) <= form.most_xmp else None,
        "dpi": like.dpi,
    }
    kept = {name: value for name, value in kept.items() if value}
    with _appearing(path) as (file, scratch):
        if form is TIFF:
            from tadsr_jax.pictures import tiff

            tiff.write(file, pixels, **kept)
        elif pixels.ndim == 3 and pixels.dtype == np.uint16:
            png.write_16(_Writer(file), scratch, pixels, **_options(form, quality, **kept))
        else:
            Image.fromarray(pixels).save(_Writer(file), form.name.upper(), **_options(form, quality, **kept))
    return path


def _options(form: Format, quality: int, *, icc=None, exif=None, xmp=None, dpi=None) -> dict:
    """What Pillow is told beside pixels."""
    options = {"icc_profile": icc, "exif": exif, "xmp": xmp, "dpi": dpi}
    if form is PNG:
        options |= {"compress_level": 4, "pnginfo": PngInfo()}  # 6: thrice the time, 1% of a photograph
        if xmp:
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp)
    if form in (JPEG, WEBP):
        options["quality"] = quality
    if form is JPEG:  # colours are not halved (4:4:4): what was just upscaled is not to be shrunk again
        options["subsampling"] = 0
    return {name: value for name, value in options.items() if value is not None}


class _Writer:
    """An open file without its number. Given that, Pillow writes by itself, and takes a full disk for success."""

    def __init__(self, file: BinaryIO):
        self.write, self.flush, self.tell, self.seek = file.write, file.flush, file.tell, file.seek


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A file beside `path` that becomes it when all is written; and a name for another. Both go when something fails.

    Their names are short, whatever the length of the other's, and hold the process id: what a killed process left
    behind is recognised, and removed by the next one that writes the same picture.
    """
    stem = f".{zlib.crc32(os.fsencode(path.name)):08x}"
    partial = path.with_name(f"{stem}.{os.getpid()}.{next(_numbers)}.part")
    scratch = partial.with_suffix(".part.png")  # by which OpenCV knows the format
    _mine.update((partial.name, scratch.name))
    try:
        for left in path.parent.glob(f"{stem}.*.part*"):
            if not _is_written(left.name):
                left.unlink(missing_ok=True)
        with open(partial, "w+b") as file:
            yield file, scratch
        partial.replace(path)
    except OSError as error:
        if error.errno:  # the message of the system, with the name that a person knows
            raise type(error)(error.errno, error.strerror, shown(path)) from None
        raise OSError(f"{shown(path)}: cannot be written ({error}); is the disk full?") from None
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from None
    finally:
        for left in (partial, scratch):
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)
            _mine.discard(left.name)


def _is_written(name: str) -> bool:
    """Whether some process may still be writing an unfinished file; said of its name."""
    process = name.split(".")[2]
    if process == str(os.getpid()):
        return name in _mine
    try:
        if os.name == "posix":
            os.kill(int(process), 0)  # asks, and sends nothing
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):
        pass
    return True
