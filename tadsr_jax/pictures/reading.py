"""Files -> pictures. Nothing in a file is believed: its name, its sizes, its profile, its tags.

read        a whole Picture, upright
size        (height, width), upright, from the header alone
opened      the header of a file or of bytes: for whoever wants to look before decoding
samples     the pixels as the file stores them, before turning and before colour conversion
from_pil    a Picture of a Pillow image

Whatever is wrong with a file's content is a ValueError of one line that begins with its name; what the file system
refuses stays an OSError.
"""

import collections
import contextlib
import dataclasses
import importlib
import io
import math
import os
import re
import stat
import struct
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms

from tadsr_jax.pictures import exif as exif_blocks
from tadsr_jax.pictures import png
from tadsr_jax.pictures.levels import turned
from tadsr_jax.pictures.picture import Picture

if TYPE_CHECKING:
    from tifffile import TiffPage

# Pillow offers dozens of decoders; a picture from a stranger meets only these, whatever its name says.
FORMATS = ("PNG", "JPEG", "WebP", "BMP", "TIFF", "GIF")
for _name in ("Png", "Jpeg", "Mpo", "WebP", "Bmp", "Tiff", "Gif", "Ppm"):
    importlib.import_module(f"PIL.{_name}ImagePlugin")  # Pillow would load all of its plugins, or too few
MAX_PIXELS = 2**29  # 537 megapixels; more is taken for a decompression bomb
XMP_ORIENTATION = re.compile(rb'(tiff:Orientation(?:="|>))[2-8]')
ORIENTATION, WIDTH, HEIGHT = ExifTags.Base.Orientation, ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength


class Unreadable(ValueError):
    """A whole file of a kind that is not read; its message lacks the name."""


@dataclasses.dataclass
class Opened:
    """A header: `page` of a 16-bit TIFF, `image` of everything else."""

    file: BinaryIO
    height: int
    width: int
    image: Image.Image | None
    page: "TiffPage | None" = None
    is_deep: bool = False
    notes: tuple[str, ...] = ()


# --- headers --------------------------------------------------------------------------------------------------------


def read(path: str | os.PathLike) -> Picture:
    """The picture in a file: PNG, JPEG, WebP, BMP or TIFF by content, not by name; of several frames the first."""
    with opened(path) as header:
        exif, _, exif_notes = _exif(header)
        icc, icc_notes = _profile(header)
        image, icc, colour_notes = _in_rgb(header.image, icc)
        pixels = samples(header, image)
        cut = ("its 16 bits were read as 8",) if header.is_deep and pixels.dtype == np.uint8 else ()
        notes = (*header.notes, *_frames(header), *exif_notes, *icc_notes, *colour_notes, *cut)
        return Picture(pixels, icc, exif, _xmp(header), _dpi(header), notes)


def size(path: str | os.PathLike) -> tuple[int, int]:
    """(height, width) of the upright picture, without decoding it."""
    with opened(path) as header:
        return (header.width, header.height) if _exif(header)[1] > 4 else (header.height, header.width)


@contextlib.contextmanager
def opened(
    source: bytes | str | os.PathLike, *, formats: tuple[str, ...] = FORMATS, most: int = MAX_PIXELS
) -> Iterator[Opened]:
    """The header of a file, or of the bytes of one; ValueError where it is no picture, or larger than `most` pixels.

    What a decoder raises while the header is in use becomes a ValueError, too.
    """
    name = shown(source)
    with _file(source) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # complaints about odd tags, in the middle of a progress bar
        with _named(name, "no picture, or a damaged one"):
            header = _header(file, formats, most)
        with _named(name, "damaged or truncated"):
            yield header


def _header(file: BinaryIO, formats: tuple[str, ...], most: int) -> Opened:
    """What the first bytes and the tags say."""
    head, notes = file.read(16), ()
    if not head:
        raise Unreadable("no picture; the file is empty")
    page = None
    if "TIFF" in formats and head[:2] in (b"II", b"MM"):
        from tadsr_jax.pictures import tiff  # tifffile takes a tenth of a second to import

        page = tiff.first_page(file)
    image = None
    if page:
        height, width = page.imagelength, page.imagewidth
    else:
        image, notes = _image(file, head, formats)
        # The tags have the size as stored; Pillow tells that of a turned TIFF upright, but not in all of its versions.
        stored = getattr(image, "tag_v2", {})
        height, width = stored.get(HEIGHT, image.height), stored.get(WIDTH, image.width)
    if height * width > most:
        raise Unreadable(f"its header says {width}x{height} pixels; more than the {most:,} that are decoded")
    if min(height, width) < 1:
        raise Unreadable(f"no picture; its header says {width}x{height} pixels")
    return Opened(file, height, width, image, page, page is not None or "16" in _rawmode(image), notes)


