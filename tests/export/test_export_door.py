"""The commands of export: the form of the issue, what they refuse, and the script that wraps them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tadsr_jax import bundles, cli
from tests.runs import STEPS, trained

pytestmark = pytest.mark.xdist_group("trained")  # one worker makes the run
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "launch" / "export.sh"
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHON": sys.executable}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory)


def called(capsys, *arguments: str, room: str | None = None) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments], room=room)
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_python_m_with_workdir_and_output_makes_the_runs_bundle(run, tmp_path):
    command = [sys.executable, "-m", "tadsr_jax.export", f"--workdir={run}", f"--output={tmp_path / 'exported'}"]
    made = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert (made.returncode, made.stdout, made.stderr) == (0, f"{tmp_path / 'exported'}\n", "")
    ours, theirs = (bundles.load(folder).params["student"] for folder in (tmp_path / "exported", run / "bundle"))
    assert bundles.tree_sha256(ours) == bundles.tree_sha256(theirs)


def test_options_reach_the_export(run, tmp_path, capsys):
    options = ("-o", tmp_path / "raw", "--weights=raw", f"--step={STEPS[0]}")
    assert called(capsys, "export", run, *options)[0] == 0
    assert bundles.load(tmp_path / "raw").info["checkpoint"] == {"step": STEPS[0], "weights": "raw"}
    code, _, told = called(capsys, "export", run, *options)
    assert code == 2 and "raw, which exists; choose another, or give --overwrite" in told
    options = ("--bundle", run / "bundle", "--output", tmp_path / "raw", "--overwrite", "--format", "orbax")
    assert called(capsys, *options, room="export")[:2] == (0, f"{tmp_path / 'raw'}\n")
    assert (tmp_path / "raw" / "params").is_dir()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "nothing is named to be exported; expected one workdir or bundle: --workdir=runs/small"),
        (("--workdir=a", "--bundle=b", "--output=c"), "a and b are named"),
        (("--workdir=a",), "--output is missing; try --output=exported"),
        (("--workdir=a", "--output=c"), "a is no folder"),
        (("--workdir=a", "--output=c", "--format=onnx"), "'onnx' is not one of"),
        (("--workdir=a", "--output=c", "--step=last"), "'last' is not a valid"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, printed, told = called(capsys, *options, room="export")
    assert (code, printed) == (2, "") and told.startswith("error: ") and told.count("\n") == 1
    assert words in told and not list(tmp_path.iterdir())


def test_the_script_exports_a_workdir_and_passes_its_options_on(run, tmp_path):
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    command = [SCRIPT, run, tmp_path / "exported", "--step=2"]
    made = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert (made.returncode, made.stdout) == (0, f"{tmp_path / 'exported'}\n"), made.stderr
    assert bundles.load(tmp_path / "exported").info["checkpoint"]["step"] == 2
    for wrong in ([], [run], ["--workdir=a", "b"]):
        refused = subprocess.run([SCRIPT, *wrong], env=ENVIRONMENT, capture_output=True, text=True)
        assert refused.returncode == 2 and refused.stderr.startswith("usage: "), wrong
