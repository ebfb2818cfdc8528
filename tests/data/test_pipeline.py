"""The training stream: the same batches however they are made; bad files; validation pairs; wrong settings."""

import logging
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tadsr_jax import data, pictures
from tadsr_jax.data import examples, sources

pytest.importorskip("grain")
DEMO = {"source": "demo", "batch_size": 3, "gt_size": 32, "scale": 4, "seed": 7}


def _batches(count, **config):
    with data.training_stream(**{**DEMO, **config}) as stream:
        return [next(stream) for _ in range(count)], stream.skipped


def _same(first, second):
    return len(first) == len(second) and all(np.array_equal(a[k], b[k]) for a, b in zip(first, second) for k in a)


def test_batches_are_float_pairs_in_the_scale_of_networks():
    ((batch,), skipped) = _batches(1)
    assert batch["lq"].shape == (3, 8, 8, 3) and batch["gt"].shape == (3, 32, 32, 3) and skipped == 0
    assert all(v.dtype == np.float32 and v.min() >= -1 and v.max() <= 1 and v.std() > 0.05 for v in batch.values())
    assert type(batch["lq"]) is np.ndarray


def test_batches_are_the_same_with_workers_and_from_any_start():
    all_of_them, _ = _batches(6)
    with_workers, _ = _batches(4, num_workers=2, start=2)
    assert _same(all_of_them[2:], with_workers)
    assert _same(all_of_them[5:], _batches(1, start=5)[0])


def test_another_seed_gives_other_batches_and_epochs_differ():
    first, _ = _batches(1)
    assert not _same(first, _batches(1, seed=8)[0])
    epochs, _ = _batches(20, degradation={"kind": "bicubic"}, hflip=False, batch_size=3)  # 30 photographs
    assert not _same(epochs[:10], epochs[10:])


def test_a_start_far_away_costs_nothing():
    assert _batches(1, start=10**9, batch_size=1)[0][0]["gt"].shape == (1, 32, 32, 3)


