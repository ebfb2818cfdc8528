"""EXIF blocks, read and written by Pillow: upright, without thumbnail, of the right size.

said        what an `Image.Exif` says of the photograph, as {tag: value}
block       the bytes of that; None where there is nothing but resolution and orientation
resized     a block whose size in pixels is that of another picture

Values go through Pillow and are written anew. Makers' notes stay as bytes, but not where they were: those that count
offsets from the start of the block can no longer be followed.
"""

from PIL import Image
from PIL.ExifTags import IFD, Base

PREFIX = b"Exif\0\0"
RESOLUTION = {Base.XResolution, Base.YResolution, Base.ResolutionUnit, Base.Orientation}
# Tags of a first directory that speak of the photograph, not of how a TIFF stores its samples.
DESCRIPTIVE = RESOLUTION | {
    269, 270, 271, 272, 285, 305, 306, 315, 316, 18246, 18249, 33432, IFD.Exif, IFD.GPSInfo, 36867, 40091, 40092, 40093,
    40094, 40095, 42032, 42033, 42036,
}  # fmt: skip


def said(exif: Image.Exif) -> dict:
    """What EXIF may say, orientation 1, with its directories as dicts; errors of all kinds where it is damaged."""
    tags = {tag: _text(exif[tag]) for tag in DESCRIPTIVE & set(exif)}
    if Base.Orientation in tags:
        tags[Base.Orientation] = 1
    for number in {IFD.Exif, IFD.GPSInfo} & set(tags):
        tags[number] = {tag: _text(value) for tag, value in exif.get_ifd(number).items()}
    if IFD.Interop in tags.get(IFD.Exif, {}):
        tags[IFD.Exif][IFD.Interop] = dict(exif.get_ifd(IFD.Interop))
    return {tag: value for tag, value in tags.items() if value != {}}


def _text(value):
    """Pillow reads text as Latin-1, and writes ASCII: the bytes of other letters (UTF-8, mostly) stay as they were."""
    return value if not isinstance(value, str) or value.isascii() else value.encode("latin-1", "replace")


def block(exif: Image.Exif, tags: dict | None = None) -> bytes | None:
    """The bytes of `tags` (those of `exif`) in the byte order of `exif`, which makers' notes share."""
    tags = said(exif) if tags is None else tags
    if not set(tags) - RESOLUTION:
        return None
    out = Image.Exif()
    out.endian = exif.endian
    out.update(tags)
    return out.tobytes()


def loaded(data: bytes) -> Image.Exif:
    """A block as Pillow has it."""
    exif = Image.Exif()
    exif.load(data)
    return exif


def resized(data: bytes, height: int, width: int) -> bytes | None:
    """The block of a picture of another size: where it tells pixels, it tells the new ones. None if it is damaged."""
    try:
        exif = loaded(data)
        tags = said(exif)
        inner = tags.get(IFD.Exif, {})
        for tag, length in ((Base.ExifImageWidth, width), (Base.ExifImageHeight, height)):
            if tag in inner:
                inner[tag] = length
        return block(exif, tags)
    except Exception:  # Pillow raises nearly everything; what `read` gives is whole
        return None
