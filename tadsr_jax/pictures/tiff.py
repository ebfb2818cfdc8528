"""TIFF by the library tifffile: reading the 16 bits that Pillow cuts to 8, and writing all there is.

first_page   what a file says of its first picture, where that has 16 bits
decode_16    uint16 samples, straight alpha
write        any of our pictures, packed strip by strip in parallel, with ICC, EXIF, XMP and resolution

Without the package imagecodecs, tifffile packs and unpacks deflate and PackBits; LZW and the like are read by OpenCV.
"""

import contextlib
import logging
import struct
from typing import BinaryIO

import numpy as np
import tifffile
from PIL import Image

from tadsr_jax.pictures.exif import PREFIX, loaded, said

COLOURS = {0: 1, 1: 1, 2: 3}  # photometric interpretation (grey whose 0 is white, grey, RGB) -> channels
ASSOCIATED, STRAIGHT = 1, 2  # kinds of alpha: colours multiplied by it, or not
XMP = 700
STRIP = 2_000_000  # bytes
logging.getLogger("tifffile").addHandler(logging.NullHandler())  # or Python prints its complaints


def first_page(file: BinaryIO) -> tifffile.TiffPage | None:
    """The first picture of a TIFF, if it has unsigned 16 bits a sample, grey or RGB; all others are for Pillow."""
    with contextlib.suppress(Exception):  # tifffile raises nearly everything on what is damaged, or no TIFF
        file.seek(0)
        page = tifffile.TiffFile(file).pages.first
        is_deep = page.bitspersample == 16 and page.sampleformat == 1 and page.compression != 7  # JPEG
        if is_deep and page.imagedepth == 1 and page.samplesperpixel >= COLOURS.get(int(page.photometric), 99):
            return page
    return None


def decode_16(file: BinaryIO, page: tifffile.TiffPage) -> np.ndarray:
    """uint16 (h, w), or (h, w, c) with 2, 3 or 4 channels."""
    height, width, colours = page.imagelength, page.imagewidth, COLOURS[int(page.photometric)]
    try:
        pixels = page.asarray()
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        pixels = _by_opencv(file, page)
    if page.planarconfig == 2:
        pixels = np.moveaxis(pixels.reshape(-1, height, width), 0, -1)
    pixels = pixels.reshape(height, width, -1).astype(np.uint16, copy=False)
    if page.photometric == 0:
        pixels = np.concatenate([65535 - pixels[..., :1], pixels[..., 1:]], -1)
    extra = int(page.extrasamples[0]) if page.extrasamples else STRAIGHT  # what is not said is alpha, as for Pillow
    pixels = pixels[..., : colours + (pixels.shape[-1] > colours and extra != 0)]
    if pixels.shape[-1] > colours and extra == ASSOCIATED:
        pixels = _straight(pixels)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def _by_opencv(file: BinaryIO, page: tifffile.TiffPage) -> np.ndarray:
    """(h, w) or (h, w, 3..4) of a compression that tifffile leaves to the package imagecodecs."""
    import cv2

    file.seek(0)
    pixels = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if page.planarconfig == 2 or pixels is None or pixels.dtype != np.uint16 or pixels.size != page.size:
        how = getattr(page.compression, "name", page.compression)
        raise ValueError(f"its 16 bits are packed by {how}, which is read with the package imagecodecs alone")
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}
    return pixels if pixels.ndim == 2 else pixels[..., order[pixels.shape[2]]]


def _straight(pixels: np.ndarray) -> np.ndarray:
    """Divide the colours by alpha: c 65535 / alpha, rounded; nothing is known of colours under no cover."""
    alpha = np.maximum(pixels[..., -1:], 1).astype(np.uint32)
    colours = (pixels[..., :-1] * np.uint32(65535) + alpha // 2) // alpha
    return np.concatenate([np.minimum(colours, 65535).astype(np.uint16), pixels[..., -1:]], -1)


def write(file: BinaryIO, pixels: np.ndarray, *, icc=None, exif=None, xmp=None, dpi=None) -> None:
    """(h, w) or (h, w, 2..4), uint8 or uint16, to a file that is open for writing and reading."""
    channels = pixels[:1, :1].size
    tifffile.imwrite(
        file,
        pixels,
        byteorder=">" if (exif or b"").removeprefix(PREFIX)[:2] == b"MM" else "<",
        bigtiff=False,
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression="zlib",
        compressionargs={"level": 1},  # 6 takes five times the time, and saves 12%
        predictor=2,
        rowsperstrip=max(1, STRIP // pixels[:1].nbytes),
        metadata=None,
        software=False,
        iccprofile=icc,
        resolution=dpi,
        resolutionunit="INCH" if dpi else None,
        extratags=[(XMP, 1, len(xmp), xmp, True)] if xmp else [],
    )
    if exif:
        _add_exif(file, exif)


def _add_exif(file: BinaryIO, exif: bytes) -> None:
    """Behind the file, a first directory of all its tags and those of the block: by Pillow, as tifffile cannot."""
    file.seek(0)
    offsets = tifffile.TiffFile(file).pages.first.dataoffsets
    tags = Image.Exif()
    file.seek(0)
    tags.load_from_fp(file)
    tags.update({tag: value for tag, value in said(loaded(exif)).items() if tag not in tags})
    at = file.seek(0, 2)
    at += file.write(b"\0" * (at % 2))
    file.write(tags.tobytes(at)[len(PREFIX) + 8 :])
    file.seek(4)
    file.write(struct.pack(tags.endian + "I", at))
    file.seek(0)
    strips = tifffile.TiffFile(file).pages.first.tags["StripOffsets"]
    strips.overwrite(offsets)  # Pillow, which thinks that the samples come after the directory, has moved them
