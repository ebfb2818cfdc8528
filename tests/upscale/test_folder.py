"""A folder of pictures through an upscaler: a fake one, that repeats pixels and fails on demand."""

import errno
import weakref
from pathlib import Path

import numpy as np
import pytest

from tadsr_jax import pictures
from tadsr_jax.upscale import folder
from tadsr_jax.upscale.files import Job
from tadsr_jax.upscale.grid import Grid

pytestmark = pytest.mark.quick


class Fake:
    """Twice as large; a picture that begins with the value 13 fails. Tiles have a side of 8."""

    scale, at_once = 2, 1

    def __init__(self, at_once: int = 1):
        self.at_once, self.calls = at_once, []

    def grid(self, height, width, *, tile=None, **_):
        if tile == 3:
            raise ValueError("tile is 3; expected a multiple of 4 for this model, such as 4.")
        return Grid(height, width, (8, 8), tuple(range(0, height, 8)), tuple(range(0, width, 8)))

    def __call__(self, images, *, mask=None, noise=None, progress=None, scale=None, seed=0, **_):
        self.calls.append({"shapes": [image.shape[:2] for image in images], "mask": mask, "noise": noise, "seed": seed})
        if any(image.flat[0] == 13 for image in images):
            raise RuntimeError("thirteen")
        progress(1, 1)
        times = int(scale or self.scale)
        return [image.repeat(times, 0).repeat(times, 1) for image in images]


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
        (3, 3, "2.png", 0, 0.5),
        (3, 3, "2.png", 1, 1.0),
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