@contextlib.contextmanager
def _named(name: str, complaint: str) -> Iterator[None]:
    """Errors of decoders, who raise nearly everything on damaged files, as one line with the name of the file."""
    try:
        yield
    except MemoryError:
        raise
    except Image.DecompressionBombError:  # Pillow's own limit, of animations and the like
        raise ValueError(f"{name}: its header says more pixels than Pillow decodes.") from None
    except Unreadable as error:
        raise ValueError(f"{name}: {error}.") from None
    except Exception as error:
        raise ValueError(f"{name}: {complaint} ({_reason(error)}).") from None


def shown(source: bytes | str | os.PathLike) -> str:
    """A name for messages: in one line, printable, whatever is in it."""
    if isinstance(source, bytes):
        return "data"
    name = os.fsencode(source).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


@contextlib.contextmanager
def _file(source: bytes | str | os.PathLike) -> Iterator[BinaryIO]:
    """An ordinary file, open; a pipe would wait for ever, and a device would never end."""
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    mode = os.stat(source).st_mode
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise ValueError(f"{shown(source)}: {what}, not a picture file.")
    with open(source, "rb") as file:
        yield file


def _reason(error: Exception) -> str:
    """The first line of a message, or what it means where it speaks of Python."""
    if isinstance(error.__cause__ or error, struct.error | IndexError):
        return "it ends too early"
    if str(error) == "unknown pixel mode":  # of TIFF
        return "its samples are of a kind that is not read; save it as PNG"
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return text.rstrip(".")


def _image(file: BinaryIO, head: bytes, formats: tuple[str, ...]) -> tuple[Image.Image, tuple[str, ...]]:
    """Pillow's view of the file, by its first bytes. Not `Image.open`: its limit of pixels is the whole process's."""
    for kind in formats:
        factory, accept = Image.OPEN[kind.upper()]
        if accept(head) is not True:  # a string says that Pillow was built without this format
            continue
        file.seek(0)
        try:
            return factory(file, None), ()
        except Exception:
            if kind != "PNG":
                raise
            # An optional chunk may be to blame: a profile or text that inflates to more than Pillow's limit.
            plain = factory(io.BytesIO(png.bare(file)), None)
            return plain, ("a profile or text in the file is damaged or too large, and was left out",)
    kinds = ", ".join(kind for kind in formats if kind != "GIF")
    raise Unreadable(f"no picture; it begins with {head!r}; expected {kinds}")


# --- pixels ---------------------------------------------------------------------------------------------------------


def samples(header: Opened, image: Image.Image | None = None) -> np.ndarray:
    """The pixels, upright: uint16 where the file has more than 8 bits; grey, grey + alpha, RGB or RGBA.

    Palettes become RGB or RGBA, CMYK becomes RGB by complement. `image`: that of the header after a better conversion.
    """
    orientation = _exif(header)[1]
    if header.image is None:
        from tadsr_jax.pictures import tiff

        return turned(tiff.decode_16(header.file, header.page), orientation)
    if header.image.format == "PNG":
        if header.is_deep:
            pixels = png.decode_16(header.file, header.image.info.get("transparency"))
            return turned(pixels, orientation)
        collections.deque(png.needed(header.file), maxlen=0)  # for their checksums
    pixels = levels(image or header.image)
    if header.image.format == "TIFF":
        orientation = header.image.getexif().get(ORIENTATION, 1)  # what is left: Pillow turns these as it decodes
    return turned(pixels, orientation)


def levels(image: Image.Image) -> np.ndarray:
    """The samples of a Pillow image in one of our layouts, not turned; 16 bits in grey alone."""
    rawmode = _rawmode(image)
    steps = {"L;2": 85, "L;4": 17}.get(rawmode, 1)  # Pillow spreads such samples over 0..255, but not the key
    image.load()
    mode, key = image.mode, image.info.get("transparency")
    if mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.uint16)
        return pixels << 4 | pixels >> 8 if rawmode == "I;12" else pixels
    if mode == "I" and np.min(image) >= 0 and np.max(image) <= 65535:  # 16 bits in a wider box: PGM
        return np.asarray(image).astype(np.uint16)
    if mode in ("F", "I"):
        raise Unreadable("its samples have 32 bits or a sign; 8 or 16 bits without sign are read")
    if mode == "L" and key is not None:
        grey = np.asarray(image)
        return np.stack([grey, np.where(grey == key * steps, 0, 255).astype(np.uint8)], -1)
    clear = image.has_transparency_data
    if mode == "1":
        mode = "LA" if clear else "L"
    elif mode not in ("L", "LA", "RGB", "RGBA") or clear:
        mode = {"LA": "LA", "La": "LA"}.get(mode, "RGBA" if clear else "RGB")
    return np.array(image if mode == image.mode else image.convert(mode))


def _rawmode(image: Image.Image) -> str:
    """How samples lie in the file, in Pillow's words; empty after decoding."""
    if image.format not in ("PNG", "TIFF", "PPM") or not getattr(image, "tile", None):
        return ""
    told = image.tile[0][3]
    return str(told[0] if isinstance(told, tuple) else told)


