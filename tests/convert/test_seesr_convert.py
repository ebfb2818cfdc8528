"""SeeSR, AddSR and TAD-SeeSR: public files into a bundle and back into a folder, bit by bit; or one line that says why.

Networks are tiny; what is published is laid out as in `tests.tiny_public`.
"""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tadsr_jax import bundles
from tadsr_jax.convert import names, sd_files, sd_folder, seesr, seesr_folder, seesr_presets, torch_file
from tadsr_jax.convert import public as whole_models
from tadsr_jax.diffusion.ddpm import FEW_STEPS
from tadsr_jax.families import FAMILIES, seesr_build
from tadsr_jax.families.seesr_input import ADDED_WORDS
from tests import tiny_public, tiny_seesr, tiny_tokenizer

NETWORKS = ("student", "autoencoder", "text_encoder", "tagger")


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """The arguments of a conversion."""
    return tiny_public.write(tmp_path_factory.mktemp("public"))


@pytest.fixture(scope="module")
def made(public, tmp_path_factory):
    """(folder of the bundle, report)."""
    folder = tmp_path_factory.mktemp("made") / "bundle"
    return folder, seesr.seesr(**public, output=folder)


@pytest.fixture(scope="module")
def loaded(made):
    return bundles.load(made[0])


@pytest.fixture(scope="module")
def back(made, tmp_path_factory):
    """(folder of diffusers, report)."""
    folder = tmp_path_factory.mktemp("back") / "folder"
    return folder, seesr_folder.to_diffusers(made[0], folder)


@pytest.fixture
def files(tmp_path):
    """The arguments of a conversion of files that a test may change."""
    return tiny_public.write(tmp_path / "public") | {"output": tmp_path / "bundle"}


