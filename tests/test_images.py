"""Pictures as arrays and as files."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from tadsr_jax import images, pictures

pytestmark = pytest.mark.quick


def _file(image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, options.pop("format", "PNG"), **options)
    return buffer.getvalue()


def _gradient(height=6, width=8):
    y, x = np.mgrid[:height, :width]
    return np.stack([20 * y, 30 * x, 255 - 10 * (x + y)], -1).astype(np.uint8)


def test_levels_survive_the_way_to_the_network_scale_and_back():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    signed = images.to_signed(images.to_float(levels))
    assert signed.min() == -1 and signed.max() == 1 and signed.dtype == np.float32
    np.testing.assert_array_equal(images.to_uint8(images.from_signed(signed)), levels)


def test_rounding_to_levels_is_half_to_even_and_clips():
    np.testing.assert_array_equal(images.to_uint8(np.float32([-1, 0.5 / 255, 1.5 / 255, 2])), [0, 0, 2, 255])


def test_luma_of_white_is_235_levels_and_of_black_16():
    y = images.rgb_to_y(np.float32([[0, 0, 0], [1, 1, 1], [1, 0, 0]]))
    np.testing.assert_allclose(y * 255, [16, 235, 81.481], rtol=1e-6)
    np.testing.assert_allclose(images.luma_601(np.float32([[1, 0, 0], [1, 1, 1]])), [0.299, 1], rtol=1e-6)


def test_matlab_bicubic_keeps_a_constant_and_rounds_sizes_up():
    small = images.matlab_bicubic(np.full((10, 7, 3), 0.3, np.float32), 1 / 4)
    assert small.shape == (3, 2, 3)
    np.testing.assert_allclose(small, 0.3, rtol=1e-6)


def test_matlab_bicubic_by_two_has_the_weights_of_the_keys_cubic():
    line = np.zeros((1, 9), np.float32)
    line[0, 4] = 1
    # Outputs sit 1/4 and 3/4 of a pixel from their neighbours: h(1/4), h(3/4), h(5/4), h(7/4) with a = -0.5.
    h = [0.8671875, 0.2265625, -0.0703125, -0.0234375]
    got = images.matlab_bicubic(line, 2)[0]
    np.testing.assert_allclose(got[8:12], [h[0], h[0], h[1], h[2]], atol=1e-6)
    np.testing.assert_allclose(got[4:8], [0, h[3], h[2], h[1]], atol=1e-6)


def test_area_averages_whole_windows_with_equal_weights():
    line = np.float32([[0, 1, 2, 3, 4]])[..., None].repeat(3, -1)
    # 5 -> 3: windows 0..1, 1..3, 3..4.
    np.testing.assert_allclose(images.torch_resize(line, "area", size=(1, 3))[0, :, 0], [0.5, 2, 3.5], atol=1e-6)


def test_a_size_and_a_scale_sample_at_different_places():
    line = np.arange(10, dtype=np.float32)[None, :, None].repeat(4, 0).repeat(3, -1)
    # scale 0.37 -> 3 outputs; bilinear reads a ramp at (j + 0.5)/0.37 - 0.5, or at (j + 0.5) 10/3 - 0.5.
    by_scale = images.torch_resize(line, "bilinear", scale=0.37)[0, :, 0]
    by_size = images.torch_resize(line, "bilinear", size=(1, 3))[0, :, 0]
    np.testing.assert_allclose(by_scale, (np.arange(3) + 0.5) / 0.37 - 0.5, atol=1e-4)
    np.testing.assert_allclose(by_size, (np.arange(3) + 0.5) * 10 / 3 - 0.5, atol=1e-4)


def test_an_unknown_resize_mode_is_refused_with_the_accepted_ones():
    with pytest.raises(ValueError, match="'lanczos'; expected one of area, bilinear, bicubic"):
        images.torch_resize(np.zeros((4, 4, 3), np.float32), "lanczos", scale=0.5)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm"])
def test_lossless_files_are_read_as_they_are(tmp_path, suffix):
    Image.fromarray(_gradient()).save(tmp_path / f"x{suffix}")
    np.testing.assert_array_equal(images.read(tmp_path / f"x{suffix}"), _gradient())


def test_sixteen_bits_survive_in_colour_and_in_grey(tmp_path):
    colour = (_gradient().astype(np.uint16) << 8) + 17
    for suffix in (".png", ".tiff"):
        np.testing.assert_array_equal(images.read(pictures.write(tmp_path / f"x{suffix}", colour)), colour)
    grey = images.decode(_file(Image.fromarray(colour[..., 0])))
    assert grey.dtype == np.uint16
    np.testing.assert_array_equal(grey, colour[..., :1].repeat(3, -1))


def test_grey_palette_alpha_and_cmyk_files_become_rgb():
    rgb = Image.fromarray(_gradient())
    np.testing.assert_array_equal(images.decode(_file(rgb.convert("L"))), np.array(rgb.convert("L").convert("RGB")))
    alpha = rgb.copy()
    alpha.putalpha(0)
    np.testing.assert_array_equal(images.decode(_file(alpha)), _gradient())  # dropped, not blended
    palette = rgb.quantize(16)
    np.testing.assert_array_equal(images.decode(_file(palette, transparency=0)), np.array(palette.convert("RGB")))
    flat = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    np.testing.assert_allclose(images.decode(_file(flat, format="JPEG")).mean((0, 1)), [254, 0, 0], atol=3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, dtype):
    pixels = _gradient()
    stored = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    want = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, -1),
        7: np.rot90(pixels, 2).swapaxes(0, 1),
        8: np.rot90(pixels),
    }[orientation]
    if dtype == np.uint16:
        stored, want = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), want[..., :1].astype(np.uint16) * 257
    np.testing.assert_array_equal(images.decode(_file(stored, exif=exif)), np.broadcast_to(want, (*want.shape[:2], 3)))


@pytest.mark.parametrize("data", [b"", b"GIF89a nonsense", b"\x89PNG\r\n\x1a\n"], ids=["empty", "gif", "header only"])
def test_what_is_no_picture_is_refused_with_its_name(tmp_path, data):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.png: no picture"):
        images.read(path)


def test_a_truncated_file_is_refused_and_says_so(tmp_path):
    data = _file(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), format="JPEG")
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cut\.jpg: damaged or truncated"):
        images.read(tmp_path / "cut.jpg")


def test_a_decompression_bomb_is_refused_from_its_header():
    header = bytearray(_file(Image.new("1", (8, 8))))
    header[16:24] = (50_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    with pytest.raises(ValueError, match=r"its header says .* pixels"):
        images.decode(bytes(header))
