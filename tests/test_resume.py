"""A run that is broken off, however and whenever, ends as one that was not: with bit-identical parameters."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMAND = (sys.executable, "-m", "tadsr_jax.main", f"--config={ROOT}/configs/x4.py:tiny", "--config.validation.count=1",
           "--config.train.steps=8", "--config.train.log_every=1", "--config.train.evaluate_every=0",
           "--config.train.save_every=1", "--config.teacher.train.steps=5", "--config.teacher.train.log_every=1",
           "--config.teacher.train.evaluate_every=0", "--config.teacher.train.save_every=1",
           "--config.teacher.validation.count=1")  # fmt: skip
PATIENCE = 300  # seconds: the first start compiles


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A function that starts the command in a process group of its own; all starts share compiled programs."""
    compiled = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(tmp_path_factory.mktemp("compiled"))
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": compiled,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_PLATFORMS": "cpu",
    }
    running = []

    def start(workdir: Path, *more: str) -> subprocess.Popen:
        with workdir.with_suffix(".log").open("a") as log:
            run = subprocess.Popen(
                [*COMMAND, f"--workdir={workdir}", *more], env=environment, cwd=ROOT, stderr=log, start_new_session=True
            )
        running.append(run)
        return run

    yield start
    for run in running:
        if run.poll() is None:
            run.kill()


@pytest.fixture(scope="module")
def straight(start, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("straight") / "run"
    assert start(workdir).wait(PATIENCE) == 0
    return workdir


def report(workdir: Path) -> dict:
    return json.loads((workdir / "report.json").read_text())


def logged_steps(workdir: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def wait_for(moment, run: subprocess.Popen) -> None:
    """Until `moment()` is true; as soon as can be, for it may last for milliseconds."""
    deadline = time.monotonic() + PATIENCE
    while not moment():
        assert run.poll() is None, f"the run ended before the moment came: exit code {run.returncode}"
        assert time.monotonic() < deadline
        time.sleep(0.001)


def is_saving(phase: Path, step: int):
    """Whether the checkpoint of `step` is half written."""
    return lambda: any(phase.glob(f"checkpoints/{step}.*tmp*"))


def has_saved(phase: Path, step: int):
    return lambda: (phase / "checkpoints" / str(step)).exists()


def last_line(workdir: Path) -> str:
    return workdir.with_suffix(".log").read_text().replace("\r", "\n").strip().split("\n")[-1]


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_parameters(start, straight, tmp_path):
    workdir = tmp_path / "run"
    teacher = workdir / "teacher"
    moments = (
        is_saving(teacher, 1),  # nothing is saved yet
        has_saved(teacher, 3),
        lambda: (teacher / ".bundle.writing").exists() or (teacher / "bundle").exists(),
        is_saving(workdir, 4),
        has_saved(workdir, 8),  # trained, without a report
    )
    for moment in moments:
        run = start(workdir)
        wait_for(moment, run)
        run.kill()
        assert run.wait() == -signal.SIGKILL
        assert not (workdir / "report.json").exists()
    assert start(workdir).wait(PATIENCE) == 0
    assert report(workdir)["student_sha256"] == report(straight)["student_sha256"]
    assert report(teacher)["student_sha256"] == report(straight / "teacher")["student_sha256"]
    assert logged_steps(workdir) == logged_steps(straight) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert logged_steps(teacher) == [1, 2, 3, 4, 5]
    leftovers = [path.name for path in workdir.rglob("*") if "tmp" in path.name or ".writing" in path.name]
    assert not leftovers


def test_a_run_that_is_asked_to_stop_saves_says_so_in_one_line_and_goes_on(start, straight, tmp_path):
    workdir = tmp_path / "run"
    with_worker = "--config.data.num_workers=1"  # it gets the signal as well, for that goes to the whole group
    for number, exit_code, phase, *more in (
        (signal.SIGTERM, 0, workdir / "teacher"),
        (signal.SIGTERM, 0, workdir, with_worker),
        (signal.SIGINT, 130, workdir),
    ):
        run = start(workdir, *more)
        before = max((int(path.name) for path in phase.glob("checkpoints/[0-9]")), default=0)
        wait_for(has_saved(phase, before + 1), run)
        os.killpg(run.pid, number)
        assert run.wait(PATIENCE) == exit_code
        assert "stopped" in last_line(workdir) and "the same command goes on" in last_line(workdir)
    assert "Traceback" not in workdir.with_suffix(".log").read_text()
    assert start(workdir).wait(PATIENCE) == 0
    assert report(workdir)["student_sha256"] == report(straight)["student_sha256"]
    assert logged_steps(workdir) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_finished_run_is_not_trained_again_but_reported_again(start, straight):
    before, lines = report(straight), (straight / "metrics.jsonl").read_text()
    (straight / "report.json").unlink()
    assert start(straight).wait(PATIENCE) == 0
    after = report(straight)
    assert after["student_sha256"] == before["student_sha256"] and after["psnr_y"] == before["psnr_y"]
    assert after["seconds"] >= 0.5 * before["seconds"], "what earlier starts took counts too"
    assert (straight / "metrics.jsonl").read_text() == lines
    kept = sorted(path.name for path in (straight / "checkpoints").iterdir())
    assert kept == ["7", "8"], "config.train.keep is 2"