def refusal(function, *arguments, **options) -> str:
    with pytest.raises(ValueError) as error:
        function(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def refused(files) -> str:
    """Why nothing is made of these files."""
    message = refusal(seesr.seesr, **files)
    assert not files["output"].exists()
    return message


def checksums(report) -> dict:
    return {name: network["tree_sha256"] for name, network in report["networks"].items()}


def assert_same(found, wanted):
    """Equal names, types and bits."""
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype and found[name].tobytes() == array.tobytes(), name


def test_a_bundle_says_what_it_is_made_of_and_how_to_sample(made, public):
    folder, report = made
    info = bundles.describe(folder)
    wanted = {"family": "seesr", "preset": "addsr", "recipe": "addsr", "scale": 4, "steps": 4,
              "sampler": "stochastic", "color_fix": "adain", "notes": []}  # fmt: skip
    assert {key: info[key] for key in wanted} == wanted
    assert info["public_config"] == tiny_public.CONFIGS
    unet = public["model"] / "unet/diffusion_pytorch_model.safetensors"
    assert info["sources"]["unet"] == {
        "files": {"unet/diffusion_pytorch_model.safetensors": bundles.file_sha256(unet)},
        "repository": "NJU-PCALab/AddSR",
        "licence": "Apache-2.0, and the terms of SeeSR, StyleGAN-T and ADD that its README names",
    }
    assert info["sources"]["vae"]["licence"] == "CreativeML Open RAIL++-M"
    tagger = info["sources"]["tagger"]["files"] | info["sources"]["tagger_updates"]["files"]
    assert tagger == {file.name: bundles.file_sha256(file) for file in (public["ram"], public["dape"])}
    assert report["networks"]["tagger"]["sources"] == tagger
    assert len(report["networks"]["student"]["sources"]) == 2
    assert report["next"] == f"tadsr upscale photo.png --weights {folder}"
    assert json.loads(json.dumps(report)) == report


def test_the_bundle_holds_the_public_weights_with_the_updates_of_the_tagger_merged(loaded):
    others = {"vae": "autoencoder", "text_encoder": "text_encoder", "tagger": "tagger"}
    trees = loaded.params["student"] | {part: loaded.params[name] for part, name in others.items()}
    qkv = "visual_encoder.layers.0.blocks.0.attn.qkv"
    for part, tree in trees.items():
        found, wanted = names.to_torch({"params": tree}), dict(tiny_public.weights_of(part))
        if part == "tagger":
            a, b = (tiny_public.updates()[f"{qkv}.lora_{letter}"] for letter in "AB")
            update = np.concatenate([b[:8] @ a[:2], np.zeros((8, 8)), b[8:] @ a[2:]]) / 2  # of rank 2, alpha 1
            np.testing.assert_allclose(
                found.pop(f"{qkv}.weight"), wanted.pop(f"{qkv}.weight") + update, rtol=1e-6, atol=1e-6
            )
        assert_same(found, wanted)


def test_the_settings_make_the_networks_of_the_public_configurations_again(loaded):
    settings, family = loaded.info["settings"], loaded.family
    modules = seesr_folder.modules_of(family)
    for part in ("unet", "controlnet", "vae", "text_encoder"):
        assert modules[part] == sd_folder.KINDS[part].build(**tiny_public.CONFIGS[part])
    assert modules["tagger"] == tiny_public.TAGGER
    np.testing.assert_allclose(family.schedule.abar[[20, 999]], [0.981314, 0.00466010], rtol=1e-5)
    assert family.schedule.steps_offset == 1
    assert settings["added_words"] == ADDED_WORDS["addsr"]
    assert settings["no_words"] == [tiny_tokenizer.START, tiny_tokenizer.END, *(0,) * 6]


def test_the_bundle_holds_the_tokenizer_and_the_tags(made, loaded, public):
    texts = loaded.texts
    folder = public["sd"] / "tokenizer"
    assert {name: texts[name] for name in ("vocab.json", "merges.txt")} == {
        name: (folder / name).read_text() for name in ("vocab.json", "merges.txt")
    }
    assert texts["tags.txt"] == "cat\nsofa\na cat\n" and texts["thresholds.txt"] == "0.65\n0.8\n0.5\n"
    assert sorted(texts) == made[1]["texts"]


def test_the_way_back_writes_the_public_files_again(back, public):
    folder, report = back
    for part, source in (("unet", "model"), ("controlnet", "model"), ("vae", "sd"), ("text_encoder", "sd")):
        written = torch_file.read(sd_files.find_weights(folder / part))
        assert_same(written, tiny_public.weights_of(part))
        assert json.loads((folder / part / "config.json").read_text()) == tiny_public.CONFIGS[part]
        for file, digest in report["parts"][part]["files"].items():
            assert bundles.file_sha256(folder / file) == digest
        assert sorted(path.name for path in (folder / part).iterdir()) == sorted(
            path.name for path in (public[source] / part).iterdir()
        )
    assert json.loads((folder / "scheduler/scheduler_config.json").read_text()) == tiny_public.CONFIGS["scheduler"]
    for path in (public["sd"] / "tokenizer").iterdir():
        assert (folder / "tokenizer" / path.name).read_bytes() == path.read_bytes()
    index = json.loads((folder / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"] and index["preset"] == "addsr"
    assert sorted(key for key, value in index.items() if isinstance(value, list) and key != "no_words") == sorted(
        path.name for path in folder.iterdir() if path.is_dir()
    )
    assert json.loads(json.dumps(report)) == report


def test_of_the_folder_that_was_written_the_same_bundle_is_made_again_without_other_files(made, back, tmp_path):
    again = seesr.seesr(back[0], output=tmp_path / "again")
    assert checksums(again) == checksums(made[1]) and again["notes"] == []
    first, second = (bundles.describe(folder) for folder in (made[0], tmp_path / "again"))
    for key in ("family", "settings", "preset", "recipe", "scale", "steps", "sampler", "color_fix", "texts"):
        assert first[key] == second[key], key


def terms(info) -> dict:
    """{part: what is said of whose it is}."""
    return {part: {key: of.get(key) for key in seesr_presets.TERMS} for part, of in info["sources"].items()}


def test_repository_and_licence_of_every_part_are_passed_on(files, tmp_path):
    files["ram"] = files["ram"].rename(files["ram"].with_name("ram_swin_large_14m.pth"))
    seesr.seesr(**files)
    wanted = terms(bundles.describe(files["output"]))
    assert {part: of["repository"] for part, of in wanted.items()} == {
        "unet": "NJU-PCALab/AddSR",
        "controlnet": "NJU-PCALab/AddSR",
        "vae": "stabilityai/stable-diffusion-2-base",
        "text_encoder": "stabilityai/stable-diffusion-2-base",
        "tagger": "xinyu1205/recognize-anything",
        "tagger_updates": "cswry/SeeSR",
    }
    seesr_folder.to_diffusers(files["output"], tmp_path / "SeeSR-2")  # its name tells nothing any more
    seesr.seesr(tmp_path / "SeeSR-2", output=tmp_path / "again")
    again = bundles.describe(tmp_path / "again")
    assert terms(again) == wanted
    assert list(again["sources"]["tagger"]["files"]) == ["tagger/model.safetensors"]
    assert terms(seesr.read_folder(tmp_path / "SeeSR-2", preset="seesr").info) == wanted
    lean = {key: files[key] for key in ("model", "ram", "dape", "tagger")}
    assert terms(seesr.read_folder(**lean, sd=tmp_path / "SeeSR-2").info) == wanted


def test_a_model_that_was_trained_says_of_its_parts_no_more_than_is_known(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "bundle")
    about = json.loads((made[0] / "bundle.json").read_text())
    (tmp_path / "bundle/bundle.json").write_text(json.dumps(about | {"sources": {"teacher": "seesr", "pictures": "x"}}))
    seesr_folder.to_diffusers(tmp_path / "bundle", tmp_path / "AddSR")
    assert json.loads((tmp_path / "AddSR/model_index.json").read_text())["sources"] == {}
    found = terms(seesr.read_folder(tmp_path / "AddSR").info)
    assert set(found) == {"unet", "controlnet", "vae", "text_encoder", "tagger"}
    assert not any(value for of in found.values() for value in of.values())


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_in_shards_and_bin_files_makes_the_round_trip(files, tmp_path, dtype):
    half = lambda part: {name: array.astype(dtype) for name, array in tiny_public.weights_of(part).items()}
    for part in ("unet", "controlnet"):
        shutil.rmtree(files["model"] / part)
        folder = tiny_public.write_part(files["model"], part, {})
        (folder / "diffusion_pytorch_model.safetensors").unlink()
        sd_files.write_weights(folder, "diffusion_pytorch_model", half(part), shard_bytes=200_000)
    shutil.rmtree(files["sd"] / "text_encoder")
    tiny_public.write_part(files["sd"], "text_encoder", half("text_encoder"), file="pytorch_model.bin")
    report = seesr.seesr(**files)
    assert report["networks"]["student"]["dtype"] == np.dtype(dtype).name
    assert report["networks"]["autoencoder"]["dtype"] == "float32"
    sources = report["networks"]["student"]["sources"]
    assert sum("unet/diffusion_pytorch_model-0000" in file for file in sources) >= 2
    assert "unet/diffusion_pytorch_model.safetensors.index.json" in sources
    seesr_folder.to_diffusers(files["output"], tmp_path / "back")
    for part in ("unet", "controlnet", "text_encoder"):
        assert_same(torch_file.read(sd_files.find_weights(tmp_path / "back" / part)), half(part))
    again = seesr.seesr(tmp_path / "back", output=tmp_path / "again")
    assert checksums(again) == checksums(report)
    model = seesr.read_folder(tmp_path / "back", dtype="float32")
    assert {str(leaf.dtype) for tree in model.params.values() for leaf in flatten_dict(tree).values()} == {"float32"}


def test_an_autoencoder_under_its_old_names_is_the_same(files, made):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    arrays = dict(tiny_public.weights_of("vae"))
    for today, name in old.items():
        arrays = {key.replace(f"mid_block.attentions.0.{today}", f"mid_block.attentions.0.{name}"): array
                  for key, array in arrays.items()}  # fmt: skip
    assert set(arrays) != set(tiny_public.weights_of("vae"))
    tiny_public.write_part(files["sd"], "vae", arrays)
    assert checksums(seesr.seesr(**files)) == checksums(made[1])


def test_of_a_checkpoint_of_the_public_training_scripts_the_student_is_taken(files, made, tmp_path):
    checkpoint = tmp_path / "checkpoint-5000"
    for part, student, teacher in (("unet", "unet_3", "unet_1"), ("controlnet", "controlnet_2", "controlnet_0")):
        shutil.copytree(files["model"] / part, checkpoint / student)
        tiny_public.write_part(tmp_path / "teacher", part, {}).rename(checkpoint / teacher)
    files["model"] = checkpoint
    message = refused(files)
    assert message == (
        f"{checkpoint}: the name of the folder tells no preset; give --preset with one of seesr, addsr, tad_seesr."
    )
    assert checksums(seesr.seesr(**files, preset="addsr")) == checksums(made[1])


@pytest.mark.parametrize(
    ("name", "preset", "steps"),
    [
        ("seesr", "seesr", 50),
        ("SeeSR-v1", "seesr", 50),
        ("addsr", "addsr", 4),
        ("tadsr", "tad_seesr", 1),
        ("TAD-SeeSR", "tad_seesr", 1),
        ("tad_seesr", "tad_seesr", 1),
    ],
)
def test_the_name_of_the_folder_tells_the_preset(public, tmp_path, name, preset, steps):
    shutil.copytree(public["model"], tmp_path / name)
    info = seesr.read_folder(**public | {"model": tmp_path / name}).info
    assert (info["preset"], info["recipe"], info["steps"]) == (preset, preset, steps)
    assert info["settings"]["added_words"] == ADDED_WORDS[preset]
    assert info["sources"]["unet"]["repository"] == seesr_presets.PRESETS[preset].repository


def test_terms_are_those_of_the_chosen_preset_unless_the_name_says_another():
    repository = lambda *told: seesr_presets.terms_of(*told).get("repository")
    assert repository("SeeSR", "unet", "addsr") is None
    assert repository("TAD-SeeSR", "controlnet", "seesr") is None
    assert repository("checkpoint-5000", "unet", "addsr") == repository("AddSR", "unet", "addsr") == "NJU-PCALab/AddSR"


@pytest.mark.parametrize(
    ("name", "part", "repository"),
    [
        ("stable-diffusion-2-base", "vae", "stabilityai/stable-diffusion-2-base"),
        ("stabilityai_stable-diffusion-2-base", "text_encoder", "stabilityai/stable-diffusion-2-base"),
        ("SD2-base", "vae", "stabilityai/stable-diffusion-2-base"),
        ("stable-diffusion-2", "vae", None),
        ("stable-diffusion-2-1", "vae", None),
        ("stable-diffusion-2-1-base", "vae", None),
        ("stable-diffusion-2-inpainting", "vae", None),
        ("sd2.1", "text_encoder", None),
        ("stable-diffusion-2-base", "tagger", None),
        ("ram_swin_large_14m", "tagger", "xinyu1205/recognize-anything"),
        ("DAPE", "tagger_updates", "cswry/SeeSR"),
        ("DAPE-mine", "tagger_updates", None),
    ],
)
def test_whose_a_part_is_is_told_by_the_whole_name_alone(name, part, repository):
    assert seesr_presets.terms_of(name, part, "addsr").get("repository") == repository


def test_presets_have_the_steps_of_the_family():
    longest = {name: preset.longest for name, preset in seesr_presets.PRESETS.items()}
    assert longest == {"seesr": seesr_build.STEPS, "addsr": len(FEW_STEPS), "tad_seesr": len(FEW_STEPS)}
    assert set(longest) == set(ADDED_WORDS)


def test_preset_and_steps_that_are_given_win_over_what_the_folder_says(back):
    info = seesr.read_folder(back[0], preset="seesr", steps=20).info
    assert (info["preset"], info["steps"]) == ("seesr", 20)
    assert info["settings"]["added_words"] == ADDED_WORDS["seesr"]
    assert info["settings"]["no_words"][:2] == [tiny_tokenizer.START, tiny_tokenizer.END]
    assert seesr.read_folder(back[0], steps=2).info["steps"] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "osediff"}, "--preset is 'osediff'; give --preset with one of seesr, addsr, tad_seesr."),
        ({"steps": 5}, "--steps is 5; addsr has 1 to 4."),
        ({"steps": 0}, "--steps is 0; addsr has 1 to 4."),
        ({"preset": "seesr", "steps": 51}, "--steps is 51; seesr has 1 to 50."),
        ({"ram": None}, "changes RAM's weights: give --ram"),
        (
            {"ram": "{dape}", "dape": None},
            "DAPE.pth: it looks like DAPE.pth, updates of RAM's weights without them",
        ),
        ({"ram": "{dape}"}, "give it as --dape, and ram_swin_large_14m.pth as --ram."),
        ({"thresholds": None}, "give --thresholds too"),
        ({"tags": None}, "give --tags too"),
        ({"tags": "nowhere.txt"}, "nowhere.txt: cannot be read: No such file or directory."),
        ({"ram": "nowhere.pth"}, "nowhere.pth: cannot be read: No such file or directory."),
        ({"model": "nowhere/addsr"}, "nowhere/addsr: no such folder"),
    ],
)
def test_what_cannot_be_is_refused(files, options, words):
    given = {key: str(value).format(**files) if key == "ram" and value else value for key, value in options.items()}
    assert words in refused(files | given)


