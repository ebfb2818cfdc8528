"""TIFF of more than 8 bits, in the layouts that Pillow cuts, refuses or mistakes."""

import struct

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from tadsr_jax import pictures
from tadsr_jax.pictures import tiff

pytestmark = pytest.mark.quick


def _tiff(strips, height, width, channels, *, order="<", photometric=None, bits=16, planar=1, extra=(), **more):
    """A TIFF written by hand: `strips` are bytes; `more`: tag number (as t<number>) -> SHORT values."""
    shorts = {
        256: (width,), 257: (height,), 258: (bits,) * channels, 259: (1,), 277: (channels,), 278: (height,),
        262: ((2 if channels > 2 else 1) if photometric is None else photometric,), 284: (planar,),
    }  # fmt: skip
    shorts |= {338: extra} if extra else {}
    shorts |= {int(name[1:]): values for name, values in more.items()}
    data = {number: ("H", values) for number, values in shorts.items()}
    data[273] = ("I", np.cumsum([8, *map(len, strips)])[:-1].tolist())
    data[279] = ("I", [len(strip) for strip in strips])
    at = 8 + sum(map(len, strips))
    beside, entries, behind = at + 2 + 12 * len(data) + 4, b"", b""
    for number, (kind, values) in sorted(data.items()):
        value = struct.pack(f"{order}{len(values)}{kind}", *values)
        entries += struct.pack(order + "HHI", number, 3 if kind == "H" else 4, len(values))
        if len(value) > 4:
            entries += struct.pack(order + "I", beside + len(behind))
            behind += value
        else:
            entries += value.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at)
    return head + b"".join(strips) + struct.pack(order + "H", len(data)) + entries + b"\0\0\0\0" + behind


def _samples(channels, seed=0):
    return np.random.default_rng(seed).integers(0, 65536, (5, 7, channels), dtype=np.uint16)


def _read(tmp_path, data):
    (tmp_path / "x.tif").write_bytes(data)
    picture = pictures.read(tmp_path / "x.tif")
    assert picture.pixels.dtype == np.uint16
    assert pictures.size(tmp_path / "x.tif") == picture.pixels.shape[:2]
    return picture.pixels


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize(("channels", "extra"), [(1, ()), (2, (2,)), (3, ()), (4, (2,))])
def test_every_layout_is_read_interleaved_or_in_planes_in_both_byte_orders(tmp_path, order, planar, channels, extra):
    pixels = _samples(channels)
    parts = np.moveaxis(pixels, -1, 0) if planar == 2 else [pixels]
    strips = [part.astype(order + "u2").tobytes() for part in parts]
    read = _read(tmp_path, _tiff(strips, 5, 7, channels, order=order, planar=planar, extra=extra))
    np.testing.assert_array_equal(read, pixels[..., 0] if channels == 1 else pixels)


def test_colours_that_were_multiplied_by_alpha_are_divided_again(tmp_path):
    pixels = np.uint16([[[1001, 2001, 3001, 6000], [5, 5, 5, 0], [65535, 1, 2, 65535]]])
    read = _read(tmp_path, _tiff([pixels.tobytes()], 1, 3, 4, extra=(1,)))
    want = [round(c * 65535 / 6000) for c in (1001, 2001, 3001)]
    np.testing.assert_array_equal(read[0, 0], [*want, 6000])
    np.testing.assert_array_equal(read[0, 2], [65535, 1, 2, 65535])
    assert read[0, 1, 3] == 0


def test_a_channel_that_is_no_alpha_is_left_out(tmp_path):
    pixels = _samples(4)
    read = _read(tmp_path, _tiff([pixels.tobytes()], 5, 7, 4, extra=(0,)))
    np.testing.assert_array_equal(read, pixels[..., :3])


def test_grey_in_which_zero_is_white_is_turned_round(tmp_path):
    pixels = _samples(1)
    np.testing.assert_array_equal(
        _read(tmp_path, _tiff([pixels.tobytes()], 5, 7, 1, photometric=0)), 65535 - pixels[..., 0]
    )


def test_12_bits_of_grey_are_spread_over_16_and_colour_is_refused(tmp_path):
    levels = np.random.default_rng(0).integers(0, 4096, (4, 8), dtype=np.uint16)
    levels[0, :2] = 0, 4095
    first, second = levels[:, ::2], levels[:, 1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1).astype(np.uint8).tobytes()
    read = _read(tmp_path, _tiff([packed], 4, 8, 1, bits=12))
    np.testing.assert_allclose(read, levels * (65535 / 4095), atol=1)
    assert read.ravel()[0] == 0
    assert read.ravel()[1] == 65535
    (tmp_path / "x.tif").write_bytes(_tiff([packed * 3], 4, 8, 3, bits=12))
    with pytest.raises(ValueError, match=r"x\.tif: .*samples are of a kind that is not read; save it as PNG"):
        pictures.read(tmp_path / "x.tif")


