"""Files that are broken, that lie, or that mean harm: one clear line each, and soon."""

import os
import random
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from tadsr_jax import pictures

pytestmark = pytest.mark.quick

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RGB = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def _png(path, *chunks):
    """A good PNG with chunks (kind, data) behind its header."""
    Image.fromarray(RGB).save(path)
    data = path.read_bytes()
    made = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks]
    path.write_bytes(data[:33] + b"".join(made) + data[33:])
    return path


def _refused(path, pattern):
    with pytest.raises(ValueError, match=pattern) as refusal:
        pictures.read(path)
    message = str(refusal.value)
    assert "\n" not in message
    assert path.name in message
    return message


# --- no pictures ----------------------------------------------------------------------------------------------------


def test_an_empty_file_and_a_text_are_no_pictures_whatever_their_names(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    _refused(tmp_path / "a.png", r"a\.png: no picture; the file is empty\.")
    (tmp_path / "b.png").write_text("Dear reader,\n")
    _refused(tmp_path / "b.png", r"b\.png: no picture; it begins with b'Dear reader,.*; expected PNG, JPEG, WebP")
    with pytest.raises(ValueError, match=r"b\.png: no picture"):
        pictures.size(tmp_path / "b.png")


@pytest.mark.parametrize("kind", ["TIFF", "JPEG", "WEBP", "BMP"])
def test_a_file_is_read_by_its_content_where_its_name_lies(tmp_path, kind):
    Image.new("RGB", (16, 8), "navy").save(tmp_path / "x.png", kind)
    np.testing.assert_allclose(pictures.read(tmp_path / "x.png").pixels[4, 4], [0, 0, 128], atol=3)


def test_formats_beyond_the_list_are_not_decoded(tmp_path):
    for kind in ("PPM", "TGA", "JPEG2000", "ICO", "PCX"):
        Image.fromarray(RGB).save(tmp_path / "x.png", kind)
        _refused(tmp_path / "x.png", "no picture")


def test_folders_pipes_and_devices_are_refused_without_waiting(tmp_path):
    _refused(tmp_path, "a folder, not a picture file")
    os.mkfifo(tmp_path / "pipe.png")
    reader = threading.Thread(
        target=_refused, args=(tmp_path / "pipe.png", "a pipe, a socket or a device"), daemon=True
    )
    reader.start()
    reader.join(10)
    assert not reader.is_alive()
    with pytest.raises(ValueError, match="/dev/zero: a pipe, a socket or a device"):
        pictures.read("/dev/zero")


def test_what_is_not_there_and_links_in_circles_stay_errors_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        pictures.read(tmp_path / "none.png")
    (tmp_path / "a.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(OSError, match=r"Too many levels of symbolic links: '.*a\.png'"):
        pictures.read(tmp_path / "a.png")


def test_odd_names_are_shown_in_one_printable_line(tmp_path):
    path = tmp_path / "new\nline \U0001f600.png"
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"new\\nline \U0001f600\.png: no picture"):
        pictures.read(path)
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.png")  # bytes that are no UTF-8
    with open(path, "wb") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"\\xff\\xfe\.png: no picture") as refusal:
        pictures.read(path)
    str(refusal.value).encode()


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif", ".gif", "16.png", "16.tif"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path, suffix, share):
    path = tmp_path / f"x{suffix}"
    if suffix.startswith("16"):
        pictures.write(path, RGB.astype(np.uint16) * 257)
    else:
        Image.fromarray(RGB).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    _refused(path, "damaged|truncated")


