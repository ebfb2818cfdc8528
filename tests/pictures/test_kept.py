"""What a file says beside its pixels goes through: profile, EXIF, XMP, resolution."""

import struct

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from tadsr_jax import pictures
from tadsr_jax.pictures import exif as exif_blocks

pytestmark = pytest.mark.quick

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY = SRGB[:16] + b"GRAY" + SRGB[20:]  # the signature is all that is looked at
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6" dc:title="T\xc3\xaft\xc3\xabl"/></x:xmpmeta>'
TAKEN = "2024:05:06 07:08:09"
KEEPS_ALL = [".png", ".tif", ".jpg", ".webp"]
DEEP = [(".png", np.uint8), (".tif", np.uint8), (".jpg", np.uint8), (".webp", np.uint8)]
DEEP += [(".png", np.uint16), (".tif", np.uint16)]


def _exif(orientation=6) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.IFD.Exif] = {
        ExifTags.Base.DateTimeOriginal: TAKEN,
        ExifTags.Base.ExposureTime: 0.004,
        ExifTags.Base.MakerNote: b"\0\1secret\xff" * 9,
        ExifTags.Base.ExifImageWidth: 30,
        ExifTags.Base.ExifImageHeight: 20,
    }
    exif[ExifTags.IFD.GPSInfo] = {ExifTags.GPS.GPSLatitudeRef: "N", ExifTags.GPS.GPSLatitude: (48.0, 51.0, 24.0)}
    return exif.tobytes()


def _check_exif(exif: Image.Exif, *, width=30, height=20):
    assert exif[ExifTags.Base.Make] == "Maker"
    assert exif.get(ExifTags.Base.Orientation, 1) == 1
    inner = exif.get_ifd(ExifTags.IFD.Exif)
    assert inner[ExifTags.Base.DateTimeOriginal] == TAKEN
    assert float(inner[ExifTags.Base.ExposureTime]) == pytest.approx(0.004)
    assert inner[ExifTags.Base.MakerNote] == b"\0\1secret\xff" * 9
    assert (inner[ExifTags.Base.ExifImageWidth], inner[ExifTags.Base.ExifImageHeight]) == (width, height)
    place = exif.get_ifd(ExifTags.IFD.GPSInfo)
    assert [float(part) for part in place[ExifTags.GPS.GPSLatitude]] == [48, 51, 24]


def _like(pixels) -> pictures.Picture:
    upright = exif_blocks.block(exif_blocks.loaded(_exif()))
    return pictures.Picture(pixels, SRGB, upright, XMP.replace(b'"6"', b'"1"'), (300.0, 150.0))


@pytest.mark.parametrize(("suffix", "dtype"), DEEP)
def test_profile_exif_xmp_and_resolution_are_written_and_read_in_every_depth(tmp_path, suffix, dtype):
    pixels = np.full((24, 36, 3), 77, dtype)
    like, notes = _like(pixels), []
    path = pictures.write(tmp_path / f"x{suffix}", pixels, like=like, notes=notes)
    assert notes == []
    read = pictures.read(path)
    assert read.pixels.dtype == dtype
    assert read.icc == SRGB
    assert read.xmp == like.xmp
    if suffix != ".webp":
        assert read.dpi == pytest.approx((300, 150), rel=1e-3)
    assert read.notes == ()
    exif = Image.Exif()
    exif.load(read.exif)
    _check_exif(exif, width=36, height=24)  # the size of the new picture


@pytest.mark.parametrize("suffix", KEEPS_ALL)
def test_pillow_reads_what_we_keep(tmp_path, suffix):
    pixels = np.full((24, 36, 3), 77, np.uint8)
    with Image.open(pictures.write(tmp_path / f"x{suffix}", pixels, like=_like(pixels))) as image:
        assert image.info["icc_profile"] == SRGB
        assert image.info["xmp"] == XMP.replace(b'"6"', b'"1"')
        _check_exif(image.getexif(), width=36, height=24)


@pytest.mark.parametrize("target", KEEPS_ALL)
@pytest.mark.parametrize("source", KEEPS_ALL)
def test_what_pillow_wrote_in_one_format_is_there_in_another(tmp_path, source, target):
    stored = Image.new("RGB", (30, 20), "navy")
    says_xmp = source in (".jpg", ".webp")  # Pillow writes it in these
    stored.save(tmp_path / f"a{source}", exif=_exif(), icc_profile=SRGB, **({"xmp": XMP} if says_xmp else {}))
    picture = pictures.read(tmp_path / f"a{source}")
    assert picture.pixels.shape == (30, 20, 3), "orientation 6 puts it upright"
    again = pictures.read(pictures.write(tmp_path / f"b{target}", picture.pixels, like=picture))
    np.testing.assert_allclose(again.pixels, picture.pixels.astype(int), atol=6)
    assert again.icc == SRGB
    if says_xmp:
        assert again.xmp == XMP.replace(b'"6"', b'"1"')
    exif = Image.Exif()
    exif.load(again.exif)
    _check_exif(exif, width=20, height=30)


