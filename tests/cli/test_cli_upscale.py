"""tadsr upscale: what it prints where, its exit codes, and real runs of a tiny model that are stopped and killed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tadsr_jax import cli, pictures
from tadsr_jax.cli import upscale
from tadsr_jax.upscale.grid import Grid

WEIGHTS = "weights"
SETTINGS = {  # of `tests.toys.tiny_family`
    "scale": 2,
    "denoiser": {"kind": "small", "latent_channels": 12, "widths": [32], "blocks": 1, "embed_dim": 8},
    "autoencoder": {"kind": "space_to_depth", "factor": 2},
    "diffusion": {"num_steps": 3, "kappa": 0.2},
    "condition_on_z_y": True,
}


class Fake:
    """Repeats each pixel twice by twice; a picture that begins with the value 13 fails."""

    scale, smallest = 2, 1

    def together(self, batch=None):
        return 1

    def grid(self, height, width, *, steps=None, **_):
        if steps == 99:
            raise ValueError("steps is 99; expected a whole number from 1 to 3.")
        return Grid(height, width, (height, width), (0,), (0,))

    def plan(self, height, width, **options):
        self.planned = options
        return upscale_plan(height, width)

    def __call__(self, images, *, progress, **options):
        self.options = options
        if any(image.flat[0] == 13 for image in images):
            raise RuntimeError("thirteen")
        progress(1, 1)
        return [image.repeat(2, 0).repeat(2, 1) for image in images]


def upscale_plan(height, width):
    from tadsr_jax.upscale.upscaler import Plan

    return Plan(tiles=1, tile=(height, width), output=(2 * height, 2 * width), memory_bytes=2**30, seconds=1.5)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fake(monkeypatch):
    """The command, with a model that needs no weights."""
    model = Fake()
    Path(WEIGHTS).mkdir()
    Path(WEIGHTS, "bundle.json").touch()
    monkeypatch.setattr(upscale, "_load", lambda folder, dtype, *, quiet: model)
    return model


def photos(*values: int) -> None:
    """in/0.png, in/1.png, ...: 4 x 6 pixels of each value."""
    Path("in").mkdir(exist_ok=True)
    for number, value in enumerate(values):
        pictures.write(Path(f"in/{number}.png"), np.full((4, 6), value, np.uint8))


def tadsr(capfd, *argv: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of `tadsr upscale ARGV`."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["upscale", *argv])
    return ended.value.code, *capfd.readouterr()


# ---- in this process, with the fake --------------------------------------------------------------------------------


@pytest.mark.quick
def test_results_are_printed_and_progress_goes_to_standard_error(fake, capfd):
    photos(1, 2)
    code, out, err = tadsr(capfd, "in", "--weights", WEIGHTS)
    assert (code, out) == (0, "results/0.png\nresults/1.png\n")
    lines = err.splitlines()
    assert len(lines) == 3 and lines[0].startswith("[1/2] in/0.png  12x8  0.0 s  ETA ")
    assert lines[1].endswith("ETA 0:00")
    assert lines[-1] == "2 done, 0 failed, 0 skipped"


@pytest.mark.quick
def test_words_reach_the_model_and_its_plan(fake, capfd):
    photos(1)
    words = ["--prompt", "a cat", "--negative-prompt", "", "--guidance", "3", "--psr-weight", "0.3", "--start", "noise"]
    given = {"prompt": "a cat", "negative_prompt": "", "guidance": 3.0, "psr_weight": 0.3, "start": "noise"}
    assert tadsr(capfd, "in", "--weights", WEIGHTS, *words)[0] == 0
    assert fake.options.items() >= given.items()
    assert tadsr(capfd, "in", "--weights", WEIGHTS, "--dry-run", "--overwrite", *words)[0] == 0
    assert fake.planned.items() >= given.items() and not fake.planned.keys() & {"seed", "color_fix"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", "a cat"], "prompt is 'a cat', which is no option of this model"),
        (["--psr-weight", "1.5"], "'--psr-weight'"),
        (["--start", "gt"], "'--start'"),
    ],
)
def test_words_that_a_model_cannot_be_told_are_refused_before_anything_is_written(bundle, capfd, words, message):
    photos(1)
    code, out, err = tadsr(capfd, "in", "--weights", str(bundle), *words)
    assert (code, out) == (2, "") and message in err and not Path("results").exists()


@pytest.mark.quick
def test_on_a_terminal_one_line_is_written_over(fake, capfd, monkeypatch):
    from tadsr_jax.cli.progress import Progress
    from tadsr_jax.upscale.folder import Moment

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    progress = Progress()
    for tile in (0, 1, 3):
        progress(Moment(2, 5, Path("a\nb" * 30), (8, 8), tile=tile, tiles=4, done=20 + tile * 10, total=100))
    shown = capfd.readouterr().err.split("\r\x1b[K")[1:]
    assert [line[:31] for line in shown] == [
        "[2/5] 20%  ETA ?  tile 0/4  a b",
        "[2/5] 30%  ETA ?  tile 1/4  a b",
        "[2/5] 50%  ETA 0:00  tile 3/4  ",
    ]
    assert all(len(line) <= 59 and "\n" not in line for line in shown)


@pytest.mark.quick
def test_the_time_that_is_left_leaves_out_what_was_compiled_and_what_failed(capfd, monkeypatch):
    from tadsr_jax.cli import progress as room
    from tadsr_jax.upscale.folder import Moment

    seconds = iter(
        [  # time, shape, tile, done, total, what is shown
            (0, (8, 8), 0, 0, 1000, "?"),
            (60, (8, 8), 1, 10, 1000, "?"),  # the first tile, compiled as well
            (61, (8, 8), 2, 20, 1000, "1:38"),  # 980 are left, at 10 a second
            (61, (8, 8), 0, 20, 520, "0:50"),  # much of the rest could not be read
            (63, (16, 8), 0, 20, 520, "0:50"),
            (99, (16, 8), 1, 40, 520, "0:48"),  # another shape to compile
            (104, (16, 8), 2, 80, 520, "0:53"),  # 50 in 6 seconds so far
        ]
    )
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = room.Progress()
    for now, shape, tile, done, total, shown in seconds:
        monkeypatch.setattr(room.time, "monotonic", lambda now=now: now)
        progress(Moment(1, 9, Path("a"), shape, tile=tile, tiles=4, done=done, total=total))
        assert f"ETA {shown}  " in capfd.readouterr().err


@pytest.mark.quick
def test_habits_of_other_upscalers_are_understood(fake, capfd):
    photos(1)
    code, out, _ = tadsr(
        capfd, "-i", "in/0.png", "-o", "large.jpg", "-n", WEIGHTS, "-s", "2", "-t", "0", "-f", "JPEG", "--seed", "5"
    )
    assert (code, out) == (0, "large.jpg\n")
    assert pictures.size(Path("large.jpg")) == (8, 12)
    assert (fake.options["scale"], fake.options["tile"], fake.options["seed"]) == (2, "auto", 5)


@pytest.mark.quick
def test_json_is_one_object_and_nothing_else_on_standard_output(fake, capfd):
    photos(1, 13, 2)
    Path("results").mkdir()
    Path("results/2.png").touch()
    code, out, err = tadsr(capfd, "in", "--weights", WEIGHTS, "--json")
    report = json.loads(out)
    assert code == 1
    assert report["done"] == [report["done"][0] | {"input": "in/0.png", "output": "results/0.png", "size": [12, 8]}]
    assert report["failed"] == [{"input": "in/1.png", "reason": "RuntimeError: thirteen"}]
    assert report["skipped"] == [{"input": "in/2.png", "output": "results/2.png"}]
    assert "failed: in/1.png: RuntimeError: thirteen\n" in err
    assert err.endswith("1 done, 1 failed, 1 skipped (they are there already; --overwrite makes them anew)\n")


@pytest.mark.quick
def test_quiet_says_what_fails_and_nothing_else(fake, capfd):
    photos(1, 13)
    assert tadsr(capfd, "in", "--weights", WEIGHTS, "--quiet") == (1, "", "failed: in/1.png: RuntimeError: thirteen\n")
    photos(1)
    assert tadsr(capfd, "in/0.png", "--weights", WEIGHTS, "--quiet", "--overwrite") == (0, "", "")


@pytest.mark.quick
def test_skipped_pictures_are_good(fake, capfd):
    photos(1)
    assert tadsr(capfd, "in", "--weights", WEIGHTS)[0] == 0
    assert tadsr(capfd, "in", "--weights", WEIGHTS)[:2] == (0, "")
    assert tadsr(capfd, "in", "--weights", WEIGHTS, "--overwrite")[:2] == (0, "results/0.png\n")


@pytest.mark.quick
def test_a_dry_run_says_what_each_size_takes_and_writes_nothing(fake, capfd):
    photos(1, 2)
    pictures.write(Path("in/2.png"), np.zeros((10, 20), np.uint8))
    code, out, _ = tadsr(capfd, "in", "--weights", WEIGHTS, "--dry-run")
    assert code == 0 and not Path("results").exists()
    first, second, total = out.splitlines()
    assert first.startswith("2 of 6x4: 1 tile(s) of 6x4 -> 12x8 pixels") and second.startswith("1 of 20x10: ")
    assert total == "3 pictures in about 0:04 and 1.00 GiB; 0 skipped, 0 failed."
    report = json.loads(tadsr(capfd, "in", "--weights", WEIGHTS, "--dry-run", "--json")[1])
    assert report["plan"][1] == {
        "size": [20, 10],
        "pictures": 1,
        "output": [40, 20],
        "tiles": 1,
        "memory_bytes": 2**30,
        "seconds": 1.5,
    }
    assert (report["memory_bytes"], report["seconds"]) == (2**30, 4.5)


@pytest.mark.quick
def test_a_dry_run_goes_on_after_a_size_that_cannot_be_planned_and_says_what_is_unknown(fake, capfd, monkeypatch):
    photos(1, 2)
    pictures.write(Path("in/2.png"), np.zeros((10, 20), np.uint8))
    pictures.write(Path("in/3.png"), np.zeros((10, 30), np.uint8))

    def plan(height, width, **_):
        if width == 6:
            raise ValueError("out of memory on cpu, and tiles can be no smaller.")
        return dataclasses.replace(upscale_plan(height, width), seconds=None if width == 30 else 1.5)

    monkeypatch.setattr(fake, "plan", plan)
    code, out, err = tadsr(capfd, "in", "--weights", WEIGHTS, "--dry-run")
    assert code == 1
    assert err.splitlines() == [
        f"failed: in/{number}.png: out of memory on cpu, and tiles can be no smaller." for number in range(2)
    ]
    assert out.splitlines()[-1] == "2 pictures (time unknown) and 1.00 GiB; 0 skipped, 2 failed."
    report = json.loads(tadsr(capfd, "in", "--weights", WEIGHTS, "--dry-run", "--json")[1])
    assert [entry["seconds"] for entry in report["plan"]] == [1.5, None] and report["seconds"] is None
    assert [entry["input"] for entry in report["failed"]] == ["in/0.png", "in/1.png"]


def npy_header(name: str, header: str) -> None:
    """A .npy file that ends behind its header."""
    text = header.ljust(117).encode() + b"\n"
    Path(name).write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "no pictures named; expected files, folders or globs"),
        (["nowhere.png"], "'nowhere.png': no such file"),
        (["in", "--steps", "99"], "steps is 99; expected a whole number from 1 to 3."),
        (["in", "-t", "big"], "'big' is no tile size; expected auto, none, or a number of input pixels."),
        (["in", "-t", "-8"], "'-8' is no tile size"),
        (["in", "--steps", "0"], "0 is not in the range x>=1"),
        (["in", "-s", "0"], "0.0 is not in the range 0<x<=64"),
        (["in", "--noise", "nowhere.npy"], "nowhere.npy: No such file or directory"),
        (["in", "--noise", "in/0.png"], "in/0.png is no array of numbers"),
        (["in", "--noise", "nan.npy"], "numbers that are not finite; expected one array of finite floats"),
        (["in", "--noise", "words.npy"], "words.npy is no array of numbers"),
        (["in", "--noise", "large.npy"], "large.npy is no array of numbers"),
        (["in", "--noise", "huge.npy"], "huge.npy is no array of numbers"),
        (["in", "--noise", "zip.npy"], "zip.npy is no array of numbers"),
        (["in", "--noise", "odd.npy"], "odd.npy is no array of numbers"),
        (["in", "--noise", "empty.npy"], "empty.npy is no array of numbers"),
        (["in", "--noise", "several.npz"], "several.npz holds an archive"),
        (["in", "--mask", "nowhere"], "'nowhere': no such mask"),
        (["in", "-o", "in/0.png/deeper"], "in/0.png/deeper cannot be made"),
    ],
)
def test_wrong_use_is_refused_in_one_line_before_anything_is_written(fake, capfd, argv, words):
    photos(1)
    np.save("nan.npy", np.array([np.nan]))
    np.save("words.npy", np.array([{"a": 1}]), allow_pickle=True)
    npy_header("large.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (99999, 99999, 99), }")
    npy_header("huge.npy", f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**30},), }}")
    npy_header("odd.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (99,")
    Path("zip.npy").write_bytes(b"PK\x03\x04 and no more")
    Path("empty.npy").touch()
    np.savez("several.npz", a=np.zeros(3), b=np.zeros(3))
    code, out, err = tadsr(capfd, *argv, "--weights", WEIGHTS)
    assert (code, out) == (2, "") and not Path("results").exists()
    assert err.startswith("error: ") and err.count("\n") == 1 and words in err


# ---- weights --------------------------------------------------------------------------------


@pytest.mark.quick
def test_without_weights_one_line_says_how_to_get_or_train_some(capfd):
    photos(1)
    code, out, err = tadsr(capfd, "in/0.png")
    assert (code, out, err.count("\n")) == (2, "", 1)
    for words in ("tadsr download", "tadsr convert", "configs/x4.py:small --workdir=runs/small", "runs/small/bundle"):
        assert words in err


@pytest.mark.quick
def test_weights_are_a_bundle_or_a_run_or_the_name_of_a_bundle(monkeypatch, tmp_path):
    for folder in ("one", "runs/small/bundle", "weights/two", "data/bundles/three"):
        Path(folder).mkdir(parents=True)
        Path(folder, "bundle.json").touch()
    monkeypatch.setattr(upscale.platformdirs, "user_data_dir", lambda name: str(tmp_path / "data"))
    assert upscale.find_bundle("one") == Path("one")
    assert upscale.find_bundle(f"{tmp_path}/one") == tmp_path / "one"
    assert upscale.find_bundle("runs/small") == Path("runs/small/bundle")
    assert upscale.find_bundle("two") == Path("weights/two")
    assert upscale.find_bundle("three") == tmp_path / "data/bundles/three"
    with pytest.raises(ValueError, match=r"no bundle 'four' in \., weights, .*: found one, three, two\."):
        upscale.find_bundle("four")
    with pytest.raises(ValueError, match=r"--weights weights holds no bundle\.json"):
        upscale.find_bundle("weights")
    with pytest.raises(ValueError, match=r"bundle\.json is a file; .*tadsr convert resshift --unet one/bundle\.json"):
        upscale.find_bundle("one/bundle.json")
    for folder, part in (("AddSR", "unet"), ("SeeSR", "controlnet"), ("folder", "model_index.json")):
        Path(folder, part).mkdir(parents=True)
        with pytest.raises(ValueError, match=rf"{folder} is no bundle, .*tadsr convert seesr --model {folder} \.\.\."):
            upscale.find_bundle(folder)


# ---- real runs --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """The tiny model with random weights, as a bundle: pictures twice as large."""
    import jax

    from tadsr_jax import bundles
    from tests.toys import randomised, tiny_family

    shapes = bundles.expected_shapes(tiny_family())
    params = jax.tree.map(np.asarray, {name: randomised(tree, 0.05) for name, tree in shapes.items()})
    folder = tmp_path_factory.mktemp("model") / "bundle"
    return bundles.save(folder, family="resshift", settings=SETTINGS, params=params, info={"scale": 2, "steps": 1})


def start(bundle: Path, *argv: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tadsr_jax.upscale", *argv, "--weights", str(bundle)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TADSR_CACHE_DIR": ""}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def noisy_photos(count: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        path = Path(f"in/{number % 3}/{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures.write(path, rng.integers(0, 256, (48, 40, 3), np.uint8))


def contents(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def wait_for(count: int, folder: str) -> None:
    """Until that many results are there."""
    limit = time.monotonic() + 120
    while len(list(Path(folder).rglob("*.png"))) < count:
        assert time.monotonic() < limit, "no results appear"
        time.sleep(0.002)


def test_a_killed_run_is_finished_by_the_same_command_with_the_same_bytes(bundle):
    noisy_photos(40)
    assert start(bundle, "in", "-o", "whole").wait(300) == 0
    run = start(bundle, "in", "-o", "killed")
    wait_for(5, "killed")
    run.send_signal(signal.SIGKILL)
    run.communicate()
    done = contents("killed")
    assert 5 <= len([name for name in done if not Path(name).name.startswith(".")]) < 40, (
        "killed too late to say anything"
    )
    run = start(bundle, "in", "-o", "killed", "--json")
    report = json.loads(run.communicate(timeout=300)[0])
    assert run.returncode == 0 and len(report["done"]) + len(report["skipped"]) == 40 and len(report["skipped"]) >= 5
    assert contents("killed") == contents("whole")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_leaves_whole_pictures_and_reports_what_it_did(bundle, number, code):
    noisy_photos(40)
    run = start(bundle, "in", "-o", "out", "--json")
    wait_for(3, "out")
    run.send_signal(number)
    out, err = run.communicate(timeout=120)
    assert run.returncode == code, err
    assert "Traceback" not in err and "the same command goes on" in err
    assert len(json.loads(out)["done"]) in (len(contents("out")), len(contents("out")) - 1)
    for name in contents("out"):
        assert pictures.read(Path("out", name)).pixels.shape == (96, 80, 3)


def test_the_command_gives_what_python_gives(bundle):
    from tadsr_jax.upscale.upscaler import Upscaler

    noisy_photos(1)
    run = start(bundle, "in/0/0.png", "-o", "out.png", "--seed", "3")
    out, err = run.communicate(timeout=120)
    assert (run.returncode, out) == (0, "out.png\n"), err
    expected = Upscaler.load(bundle)(pictures.read(Path("in/0/0.png")).pixels, seed=3)
    np.testing.assert_array_equal(pictures.read(Path("out.png")).pixels, expected)


def test_a_device_that_is_not_there_is_told_in_one_line(bundle):
    photos(20)
    command = [sys.executable, "-m", "tadsr_jax.upscale", ".", "-o", "out", "--weights", str(bundle)]
    done = subprocess.run(command, env=os.environ | {"JAX_PLATFORMS": "abacus"}, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: no device to compute on: ")
    assert len(done.stderr.splitlines()) == 1