def test_16_bits_that_no_library_here_unpacks_are_refused_in_one_line(tmp_path):
    strips = [b"\x80\0"] * 3  # LZW, in planes
    (tmp_path / "x.tif").write_bytes(_tiff(strips, 5, 7, 3, planar=2, t259=(5,)))
    with pytest.raises(
        ValueError, match=r"x\.tif: .*packed by LZW, which is read with the package imagecodecs"
    ) as told:
        pictures.read(tmp_path / "x.tif")
    assert "\n" not in str(told.value)


def test_bigtiff_of_16_bits_is_read(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", _samples(3), bigtiff=True, photometric="rgb")
    picture = pictures.read(tmp_path / "x.tif")
    np.testing.assert_array_equal(picture.pixels, _samples(3))


@pytest.mark.parametrize("compression", [5, 8, 32946])  # LZW, deflate by its new and its old number
def test_files_of_other_programs_with_compression_and_predictor_are_read(tmp_path, compression):
    pixels = _samples(3)
    options = [cv2.IMWRITE_TIFF_COMPRESSION, compression, cv2.IMWRITE_TIFF_PREDICTOR, 2]
    cv2.imwrite(str(tmp_path / "x.tif"), pixels[..., ::-1], options)
    np.testing.assert_array_equal(pictures.read(tmp_path / "x.tif").pixels, pixels)


def test_tiles_are_summed_one_by_one(tmp_path):
    # 32 x 16 pixels in two tiles of 16 x 16, each with differences to its own left edge.
    pixels = np.random.default_rng(0).integers(0, 65536, (16, 32, 3), dtype=np.uint16)
    tiles = []
    for part in (pixels[:, :16], pixels[:, 16:]):
        differences = part.copy()
        differences[:, 1:] -= part[:, :-1]
        tiles.append(differences.tobytes())
    data = bytearray(_tiff(tiles, 16, 32, 3, t317=(2,), t322=(16,), t323=(16,)))
    at = struct.unpack_from("<I", data, 4)[0]
    for place in range(at + 2, len(data) - 12, 12):  # strips become tiles
        number = struct.unpack_from("<H", data, place)[0]
        if number in (273, 279):
            struct.pack_into("<H", data, place, {273: 324, 279: 325}[number])
    np.testing.assert_array_equal(_read(tmp_path, bytes(data)), pixels)


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint16, 1), (np.uint16, 3), (np.uint16, 4), (np.uint8, 3)])
def test_what_we_write_is_what_opencv_reads(tmp_path, dtype, channels):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (33, 21, channels), dtype=dtype)
    pixels = pixels[..., 0] if channels == 1 else pixels
    read = cv2.imread(str(pictures.write(tmp_path / "x.tif", pixels)), cv2.IMREAD_UNCHANGED)
    order = {1: slice(None), 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    np.testing.assert_array_equal(read if channels == 1 else read[..., order], pixels)


@pytest.mark.parametrize("shape", [(33, 21), (33, 21, 2), (33, 21, 3), (33, 21, 4)])
def test_what_we_write_with_8_bits_is_what_pillow_reads(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with Image.open(pictures.write(tmp_path / "x.tif", pixels)) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_a_picture_of_many_strips_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "STRIP", 100)
    pixels = _samples(4)
    np.testing.assert_array_equal(pictures.read(pictures.write(tmp_path / "x.tif", pixels)).pixels, pixels)


def test_bigtiff_of_8_bits_is_read(tmp_path):
    Image.fromarray(_samples(3).astype(np.uint8)).save(tmp_path / "big.tif", big_tiff=True)
    np.testing.assert_array_equal(pictures.read(tmp_path / "big.tif").pixels, _samples(3).astype(np.uint8))


def test_signed_and_32_bit_samples_are_refused_by_name(tmp_path):
    for kind in (np.int32, np.float32):
        Image.fromarray((_samples(1)[..., 0] * -3.0).astype(kind)).save(tmp_path / "x.tif")
        with pytest.raises(ValueError, match=r"x\.tif: its samples have 32 bits or a sign; 8 or 16 bits"):
            pictures.read(tmp_path / "x.tif")
