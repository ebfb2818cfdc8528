"""Pictures written: lossless where the format is, whole or not at all."""

import os
import resource
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from tadsr_jax import pictures

pytestmark = pytest.mark.quick

LAYOUTS = [(9, 11), (9, 11, 2), (9, 11, 3), (9, 11, 4)]


def _pixels(shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


# --- what comes back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [*LAYOUTS, (1, 1), (1, 300, 3), (300, 1, 3)])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".PNG"])
def test_png_and_tiff_give_back_every_layout_and_depth(tmp_path, suffix, shape, dtype):
    pixels = _pixels(shape, dtype)
    path = pictures.write(tmp_path / f"x{suffix}", pixels)
    read = pictures.read(path).pixels
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, pixels)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("shape", LAYOUTS)
def test_png_of_8_bits_is_what_pillow_reads(tmp_path, shape):
    with Image.open(pictures.write(tmp_path / "x.png", _pixels(shape))) as image:
        np.testing.assert_array_equal(np.asarray(image), _pixels(shape))


@pytest.mark.parametrize("shape", [(9, 11), (9, 11, 3), (9, 11, 4)])
def test_png_of_16_bits_is_what_opencv_reads(tmp_path, shape):
    pixels = _pixels(shape, np.uint16)
    read = cv2.imread(str(pictures.write(tmp_path / "x.png", pixels)), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read if len(shape) == 2 else read[..., [2, 1, 0, 3][: shape[2]]], pixels)


def test_png_of_a_smooth_picture_is_a_fifth_of_its_samples(tmp_path):
    y, x = np.mgrid[:400, :400] / 400
    smooth = (127 + 100 * np.sin(9 * x + 5 * y)[..., None] * [1, 0.8, 0.6]).astype(np.uint8)
    assert pictures.write(tmp_path / "x.png", smooth).stat().st_size < 0.2 * smooth.nbytes


def test_views_and_foreign_byte_orders_are_written_as_what_they_show(tmp_path):
    deep = _pixels((8, 10, 3), np.uint16)
    for path in (tmp_path / "x.png", tmp_path / "x.tif"):
        pictures.write(path, deep[::-1, ::2].astype(">u2"))
        np.testing.assert_array_equal(pictures.read(path).pixels, deep[::-1, ::2])
    pictures.write(tmp_path / "x.jpg", deep[..., ::-1][::2])


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp", ".bmp"])
def test_formats_of_8_bits_round_16(tmp_path, suffix):
    deep = np.full((16, 16, 3), (5 * 257 + 128, 100 * 257 + 129, 65535), np.uint16)
    notes = []
    read = pictures.read(pictures.write(tmp_path / f"x{suffix}", deep, quality=100, notes=notes)).pixels
    np.testing.assert_allclose(read[8, 8], [5, 101, 255], atol=0 if suffix == ".bmp" else 3)
    assert any("has 8 bits: 16 bits rounded" in note for note in notes)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_formats_without_alpha_lay_the_picture_on_white_and_say_so(tmp_path, suffix, dtype):
    rgba = np.zeros((16, 32, 4), dtype)
    rgba[:, :16, 3] = np.iinfo(dtype).max
    notes = []
    read = pictures.read(pictures.write(tmp_path / f"x{suffix}", rgba, notes=notes)).pixels
    np.testing.assert_allclose(read[8, [2, 30]], [[0] * 3, [255] * 3], atol=2)
    assert any("no transparency: laid on white" in note for note in notes)
    grey = pictures.read(pictures.write(tmp_path / f"y{suffix}", rgba[..., [0, 3]])).pixels
    assert grey.shape == (16, 32)


def test_webp_keeps_alpha(tmp_path):
    rgba = np.full((16, 16, 4), 200, np.uint8)
    rgba[:8, :, 3] = 0
    read = pictures.read(pictures.write(tmp_path / "x.webp", rgba)).pixels
    np.testing.assert_array_equal(read[[0, 15], 0, 3], [0, 200])


def test_quality_makes_jpeg_and_webp_larger_and_colours_are_not_halved(tmp_path):
    pixels = _pixels((64, 64, 3))
    for suffix in (".jpg", ".webp"):
        small, large = (pictures.write(tmp_path / f"{q}{suffix}", pixels, quality=q).stat().st_size for q in (30, 95))
        assert small < large
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = 255, 0, 0
    read = pictures.read(pictures.write(tmp_path / "stripes.jpg", stripes)).pixels
    np.testing.assert_allclose(read, stripes.astype(int), atol=12)


# --- what a format cannot hold --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "side", "remedy"), [(".webp", 16383, "write a .png or .tif"), (".jpg", 65500, "write a .png or .tif")]
)
def test_sides_that_a_format_cannot_hold_are_refused_before_the_work(tmp_path, suffix, side, remedy):
    assert pictures.largest_side(suffix) == side
    pictures.check_target(suffix, side, 1)
    with pytest.raises(ValueError, match=f"at most {side:,} pixels a side, and the result has 1x{side + 1}; {remedy}"):
        pictures.check_target(suffix, side + 1, 1)
    grey = np.zeros((side, 1), np.uint8)
    assert pictures.size(pictures.write(tmp_path / f"x{suffix}", grey)) == (side, 1)
    with pytest.raises(ValueError, match="pixels a side"):
        pictures.write(tmp_path / f"y{suffix}", np.zeros((side + 1, 1), np.uint8))
    assert os.listdir(tmp_path) == [f"x{suffix}"]


def test_files_of_more_than_4_gib_are_refused_where_the_format_counts_in_32_bits():
    pictures.check_target(".tif", 16000, 24000, 4, 16)
    pictures.check_target(".bmp", 16000, 24000, 4, 16)  # 8 bits, no alpha: 1.2 GB
    pictures.check_target(".png", 60000, 60000, 4, 16)
    with pytest.raises(ValueError, match=r"a TIFF file holds at most 4 GiB, .* has 4\.5; write a \.png"):
        pictures.check_target(".tif", 24576, 32768, 3, 16)
    with pytest.raises(ValueError, match=r"a BMP file holds at most 4 GiB"):
        pictures.check_target(".bmp", 40000, 40000, 3, 8)


def test_400_megapixels_fit_into_all_formats_but_webp():
    for suffix in pictures.SUFFIXES:
        if suffix != ".webp":
            pictures.check_target(suffix, 16000, 24000, 3, 16)


def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path):
    for call in (lambda: pictures.write(tmp_path / "x.gif", _pixels((2, 2))), lambda: pictures.check_target("", 1, 1)):
        with pytest.raises(ValueError, match=r"expected one of \.png, \.jpg, \.jpeg, \.webp, \.tif, \.tiff, \.bmp"):
            call()


# --- whole or not at all --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp", ".bmp"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_full_disk_is_one_line_with_the_name_and_leaves_nothing(tmp_path, suffix, dtype):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # a file may not grow beyond: the next write fails
    try:
        with pytest.raises(OSError, match=rf"x\{suffix}") as refused:
            pictures.write(tmp_path / f"x{suffix}", _pixels((100, 100, 3), dtype))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(refused.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_folders_whose_names_are_no_unicode_are_written_to(tmp_path, dtype):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")
    os.mkdir(folder)
    path = pictures.write(os.path.join(folder, "x.png"), _pixels((8, 8, 3), dtype))
    np.testing.assert_array_equal(pictures.read(path).pixels, _pixels((8, 8, 3), dtype))


def test_what_was_there_before_stays_where_writing_fails(tmp_path, monkeypatch):
    path = pictures.write(tmp_path / "x.png", _pixels((4, 4)))
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*x\.png'"):
        pictures.write(path, _pixels((4, 4), seed=1))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.png"]


def test_a_folder_that_is_missing_or_not_a_folder_is_named_with_the_picture(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*none/x\.png'"):
        pictures.write(tmp_path / "none" / "x.png", _pixels((2, 2)))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match=r"file/x\.png"):
        pictures.write(tmp_path / "file" / "x.png", _pixels((2, 2)))
    (tmp_path / "x.png").mkdir()
    with pytest.raises(IsADirectoryError, match=r"x\.png"):
        pictures.write(tmp_path / "x.png", _pixels((2, 2)))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_an_unwritable_folder_is_named_with_the_picture(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"Permission denied: '.*x\.png'"):
        pictures.write(tmp_path / "x.png", _pixels((2, 2)))


def test_names_as_long_as_the_file_system_allows_are_written(tmp_path):
    name = "n" * 251 + ".png"
    assert pictures.write(tmp_path / name, _pixels((2, 2))).name == name


def test_what_a_killed_process_left_is_removed_by_the_next_that_writes_the_same(tmp_path):
    code = (
        "import os, sys, numpy as np\n"
        "from tadsr_jax import pictures\n"
        "from tadsr_jax.pictures import png\n"
        "png.shutil.copyfileobj = lambda *_: os._exit(9)\n"  # half of the file is there, and all that OpenCV wrote
        "pictures.write(sys.argv[1], np.zeros((2, 2, 3), np.uint16))\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "x.png"], check=False)
    left = os.listdir(tmp_path)
    assert len(left) == 2
    assert all(name.startswith(".") for name in left)
    pictures.write(tmp_path / "y.png", _pixels((2, 2)))
    assert set(left) < set(os.listdir(tmp_path)), "the next picture does not know whose they are"
    pictures.write(tmp_path / "x.png", _pixels((2, 2)))
    assert sorted(os.listdir(tmp_path)) == ["x.png", "y.png"]


def test_two_threads_write_side_by_side(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda n: pictures.write(tmp_path / f"{n % 3}.png", _pixels((50, 50, 3))), range(24)))
    for path in paths:
        np.testing.assert_array_equal(pictures.read(path).pixels, _pixels((50, 50, 3)))
    assert sorted(os.listdir(tmp_path)) == ["0.png", "1.png", "2.png"]


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs the peak of this process alone")
@pytest.mark.parametrize(
    ("suffix", "dtype", "copies"),
    [(".png", "uint8", 4 / 3), (".png", "uint16", 1), (".tif", "uint8", 0), (".tif", "uint16", 0)],
)
def test_writing_a_large_picture_needs_a_copy_of_it_at_most(tmp_path, suffix, dtype, copies):
    code = (
        "import sys, numpy as np\n"
        "from tadsr_jax import pictures\n"
        "def peak():\n"
        "    (line,) = [line for line in open('/proc/self/status') if line.startswith('VmHWM')]\n"
        "    return int(line.split()[1]) / 1024\n"
        "pictures.write(sys.argv[1], np.zeros((8, 8, 3), sys.argv[2]))\n"
        "pixels = np.ones((4000, 5000, 3), sys.argv[2])\n"
        "before = peak()\n"
        "pictures.write(sys.argv[1], pixels)\n"
        "print((peak() - before), pixels.nbytes / 2**20)\n"
    )
    run = [sys.executable, "-c", code, tmp_path / f"x{suffix}", dtype]
    added, size = map(float, subprocess.run(run, check=True, capture_output=True, text=True).stdout.split())
    assert added < copies * size + 40, f"{added:.0f} MiB beside {size:.0f}"
