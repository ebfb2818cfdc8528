"""The pipeline in the idiom of diffusers: what it makes of a folder is what `Upscaler` makes of the bundle."""

import importlib
import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import tadsr_jax
from tadsr_jax.convert import seesr
from tadsr_jax.upscale.upscaler import Upscaler
from tests import tiny_public, toys

LIBRARY = "diffusers.pipelines.pipeline_flax_utils"
PHOTO = np.random.default_rng(0).integers(20, 236, (9, 12, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pipelines():
    pytest.importorskip(LIBRARY, reason="needs the extra: pip install 'tadsr_jax[diffusers]' (no Flax after 0.39)")
    return importlib.import_module("tadsr_jax.pipelines")


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """Files as they are published, of a model that small pictures are large enough for: arguments of a conversion."""
    files = tiny_public.write(tmp_path_factory.mktemp("public"))
    (files["model"] / "model_index.json").write_text(json.dumps({"smallest": 32}))
    return files


@pytest.fixture(scope="module")
def bundle(public, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "bundle"
    seesr.seesr(**public, output=folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(pipelines, bundle):
    """A tiny model of the SeeSR family."""
    return pipelines.FlaxSuperResolutionPipeline.from_pretrained(bundle)


@pytest.fixture(scope="module")
def by_hand(pipelines):
    """A model whose pictures are known: every pixel becomes a block of 4 x 4, plus a little noise."""
    return pipelines.FlaxSuperResolutionPipeline(toys.repeating_bundle(family="resshift"))


def refusal(function, *arguments, **options) -> str:
    with pytest.raises(ValueError) as error:
        function(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- without the library ---------------------------------------------------------------------------------------------


@pytest.mark.quick
def test_without_the_library_one_line_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "tadsr_jax.pipelines", raising=False)
    monkeypatch.setitem(sys.modules, LIBRARY, None)  # as where it is not installed, or has no Flax any more
    with pytest.raises(ImportError) as error:
        importlib.import_module("tadsr_jax.pipelines")
    assert str(error.value) == (
        "tadsr_jax.pipelines needs diffusers with Flax, whose last version is 0.39: pip install 'tadsr_jax[diffusers]'."
    )


@pytest.mark.quick
def test_nothing_else_imports_the_library_or_the_pipeline():
    package = Path(tadsr_jax.__file__).parent
    imports = re.compile(r"^\s*(import|from)\s+(diffusers|transformers|tadsr_jax\.pipelines)\b", re.MULTILINE)
    found = [path.name for path in package.rglob("*.py") if imports.search(path.read_text())]
    assert found == ["pipelines.py"]


# ---- a model of the SeeSR family, from folder to folder --------------------------------------------------------------


def test_a_picture_of_a_pipeline_is_that_of_the_upscaler(pipeline, bundle):
    wanted = Upscaler.load(bundle)(PHOTO, steps=2, prompt="sofa", psr_weight=0.3, seed=7)
    made = pipeline(Image.fromarray(PHOTO), "sofa", 2, psr_weight=0.3, seed=7).images
    assert [type(one) for one in made] == [Image.Image]
    np.testing.assert_array_equal(made[0], wanted)
    others = pipeline(PHOTO, "cat", 2, psr_weight=0.3, seed=7).images
    assert np.any(np.asarray(others[0]) != wanted)  # the words are heard


def test_what_a_pipeline_saves_makes_the_same_pictures(pipelines, pipeline, tmp_path):
    wanted = pipeline(PHOTO, "cat", 2).images[0]
    folder = tmp_path / "folder"
    pipeline.save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == pipelines.FlaxSuperResolutionPipeline.__name__
    assert {"unet", "controlnet", "vae", "text_encoder", "tokenizer", "scheduler", "tagger"} <= set(index)
    again = pipelines.FlaxSuperResolutionPipeline.from_pretrained(str(folder))
    np.testing.assert_array_equal(again(PHOTO, "cat", 2).images[0], wanted)
    assert "give --overwrite" in refusal(pipeline.save_pretrained, folder)
    halved = jax.tree.map(lambda leaf: leaf / 2, pipeline.params)
    pipeline.save_pretrained(folder, params=halved, overwrite=True)
    again = pipelines.FlaxSuperResolutionPipeline.from_pretrained(folder)
    jax.tree.map(np.testing.assert_array_equal, again.params, halved)


def test_folders_as_they_are_published_make_the_same_pipeline(pipelines, pipeline, public):
    files = dict(public)
    again = pipelines.FlaxSuperResolutionPipeline.from_pretrained(files.pop("model"), **files, dtype=jnp.bfloat16)
    jax.tree.map(np.testing.assert_array_equal, again.params, pipeline.params)
    assert {leaf.dtype for leaf in jax.tree.leaves(again.params)} == {np.dtype(np.float32)}
    assert (pipeline.unet.dtype, again.unet.dtype, again.vae.dtype) == (jnp.float32, jnp.bfloat16, jnp.bfloat16)


def test_what_a_published_folder_lacks_is_a_warning(pipelines, public):
    files = {key: value for key, value in public.items() if key not in ("model", "tags", "thresholds")}
    with pytest.warns(UserWarning, match=r"AddSR: no list of tags: the model is not told .*\.$") as told:
        pipelines.FlaxSuperResolutionPipeline.from_pretrained(public["model"], **files)
    assert told[0].filename == __file__  # at the caller's line


def test_components_have_the_names_of_their_folders(pipeline):
    parts = {"unet", "controlnet", "vae", "text_encoder", "tagger", "scheduler"}
    assert set(pipeline.components) == parts and parts <= set(pipeline.config)
    assert pipeline.config["unet"] == ("tadsr_jax.networks.unet_sd", "SDUNet")
    assert pipeline.scheduler is pipeline.components["scheduler"]


def test_a_folder_that_is_no_model_is_refused(pipelines, bundle, tmp_path):
    load = pipelines.FlaxSuperResolutionPipeline.from_pretrained
    assert "nowhere: no such folder; expected a bundle" in refusal(load, tmp_path / "nowhere")
    assert "missing unet" in refusal(load, tmp_path, preset="addsr")
    assert "is a bundle, which lacks nothing; leave out sd." in refusal(load, bundle, sd=tmp_path)
    assert refusal(load, bundle, dtype=jnp.float16) == "dtype is 'float16'; expected one of float32, bfloat16."


# ---- whatever the family: pictures in, pictures out ------------------------------------------------------------------


def test_pictures_of_any_sizes_come_as_a_list(by_hand):
    given = [Image.fromarray(PHOTO), PHOTO[:5], PHOTO[..., 0], (PHOTO / 255).astype(np.float32)]
    made = by_hand(given, seed=3).images
    assert [(one.mode, one.size) for one in made] == [("RGB", (48, 36)), ("RGB", (48, 20)), ("L", (48, 36)),
                                                     ("RGB", (48, 36))]  # fmt: skip
    np.testing.assert_array_equal(made[0], by_hand.upscaler(PHOTO, seed=3))
    np.testing.assert_allclose(np.float32(made[0]), np.float32(made[3]), atol=1)
    (alone,) = by_hand(PHOTO, seed=3, return_dict=False)
    np.testing.assert_array_equal(alone[0], made[0])


def test_arrays_are_floats_in_one_batch_where_sizes_agree(by_hand):
    made = by_hand(np.stack([PHOTO, PHOTO[::-1]]), output_type="np", seed=3).images
    assert made.shape == (2, 36, 48, 3) and made.dtype == np.float32
    np.testing.assert_allclose(made[0] * 255, by_hand.upscaler(PHOTO, seed=3), atol=0.51)
    grey, coloured = by_hand([Image.fromarray(PHOTO[..., 0]), PHOTO], output_type="np").images
    assert grey.shape == (36, 48, 1) and coloured.shape == (36, 48, 3)


def test_a_mask_goes_with_its_picture(pipelines):
    pipeline = pipelines.FlaxSuperResolutionPipeline(
        toys.repeating_bundle(scale=1, multiple=8, factor=4, extras=("mask",), family="resshift")
    )
    mask = np.zeros(PHOTO.shape[:2], np.uint8)
    mask[2:5, 3:8] = 255
    made = np.asarray(pipeline(PHOTO, mask=mask).images[0])
    np.testing.assert_array_equal(made[mask == 0], PHOTO[mask == 0])
    assert np.any(made[mask > 0] != PHOTO[mask > 0])
    np.testing.assert_array_equal(pipeline(Image.fromarray(PHOTO), mask=Image.fromarray(mask)).images[0], made)
    several = pipeline(np.stack([PHOTO, PHOTO]), mask=[mask, mask], output_type="np").images
    np.testing.assert_allclose(several[1] * 255, made, atol=0.51)
    assert "give mask=" in refusal(pipeline, PHOTO)
    assert "expected a list with a mask for each" in refusal(pipeline, [PHOTO, PHOTO], mask=mask)


def test_a_key_of_jax_is_the_seed_that_it_was_made_of(by_hand):
    made = [by_hand(PHOTO, seed=seed).images[0] for seed in (7, jax.random.PRNGKey(7), jax.random.key(7))]
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(made[0], made[2])
    split = jax.random.split(jax.random.key(7))  # words of 32 bits each: the whole range of seeds
    assert np.any(np.asarray(by_hand(PHOTO, seed=split[0]).images[0]) != np.asarray(made[0]))
    assert "seed is an array (2, 2); expected an integer" in refusal(by_hand, PHOTO, seed=split)


def test_a_call_that_cannot_be_is_refused(by_hand, tmp_path):
    assert refusal(by_hand, PHOTO, output_type="latent") == "output_type is 'latent'; expected one of pil, np."
    assert "prompt is 'a cat', which is no option of this model" in refusal(by_hand, PHOTO, "a cat")
    assert "the family 'resshift', which has no layout of diffusers" in refusal(by_hand.save_pretrained, tmp_path / "x")
    assert not (tmp_path / "x").exists()
