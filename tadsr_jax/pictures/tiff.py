"""TIFF of 16 bits: what Pillow cuts to 8 bits, refuses, or cannot write with a profile.

layout      the first directory of a classic TIFF
is_deep     whether its samples are 16 (or 12) bit grey, grey + alpha, RGB or RGBA
decode_16   uint16 samples, straight alpha
pages       how many pictures the file holds
write       any of our pictures, deflated strip by strip in parallel, with ICC, EXIF, XMP and resolution

Reading leans on Pillow (libtiff) for every compression: a directory of our own is put behind the file, which calls the
samples of a row one wide grey picture, or each colour plane a picture of its own. Differences between neighbours
(Predictor 2) are then summed here, because libtiff would take the wrong neighbour.
"""

import io
import struct
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import TiffImagePlugin

from tadsr_jax.pictures import tags as tagging
from tadsr_jax.pictures.bands import bands, deflate, ordered
from tadsr_jax.pictures.tags import Tag, values

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, SAMPLES, STRIP_ROWS, STRIP_BYTES, PLANAR, PREDICTOR = 273, 277, 278, 279, 284, 317
TILE_WIDTH, TILE_OFFSETS, TILE_BYTES, EXTRA, SAMPLE_FORMAT = 322, 324, 325, 338, 339
MINUS_IS_WHITE, GREY, RGB = 0, 1, 2  # photometric interpretations
ASSOCIATED = 1  # of EXTRA: colours were multiplied by alpha
MOST_BYTES = 2**32 - 2**24  # offsets have 32 bits; some room for a profile and for pixels that do not shrink
STRIP = 2_000_000  # bytes


