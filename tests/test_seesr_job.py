"""The whole job of the second family, through doors that know no family: trained, resumed, exported, upscaled with."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tadsr_jax import Upscaler, bundles, export, job
from tadsr_jax.job.parts import parts
from tadsr_jax.job.run import stored
from tadsr_jax.job.saved import abstract_state, saved
from tadsr_jax.job.weights import check_same_model
from tadsr_jax.networks.unet_sd import is_trained
from tests import tiny_tokenizer
from tests.runs import tiny_config

pytestmark = pytest.mark.xdist_group("seesr_job")  # one worker makes the run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Two steps of TAD-SeeSR with words, the second after a restart; frozen parts are stored in bfloat16."""
    workdir = tmp_path_factory.mktemp("seesr") / "run"
    words = tiny_tokenizer.write(tmp_path_factory.mktemp("sd2"))
    for steps in (1, 2):
        config = tiny_config("tad_seesr_x4", steps=steps, save_every=1, log_every=1)
        config["data"]["tokenizer"] = str(words)
        for network in config["networks"].values():
            if isinstance(network, dict):
                network["dtype"] = "bfloat16"
        job.run(job.read(config), workdir)
    return workdir


def test_what_is_trained_moves_and_the_rest_stays_to_the_last_bit(workdir):
    weights = job.read(tiny_config("tad_seesr_x4")).weights
    start, params = weights["teacher"], bundles.load(workdir / "bundle").params
    whole = params["student"]
    jax.tree.map(np.testing.assert_array_equal, params["autoencoder"], weights["autoencoder"])
    assert jax.tree.structure(whole) == jax.tree.structure(start)
    for path, leaf in flatten_dict(start).items():
        moved = not np.array_equal(leaf, flatten_dict(whole)[path])
        assert not moved or is_trained(path), path
    learnt = [path for path in flatten_dict(start) if is_trained(path)]
    assert any(not np.array_equal(flatten_dict(start)[path], flatten_dict(whole)[path]) for path in learnt)


def test_a_checkpoint_holds_what_is_trained_alone(workdir):
    state = saved(workdir).state
    assert int(state.step) == 2 and all(is_trained(path) for path in flatten_dict(state.params["student"]))


def test_its_export_is_the_bundle_and_enlarges_pictures(workdir, tmp_path):
    export.bundle(workdir, tmp_path / "exported")
    here, there = (bundles.describe(folder)["networks"] for folder in (tmp_path / "exported", workdir))
    assert {name: network["sha256"] for name, network in here.items()} == {
        name: network["sha256"] for name, network in there.items()
    }
    assert bundles.load_texts(tmp_path / "exported") == bundles.load_texts(workdir) != {}
    picture = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    upscaler = Upscaler.load(tmp_path / "exported")
    assert upscaler(picture, prompt="a cat").shape == (64, 64, 3)


@pytest.mark.quick
def test_addsr_is_read_with_all_its_networks():
    read = job.read(tiny_config("addsr_x4"))
    assert set(read.weights) == {"teacher", "autoencoder", "text_encoder", "tagger", "dino", "dinov2"}
    assert read.recipe.sample_steps == 4 and set(read.recipe.reads) == {"dino", "dinov2"}


@pytest.mark.quick
def test_a_state_towards_the_teachers_pictures_has_a_shape_before_any_picture_is_read():
    config = tiny_config("tad_seesr_x4")
    config["losses"]["target"] = "tch"
    config["data"]["source"] = "prepared"
    family, recipe, optimizers, _ = parts(config)
    state = abstract_state(config, family, recipe, optimizers)
    assert set(state.params) == {"student", "discriminator"}


@pytest.mark.quick
def test_what_a_run_needs_is_told_at_once():
    config = tiny_config("addsr_x4")
    config["init"]["synthetic"] = False
    with pytest.raises(ValueError) as error:
        job.read(config)
    for key in ("init.teacher", "init.autoencoder", "init.tagger", "init.dino,", "init.dinov2"):
        assert f"config.{key}" in str(error.value)
    config["init"]["synthetic"] = "yes"
    with pytest.raises(ValueError, match=r"config\.init\.synthetic is 'yes'; expected True or False"):
        job.read(config)


@pytest.mark.quick
def test_a_tokenizer_that_the_text_encoder_cannot_read_is_refused_before_training(tmp_path):
    config = tiny_config("tad_seesr_x4")
    config["data"]["tokenizer"] = str(tiny_tokenizer.write(tmp_path))
    assert "vocab.json" in job.read(config).texts
    config["networks"]["text_encoder"]["vocab_size"] = 26
    with pytest.raises(ValueError) as error:
        job.read(config)
    assert str(error.value).startswith(f"config.data.tokenizer={tmp_path}: A text of this tokenizer has 8 tokens")
    assert "ids up to 26" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.quick
def test_a_teacher_that_is_told_something_else_where_nothing_is_said_is_another_model():
    config = tiny_config("tad_seesr_x4")
    ours = parts(config)[0]
    config["networks"]["added_words"] = "sharp"  # what a prompt ends with is each model's own
    check_same_model("config.init.teacher=x", ours, parts(config)[0])
    config["networks"]["no_words"] = [1, 2, 2, 2]
    with pytest.raises(ValueError, match=r"x has another no_words than this config: \(1, 2, 2, 2\) there"):
        check_same_model("config.init.teacher=x", ours, parts(config)[0])


@pytest.mark.quick
def test_what_student_and_teacher_share_is_stored_once_and_in_bfloat16():
    config = tiny_config("tad_seesr_x4")
    config["networks"]["denoiser"]["dtype"] = "bfloat16"
    read = job.read(config)
    shared = read.weights["teacher"]
    made = stored({"student": shared, "teacher": shared}, read.family, read.recipe)
    assert made["student"] is made["teacher"]
    assert made["teacher"]["unet"]["conv_in"]["kernel"].dtype == "bfloat16"
    assert shared["unet"]["conv_in"]["kernel"].dtype == np.float32
