"""The command: whatever is wrong with it is told in one line, at once, with exit code 2, and nothing is written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TINY = f"--config={ROOT}/configs/x4.py:tiny"


def refusal(*options: str, **environment: str) -> str:
    """Run the command, which has to refuse; what it says."""
    command = [sys.executable, "-m", "tadsr_jax.main", *options]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120)
    assert (run.returncode, run.stdout) == (2, ""), run.stderr
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1, run.stderr
    return run.stderr


@pytest.mark.quick
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--config is missing; try --config=configs/x4.py:small --workdir=runs/small"),
        ([TINY], "--workdir is missing"),
        ([TINY, "--workdir="], "--workdir is missing"),
        (["--config=configs/nope.py"], "--config names 'configs/nope.py', which is no file"),
        (["--config", "configs"], "--config names 'configs', which is no file"),
        ([f"{TINY}x"], "--config has the variant 'tinyx'; expected one of small, tiny"),
        ([f"{TINY},stpes=3"], "--config sets 'stpes', which no section of the config has"),
        ([f"{TINY},lr=3"], "could be optimizer.discriminator.lr or optimizer.student.lr"),
        ([f"{TINY},steps=many"], "--config sets steps=many; expected int"),
        ([TINY, "--config.foo=1"], "config.foo is unknown; config has the keys data,"),
        ([TINY, "--config.train.stpes=3"], "config.train.stpes is unknown; config.train has the keys accumulate"),
        ([TINY, "--config.train.stpes=3"], "Did you mean config.train.steps?"),
        ([TINY, "--config.teacher.optimizer.student.rate=3"], "config.teacher.optimizer.student.rate is unknown"),
        ([TINY, "--config.train.steps.x=3"], "config.train.steps is 10, no section"),
        ([TINY, "--config.train.steps=many"], "--config.train.steps=many"),
        ([TINY, "--nope=1"], "Unknown command line flag 'nope'"),
        ([TINY, "words"], "'words' is no option"),
    ],
)
def test_a_wrong_command_is_refused_at_once(options, words, tmp_path):
    if options and "--workdir=" not in options and options != [TINY]:
        options = [*options, f"--workdir={tmp_path / 'run'}"]
    assert words in refusal(*options)
    assert not (tmp_path / "run").exists()


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config(:", "SyntaxError"),
        ("import nothing_of_this_name", "No module named 'nothing_of_this_name'"),
        ("x = 1", "has no attribute 'get_config'"),
    ],
)
def test_a_config_file_that_does_not_run_is_told_in_one_line(text, words, tmp_path):
    (tmp_path / "broken.py").write_text(text)
    assert words in refusal(f"--config={tmp_path / 'broken.py'}", f"--workdir={tmp_path / 'run'}")


def test_the_full_run_says_all_that_it_needs_in_one_go(tmp_path):
    text = refusal(f"--config={ROOT}/configs/x4.py", f"--workdir={tmp_path / 'run'}")
    for words in (
        "config.data.path, your training pictures (config.data.source is 'folder'): --config.data.path=FOLDER",
        "config.init.teacher, the weights to distil from (resshift_realsrx4_s15_v1.pth",
        "config.init.autoencoder, the VQ autoencoder (autoencoder_vq_f4.pth",
    ):
        assert words in text
    assert not (tmp_path / "run").exists()


def test_a_batch_that_the_devices_cannot_share_is_refused(tmp_path):
    flags = "--xla_force_host_platform_device_count=8"
    text = refusal(TINY, f"--workdir={tmp_path / 'run'}", "--config.data.batch_size=12", XLA_FLAGS=flags)
    assert "config.data.batch_size is 12; it must be a multiple of 8 (8 devices" in text
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("kept")
    assert f"{tmp_path / 'run'} is no folder" in refusal(TINY, f"--workdir={tmp_path / 'run'}")
    assert (tmp_path / "run").read_text() == "kept"
