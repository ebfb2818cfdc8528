"""Files of every kind that people have, as pictures."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from tadsr_jax import pictures

pytestmark = pytest.mark.quick


def _rgb(height=12, width=10, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _saved(path, image, **options):
    image.save(path, **options)
    return path


def _png(pixels, bits, *, colour_type, extra=b"", interlaced=False):
    """A PNG written by hand: unfiltered rows, of one pass or of the seven of Adam7."""
    height, width = pixels.shape[:2]

    def rows(part):
        return b"".join(b"\0" + row.astype(">u2" if bits == 16 else "u1").tobytes() for row in part if row.size)

    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    raw = b"".join(rows(pixels[y::dy, x::dx]) for y, x, dy, dx in passes) if interlaced else rows(pixels)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, int(interlaced))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _transparent(*levels):
    data = struct.pack(f">{len(levels)}H", *levels)
    return struct.pack(">I", len(data)) + b"tRNS" + data + struct.pack(">I", zlib.crc32(b"tRNS" + data))


# --- 8 bits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".jpg"])
def test_colour_is_read_from_every_format_and_its_size_from_the_header(tmp_path, suffix):
    rgb = np.repeat(np.repeat(_rgb(2, 2), 16, 0), 24, 1)  # large flat areas, so that JPEG has little to lose
    options = (
        {"lossless": True} if suffix == ".webp" else {"quality": 100, "subsampling": 0} if suffix == ".jpg" else {}
    )
    path = _saved(tmp_path / f"x{suffix}", Image.fromarray(rgb), **options)
    picture = pictures.read(path)
    np.testing.assert_allclose(picture.pixels, rgb.astype(int), atol=2 if suffix == ".jpg" else 0)
    assert picture.pixels.dtype == np.uint8
    assert pictures.size(path) == (32, 48)
    assert picture.notes == ()


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".jpg"])
def test_grey_stays_grey(tmp_path, suffix):
    grey = np.full((8, 9), 77, np.uint8)
    picture = pictures.read(_saved(tmp_path / f"x{suffix}", Image.fromarray(grey)))
    np.testing.assert_array_equal(picture.pixels, grey)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_alpha_is_kept_beside_colours_that_it_hides(tmp_path, mode, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, len(mode)), dtype=np.uint8)
    pixels[0, :, -1] = 0
    path = _saved(tmp_path / f"x{suffix}", Image.fromarray(pixels))
    np.testing.assert_array_equal(pictures.read(path).pixels, pixels)


def test_one_bit_is_black_and_white(tmp_path):
    bits = _rgb()[..., 0] > 128
    for suffix in (".png", ".tif", ".bmp"):
        read = pictures.read(_saved(tmp_path / f"x{suffix}", Image.fromarray(bits))).pixels
        np.testing.assert_array_equal(read, bits * 255)


def test_a_palette_becomes_rgb_and_with_transparent_entries_rgba(tmp_path):
    palette = Image.fromarray(_rgb()).quantize(7)
    want = np.array(palette.convert("RGB"))
    for suffix in (".png", ".bmp", ".tif", ".gif"):
        np.testing.assert_array_equal(pictures.read(_saved(tmp_path / f"x{suffix}", palette)).pixels, want)
    entries = np.asarray(palette)
    one = pictures.read(_saved(tmp_path / "one.png", palette, transparency=2)).pixels
    np.testing.assert_array_equal(one[..., 3], np.where(entries == 2, 0, 255))
    alphas = np.uint8([10, 20, 30, 40, 50, 60, 70])
    several = pictures.read(_saved(tmp_path / "several.png", palette, transparency=alphas.tobytes())).pixels
    np.testing.assert_array_equal(several[..., 3], alphas[entries])
    np.testing.assert_array_equal(several[..., :3], want)


def test_one_transparent_grey_or_colour_becomes_alpha(tmp_path):
    rgb = _rgb()
    rgb[3, 4] = 1, 2, 3
    read = pictures.read(_saved(tmp_path / "rgb.png", Image.fromarray(rgb), transparency=(1, 2, 3))).pixels
    np.testing.assert_array_equal(read[..., 3], np.where((rgb == (1, 2, 3)).all(-1), 0, 255))
    np.testing.assert_array_equal(read[..., :3], rgb)
    grey = rgb[..., 0]
    read = pictures.read(_saved(tmp_path / "grey.png", Image.fromarray(grey), transparency=int(grey[0, 0]))).pixels
    np.testing.assert_array_equal(read, np.stack([grey, np.where(grey == grey[0, 0], 0, 255)], -1))


@pytest.mark.parametrize(("bits", "stored", "want"), [(2, 0b00_01_10_11, [0, 85, 170, 255]), (4, 0x1F, [17, 255])])
def test_the_transparent_grey_of_a_few_bits_is_found(tmp_path, bits, stored, want):
    (tmp_path / "x.png").write_bytes(
        _png(np.uint8([[stored]]), bits, colour_type=0, extra=_transparent(1)).replace(
            struct.pack(">IIB", 1, 1, bits), struct.pack(">IIB", len(want), 1, bits)
        )
    )
    data = bytearray((tmp_path / "x.png").read_bytes())
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))  # of the corrected header
    (tmp_path / "x.png").write_bytes(data)
    read = pictures.read(tmp_path / "x.png").pixels
    np.testing.assert_array_equal(read[0, :, 0], want)
    np.testing.assert_array_equal(read[0, :, 1], np.where(np.equal(want, 255 // (2**bits - 1)), 0, 255))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_interlaced_png_is_read(tmp_path, bits, colour_type, channels):
    pixels = np.random.default_rng(0).integers(0, 2**bits, (9, 11, channels), dtype=f"uint{bits}")
    (tmp_path / "x.png").write_bytes(_png(pixels, bits, colour_type=colour_type, interlaced=True))
    read = pictures.read(tmp_path / "x.png").pixels
    assert read.dtype == pixels.dtype
    np.testing.assert_array_equal(read, pixels[..., 0] if channels == 1 else pixels)


# --- 16 bits of PNG -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_16_bit_png_is_read_in_all_its_layouts(tmp_path, colour_type, channels):
    pixels = np.random.default_rng(0).integers(0, 65536, (7, 5, channels), dtype=np.uint16)
    (tmp_path / "x.png").write_bytes(_png(pixels, 16, colour_type=colour_type))
    read = pictures.read(tmp_path / "x.png").pixels
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, pixels[..., 0] if channels == 1 else pixels)


def test_the_transparent_colour_of_16_bits_needs_all_16_to_agree(tmp_path):
    grey = np.uint16([[256, 257, 258]])
    (tmp_path / "grey.png").write_bytes(_png(grey, 16, colour_type=0, extra=_transparent(257)))
    np.testing.assert_array_equal(pictures.read(tmp_path / "grey.png").pixels[..., 1], [[65535, 0, 65535]])
    rgb = np.uint16([[[1, 2, 300], [1, 2, 301]]])
    (tmp_path / "rgb.png").write_bytes(_png(rgb, 16, colour_type=2, extra=_transparent(1, 2, 301)))
    read = pictures.read(tmp_path / "rgb.png").pixels
    np.testing.assert_array_equal(read[..., 3], [[65535, 0]])
    np.testing.assert_array_equal(read[..., :3], rgb)


# --- inks -----------------------------------------------------------------------------------------------------------


def _ink_profile():
    """A CMYK profile of one table with two points an axis: paper is L = 100, full cyan L = 50 without hue, else 20."""
    corners = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    lightness = [255 if not any(ink) else 128 if ink == (1, 0, 0, 0) else 51 for ink in corners]
    table = b"".join(bytes([level, 128, 128]) for level in lightness)
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + bytes(range(256)) * 4 + table + bytes(range(256)) * 3
    tags = struct.pack(">I4sII", 1, b"A2B0", 144, len(lut))
    head = struct.pack(">I4xI4s4s4s6H", 144 + len(lut), 0x02400000, b"prtr", b"CMYK", b"Lab ", 2020, 1, 1, 0, 0, 0)
    head = (head + b"acsp").ljust(68, b"\0") + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    return head.ljust(128, b"\0") + tags + lut


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_becomes_srgb_through_its_profile_which_is_then_dropped(tmp_path, suffix):
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    options = {"quality": 100} if suffix == ".jpg" else {}
    picture = pictures.read(_saved(tmp_path / f"x{suffix}", cyan, icc_profile=_ink_profile(), **options))
    np.testing.assert_allclose(picture.pixels[0, 0], [119, 119, 119], atol=1)  # L = 50.2 in sRGB
    assert picture.icc is None
    assert picture.notes == ("CMYK converted to sRGB through its ICC profile",)


@pytest.mark.parametrize("icc", [None, b"junk", _ink_profile()[:400]], ids=["none", "junk", "cut"])
def test_cmyk_without_a_usable_profile_becomes_rgb_by_complement_and_says_so(tmp_path, icc):
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    picture = pictures.read(_saved(tmp_path / "x.jpg", red, icc_profile=icc, quality=100))
    np.testing.assert_allclose(picture.pixels[0, 0], [254, 0, 0], atol=3)
    assert picture.icc is None
    assert "CMYK converted to RGB without an ICC profile; colours are approximate" in picture.notes


def test_ycck_jpeg_with_an_adobe_marker_is_not_inverted(tmp_path):
    # Adobe stores inks inverted, and a marker whose transform 2 means YCCK. Pillow writes transform 0, CMYK: the same
    # samples are then to be taken for Y, Cb, Cr, K.
    stored = np.uint8([[60, 128, 128, 255]])
    buffer = io.BytesIO()
    Image.fromarray(np.broadcast_to(255 - stored, (16, 16, 4)).copy(), "CMYK").save(buffer, "JPEG", quality=100)
    data = bytearray(buffer.getvalue())
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    data[at] = 2
    (tmp_path / "x.jpg").write_bytes(data)
    # Without chroma the colour is Y = 60, whose complement 195 is the stored C, M and Y: 60 of ink, which leaves 195.
    np.testing.assert_allclose(pictures.read(tmp_path / "x.jpg").pixels[8, 8], [195, 195, 195], atol=2)
    np.testing.assert_allclose(cv2.imread(str(tmp_path / "x.jpg"))[8, 8], [195, 195, 195], atol=2)


def test_an_rgb_jpeg_with_an_adobe_marker_is_not_taken_for_ycbcr(tmp_path):
    rgb = np.full((16, 16, 3), (200, 60, 20), np.uint8)
    path = _saved(tmp_path / "x.jpg", Image.fromarray(rgb), quality=100, subsampling=0, keep_rgb=True)
    np.testing.assert_allclose(pictures.read(path).pixels, rgb.astype(int), atol=2)


def test_lab_tiff_becomes_srgb(tmp_path):
    grey = Image.new("LAB", (4, 4), (128, 128, 128))  # L = 50.2, a = b = 0
    picture = pictures.read(_saved(tmp_path / "x.tif", grey))
    np.testing.assert_allclose(picture.pixels[0, 0], [119, 119, 119], atol=1)
    assert picture.notes == ("Lab converted to sRGB",)


# --- the right way up, and the first of many ------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", "16.png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_the_size_is_that_of_the_upright_picture(tmp_path, suffix, orientation):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16] = 200  # the upper left quarter
    stored = Image.fromarray(pixels)
    if suffix == "16.png":
        stored = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[274] = orientation
    path = _saved(tmp_path / f"x{suffix}", stored, exif=exif)
    read = pictures.read(path).pixels
    assert read.shape[:2] == pictures.size(path) == ((16, 32) if orientation < 5 else (32, 16))
    bright = read.reshape(*read.shape[:2], -1)[..., 0].astype(float)
    halves = bright[: len(bright) // 2], bright[len(bright) // 2 :]
    rows, columns = halves[0].mean() > halves[1].mean(), np.argmax(bright.mean(0)) < bright.shape[1] // 2
    corner = {1: (1, 1), 2: (1, 0), 3: (0, 0), 4: (0, 1), 5: (1, 1), 6: (1, 0), 7: (0, 0), 8: (0, 1)}[orientation]
    assert (bool(rows), bool(columns)) == tuple(map(bool, corner))


def test_exif_behind_the_pixels_of_a_png_counts_too(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    data = _png(_rgb(4, 8), 8, colour_type=2)
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    (tmp_path / "x.png").write_bytes(data[:-12] + chunk + data[-12:])
    assert pictures.size(tmp_path / "x.png") == (8, 4)
    np.testing.assert_array_equal(pictures.read(tmp_path / "x.png").pixels, np.rot90(_rgb(4, 8), -1))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".gif"])
def test_of_several_frames_the_first_is_read_with_a_note(tmp_path, suffix):
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if suffix == ".webp" else {}
    path = _saved(tmp_path / f"x{suffix}", frames[0], save_all=True, append_images=frames[1:], **options)
    picture = pictures.read(path)
    np.testing.assert_array_equal(picture.pixels, np.broadcast_to(np.uint8([255, 0, 0]), (5, 6, 3)))
    assert picture.notes == ("first of 3 frames",)


# --- Pillow images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr"])
def test_pillow_images_of_all_modes_become_pictures(mode):
    image = Image.new(mode, (4, 3))
    pixels = pictures.from_pil(image).pixels
    assert pixels.shape[:2] == (3, 4)
    assert pixels.dtype == (np.uint16 if mode == "I;16" else np.uint8)


def test_a_turned_pillow_image_is_put_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    for suffix in (".png", ".tif"):
        path = _saved(tmp_path / f"x{suffix}", Image.fromarray(_rgb()), exif=exif)
        with Image.open(path) as image:
            np.testing.assert_array_equal(pictures.from_pil(image).pixels, np.rot90(_rgb(), -1))


def test_a_pillow_image_is_left_as_it_was(tmp_path):
    with Image.open(_saved(tmp_path / "x.png", Image.fromarray(_rgb()))) as image:
        pictures.from_pil(image)
        assert image.info == {}


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2), (3, 4, 3), (3, 4, 4)])
def test_pixels_become_pillow_images_and_come_back(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(pictures.from_pil(pictures.to_pil(pixels)).pixels, pixels)


def test_pillow_keeps_16_bits_in_grey_and_gets_8_in_colour():
    deep = np.uint16([[0, 128, 129, 65535]])
    np.testing.assert_array_equal(np.asarray(pictures.to_pil(deep)), deep)
    colour = np.repeat(deep[..., None], 3, -1)
    np.testing.assert_array_equal(np.asarray(pictures.to_pil(colour))[0, :, 0], [0, 0, 1, 255])  # v / 257, rounded


def test_what_is_no_picture_array_is_refused_with_what_is():
    for pixels in (np.zeros((3, 4), np.float32), np.zeros((3, 4, 5), np.uint8), np.zeros((0, 4), np.uint8), [1]):
        with pytest.raises(ValueError, match=r"expected uint8 or uint16 of \(h, w\)"):
            pictures.to_pil(pixels)


def test_srgb_profiles_and_opencv_agree_that_our_own_reading_is_plain(tmp_path):
    rgb = _rgb()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = _saved(tmp_path / "x.png", Image.fromarray(rgb), icc_profile=profile)
    np.testing.assert_array_equal(pictures.read(path).pixels, cv2.imread(str(path))[..., ::-1])