@pytest.mark.parametrize("bits", [8, 16])
def test_a_png_with_a_changed_byte_is_refused(tmp_path, bits):
    path = pictures.write(tmp_path / "x.png", RGB.astype(f"uint{bits}"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    _refused(path, "damaged or truncated")


def test_random_damage_gives_pictures_or_lines_and_nothing_else(tmp_path):
    like = pictures.Picture(RGB, SRGB, b"Exif\0\0" + _exif_loop(), b"<x/>", (300.0, 300.0))
    seeds = [pictures.write(tmp_path / f"x{suffix}", RGB[:16, :16], like=like) for suffix in pictures.SUFFIXES]
    seeds.append(pictures.write(tmp_path / "16.png", RGB[:16, :16].astype(np.uint16), like=like))
    dice = random.Random(0)
    for _ in range(300):
        source = dice.choice(seeds)
        data = bytearray(source.read_bytes())
        for _ in range(dice.choice((1, 3, 20))):
            data[dice.randrange(len(data))] = dice.randrange(256)
        path = tmp_path / f"damaged{source.suffix}"
        path.write_bytes(data)
        try:
            picture = pictures.read(path)
            if picture.pixels.size < 1e6:
                pictures.write(tmp_path / "y.tif", picture.pixels, like=picture)
        except ValueError as error:
            assert "\n" not in str(error)


# --- harm -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [50_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_from_its_header(tmp_path, side):
    path = _png(tmp_path / "bomb.png")
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(data)
    _refused(path, rf"bomb\.png: its header says {side}x{side} pixels; more than the 536,870,912 that are decoded")


def test_a_16_bit_tiff_bomb_is_refused_from_its_header(tmp_path):
    path = pictures.write(tmp_path / "bomb.tif", RGB.astype(np.uint16))
    data = path.read_bytes()
    for tag, side in ((256, 50), (257, 40)):
        data = data.replace(struct.pack("<HHII", tag, 4, 1, side), struct.pack("<HHII", tag, 4, 1, 60_000))
    path.write_bytes(data)
    _refused(path, "its header says 60000x60000 pixels")


def test_100_megapixels_are_read_without_a_warning(tmp_path):
    Image.new("1", (12_000, 9_000)).save(tmp_path / "large.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pictures.size(tmp_path / "large.png") == (9_000, 12_000)


def test_a_profile_of_10_megabytes_is_read_or_left_out(tmp_path):
    huge = SRGB + b"\0" * 10_000_000
    for suffix in (".jpg", ".webp", ".tif"):
        Image.fromarray(RGB).save(tmp_path / f"x{suffix}", icc_profile=huge)
        assert pictures.read(tmp_path / f"x{suffix}").icc == huge
    path = _png(tmp_path / "x.png", (b"iCCP", b"x\0\0" + zlib.compress(huge)))
    picture = pictures.read(path)
    np.testing.assert_array_equal(picture.pixels, RGB)
    assert picture.icc is None
    assert picture.notes == ("a profile or text in the file is damaged or too large, and was left out",)


@pytest.mark.parametrize(
    "chunk",
    [(b"zTXt", b"x\0\0" + zlib.compress(b"a" * 30_000_000)),
     (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"a" * 30_000_000))],
    ids=["zTXt", "iTXt"],
)  # fmt: skip
def test_text_that_inflates_without_end_is_left_out(tmp_path, chunk):
    picture = pictures.read(_png(tmp_path / "x.png", chunk))
    np.testing.assert_array_equal(picture.pixels, RGB)
    assert picture.xmp is None
    assert len(picture.notes) == 1


def test_a_damaged_profile_is_left_out_with_a_note(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "x.jpg", icc_profile=b"no profile" * 20)
    picture = pictures.read(tmp_path / "x.jpg")
    assert picture.icc is None
    assert picture.notes == ("the ICC profile is damaged, and was left out",)


def _exif_loop() -> bytes:
    """A TIFF block whose first directory is its own EXIF directory, and its own next one."""
    entries = struct.pack("<HHII", 271, 2, 4, 0x00636241) + struct.pack("<HHII", 34665, 4, 1, 8)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + struct.pack("<I", 8)


@pytest.mark.parametrize("target", [".png", ".tif", ".jpg", ".webp"])
def test_exif_that_goes_round_in_circles_does_not(tmp_path, target):
    Image.fromarray(RGB).save(tmp_path / "x.jpg", exif=b"Exif\0\0" + _exif_loop())
    picture = pictures.read(tmp_path / "x.jpg")
    pictures.read(pictures.write(tmp_path / f"y{target}", picture.pixels, like=picture))


@pytest.mark.parametrize("block", [b"junk", b"II*\0\xff\xff\xff\x7f", _exif_loop()[:13], b"MM\0*\0\0\0\x08\xff\xff"])
def test_damaged_exif_is_left_out_with_a_note(tmp_path, block):
    Image.fromarray(RGB).save(tmp_path / "x.jpg", exif=b"Exif\0\0" + block)
    picture = pictures.read(tmp_path / "x.jpg")
    assert picture.exif is None
    assert picture.notes == ("the EXIF data are damaged, and were left out",)


def test_a_tiff_whose_pages_go_round_in_circles_has_an_end(tmp_path):
    for dtype in (np.uint8, np.uint16):
        path = pictures.write(tmp_path / "x.tif", RGB.astype(dtype))
        data = bytearray(path.read_bytes())
        at = struct.unpack_from("<I", data, 4)[0]
        count = struct.unpack_from("<H", data, at)[0]
        struct.pack_into("<I", data, at + 2 + 12 * count, at)
        path.write_bytes(data)
        picture = pictures.read(path)
        np.testing.assert_array_equal(picture.pixels, RGB)
        assert picture.notes == ()


def test_complaints_of_pillow_are_not_printed(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "x.tif", exif=b"Exif\0\0" + _exif_loop())
    Image.fromarray(RGB).save(tmp_path / "x.jpg", exif=b"Exif\0\0" + _exif_loop()[:13])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in tmp_path.iterdir():
            pictures.read(path)