def test_everything_that_is_missing_is_told_at_once_with_where_it_is_published(files):
    shutil.rmtree(files["model"] / "controlnet")
    shutil.rmtree(files["sd"])
    files["model"] = files["model"].rename(files["model"].with_name("mine"))
    message = refused(files | {"sd": None, "ram": None, "thresholds": None})
    for words in (
        "mine: the name of the folder tells no preset; give --preset",
        "--dape is ",
        "missing controlnet (there is no folder controlnet/), vae (there is no folder vae/), text_encoder",
        "tagger (there is no folder tagger/); found unet. Published: controlnet with SeeSR, AddSR and TAD-SeeSR",
        "tagger with RAM, xinyu1205/recognize-anything at Hugging Face: give its file ram_swin_large_14m.pth as --ram",
    ):
        assert words in message


def test_the_unet_of_plain_stable_diffusion_is_refused_with_what_to_give(files):
    shutil.rmtree(files["model"] / "unet")
    config = {k: v for k, v in tiny_public.CONFIGS["unet"].items() if k != "use_image_cross_attention"}
    tiny_public.write_part(files["sd"], "unet", {}, config=config)
    assert refused(files) == (
        f"{files['sd']}/unet: this unet has no image attentions, as that of plain Stable Diffusion: give --model the "
        "folder of SeeSR, AddSR or TAD-SeeSR, whose config.json says use_image_cross_attention."
    )


