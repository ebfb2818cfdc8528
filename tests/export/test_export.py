"""Exports of a training run and of a bundle: the same model, in a folder that appears whole or not at all."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tadsr_jax import bundles, export
from tadsr_jax.job.saved import saved
from tests.runs import STEPS, trained

pytestmark = pytest.mark.xdist_group("trained")  # one worker makes the run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory)


def student_of(folder) -> str:
    return bundles.tree_sha256(bundles.load(folder).params["student"])


def refusal(*arguments, **options) -> str:
    with pytest.raises(ValueError) as error:
        export.export(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_bundle_of_the_latest_average_is_the_runs_own(run, tmp_path):
    folder = export.bundle(run, tmp_path / "deep" / "exported")
    assert student_of(folder) == json.loads((run / "report.json").read_text())["student_sha256"]
    ours, theirs = (json.loads((place / "bundle.json").read_text()) for place in (folder, run / "bundle"))
    assert ours == theirs


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_bundle_holds_the_weights_and_the_step_that_were_asked_for(run, tmp_path, step, weights):
    folder = export.bundle(run, tmp_path / "exported", step=step, weights=weights)
    state = saved(run, step=step).state
    wanted = state.ema if weights == "ema" else state.params["student"]
    assert student_of(folder) == bundles.tree_sha256(wanted)
    assert bundles.load(folder).info["checkpoint"] == {"step": step, "weights": weights}


def test_an_orbax_tree_is_read_by_the_lines_beside_it_without_this_package(run, tmp_path):
    folder = export.export(run / "bundle", tmp_path / "tree", format="orbax")
    lines = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    code = 'import sys\nsys.modules["tadsr_jax"] = sys.modules["flax"] = None\n' + lines
    code += 'import numpy\nnumpy.save("kernel", tree["student"]["stem"]["kernel"])\n'
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    child = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    params = bundles.load(run / "bundle").params
    np.testing.assert_array_equal(np.load(folder / "kernel.npy"), params["student"]["stem"]["kernel"])
    about = json.loads((folder / "manifest.json").read_text())
    shapes = {path: list(leaf.shape) for path, leaf in flatten_dict(params, sep="/").items()}
    assert {path: entry["shape"] for path, entry in about["arrays"].items()} == shapes
    assert about["settings"] == bundles.load(run / "bundle").info["settings"] and about["steps"] == 3


def test_what_cannot_be_is_refused_before_anything_is_written(run, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").write_text("kept")
    (tmp_path / "file").write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    new, own = tmp_path / "new", run / "bundle"
    for text, words in (
        (refusal(run, new, format="onnx"), "format is 'onnx'; expected one of bundle, orbax, stablehlo"),
        (refusal(run, new, weights="best"), "weights is 'best'; expected one of ema, raw"),
        (refusal(run, new, step=3), "it has 2, 4"),
        (refusal(tmp_path / "none", new), "none is no folder; expected the workdir of a training run, or a bundle"),
        (refusal(tmp_path / "full", new), "full is no workdir: it holds no config.json"),
        (refusal(own, new), "is a bundle already; copy the folder, or give format orbax or stablehlo"),
        (refusal(own, new, format="orbax", step=2), "is a bundle and holds one model, so step 2 cannot be had"),
        (refusal(own, new, format="orbax", weights="raw"), "so weights 'raw' cannot be had; give a workdir"),
        (refusal(run, tmp_path / "full"), "full, which exists; choose another, or give --overwrite"),
        (refusal(run, tmp_path / "full", overwrite=True), "full, which is no export"),
        (refusal(run, tmp_path / "file", overwrite=True), "file, which is no export"),
        (refusal(run, tmp_path / "file" / "new"), f"but {tmp_path / 'file'} is no folder that can be written"),
        (refusal(run, run, overwrite=True), "which holds what is exported; choose another folder"),
        (refusal(own, run, format="orbax", overwrite=True), "which holds what is exported"),
    ):
        assert words in text
    assert sorted(tmp_path.rglob("*")) == before


def test_an_export_that_fails_leaves_the_one_before_it(run, tmp_path, monkeypatch):
    folder = export.export(run / "bundle", tmp_path / "made", format="orbax")

    def fails(folder, model):
        (folder / "half").write_text("")
        raise OSError("No space left on device")

    monkeypatch.setitem(export.FORMATS, "stablehlo", fails)
    with pytest.raises(OSError, match="No space left"):
        export.export(run / "bundle", folder, format="stablehlo", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert json.loads((folder / "manifest.json").read_text())["format"] == "orbax"


def test_exports_and_empty_folders_are_replaced_when_asked(run, tmp_path, monkeypatch):
    monkeypatch.setitem(export.FORMATS, "stablehlo", lambda folder, model: (folder / "new").write_text(""))
    (tmp_path / "empty").mkdir()
    shutil.copytree(run / "bundle", tmp_path / "bundle")
    orbax = export.export(run / "bundle", tmp_path / "orbax", format="orbax")
    for folder in (tmp_path / "empty", tmp_path / "bundle", orbax):
        export.export(run / "bundle", folder, format="stablehlo", overwrite=True)
        assert [path.name for path in folder.iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "empty", "orbax"]
