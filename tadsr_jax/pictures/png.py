"""What Pillow does not do of PNG: colour of 16 bits, checksums of pixels, tags behind them, ill chunks left out.

exif        the EXIF block, wherever in the file it stands (some programs put it behind the pixels)
needed      the chunks of the picture itself, checked
bare        the file without all others: no profile, text or animation that could break or bloat a decoder
decode_16   uint16 samples, by OpenCV
write_16    a picture of 16 bits in colour or with alpha

PNG, third edition: https://www.w3.org/TR/png-3/.
"""

import io
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = len(SIGNATURE) + 25  # bytes of the signature and of the IHDR chunk
END = b"\0\0\0\0IEND\xaeB`\x82"
NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
GREY_ALPHA = 4  # a colour type


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
    if pixels is None or pixels.dtype != np.uint16 or not data.endswith(END):
        raise ValueError("OpenCV cannot decode it")
    order = {0: [0], 4: [0, -1], 2: [2, 1, 0], 6: [2, 1, 0, 3]}[data[25]]  # by colour type
    pixels = pixels.reshape(*pixels.shape[:2], -1)[..., order]
    if transparent is not None and len(order) in (1, 3):
        alpha = np.where((pixels == np.uint16(transparent)).all(-1, keepdims=True), np.uint16(0), np.uint16(65535))
        pixels = np.concatenate([pixels, alpha], -1)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def write_16(file: BinaryIO, scratch: Path, pixels: np.ndarray, **options) -> None:
    """uint16 (h, w, 2..4) to an open file. `options`: what Pillow's PNG writer takes beside pixels.

    Colour is written by OpenCV to the file `scratch`, because in memory it would need two copies more; the chunks of
    what else there is to say are those that Pillow writes for a picture of one pixel. 16-bit grey and alpha, which
    OpenCV does not know, have the bytes of 8-bit RGBA: that is what Pillow is given, and only the header differs.
    """
    if pixels.shape[2] == 2:
        Image.fromarray(np.ascontiguousarray(pixels, ">u2").view(np.uint8)).save(file, "PNG", **options)
        header = b"IHDR" + struct.pack(">IIBBBBB", *pixels.shape[1::-1], 16, GREY_ALPHA, 0, 0, 0)
        file.seek(len(SIGNATURE) + 4)
        file.write(header + struct.pack(">I", zlib.crc32(header)))
        return
    import cv2

    order = cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    # The name as bytes: OpenCV crashes on a str that stands for bytes that are no Unicode.
    if not cv2.imwrite(os.fsencode(scratch), cv2.cvtColor(np.ascontiguousarray(pixels), order)):
        raise OSError("OpenCV did not write it")
    one = io.BytesIO()
    Image.new("RGB", (1, 1)).save(one, "PNG", **options)
    said = one.getvalue()[HEADER : one.getvalue().rindex(b"IDAT") - 4]
    with open(scratch, "rb") as made:
        made.seek(-len(END), 2)
        if made.read() != END:  # OpenCV does not look whether the last bytes reach the disk
            raise OSError("OpenCV wrote a part of it")
        made.seek(0)
        file.write(made.read(HEADER) + said)
        shutil.copyfileobj(made, file, 2**20)