def test_all_configurations_that_are_not_possible_are_one_error(files):
    broken = {
        "vae": {"scaling_factor": 0.13025},
        "scheduler": {"prediction_type": "v_prediction"},
        "text_encoder": {"hidden_act": "mish"},
    }
    for part, change in broken.items():
        tiny_public.write_part(files["sd"], part, config=tiny_public.CONFIGS[part] | change)
    message = refused(files)
    assert "scaling_factor is 0.13025; the autoencoder of these models has 0.18215." in message
    assert "prediction_type is 'v_prediction'; this schedule has prediction_type='epsilon' only." in message
    assert "hidden_act is 'mish'; expected one of gelu, quick_gelu." in message


def test_parts_that_do_not_fit_each_other_are_refused(files):
    config = tiny_public.CONFIGS["text_encoder"] | {"hidden_size": 32}
    tiny_public.write_part(files["sd"], "text_encoder", config=config)
    assert refused(files) == (
        f"{files['model']}: its parts, and what was taken from elsewhere, do not fit: "
        "text_encoder.hidden_size is 32; the other networks need 16."
    )


def test_wrong_tensors_of_all_parts_are_told_with_their_shapes_and_the_expected_ones(files):
    for part, folder, name in (("unet", "model", "conv_in.weight"), ("vae", "sd", "quant_conv.bias")):
        wrong = tiny_public.weights_of(part) | {name: np.zeros((3, 3), np.float32)}
        tiny_public.write_part(files[folder], part, wrong)
    message = refused(files)
    assert "/unet/diffusion_pytorch_model.safetensors do not fit this network." in message
    assert "conv_in.weight (3, 3), expected (16, 4, 3, 3)" in message
    assert "quant_conv.bias (3, 3), expected (8,)" in message