def _in_rgb(image: Image.Image | None, icc: bytes | None) -> tuple[Image.Image | None, bytes | None, tuple[str, ...]]:
    """CMYK and Lab as sRGB, through the profile in the file where it is one; that profile has then done its work."""
    if image is None or image.mode not in ("CMYK", "LAB"):
        return image, icc, ()
    srgb = ImageCms.createProfile("sRGB")
    how = {"renderingIntent": ImageCms.Intent.RELATIVE_COLORIMETRIC, "flags": ImageCms.Flags.BLACKPOINTCOMPENSATION}
    image.load()
    try:
        if image.mode == "LAB":
            rgb = ImageCms.profileToProfile(image, ImageCms.createProfile("LAB"), srgb, outputMode="RGB", **how)
            return rgb, None, ("Lab converted to sRGB",)
        if icc and icc[16:20] == b"CMYK":
            inks = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            rgb = ImageCms.profileToProfile(image, inks, srgb, outputMode="RGB", **how)
            return rgb, None, ("CMYK converted to sRGB through its ICC profile",)
    except (ImageCms.PyCMSError, OSError, ValueError):
        if image.mode == "LAB":
            raise
    return image.convert("RGB"), None, ("CMYK converted to RGB without an ICC profile; colours are approximate",)


# --- what the file says beside its pixels ---------------------------------------------------------------------------


def _exif(header: Opened) -> tuple[bytes | None, int, tuple[str, ...]]:
    """The EXIF block, upright and without thumbnail; the orientation 1..8 of the stored pixels; notes.

    Pillow looks for an orientation in XMP as well, because some programs turn pictures there alone.
    """
    orientation = 1
    try:
        if header.page:
            exif = Image.Exif()
            exif.bigtiff, exif.endian = header.page.parent.is_bigtiff, header.page.parent.byteorder
            exif.load_from_fp(header.file, header.page.offset)
        else:
            if header.image.format == "PNG" and header.image.tile and "exif" not in header.image.info:
                header.image.info["exif"] = png.exif(header.file)  # or Pillow would decode all pixels to find it
            exif = header.image.getexif()
            if not len(exif) and header.image.info.get("exif"):
                raise ValueError("Pillow reads none of it")
        orientation = exif.get(ORIENTATION, 1)
        block, notes = exif_blocks.block(exif), ()
    except Exception:  # Pillow raises nearly everything
        block, notes = None, ("the EXIF data are damaged, and were left out",)
    return block, orientation if orientation in range(1, 9) else 1, notes


def _profile(header: Opened) -> tuple[bytes | None, tuple[str, ...]]:
    """The ICC profile, where its header is one; "acsp" is the signature at byte 36 of every profile."""
    icc = header.page.iccprofile if header.page else header.image.info.get("icc_profile")
    if icc and (len(icc) < 128 or icc[36:40] != b"acsp"):
        return None, ("the ICC profile is damaged, and was left out",)
    return icc or None, ()


def _packet(header: Opened) -> bytes:
    """The XMP packet as it stands; empty where there is none."""
    if header.page:
        xmp = header.page.tags.valueof("XMP") or b""
    else:
        xmp = header.image.info.get("xmp") or header.image.info.get("XML:com.adobe.xmp") or b""
    return xmp.encode() if isinstance(xmp, str) else bytes(xmp)


def _xmp(header: Opened) -> bytes | None:
    """The XMP packet of the upright picture."""
    return XMP_ORIENTATION.sub(rb"\g<1>1", _packet(header)) or None


def _dpi(header: Opened) -> tuple[float, float] | None:
    """Dots per inch across and down, where the file says something sensible."""
    try:
        told = header.page.get_resolution("inch") if header.page else header.image.info.get("dpi")
        across, down = (float(value) for value in told)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if all(math.isfinite(v) and 0 < v < 65536 for v in (across, down)) else None


def _frames(header: Opened) -> tuple[str, ...]:
    """A note where there is more than the picture that is read."""
    try:
        count = len(header.page.parent.pages) if header.page else getattr(header.image, "n_frames", 1)
    except Exception:  # damaged behind the first
        return ()
    return (f"first of {count} frames",) if count > 1 else ()


# --- Pillow images --------------------------------------------------------------------------------------------------


def from_pil(image: Image.Image) -> Picture:
    """A Picture of a Pillow image of any mode, turned upright; 16 bits where Pillow has them (grey)."""
    image.load()
    header = Opened(io.BytesIO(), image.height, image.width, image)
    exif, orientation, exif_notes = _exif(header)
    if image.format == "TIFF":
        orientation = image.getexif().get(ORIENTATION, 1)
    icc, icc_notes = _profile(header)
    rgb, icc, colour_notes = _in_rgb(image, icc)
    notes = (*exif_notes, *icc_notes, *colour_notes)
    return Picture(turned(levels(rgb), orientation), icc, exif, _xmp(header), _dpi(header), notes)
