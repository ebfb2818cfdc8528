"""PNG by chunks: writing a picture of any size and depth in bounded memory, and reading what Pillow hides.

write       rows -> filtered -> deflated in parallel -> file, with ICC, EXIF, XMP and resolution, 8 and 16 bit
exif        the EXIF block, wherever in the file it stands (some programs put it behind the pixels)
needed      the chunks of the picture itself, checked
bare        the file without all others: no profile, text or animation that could break or bloat a decoder
decode_16   uint16 samples, which Pillow cuts to 8 bits in colour

PNG, third edition: https://www.w3.org/TR/png-3/. Every row is stored as a difference to a guess from the pixels to the
left (a), above (b) and above left (c), after a byte that says which guess.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from tadsr_jax.pictures.bands import bands, deflate, ordered

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> IHDR colour type: grey, grey + alpha, RGB, RGBA
NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
MOST_PROFILE = 2**20  # of bytes of an ICC profile: what Pillow and others inflate at most
AVERAGE, PAETH = 3, 4  # filter types
BLOCK, BAND = 100_000, 4_000_000  # bytes that are filtered at once (they fit a cache), and deflated at once


# --- writing --------------------------------------------------------------------------------------------------------


def write(
    file: BinaryIO,
    pixels: np.ndarray,
    *,
    icc: bytes | None = None,
    exif: bytes | None = None,
    xmp: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> None:
    """(h, w) or (h, w, 2..4), uint8 or uint16, to an open file. `exif` is a TIFF block without the "Exif" prefix."""
    height, width, channels = *pixels.shape[:2], pixels[:1, :1].size
    depth = pixels.dtype.itemsize * 8
    file.write(SIGNATURE)
    _put(file, b"IHDR", struct.pack(">IIBBBBB", width, height, depth, COLOUR_TYPES[channels], 0, 0, 0))
    if icc:
        _put(file, b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc))
    if dpi:
        _put(file, b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in dpi), 1))
    if exif:
        _put(file, b"eXIf", exif)
    if xmp:
        _put(file, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)

    def deflated(rows):
        # Each band is a deflate stream of its own that ends on a byte (Z_SYNC_FLUSH): joined, they are one stream.
        filtered = _filtered(pixels, *rows)
        return filtered, deflate(filtered, raw=True)

    check = zlib.adler32(b"")
    head = b"\x78\x01"
    for filtered, data in ordered(deflated, bands(pixels, BAND)):
        check = zlib.adler32(filtered, check)
        _put(file, b"IDAT", head + data)
        head = b""
    _put(file, b"IDAT", b"\x03\x00" + struct.pack(">I", check))  # an empty last block, and the sum over all rows
    _put(file, b"IEND", b"")


def _put(file: BinaryIO, kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind)
    file.write(data)
    file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))


def _filtered(pixels: np.ndarray, start: int, stop: int) -> bytes:
    """Rows start..stop as PNG stores them: filter type, then differences, row by row."""
    step = max(1, BLOCK // max(1, pixels[:1].nbytes))
    blocks = []
    for top in range(start, stop, step):
        rows = _samples(pixels[max(top - 1, 0) : min(top + step, stop)])
        above = np.concatenate([np.zeros_like(rows[:1]), rows]) if top == 0 else rows
        blocks.append(_differences(above, pixels[:1, :1].nbytes).tobytes())
    return b"".join(blocks)


def _samples(rows: np.ndarray) -> np.ndarray:
    """(n, w, ...) -> (n, bytes of a row) uint8; two-byte samples have their high byte first."""
    rows = rows.astype(rows.dtype.newbyteorder(">"), copy=False)
    return np.ascontiguousarray(rows.reshape(len(rows), -1)).view(np.uint8)


def _differences(rows: np.ndarray, step: int) -> np.ndarray:
    """(n + 1, w) bytes -> (n, 1 + w): of two guesses, for each row the one that leaves the smaller differences.

    Average guesses (a + b) / 2; Paeth the one of a, b, c that is nearest to a + b - c. `step`: bytes of a pixel.
    """
    x, b = rows[1:], rows[:-1]
    a, c = np.zeros_like(x), np.zeros_like(x)
    a[:, step:], c[:, step:] = x[:, :-step], b[:, :-step]
    by_average = x - ((a & b) + ((a ^ b) >> 1))  # floor((a + b) / 2) without a ninth bit
    wide_c = c.astype(np.int16)
    to_a, to_b = b - wide_c, a - wide_c  # of the guess a + b - c
    to_c = np.abs(to_a + to_b)
    to_a, to_b = np.abs(to_a), np.abs(to_b)
    by_paeth = x - np.where((to_a <= to_b) & (to_a <= to_c), a, np.where(to_b <= to_c, b, c))
    is_paeth = _cost(by_paeth) <= _cost(by_average)
    out = np.empty((len(x), 1 + x.shape[1]), np.uint8)
    out[:, 0] = np.where(is_paeth, PAETH, AVERAGE)
    out[:, 1:] = np.where(is_paeth[:, None], by_paeth, by_average)
    return out


def _cost(differences: np.ndarray) -> np.ndarray:
    """Sum of |difference| of each row, taken as signed bytes: what libpng chooses by."""
    return np.minimum(differences, -differences).sum(1, dtype=np.int64)


# --- reading --------------------------------------------------------------------------------------------------------


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where its data start, their length) of all chunks that are whole, up to the end."""
    end = file.seek(0, 2)
    at = len(SIGNATURE)
    while at + 12 <= end:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        if at + 12 + length > end:
            return
        yield kind, at + 8, length
        at += 12 + length
        if kind == b"IEND":
            return