def test_letters_beyond_ascii_stay_the_bytes_they_were(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Zoë".encode()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "x.jpg", exif=exif)
    picture = pictures.read(tmp_path / "x.jpg")
    assert "Zoë\0".encode() in picture.exif
    for suffix in KEEPS_ALL:
        path = pictures.write(tmp_path / f"y{suffix}", picture.pixels, like=picture)
        assert "Zoë\0".encode() in path.read_bytes()


def test_a_thumbnail_in_exif_is_dropped(tmp_path):
    # One directory with a maker, then a second with offset and length of the thumbnail, then the thumbnail.
    first = struct.pack("<HHHI4sI", 1, 271, 2, 4, b"Abc\0", 26)
    second = struct.pack("<HHHIIHHIII", 2, 0x0201, 4, 1, 56, 0x0202, 4, 1, 500, 0)
    block = b"Exif\0\0II*\0\x08\0\0\0" + first + second + b"\xff\xd8" + b"t" * 498
    assert len(block) == 6 + 56 + 500
    Image.new("RGB", (30, 20)).save(tmp_path / "x.jpg", exif=block)
    picture = pictures.read(tmp_path / "x.jpg")
    assert picture.exif == b"Exif\0\0II*\0\x08\0\0\0" + first[:-4] + b"\0\0\0\0"
    assert picture.notes == ()


def test_xmp_alone_may_turn_a_picture(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "x.jpg", xmp=XMP)
    picture = pictures.read(tmp_path / "x.jpg")
    assert picture.pixels.shape == (30, 20, 3)
    assert pictures.size(tmp_path / "x.jpg") == (30, 20)
    assert b'tiff:Orientation="1"' in picture.xmp


def test_exif_that_imagemagick_hid_in_text_is_found(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    block = _exif()
    text.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=True)
    Image.new("RGB", (30, 20)).save(tmp_path / "x.png", pnginfo=text)
    picture = pictures.read(tmp_path / "x.png")
    assert picture.pixels.shape == (30, 20, 3)
    assert b"Maker" in picture.exif


@pytest.mark.parametrize(
    ("suffix", "shape", "icc", "stays"),
    [
        (".png", (8, 8), GREY, True),
        (".png", (8, 8), SRGB, False),
        (".png", (8, 8, 2), GREY, True),
        (".tif", (8, 8, 4), SRGB, True),
        (".tif", (8, 8, 3), GREY, False),
        (".jpg", (8, 8, 2), GREY, True),  # laid on white, it is grey
        (".webp", (8, 8), GREY, False),  # WebP has colour only
        (".webp", (8, 8), SRGB, True),
    ],
)
def test_a_profile_stays_where_it_fits_the_samples_that_are_written(tmp_path, suffix, shape, icc, stays):
    pixels = np.full(shape, 99, np.uint8)
    notes = []
    path = pictures.write(tmp_path / f"x{suffix}", pixels, like=pictures.Picture(pixels, icc), notes=notes)
    with Image.open(path) as image:
        assert (image.info.get("icc_profile") == icc) is stays
    assert any("its ICC profile is not for the" in note for note in notes) is not stays


def test_what_a_format_has_no_room_for_is_left_out_with_a_note(tmp_path):
    pixels = np.full((8, 8, 3), 99, np.uint8)
    huge = pictures.Picture(pixels, SRGB + b"\0" * 10_000_000, _exif(1) + b"\0" * 70_000, XMP + b" " * 70_000)
    for suffix, lost in (
        (
            ".jpg",
            ["EXIF data left out: JPEG holds at most 65,533 bytes", "XMP data left out: JPEG holds at most 65,504"],
        ),
        (".png", ["ICC profile left out: PNG holds at most 1,048,576 bytes, not 10,"]),
        (".bmp", ["ICC profile left out: BMP has no place", "EXIF data left out: BMP", "XMP data left out: BMP"]),
        (".tif", []),
        (".webp", []),
    ):
        notes = []
        read = pictures.read(pictures.write(tmp_path / f"x{suffix}", pixels, like=huge, notes=notes))
        assert len(notes) == len(lost)
        assert all(note.startswith(start) for note, start in zip(notes, lost, strict=True))
        assert read.notes == ()
        assert (read.icc is None) is any("ICC" in note for note in notes)
        assert (read.exif is None) is any("EXIF" in note for note in notes)


def test_resolution_is_kept_in_bmp_and_nonsense_is_not_kept_at_all(tmp_path):
    pixels = np.full((8, 8, 3), 99, np.uint8)
    like = pictures.Picture(pixels, dpi=(96.0, 72.0))
    read = pictures.read(pictures.write(tmp_path / "x.bmp", pixels, like=like))
    assert read.dpi == pytest.approx((96, 72), rel=1e-2)
    Image.fromarray(pixels).save(tmp_path / "x.png", dpi=(0, 0))
    assert pictures.read(tmp_path / "x.png").dpi is None


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiff_of_either_byte_order_follows_its_exif(tmp_path, order):
    exif = Image.Exif()
    exif.endian = order
    exif[ExifTags.Base.Make] = "Maker of things"
    pixels = np.arange(48, dtype=np.uint16).reshape(4, 4, 3) * 1001
    path = pictures.write(tmp_path / "x.tif", pixels, like=pictures.Picture(pixels, exif=exif.tobytes()))
    assert path.read_bytes()[:2] == (b"II" if order == "<" else b"MM")
    read = pictures.read(path)
    np.testing.assert_array_equal(read.pixels, pixels)
    assert b"Maker of things\0" in read.exif


def test_a_picture_of_nothing_but_pixels_says_nothing(tmp_path):
    for suffix in pictures.SUFFIXES:
        read = pictures.read(pictures.write(tmp_path / f"x{suffix}", np.full((8, 8, 3), 9, np.uint8)))
        assert (read.icc, read.exif, read.xmp, read.notes) == (None, None, None, ())


def test_exif_that_nobody_can_read_does_not_stop_a_picture(tmp_path):
    pixels = np.full((8, 8, 3), 9, np.uint8)
    for suffix in pictures.SUFFIXES:
        path = pictures.write(tmp_path / f"x{suffix}", pixels, like=pictures.Picture(pixels, exif=b"junk"))
        assert pictures.read(path).exif is None