@pytest.fixture
def odd_files(tmp_path):
    """Twelve files: six usable of unusual kinds, six that are not."""
    rgb = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    picture = Image.fromarray(rgb)
    pictures.write(tmp_path / "16bit.png", rgb.astype(np.uint16) * 257)
    picture.convert("L").save(tmp_path / "grey.JPG")
    picture.quantize(8).save(tmp_path / "palette.png", transparency=0)
    picture.convert("RGBA").save(tmp_path / "alpha.webp")
    picture.convert("CMYK").save(tmp_path / "print.jpeg")
    Image.fromarray(rgb[..., 0].astype(np.uint16) * 256).save(tmp_path / "grey16.tiff")
    data_of = (tmp_path / "print.jpeg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(data_of[: len(data_of) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "lie.png").write_text("words")
    picture.resize((1, 1)).save(tmp_path / "dot.png")
    picture.resize((400, 2)).save(tmp_path / "line.png")
    (tmp_path / "cut_header.png").write_bytes((tmp_path / "16bit.png").read_bytes()[:20])
    return tmp_path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_odd_files_are_converted_or_skipped_with_one_warning_each(odd_files, caplog, num_workers):
    with caplog.at_level(logging.WARNING):
        batches, skipped = _batches(12, source="folder", path=str(odd_files), num_workers=num_workers)
    assert skipped == 6
    warned = [r.getMessage() for r in caplog.records if "Skipped a picture" in r.getMessage()]
    assert len(warned) == 6
    for name in ("truncated.jpg", "empty.png", "lie.png", "dot.png", "line.png", "cut_header.png"):
        assert sum(name in message for message in warned) == 1
    assert all(np.isfinite(b["lq"]).all() for b in batches)
    assert _same(batches[:2], _batches(2, source="folder", path=str(odd_files))[0])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_source_that_yields_nothing_ends_the_run_with_its_name_and_the_reasons(odd_files, num_workers):
    for name in ("16bit.png", "grey.JPG", "palette.png", "alpha.webp", "print.jpeg", "grey16.tiff"):
        (odd_files / name).unlink()
    with pytest.raises(
        ValueError, match="no usable picture; 6 looked at, 3 no picture, 1 damaged or truncated, 2 too"
    ) as e:
        _batches(1, source="folder", path=str(odd_files), num_workers=num_workers)
    assert str(odd_files) in str(e.value)


def test_one_good_picture_among_many_bad_ones_is_found(tmp_path):
    for i in range(40):
        (tmp_path / f"{i}.png").write_bytes(b"bad")
    pictures.write(tmp_path / "good.png", np.full((40, 40, 3), 77, np.uint8))
    (batch, *_), skipped = _batches(4, source="folder", path=str(tmp_path), degradation={"kind": "bicubic"})
    np.testing.assert_allclose(batch["gt"], 77 / 127.5 - 1, atol=1e-6)
    assert skipped > 10


def test_pairs_are_cut_and_flipped_alike(tmp_path):
    ramp = np.random.default_rng(1).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    for folder, picture in (("gt", ramp.repeat(4, 0).repeat(4, 1)), ("lq", ramp)):
        (tmp_path / folder).mkdir()
        pictures.write(tmp_path / folder / "a.png", picture)
    config = {"source": "pairs", "path": str(tmp_path / "gt"), "lq_path": str(tmp_path / "lq"), "rot": True}
    for batch in _batches(4, **config)[0]:
        np.testing.assert_array_equal(batch["gt"], batch["lq"].repeat(4, 1).repeat(4, 2))


_ENDLESS = """
import time
from tadsr_jax import data
if __name__ == "__main__":
    stream = data.training_stream(source="demo", batch_size=2, gt_size=32, scale=4, num_workers=2)
    next(stream)
    import multiprocessing
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks processes up in /proc")
def test_workers_outlive_sigterm_until_the_run_closes_them_but_not_a_killed_run(tmp_path):
    (tmp_path / "run.py").write_text(_ENDLESS)
    run = subprocess.Popen([sys.executable, tmp_path / "run.py"], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in run.stdout.readline().split()]
    assert len(workers) >= 2
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    time.sleep(1)
    assert all(os.path.exists(f"/proc/{pid}") for pid in workers)
    run.kill()
    run.wait()
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in workers):
        assert time.monotonic() < deadline, "a worker is left behind"
        time.sleep(0.1)


class _One(sources.Files):
    def __init__(self, picture):
        super().__init__(None, ["one"])
        self.picture = picture

    def read(self, i):
        return {"gt": self.picture}


def test_the_public_crop_is_the_largest_square_reduced_by_area():
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    example = examples.Example(_One(picture), 32, 4, {"kind": "bicubic"}, hflip=False)
    want = picture.reshape(32, 2, 32, 2, 3).mean((1, 3)) / 127.5 - 1
    np.testing.assert_allclose(example(0, np.random.default_rng(0))["gt"], want, atol=1e-5)


def test_a_small_picture_is_mirrored_at_the_bottom_and_right_in_several_passes():
    row = np.arange(5, dtype=np.uint8)
    picture = np.broadcast_to(row[None, :, None], (5, 5, 3))
    example = examples.Example(_One(picture), 16, 4, {"kind": "bicubic"}, hflip=False)
    gt = example(0, np.random.default_rng(0))["gt"]
    np.testing.assert_allclose((gt[3, :, 1] + 1) * 127.5, np.pad(row, (0, 11), mode="reflect"), atol=1e-4)


def test_flips_happen_half_of_the_time():
    picture = np.broadcast_to(np.arange(16, dtype=np.uint8)[None, :, None], (16, 16, 3))
    example = examples.Example(_One(picture), 16, 4, {"kind": "bicubic"})
    rng = np.random.default_rng(0)
    pictures = [example(0, rng)["gt"] for _ in range(300)]
    flipped = [gt[0, 0, 0] > gt[0, -1, 0] for gt in pictures]
    assert 0.4 < np.mean(flipped) < 0.6


def test_validation_pairs_are_fixed_named_and_never_those_of_training():
    config = {"source": "demo", "count": 4, "gt_size": 64, "scale": 4, "seed": 3}
    first, second = data.validation_pairs(**config), data.validation_pairs(**config)
    assert [pair["name"] for pair in first] == ["city_at_dusk", "macaque", "matterhorn", "road_sign"]
    assert all(np.array_equal(a["lq"], b["lq"]) for a, b in zip(first, second))
    assert first[0]["lq"].shape == (16, 16, 3) and first[0]["gt"].shape == (64, 64, 3)
    shorter = data.validation_pairs(**{**config, "count": 1})
    np.testing.assert_array_equal(shorter[0]["lq"], first[0]["lq"])


def test_whole_validation_pictures_are_cut_to_what_networks_need():
    (pair,) = data.validation_pairs(
        source="demo", count=1, gt_size=None, scale=4, multiple=8, degradation={"kind": "bicubic"}
    )
    h, w = pair["lq"].shape[:2]
    assert h % 8 == 0 and w % 8 == 0 and pair["gt"].shape == (4 * h, 4 * w, 3) and h > 64


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"sourc": "demo"}, "config.data.sourc is no setting; config.data has the keys source, path"),
        ({"source": "dem"}, "config.data.source is 'dem'; expected one of folder, list"),
        ({"source": "folder"}, "config.data.path is None; source='folder' needs"),
        ({"source": "folder", "path": "/no/such"}, "config.data.path is '/no/such', which does not exist"),
        ({"source": "folder", "path": 3}, "config.data.path is 3; expected a path as a string"),
        ({"source": "folder", "path": __file__}, "which is no folder; source='folder' needs one"),
        ({"source": "pairs", "path": "/"}, "config.data.lq_path is None; source='pairs' needs"),
        ({"batch_size": 0}, "config.data.batch_size is 0; expected a whole number, 1 or more"),
        ({"batch_size": 2.5}, "config.data.batch_size is 2.5; expected a whole number"),
        ({"num_workers": -1}, "config.data.num_workers is -1; expected a whole number, 0 or more"),
        ({"hflip": "yes"}, "config.data.hflip is 'yes'; expected True or False"),
        ({"gt_size": 30}, "config.data.gt_size is 30, no multiple of the scale 4; use 28"),
        ({"min_size": 1}, "config.data.min_size is 1; expected a whole number above 1, or None"),
        ({"degradation": 3}, "config.data.degradation is 3; expected a dict"),
        ({"degradation": {"jpg": "real"}}, "config.data.degradation.jpg is no setting"),
    ],
)
def test_wrong_settings_are_refused_in_one_line_with_what_is_accepted(wrong, words):
    with pytest.raises(ValueError, match=words) as error:
        data.check(**{**DEMO, **wrong})
    assert "\n" not in str(error.value)


def test_a_missing_setting_is_named():
    with pytest.raises(ValueError, match=r"config\.data\.gt_size is missing"):
        data.check(source="demo", batch_size=1, scale=4)


def test_right_settings_pass():
    data.check(**DEMO, degradation={"kind": "bicubic"}, num_workers=3)


def test_words_are_emptied_as_often_as_asked_and_by_the_generator_alone():
    emptied = lambda seed, ratio: examples.emptied("cat", np.random.default_rng(seed), null_text_ratio=ratio) == ""
    assert not any(emptied(seed, 0) for seed in range(100)) and all(emptied(seed, 1) for seed in range(100))
    half = [emptied(seed, 0.5) for seed in range(1000)]
    assert 450 < sum(half) < 550  # three deviations of a fair coin are 47
    assert half == [emptied(seed, 0.5) for seed in range(1000)]