class Layout(NamedTuple):
    """The first directory of a file, at offset `at`."""

    order: str
    at: int
    tags: dict[int, Tag]
    next: int

    def get(self, number: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """The numbers of a tag."""
        return values(self.tags.get(number), self.order) or default

    def one(self, number: int, default: int = 0) -> int:
        """The first number of a tag."""
        return self.get(number, (default,))[0]


def layout(file: BinaryIO) -> Layout | None:
    """The first directory, or None where the file is no classic TIFF."""
    try:
        order, first = tagging.start(file)
        return Layout(order, first, *tagging.directory(file, order, first))
    except ValueError:
        return None


def pages(file: BinaryIO, page: Layout, *, most: int = 10_000) -> int:
    """The number of directories, each counted once, `most` at most."""
    seen, at = {page.at}, page.next
    while at and at not in seen and len(seen) < most:
        seen.add(at)
        file.seek(at)
        count = file.read(2)
        if len(count) < 2:
            break
        file.seek(at + 2 + 12 * struct.unpack(page.order + "H", count)[0])
        at = struct.unpack(page.order + "I", file.read(4).rjust(4, b"\0"))[0]
    return len(seen)


def resolution(page: Layout) -> tuple[float | None, float | None]:
    """Dots per inch, across and down."""
    unit = {2: 1.0, 3: 2.54}.get(page.one(tagging.RESOLUTION_UNIT, 2))
    across, down = (
        tagging.ratio(page.tags.get(number), page.order) for number in (tagging.X_RESOLUTION, tagging.Y_RESOLUTION)
    )
    return (across and unit and across * unit, down and unit and down * unit)


# --- reading --------------------------------------------------------------------------------------------------------


def is_deep(page: Layout) -> bool:
    """Unsigned 16 bits (or 12, in files of Intel order) in every sample; grey or RGB, with or without more channels."""
    bits = set(page.get(BITS, (1,)))
    colours = {MINUS_IS_WHITE: 1, GREY: 1, RGB: 3}.get(page.one(PHOTOMETRIC, -1), 99)
    return (
        (bits == {16} or (bits == {12} and page.order == "<"))
        and set(page.get(SAMPLE_FORMAT, (1,))) == {1}
        and colours <= page.one(SAMPLES, 1)
        and page.one(COMPRESSION, 1) != 7  # JPEG
    )


def decode_16(file: BinaryIO, page: Layout) -> np.ndarray:
    """uint16 (h, w), or (h, w, c) with 2, 3 or 4 channels; 12 bits are spread over 16."""
    samples = page.one(SAMPLES, 1)
    if page.one(PLANAR, 1) == 2:
        pixels = np.concatenate([_grey(file, page, plane, 1) for plane in range(samples)], -1)
    else:
        pixels = _grey(file, page, None, samples)
    if page.one(BITS) == 12:
        pixels = pixels << 4 | pixels >> 8
    colours = 3 if page.one(PHOTOMETRIC) == RGB else 1
    if page.one(PHOTOMETRIC) == MINUS_IS_WHITE:
        pixels[..., 0] = 65535 - pixels[..., 0]
    extra = page.one(EXTRA, 2)  # what is not said is taken for alpha, as Pillow does
    pixels = pixels[..., : colours + (samples > colours and extra != 0)]
    if pixels.shape[-1] > colours and extra == ASSOCIATED:
        pixels = _straight(pixels)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def _grey(file: BinaryIO, page: Layout, plane: int | None, samples: int) -> np.ndarray:
    """(h, w, samples) uint16 of the file, or of one of its planes, read as a grey picture `samples` times as wide."""
    bits, order = page.one(BITS), page.order
    width, height = page.one(WIDTH), page.one(HEIGHT)
    kept = (HEIGHT, COMPRESSION, FILL_ORDER, STRIP_ROWS, 323)  # 323: rows of a tile
    chosen = {number: page.tags[number] for number in kept if number in page.tags}
    for number in (STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES):
        numbers = page.get(number)
        if plane is not None:
            share = len(numbers) // page.one(SAMPLES)
            numbers = numbers[plane * share : (plane + 1) * share]
        if numbers:
            chosen[number] = _integers(order, *numbers)
    chosen[WIDTH] = _integers(order, width * samples)
    if TILE_WIDTH in page.tags:
        chosen[TILE_WIDTH] = _integers(order, page.one(TILE_WIDTH) * samples)
    for number, value in ((BITS, bits), (PHOTOMETRIC, GREY), (SAMPLES, 1)):
        chosen[number] = Tag(3, 1, struct.pack(order + "H", value))

    file.seek(0)
    data = file.read()
    data += b"\0" * (len(data) % 2)
    head = data[:4] + struct.pack(order + "I", len(data))
    told = io.BytesIO(b"".join([head, memoryview(data)[8:], tagging.serialise(chosen, order, len(data))]))
    with TiffImagePlugin.TiffImageFile(told) as image:
        pixels = np.array(image).astype(np.uint16).reshape(height, width, samples)
    if page.one(PREDICTOR, 1) == 2:
        step = page.one(TILE_WIDTH, width)
        for left in range(0, width, step):
            part = pixels[:, left : left + step]
            np.cumsum(part, axis=1, dtype=np.uint16, out=part)
    return pixels


def _integers(order: str, *numbers: int) -> Tag:
    return Tag(4, len(numbers), struct.pack(f"{order}{len(numbers)}I", *numbers))


def _straight(pixels: np.ndarray) -> np.ndarray:
    """Divide the colours by alpha: c 65535 / alpha, rounded; nothing is known of colours under no cover."""
    alpha = np.maximum(pixels[..., -1:], 1).astype(np.uint32)
    colours = (pixels[..., :-1] * np.uint32(65535) + alpha // 2) // alpha
    return np.concatenate([np.minimum(colours, 65535).astype(np.uint16), pixels[..., -1:]], -1)


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
    """(h, w) or (h, w, 2..4), uint8 or uint16, to an open file: strips first, then the directory that lists them."""
    height, width, channels = *pixels.shape[:2], pixels[:1, :1].size
    order, tags = tagging.of_exif(exif)
    file.write((b"II*\0" if order == "<" else b"MM\0*") + b"\0\0\0\0")
    rows = bands(pixels, STRIP)

    def deflated(band):
        return deflate(_differences(pixels[slice(*band)], order))

    offsets, lengths = [], []
    for data in ordered(deflated, rows):
        offsets.append(file.tell())
        lengths.append(len(data))
        file.write(data)
    at = file.tell() + file.tell() % 2
    if at >= 2**32:
        raise ValueError("the file would be larger than the 4 GiB that TIFF can hold; write a .png.")

    def short(*numbers):
        return Tag(3, len(numbers), struct.pack(f"{order}{len(numbers)}H", *numbers))

    tags |= {
        WIDTH: _integers(order, width),
        HEIGHT: _integers(order, height),
        BITS: short(*[pixels.dtype.itemsize * 8] * channels),
        COMPRESSION: short(8),  # deflate
        PHOTOMETRIC: short(RGB if channels > 2 else GREY),
        STRIP_OFFSETS: _integers(order, *offsets),
        tagging.ORIENTATION: short(1),
        SAMPLES: short(channels),
        STRIP_ROWS: _integers(order, rows[0][1]),
        STRIP_BYTES: _integers(order, *lengths),
        PLANAR: short(1),
        PREDICTOR: short(2),
    }
    if channels in (2, 4):
        tags[EXTRA] = short(2)  # alpha, straight
    for number, value in zip((tagging.X_RESOLUTION, tagging.Y_RESOLUTION), dpi or (), strict=False):
        tags[number] = Tag(5, 1, struct.pack(order + "II", round(value * 1000), 1000))
    if dpi:
        tags[tagging.RESOLUTION_UNIT] = short(2)
    if xmp:
        tags[tagging.XMP] = Tag(1, len(xmp), xmp)
    if icc:
        tags[tagging.ICC] = Tag(7, len(icc), icc)
    file.write(b"\0" * (at - file.tell()) + tagging.serialise(tags, order, at))
    file.seek(4)
    file.write(struct.pack(order + "I", at))


def _differences(rows: np.ndarray, order: str) -> bytes:
    """Predictor 2: each sample less the same channel of the pixel to its left, modulo 2^bits."""
    out = rows.copy()
    out[:, 1:] -= rows[:, :-1]
    return out.astype(out.dtype.newbyteorder(order), copy=False).tobytes()