def test_a_tagger_of_another_number_of_classes_is_as_its_file_says(files):
    wider = tiny_public.TAGGER.clone(num_class=4585)
    bundle = seesr.read_folder(**{k: v for k, v in files.items() if k != "output"} | {"tagger": wider})
    assert bundle.info["settings"]["tagger"]["num_class"] == 3
    assert bundle.params["tagger"]["label_embed"].shape == (3, 512)


@pytest.mark.parametrize(
    ("tags", "thresholds", "words"),
    [
        ("cat\nsofa", "0.5\n0.5", "2 tags, but the tagger has 3 classes; give the list that it was trained with."),
        ("cat\nsofa\na cat", "0.5\n0.5", "3 tags and 2 thresholds; expected one threshold for each."),
        ("cat\nsofa\na cat", "0.5\n0.5\n1.5", "numbers outside of 0 to 1"),
        ("cat\nsofa\na cat", "0.5\n0.5\nhigh", "no list of numbers"),
        ("cat\nsofa\na cat", "0.5\n0.5\nnan", "numbers outside of 0 to 1"),
        (b"\xff\xfe\x00", "0.5", "not a text"),
    ],
)
def test_lists_that_do_not_belong_to_the_tagger_are_refused(files, tags, thresholds, words):
    for key, content in (("tags", tags), ("thresholds", thresholds)):
        files[key].write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refused(files)
    assert words in message and str(files["tags"]) in message