def exif(file: BinaryIO) -> bytes | None:
    """The EXIF block as it stands in the file, or None."""
    for kind, at, length in _chunks(file):
        if kind == b"eXIf":
            file.seek(at)
            return file.read(length)
    return None


def needed(file: BinaryIO, kinds: tuple[bytes, ...] = NEEDED) -> Iterator[bytes]:
    """The chunks that make the picture, each with its checksum; ValueError where that is wrong.

    Pillow does not look at the checksums of pixels, and would show damaged ones.
    """
    for kind, at, length in _chunks(file):
        if kind in kinds:
            file.seek(at - 8)
            chunk = file.read(length + 12)
            if zlib.crc32(chunk[4:-4]) != struct.unpack(">I", chunk[-4:])[0]:
                raise ValueError(f"its {kind.decode()} chunk has a wrong checksum")
            yield chunk


def bare(file: BinaryIO, kinds: tuple[bytes, ...] = NEEDED) -> bytes:
    """The same picture without optional chunks."""
    return SIGNATURE + b"".join(needed(file, kinds))


def decode_16(file: BinaryIO, transparent: int | tuple[int, ...] | None = None) -> np.ndarray:
    """uint16 (h, w), or (h, w, c) with 2, 3 or 4 channels. `transparent`: the one colour (of tRNS) that is not there.

    OpenCV has no two-channel pictures: grey with alpha comes as B, G, R, A. It is not shown tRNS, which its versions
    treat in different ways.
    """
    import cv2

    data = bare(file, (b"IHDR", b"IDAT", b"IEND"))
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError("OpenCV cannot decode it")
    colour_type = data[25]
    pixels = pixels.reshape(*pixels.shape[:2], -1)[
        ..., {0: [0], 4: [0, -1], 2: [2, 1, 0], 6: [2, 1, 0, 3]}[colour_type]
    ]
    if transparent is not None and colour_type in (0, 2):
        alpha = np.where((pixels == np.uint16(transparent)).all(-1, keepdims=True), np.uint16(0), np.uint16(65535))
        pixels = np.concatenate([pixels, alpha], -1)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels
