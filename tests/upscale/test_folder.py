"""A folder of pictures through an upscaler: a fake one, that repeats pixels and fails on demand."""

import errno
import struct
import weakref
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from tadsr_jax import pictures
from tadsr_jax.upscale import folder
from tadsr_jax.upscale.files import Job
from tadsr_jax.upscale.grid import Grid

pytestmark = pytest.mark.quick


class Fake:
    """Twice as large; a picture that begins with the value 13 fails. Tiles have a side of 8."""

    scale, smallest = 2, 1

    def __init__(self, at_once: int = 1):
        self.at_once, self.calls = at_once, []

    def together(self, batch=None):
        return batch or self.at_once

    def grid(self, height, width, *, tile=None, scale=None, **_):
        if tile == 3:
            raise ValueError("tile is 3; expected a multiple of 4 for this model, such as 4.")
        if min(height, width) * (scale or 1) < 1:
            raise ValueError("no pixel left")
        if width == 2:  # a shape of its own
            return Grid(height, width, (8, 2), (0,), (0,))
        return Grid(height, width, (8, 8), tuple(range(0, height, 8)), tuple(range(0, width, 8)))

    def __call__(self, images, *, mask=None, noise=None, progress=None, scale=None, seed=0, **_):
        self.calls.append({"shapes": [image.shape[:2] for image in images], "mask": mask, "noise": noise, "seed": seed})
        if any(image.flat[0] == 13 for image in images):
            raise RuntimeError("thirteen")
        tiles = sum(len(self.grid(*image.shape[:2])) for image in images)
        for tile in range(tiles):
            progress(tile + 1, tiles)
        height, width = (round((scale or self.scale) * length) for length in images[0].shape[:2])
        return [cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST) for image in images]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def jobs(*values: int, size: tuple[int, int] = (4, 6), suffix: str = ".png") -> list[Job]:
    """A grey picture of each value, in/0.png, in/1.png, ...; results go to out/."""
    Path("in").mkdir(exist_ok=True)
    for number, value in enumerate(values):
        pictures.write(Path(f"in/{number}.png"), np.full(size, value, np.uint8))
    return [Job(Path(f"in/{number}.png"), Path(f"out/{number}{suffix}")) for number in range(len(values))]


def kinds(report: dict) -> dict[str, list[str]]:
    return {kind: [entry["input"] for entry in entries] for kind, entries in report.items()}


def written() -> list[str]:
    return sorted(str(path) for path in Path("out").rglob("*"))


def test_every_picture_is_enlarged_and_reported():
    report = folder.run(Fake(), jobs(1, 2))
    assert kinds(report) == {"done": ["in/0.png", "in/1.png"], "failed": [], "skipped": []}
    assert report["done"][1]["output"] == "out/1.png"
    assert report["done"][1]["size"] == [12, 8]  # width, height
    assert report["done"][1]["seconds"] >= 0
    np.testing.assert_array_equal(pictures.read(Path("out/1.png")).pixels, np.full((8, 12), 2, np.uint8))


def test_results_that_exist_are_skipped_unless_they_are_to_be_overwritten():
    both = jobs(1, 2)
    Path("out").mkdir()
    Path("out/0.png").write_text("kept")
    assert kinds(folder.run(Fake(), both)) == {"done": ["in/1.png"], "failed": [], "skipped": ["in/0.png"]}
    assert Path("out/0.png").read_text() == "kept"
    assert kinds(folder.run(Fake(), both, overwrite=True))["done"] == ["in/0.png", "in/1.png"]
    assert pictures.size(Path("out/0.png")) == (8, 12)


def test_what_another_run_has_made_meanwhile_is_skipped_just_before_it_is_read():
    class Busy(Fake):
        def __call__(self, images, **options):
            Path("out/1.png").write_text("made by another")
            return super().__call__(images, **options)

    Path("out").mkdir()
    report = folder.run(Busy(), jobs(1, 2, 3))
    assert kinds(report) == {"done": ["in/0.png", "in/2.png"], "failed": [], "skipped": ["in/1.png"]}
    assert report["skipped"] == [{"input": "in/1.png", "output": "out/1.png"}]
    assert Path("out/1.png").read_text() == "made by another"
    assert len(folder.run(Busy(), jobs(1, 2, 3), overwrite=True)["done"]) == 3


@pytest.mark.parametrize("at_once", [1, 3])
def test_one_bad_picture_does_not_stop_the_rest(at_once):
    report = folder.run(Fake(at_once), jobs(1, 13, 2, 13, 3))
    assert kinds(report) == {
        "done": ["in/0.png", "in/2.png", "in/4.png"],
        "failed": ["in/1.png", "in/3.png"],
        "skipped": [],
    }
    assert report["failed"][0]["reason"] == "RuntimeError: thirteen"
    assert written() == ["out/0.png", "out/2.png", "out/4.png"]


@pytest.mark.parametrize("content", [b"", b"this is no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_picture_fails_in_one_line(content):
    both = jobs(1, 2)
    Path("in/0.png").write_bytes(content)
    report = folder.run(Fake(), both)
    assert kinds(report) == {"done": ["in/1.png"], "failed": ["in/0.png"], "skipped": []}
    assert "in/0.png" in report["failed"][0]["reason"] and "\n" not in report["failed"][0]["reason"]


def test_a_picture_that_is_cut_off_fails_on_its_own():
    rng = np.random.default_rng(0)
    both = jobs(1, 2)
    pictures.write(Path("in/0.png"), rng.integers(0, 255, (64, 64, 3), np.uint8))
    Path("in/0.png").write_bytes(Path("in/0.png").read_bytes()[:5000])
    assert kinds(folder.run(Fake(), both)) == {"done": ["in/1.png"], "failed": ["in/0.png"], "skipped": []}


def test_a_format_that_cannot_hold_the_result_is_refused_before_the_work():
    fake, wide = Fake(), jobs(1, size=(1, 8192), suffix=".webp")  # 16384 pixels; WebP ends at 16383
    report = folder.run(fake, wide)
    assert kinds(report)["failed"] == ["in/0.png"] and "16" in report["failed"][0]["reason"]
    assert fake.calls == []
    assert kinds(folder.run(Fake(), wide, options={"scale": 1}))["done"] == ["in/0.png"]


def header(path: str, height: int, width: int) -> None:
    """A PNG whose header alone is there: 1 bit, grey."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [ihdr, b"IDAT" + zlib.compress(b"\0"), b"IEND"]
    png = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + png)


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (None, "makes 1,936,000,000 pixels at scale 2; no more than 1,073,741,824 are made; cut it into parts."),
        # The model's own result is made first, and is as large.
        (1, "makes 1,936,000,000 pixels at scale 2; no more than 1,073,741,824 are made; cut it into parts."),
        (3, "makes 4,356,000,000 pixels at scale 3; no more than 1,073,741,824 are made; cut it into parts, or give a"),
    ],
)
def test_results_that_no_memory_holds_are_refused_by_the_header(scale, words):
    fake, both = Fake(), jobs(1, 2)
    header("in/0.png", 22000, 22000)
    tasks, ((kind, entry),) = folder.survey(fake, both, options={"scale": scale})
    assert (len(tasks), kind) == (1, "failed")
    assert entry["reason"].startswith(f"in/0.png is 22000x22000, which {words}")


def test_a_result_of_as_many_pixels_as_are_allowed_is_begun():
    (job,) = jobs(1)
    header("in/0.png", 2**14, 2**14)  # twice as large: 2^30 pixels
    assert len(folder.survey(Fake(), [job], options={})[0]) == 1
    header("in/0.png", 2**14, 2**14 + 1)
    assert folder.survey(Fake(), [job], options={})[0] == []


def test_a_thin_picture_that_the_model_would_see_as_a_huge_one_is_refused():
    fake, both = Fake(), jobs(1, 2)
    fake.smallest = 128
    header("in/0.png", 20000, 1)
    tasks, ((kind, entry),) = folder.survey(fake, both, options={})
    assert (len(tasks), kind) == (1, "failed") and entry["reason"] == (
        "in/0.png is 1x20000, which this model sees as 128x2560000 and makes 1,310,720,000 pixels of; no more than "
        "1,073,741,824 are made; cut it into parts."
    )


def test_a_tiny_scale_is_refused_for_small_pictures_alone():
    both = jobs(1, 2)
    pictures.write(Path("in/1.png"), np.full((400, 400), 5, np.uint8))
    report = folder.run(Fake(), both, options={"scale": 0.003})
    assert kinds(report) == {"done": ["in/1.png"], "failed": ["in/0.png"], "skipped": []}
    assert report["done"][0]["size"] == [1, 1]


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 9 GiB"), cv2.error("(-4:Insufficient memory)")])
def test_a_picture_that_memory_does_not_hold_fails_on_its_own(at_once, error):
    class Full(Fake):
        def __call__(self, images, **options):
            if any(image[0, 0] == 7 for image in images):
                error.code = cv2.Error.StsNoMem
                raise error
            return super().__call__(images, **options)

    report = folder.run(Full(at_once), jobs(1, 7, 3))
    assert kinds(report) == {"done": ["in/0.png", "in/2.png"], "failed": ["in/1.png"], "skipped": []}
    assert report["failed"][0]["reason"] == "not enough memory for 6x4; a smaller --scale or --tile may do"


def test_what_filled_the_memory_is_gone_before_pictures_are_tried_one_by_one():
    class Large:
        pass

    class Full(Fake):
        held, alive = None, []

        def __call__(self, images, **options):
            if len(images) > 1:
                large = Large()
                self.held = weakref.ref(large)
                raise MemoryError
            self.alive.append(self.held() is not None)
            return super().__call__(images, **options)

    assert len(folder.run(Full(at_once=2), jobs(1, 2))["done"]) == 2
    assert Full.alive == [False, False]


def test_options_that_the_model_does_not_serve_are_refused_before_any_picture():
    fake = Fake()
    with pytest.raises(ValueError, match="tile is 3"):
        folder.run(fake, jobs(1), options={"tile": 3})
    assert fake.calls == [] and not Path("out").exists()


def test_pictures_of_one_tile_are_given_together_and_larger_ones_alone():
    fake = Fake(at_once=2)
    many = jobs(1, 2, 3)
    pictures.write(Path("in/1.png"), np.full((9, 4), 5, np.uint8))
    assert kinds(folder.run(fake, many, options={"seed": 7}))["done"] == ["in/1.png", "in/0.png", "in/2.png"]
    assert [call["shapes"] for call in fake.calls] == [[(9, 4)], [(4, 6), (4, 6)]]
    assert all(call["seed"] == 7 and call["mask"] is None for call in fake.calls)


def test_pictures_go_together_with_those_of_their_tile_shape_as_many_as_a_batch_takes():
    fake, seven = Fake(), jobs(*range(7))
    for number in (1, 2, 5):
        pictures.write(Path(f"in/{number}.png"), np.full((4, 2), 5, np.uint8))
    folder.run(fake, seven, options={"batch": 3})
    assert [call["shapes"] for call in fake.calls] == [[(4, 6)] * 3, [(4, 2)] * 3, [(4, 6)]]


def test_a_picture_does_not_wait_for_ever_for_others_of_its_shape(monkeypatch):
    monkeypatch.setattr(folder, "PATIENCE", 3)
    fake, eight = Fake(), jobs(*range(8))
    pictures.write(Path("in/0.png"), np.full((4, 2), 5, np.uint8))
    folder.run(fake, eight, options={"batch": 2})
    shapes = [call["shapes"] for call in fake.calls]
    assert shapes == [[(4, 6)] * 2, [(4, 2)], [(4, 6)] * 2, [(4, 6)] * 2, [(4, 6)]]


def test_given_noise_belongs_to_one_picture_at_a_time():
    fake, noise = Fake(at_once=2), np.zeros((2, 2, 3))
    folder.run(fake, jobs(1, 2), noise=noise)
    assert [call["noise"] is noise for call in fake.calls] == [True, True]


def test_a_mask_goes_along_with_its_picture():
    fake, (job,) = Fake(), jobs(1)
    pictures.write(Path("mask.png"), np.full((4, 6, 3), 255, np.uint8))
    pictures.write(Path("small.png"), np.full((4, 5), 255, np.uint8))
    assert kinds(folder.run(fake, [job._replace(mask=Path("mask.png"))]))["done"] == ["in/0.png"]
    np.testing.assert_array_equal(fake.calls[0]["mask"], [np.full((4, 6), 255, np.uint8)])
    (failed,) = folder.run(fake, [job._replace(mask=Path("small.png"))], overwrite=True)["failed"]
    assert failed["reason"] == "small.png is 5x4; expected the picture's 6x4."


def test_a_picture_without_its_mask_fails_on_its_own():
    one, two = (job._replace(mask=Path(f"masks/{job.input.name}")) for job in jobs(1, 2))
    Path("masks").mkdir()
    pictures.write(Path("masks/1.png"), np.full((4, 6), 255, np.uint8))
    report = folder.run(Fake(), [one, two])
    assert kinds(report) == {"done": ["in/1.png"], "failed": ["in/0.png"], "skipped": []}
    expected = "there is no mask for in/0.png; expected masks/0.png, or that name in another format."
    assert report["failed"][0]["reason"] == expected


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 4])
def test_of_a_masks_channels_the_first_counts_and_transparency_is_told_to_say_nothing(channels, dtype):
    fake, lines, (job,) = Fake(), [], jobs(1)
    mask = np.zeros((4, 6, channels), dtype)
    mask[:2, :, 0] = mask[..., -1] = np.iinfo(dtype).max
    job = job._replace(mask=Path("mask.png"))
    pictures.write(job.mask, mask)
    folder.run(fake, [job], note=lines.append)
    assert lines == []  # nothing is transparent
    mask[0, 0, -1] = 0
    pictures.write(job.mask, mask)
    folder.run(fake, [job], note=lines.append, overwrite=True)
    assert lines == ["mask.png: transparency says nothing in a mask; white is unknown, black is known"]
    for call in fake.calls:
        np.testing.assert_array_equal(call["mask"][0], mask[..., 0])
        assert call["mask"][0].dtype == dtype


def test_an_output_that_is_a_folder_fails_before_the_work():
    fake, (job,) = Fake(), jobs(1)
    job.output.mkdir(parents=True)
    assert folder.run(fake, [job])["failed"][0]["reason"].startswith("out/0.png is a folder")
    assert fake.calls == []


def test_a_full_disk_ends_the_run_and_is_told_for_all_that_is_left(monkeypatch):
    three, write, fake = jobs(1, 2, 3), pictures.write, Fake()

    def full(path, *arguments, **keywords):
        if path.name == "1.png":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *arguments, **keywords)

    monkeypatch.setattr(pictures, "write", full)
    report = folder.run(fake, three)
    assert kinds(report) == {"done": ["in/0.png"], "failed": ["in/1.png", "in/2.png"], "skipped": []}
    assert {entry["reason"] for entry in report["failed"]} == {folder.DISK_FULL}
    assert len(fake.calls) == 2


@pytest.mark.parametrize("at_once", [1, 3])
def test_no_picture_stays_in_memory_after_its_group(at_once):
    class Watched(Fake):
        made, alive = (), ()

        def __call__(self, images, **options):
            self.alive += (sum(one() is not None for one in self.made),)
            results = super().__call__(images, **options)
            self.made += tuple(map(weakref.ref, results))
            return results

    fake = Watched(at_once)
    folder.run(fake, jobs(*range(12)))
    assert len(fake.made) == 12 and set(fake.alive) == {0}


def test_progress_counts_pictures_and_the_share_of_all_the_work():
    moments = []
    three = jobs(1, 13, 3)
    pictures.write(Path("in/2.png"), np.full((9, 8), 3, np.uint8))  # two tiles, as the two others
    folder.run(Fake(), three, progress=moments.append)
    shown = [(moment.number, moment.of, moment.name.name, moment.tile, moment.share) for moment in moments]
    assert shown == [
        (1, 3, "0.png", 0, 0.0),
        (1, 3, "0.png", 1, 0.25),
        (2, 3, "1.png", 0, 0.25),
        (3, 3, "2.png", 0, 1 / 3),  # what failed is no work any more
        (3, 3, "2.png", 1, 2 / 3),
        (3, 3, "2.png", 2, 1.0),
    ]


def test_progress_is_told_batch_by_batch_and_leaves_out_what_could_not_be_read():
    moments, six = [], jobs(*range(6))
    for number in (0, 4):
        Path(f"in/{number}.png").write_bytes(Path(f"in/{number}.png").read_bytes()[:-24])
    folder.run(Fake(at_once=2), six, progress=moments.append)
    area = 8 * 8
    shown = [(moment.shape, moment.tile, moment.done / area, moment.total / area) for moment in moments]
    assert shown == [
        ((8, 8), 0, 0, 6),
        ((8, 8), 1, 1, 6),
        ((8, 8), 0, 1, 5),
        ((8, 8), 2, 3, 5),
        ((8, 8), 0, 3, 5),
        ((8, 8), 1, 4, 5),
    ]


def test_what_is_particular_about_a_picture_or_its_format_is_noted(monkeypatch):
    read, lines = pictures.read, []
    monkeypatch.setattr(
        pictures, "read", lambda path: pictures.Picture(read(path).pixels, notes=("first of 12 frames",))
    )
    (job,) = jobs(1, suffix=".jpg")
    pictures.write(job.input, np.full((4, 6), 300, np.uint16))
    folder.run(Fake(), [job], note=lines.append)
    assert lines == ["in/0.png: first of 12 frames", "out/0.jpg: JPEG has 8 bits: 16 bits rounded"]