def test_what_is_left_out_is_noted(files):
    for name in ("vocab.json", "merges.txt"):
        (files["sd"] / "tokenizer" / name).unlink()
    lean = files | {"dape": None, "tags": None, "thresholds": None}
    config = tiny_public.CONFIGS["text_encoder"] | {"vocab_size": 49408, "max_position_embeddings": 77}
    weights = dict(tiny_public.weights_of("text_encoder"))
    for table, rows in (("token", 49408), ("position", 77)):
        weights[f"text_model.embeddings.{table}_embedding.weight"] = np.zeros((rows, 16), np.float32)
    message = refused(lean)
    assert "An empty text has 77 tokens with ids up to 49407, but the text encoder reads 8 and has 32" in message
    tiny_public.write_part(files["sd"], "text_encoder", weights, config=config)
    notes = " ".join(seesr.seesr(**lean)["notes"])
    assert "no DAPE" in notes and "no list of tags" in notes
    assert "no tokenizer: the model is told no words, and SeeSR's steps have no guidance; give --sd" in notes
    assert bundles.describe(files["output"])["settings"]["no_words"] == [49406, 49407, *(0,) * 75]


def test_half_of_the_lists_of_a_tagger_is_noted(back, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(back[0], folder)
    for lacking, words in (
        ("thresholds.txt", f"{folder}/tagger has no thresholds.txt, which the other list needs: the model is not told"),
        ("tags.txt", "no list of tags: the model is not told"),
    ):
        (folder / "tagger" / lacking).unlink()
        bundle = seesr.read_folder(folder)
        (note,) = bundle.info["notes"]
        assert note.startswith(words) and "tags.txt" not in bundle.texts


def test_weights_that_are_no_numbers_are_noted(files):
    weights = tiny_public.weights_of("vae")
    tiny_public.write_part(files["sd"], "vae", weights | {"quant_conv.bias": np.full(8, np.nan, np.float32)})
    (note,) = seesr.seesr(**files)["notes"]
    assert note == "1 tensors of vae hold NaN or infinite numbers (quant_conv/bias, ...)"


def test_a_bundle_is_replaced_only_when_that_is_asked_for_and_nothing_else_ever_is(files, made, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(made[0], folder)
    before = bundles.describe(folder)
    assert "give --overwrite" in refusal(seesr.seesr, **files)
    assert bundles.describe(folder) == before
    assert checksums(seesr.seesr(**files, overwrite=True)) == checksums(made[1])
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/holiday.png").touch()
    for function, source in ((seesr.seesr, files), (seesr_folder.to_diffusers, {"bundle": folder})):
        message = refusal(function, **source | {"output": tmp_path / "photos"}, overwrite=True)
        assert "photos exists and is no" in message
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["holiday.png"]


def test_a_folder_appears_whole_or_not_at_all(made, back, tmp_path, monkeypatch):
    assert "give --overwrite" in refusal(seesr_folder.to_diffusers, made[0], back[0])
    bundle = tmp_path / "bundle"
    shutil.copytree(made[0], bundle)
    (bundle / "text_encoder.safetensors").write_bytes(b"")  # the last one that is read
    message = refusal(seesr_folder.to_diffusers, bundle, tmp_path / "out")
    assert "text_encoder.safetensors: its checksum is not the one in bundle.json" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


def test_a_bundle_that_says_of_its_networks_what_is_not_so_is_refused(made, tmp_path):
    about = json.loads((made[0] / "bundle.json").read_text())
    for configs, words in (
        (tiny_public.CONFIGS | {"unet": "wide"}, "'public_config' is {"),
        (
            tiny_public.CONFIGS | {"vae": tiny_public.CONFIGS["vae"] | {"layers_per_block": 2}},
            "The configuration makes another AutoencoderKL than the given one: layers_per_block is 1, not 2.",
        ),
    ):
        shutil.copytree(made[0], tmp_path / "bundle", dirs_exist_ok=True)
        (tmp_path / "bundle/bundle.json").write_text(json.dumps(about | {"public_config": configs}))
        assert words in refusal(seesr_folder.to_diffusers, tmp_path / "bundle", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_bundles_of_other_families_have_no_such_folder(tmp_path):
    settings = {"denoiser": {"kind": "small"}, "autoencoder": {"kind": "space_to_depth", "factor": 1}}
    (tmp_path / "bundle").mkdir()
    about = {"format": 1, "family": "resshift", "settings": settings, "networks": {}}
    (tmp_path / "bundle/bundle.json").write_text(json.dumps(about))
    message = refusal(seesr_folder.to_diffusers, tmp_path / "bundle", tmp_path / "out")
    assert message.endswith("its family is 'resshift'; only seesr has the layout of diffusers.")
    assert "is no bundle" in refusal(seesr_folder.to_diffusers, tmp_path / "photos", tmp_path / "out")


def test_what_a_run_trained_gets_configurations_that_make_it(tmp_path):
    """A bundle of a job: in a run's folder, without public configurations, tokenizer and tags."""
    settings = tiny_seesr.SETTINGS
    params = tiny_seesr.random_params(FAMILIES["seesr"](**settings))
    info = {"recipe": "tad_seesr", "scale": 4, "steps": 1, "sampler": "stochastic", "color_fix": "adain"}
    bundles.save(tmp_path / "runs/x/bundle", family="seesr", settings=settings, params=params, info=info)
    report = seesr_folder.to_diffusers(tmp_path / "runs/x", tmp_path / "folder")
    assert set(report["parts"]) == {"unet", "controlnet", "vae", "text_encoder", "tagger"}
    assert not (tmp_path / "folder/tokenizer").exists()
    again = seesr.read_folder(tmp_path / "folder")
    assert again.info["preset"] == "tad_seesr" and again.info["steps"] == 1
    for name in NETWORKS:
        assert bundles.tree_sha256(again.params[name]) == bundles.tree_sha256(params[name])
    assert again.family.networks == FAMILIES["seesr"](**settings).networks
    assert again.info["settings"]["no_words"] == list(settings["no_words"])


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("steps", "4", "'steps' is '4'; expected a whole number, 1 or more."),
        ("scale", 0, "'scale' is 0; expected a whole number, 1 or more."),
        ("no_words", [1, -2], "'no_words' is [1, -2]; expected token ids."),
        ("added_words", 3, "'added_words' is 3; expected a text."),
        ("sources", ["unet"], "'sources' is ['unet']; expected repository, licence of parts."),
        ("sources", {"unet": {"licence": 3}}, "'sources' is {'unet': {'licence': 3}}; expected repository, licence"),
        ("sources", {"unet": {"files": "x"}}, "'sources' is {'unet': {'files': 'x'}}; expected repository, licence"),
    ],
)
def test_a_folder_that_says_strange_things_of_itself_is_refused(tmp_path, key, value, words):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "X", key: value}))
    assert words in refusal(seesr.read_folder, tmp_path)


def test_a_network_of_a_bundle_is_written_under_its_public_name(loaded, tmp_path):
    for name, network in (("autoencoder", "AutoencoderKL"), ("text_encoder", "CLIPTextModel"), ("tagger", "RAM")):
        module, params = loaded.family.networks[name], loaded.params[name]
        report = whole_models.write(tmp_path / f"{name}.pth", {"params": params}, module=module)
        assert (report["network"], report["buffers"], report["notes"]) == (network, 0, [])
    assert_same(torch_file.read(tmp_path / "autoencoder.pth"), tiny_public.weights_of("vae"))
