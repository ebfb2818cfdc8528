"""What a run left is read again bit for bit, wherever it trained, and by whoever has no packages for training.

`python -m tests.test_saved WORKDIR` is the child: it saves a state from 8 devices and prints its checksums.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tadsr_jax import bundles
from tadsr_jax.families import FAMILIES
from tadsr_jax.job import family_settings
from tadsr_jax.job.saved import bundle_of, saved, write_bundle
from tests.runs import STEPS, begun, random_state, tiny_config, trained, vq_config

pytestmark = [
    pytest.mark.xdist_group("trained"),  # one worker makes the run
    # A restore that failed leaves threads that report to an event loop that is gone.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ROOT = Path(__file__).parents[1]
TRAIN_EXTRA = ("grain", "array_record", "clu", "tensorboardX", "tensorflow_datasets")


def child(*arguments: str, **environment: str) -> str:
    command = [sys.executable, *arguments]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)
    assert run.returncode == 0, run.stderr
    return run.stdout


def checksums(state) -> dict:
    return {"ema": bundles.tree_sha256(state.ema), **{k: bundles.tree_sha256(v) for k, v in state.params.items()}}


def save_from_many_devices(workdir: Path) -> None:
    from tadsr_jax import sharding

    sharding.SMALL = 2**12  # so that some of the tiny network's parameters are cut
    config = tiny_config("x4")
    state = random_state(config)
    mesh = sharding.make_mesh(data=2, fsdp=4)
    cut = [not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(sharding.place(state, mesh))]
    begun(workdir, config, state, mesh)
    print(json.dumps(checksums(state) | {"cut": sum(cut)}))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory)


def refusal(workdir: Path, **options) -> str:
    with pytest.raises(ValueError) as error:
        saved(workdir, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_state_of_8_devices_is_read_on_one_as_numpy_arrays_bit_for_bit(tmp_path):
    flags = "--xla_force_host_platform_device_count=8"
    wanted = json.loads(child("-m", "tests.test_saved", str(tmp_path / "run"), XLA_FLAGS=flags))
    assert wanted.pop("cut") > 5
    found = saved(tmp_path / "run")
    assert checksums(found.state) == wanted and "discriminator" in wanted
    assert found.step == int(found.state.step) == 3 and found.recipe.sample_steps == 1
    assert {type(leaf) for leaf in jax.tree.leaves(found.state)} == {np.ndarray}


def test_reading_needs_no_package_for_training(run):
    code = f"import sys; sys.modules |= dict.fromkeys({TRAIN_EXTRA})\n"  # None: not to be imported
    code += f"from tadsr_jax.job.saved import saved; print(saved({str(run)!r}).step)"
    assert child("-c", code) == f"{STEPS[-1]}\n"


def test_any_step_that_is_there_can_be_read_and_nothing_is_written(run):
    before = sorted(run.rglob("*"))
    assert [saved(run, step=step).step for step in (None, *STEPS)] == [STEPS[-1], *STEPS]
    first, last = (saved(run, step=step).state.ema for step in STEPS)
    assert bundles.tree_sha256(first) != bundles.tree_sha256(last)
    assert sorted(run.rglob("*")) == before
    assert f"step is 3, which {run} does not hold; it has 2, 4" in refusal(run, step=3)


def test_the_bundle_of_the_last_state_is_the_runs_own(run, tmp_path):
    found = saved(run)
    model = bundle_of(found.config, found.family, found.recipe, found.state, found.fixed)
    write_bundle(tmp_path / "bundle", model)
    ours, theirs = (json.loads((folder / "bundle/bundle.json").read_text()) for folder in (tmp_path, run))
    assert ours == theirs
    assert ours["checkpoint"] == {"step": STEPS[-1], "weights": "ema"} and ours["steps"] == 3
    assert json.loads((run / "report.json").read_text())["student_sha256"] == bundles.tree_sha256(found.state.ema)


def test_the_raw_weights_are_the_students_own(run):
    found = saved(run)
    raw = bundle_of(*found[:4], found.fixed, weights="raw")
    assert bundles.tree_sha256(raw.params["student"]) == bundles.tree_sha256(found.state.params["student"])
    assert bundles.tree_sha256(raw.params["student"]) != bundles.tree_sha256(found.state.ema)
    assert raw.info["checkpoint"]["weights"] == "raw"
    with pytest.raises(ValueError, match="weights is 'best'; expected one of ema, raw"):
        bundle_of(*found[:4], found.fixed, weights="best")


def test_a_folder_that_is_no_workdir_is_refused(tmp_path):
    assert f"{tmp_path / 'none'} is no folder" in refusal(tmp_path / "none")
    assert "is no workdir: it holds no config.json" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "config.json: not JSON" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert "list instead of a config's sections" in refusal(tmp_path)


def test_a_config_of_another_version_is_refused_with_what_is_wrong(tmp_path):
    config = tiny_config()
    for broken, words in (
        (config | {"colour": 1}, "config.colour is unknown"),
        ({key: value for key, value in config.items() if key != "losses"}, "config.losses is None"),
        (config | {"diffusion": {}}, "config.diffusion"),
        (config | {"data": {}}, "KeyError 'gt_size'"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(broken))
        text = refusal(tmp_path)
        assert "config.json is not a config of this version of tadsr_jax" in text and words in text


def test_a_workdir_without_a_whole_checkpoint_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(tiny_config()))
    (tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir(parents=True)
    assert "holds no checkpoint yet" in refusal(tmp_path)


def test_a_damaged_checkpoint_is_named_with_the_others(run, tmp_path):
    workdir = shutil.copytree(run, tmp_path / "run")
    for file in (workdir / "checkpoints/4/state").rglob("*"):
        if file.is_file() and "METADATA" not in file.name:
            file.write_bytes(b"")
    text = refusal(workdir)
    assert "checkpoints/4 cannot be read" in text and text.endswith("; try another step: 2.")
    assert saved(workdir, step=2).step == 2


def test_a_checkpoint_that_does_not_belong_to_its_config_is_refused(run, tmp_path):
    workdir = shutil.copytree(run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["networks"]["denoiser"]["widths"] = [32]
    (workdir / "config.json").write_text(json.dumps(config))
    text = refusal(workdir)
    assert "checkpoints/4 is not of the config beside it: " in text and "there, absent here" in text


def test_an_autoencoder_is_that_of_the_runs_bundle_or_else_what_the_config_names(tmp_path):
    config, elsewhere = vq_config(), tmp_path / "elsewhere"
    config["init"]["autoencoder"] = str(elsewhere)
    workdir = begun(tmp_path / "run", config)
    assert f"config.init names {str(elsewhere)!r} for the autoencoder, which does not exist here" in refusal(workdir)

    settings = family_settings(config)
    shapes = bundles.expected_shapes(FAMILIES["resshift"](**settings))
    rng = np.random.default_rng(0)
    one, other = (jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes) for _ in range(2))
    for folder, params in ((elsewhere, one), (workdir / "bundle", other)):
        params = jax.tree.map(np.float32, params)
        bundles.save(folder, family="resshift", settings=settings, params=params, info={})
        jax.tree.map(np.testing.assert_array_equal, saved(workdir).fixed["autoencoder"], params["autoencoder"])
    (workdir / "bundle" / "autoencoder.safetensors").write_bytes(b"cut off")
    jax.tree.map(
        np.testing.assert_array_equal, saved(workdir).fixed["autoencoder"], jax.tree.map(np.float32, one["autoencoder"])
    )


def test_what_a_run_inherits_is_known_before_its_bundle_and_where_the_others_have_gone(tmp_path):
    config, elsewhere = vq_config(), tmp_path / "elsewhere"
    config["init"]["autoencoder"] = str(elsewhere)
    workdir, settings = begun(tmp_path / "run", config), family_settings(config)
    shapes = bundles.expected_shapes(FAMILIES["resshift"](**settings))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    terms = {"autoencoder": {"licence": "MIT"}}
    bundles.save(elsewhere, family="resshift", settings=settings, params=params, info={"sources": terms})
    for _ in range(2):
        found = saved(workdir)
        model = bundle_of(*found[:4], found.fixed, found.rest, found.texts, found.sources)
        assert model.info["sources"]["inherited"] == {"autoencoder": terms}
        write_bundle(workdir / "bundle", model)
        shutil.rmtree(elsewhere, ignore_errors=True)  # the second time it is the run's own that says so


if __name__ == "__main__":
    save_from_many_devices(Path(sys.argv[1]))
